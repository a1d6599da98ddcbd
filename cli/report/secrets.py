"""Which values must not leave the node: those that the settings lead to.

Files of keys and certificates are read for one purpose, to find out whether anything else repeats them.
"""

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from services.common.config import Settings

_MOST_BYTES = 1 << 20


def of(settings: Settings) -> list[str]:
    """Return the secret values that these settings name, in no order. What can't be read holds none to tell."""
    store = settings.kvstore
    found = [one for endpoint in store.endpoints for one in _of_url(endpoint)]
    if password := _read(store.password_file).strip("\r\n"):
        found.append(password)
    for file, private in ((store.key, True), (store.certificate, False)):
        found += _of_pem(_read(file), private=private)
    return found


def _of_url(url: str) -> Iterator[str]:
    with contextlib.suppress(ValueError):
        if password := urlsplit(url).password:
            yield password
            yield unquote(password)


def _of_pem(text: str, *, private: bool) -> Iterator[str]:
    """Yield the lines of a PEM file, and of a private key all in one: it may be written in other lines."""
    lines = [line for line in text.split() if len(line) >= 16 and not line.startswith("-----")]
    yield from lines
    if private:
        yield "".join(lines)
    if text:
        yield base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _read(path: Path) -> str:
    try:
        if path == Path() or not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
