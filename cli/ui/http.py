"""HTTP/1.1 as far as a browser's page needs it (RFC 9112): the head of a request in, the head of an answer out. Pure.

One request per connection, no body is read. Whatever is no such request is refused with a number and a sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote, urlsplit

LONGEST_HEAD = 16384

# What the page may load and do: its own files, and nothing else. `{scripts}` are digests of what index.html has inline.
_POLICY = (
    "default-src 'self'; script-src 'self'{scripts}; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Refused(Exception):
    """A request that isn't answered; `status` and what to say."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        """Keep both."""
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: GET or HEAD, a decoded path, the query's last value by name, headers by lower-case name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


def parse(head: bytes) -> Request:
    """Return a request, given its head up to the empty line. Raises Refused: it is none, or not for us."""
    try:
        first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
        method, target, version = first.split(" ")
        parts = urlsplit(target)
        path = unquote(parts.path, errors="strict")
        query = dict(parse_qsl(parts.query, max_num_fields=16))
    except ValueError:
        raise Refused(HTTPStatus.BAD_REQUEST, "this is not HTTP") from None
    if not version.startswith("HTTP/1.") or not target.startswith("/"):
        raise Refused(HTTPStatus.BAD_REQUEST, "this speaks HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        # A second Host would let two readers of one request see different ones.
        if not colon or not name or name != name.strip() or (name == "host" and name in headers):
            raise Refused(HTTPStatus.BAD_REQUEST, "a header is none")
        headers[name] = value.strip()
    request = Request(method, path, query, headers)
    _admit(request)
    return request


def _admit(request: Request) -> None:
    """Refuse what doesn't come from a page of our own, or would be more than reading."""
    host = request.headers.get("host", "")
    if not _loopback(host):
        raise Refused(
            HTTPStatus.FORBIDDEN, f"this page is for 127.0.0.1, [::1] and localhost, not for {host[:80] or 'nobody'}"
        )
    origin = request.headers.get("origin")
    if origin is not None and not _loopback(urlsplit(origin).netloc):
        raise Refused(HTTPStatus.FORBIDDEN, "other pages may not read this one")
    # https://www.w3.org/TR/fetch-metadata/; a link from elsewhere may open the page, and nothing more.
    site, mode = request.headers.get("sec-fetch-site"), request.headers.get("sec-fetch-mode")
    if site in {"cross-site", "same-site"} and mode != "navigate":
        raise Refused(HTTPStatus.FORBIDDEN, "other pages may not use this one")
    if request.method not in {"GET", "HEAD"}:
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "this page only shows: GET and HEAD")


def _loopback(host: str) -> bool:
    """Whether a Host header names loopback; any port, because ssh forwards from another one."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def head(status: HTTPStatus, headers: Mapping[str, str], scripts: str = "") -> bytes:
    """Return the head of an answer with what each has; `scripts` are digests for the page's policy."""
    each = {
        "Cache-Control": "no-cache",
        "Connection": "close",
        "Content-Security-Policy": _POLICY.format(scripts=scripts),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        **headers,
    }
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in each.items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")
