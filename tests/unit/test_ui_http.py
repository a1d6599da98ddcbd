"""Which requests the page answers, where it may listen, and what its files are."""

import contextlib
import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.ui import files, http
from cli.ui.command import where
from services.common.errors import InvalidArgument

_VENDORED = [files.STATIC / "vendor", Path(__file__).resolve().parents[1] / "vendor"]


def request(first: str = "GET / HTTP/1.1", host: str = "127.0.0.1:9960", **headers: str) -> bytes:
    each = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in each.items()), "", ""]).encode()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9960", "localhost:80", "LOCALHOST", "[::1]:9960", "127.1.2.3"]
)
def test_names_of_loopback_are_answered_on_any_port(host: str):
    assert http.parse(request(host=host)).path == "/"


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1:9960", "[fe80::1]", "::1x"],
)
def test_a_name_that_somebody_else_has_pointed_here_is_refused(host: str):
    with pytest.raises(http.Refused) as refused:
        http.parse(request(host=host))
    assert refused.value.status == 403


def test_other_pages_may_link_here_and_nothing_more():
    http.parse(request(Origin="http://localhost:9960", Sec_Fetch_Site="same-origin"))
    http.parse(request(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"))
    for headers in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}):
        with pytest.raises(http.Refused) as refused:
            http.parse(request("GET /api/snapshot HTTP/1.1", **headers))
        assert refused.value.status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "get"])
def test_it_only_shows(method: str):
    with pytest.raises(http.Refused) as refused:
        http.parse(request(f"{method} /api/snapshot HTTP/1.1"))
    assert refused.value.status == 405


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nnothing\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /?" + b"a=1&" * 20 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(head: bytes):
    with pytest.raises(http.Refused) as refused:
        http.parse(head)
    assert refused.value.status == 400


@given(st.binary(max_size=200))
def test_bytes_are_a_request_or_refused(head: bytes):
    with contextlib.suppress(http.Refused):
        assert http.parse(head + b"\r\n\r\n").method in {"GET", "HEAD"}


@pytest.mark.parametrize(
    "listen",
    [
        "0.0.0.0:9960",
        "10.0.0.1:1",
        "[::]:1",
        "node-1:1",
        "example.org:1",
        "127.0.0.1",
        ":1",
        "127.0.0.1:x",
        "127.0.0.1:70000",
        "9960",
    ],
)
def test_it_listens_on_loopback_only(listen: str):
    with pytest.raises(InvalidArgument, match="--listen"):
        where(listen)


def test_loopback_and_sockets_are_where_it_listens():
    assert where("127.0.0.1:9960") == ("127.0.0.1", 9960)
    assert where("[::1]:0") == ("::1", 0)
    assert where("localhost:8080") == ("127.0.0.1", 8080)
    assert where("/run/podlane/ui/ui.sock") == Path("/run/podlane/ui/ui.sock")


def test_everything_that_the_page_names_is_there():
    served = files.load()
    for path, file in served.items():
        text = file.content.decode(errors="replace")
        if "/vendor/" in path:
            continue
        named = list(re.findall(r'"(/static/[^"]+)"', text))
        named += [f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
        named += [f"/static/{name}" for name in re.findall(r'url\("([^"]+)"\)', text)]
        assert [name for name in named if name not in served] == [], path


def test_data_never_becomes_html_or_code():
    for path in files.STATIC.glob("*.*"):
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|javascript:", text
        ), path
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), f"{path} names another host"


@pytest.mark.parametrize("place", _VENDORED, ids=lambda place: place.parent.name)
def test_packages_are_what_was_published(place: Path):
    packages = json.loads((place / "packages.json").read_text())
    files_of = {name: digest for package in packages.values() for name, digest in package["sha256"].items()}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}

    assert {name: found.get(name) for name in files_of} == files_of
    assert set(found) - set(files_of) == {"packages.json", "README.md"}
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert sorted(package["files"].values()) == sorted(package["sha256"])
        assert any(target.endswith("LICENSE") for target in package["files"].values()), name
