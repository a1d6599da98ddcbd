"""The page's files, read once: an answer is a look-up in a table, so that no path leads out of it."""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).resolve().parent / "static"

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent; `scripts` are the digests of its inline scripts for Content-Security-Policy."""

    content: bytes
    kind: str
    etag: str
    scripts: str = ""


def load(root: Path = STATIC) -> dict[str, File]:
    """Return the files by the paths of their addresses; `/` is index.html."""
    found = {
        f"/static/{path.relative_to(root)}": _read(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix in _KINDS
    }
    return {"/": found["/static/index.html"], **found}


def _read(path: Path) -> File:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    scripts = ""
    if path.suffix == ".html":
        digests = [base64.b64encode(hashlib.sha256(inline).digest()).decode() for inline in _INLINE.findall(content)]
        scripts = "".join(f" 'sha256-{digest}'" for digest in digests)
    return File(content, _KINDS[path.suffix], etag, scripts)
