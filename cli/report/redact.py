"""Takes secrets out of what was collected. Pure.

    by name     what stands at a key like `password`, `token` or `secret`, in JSON and in text; all variables of an
                environment; user and password in URLs; private keys and certificates in PEM; Authorization headers
    by value    the values that `secrets.py` found, and those that stood at such a key, wherever they are: in logs, in
                command lines, within longer words; also in base64 at any offset, in hexadecimal, in a URL's escapes

Names of files stay (`password_file`), contents go. A value of fewer than four characters isn't searched for: it would
be found everywhere.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

REDACTED = "<redacted>"
_SHORTEST = 4
# Found at a key, it may be a word like `enabled`, which stands elsewhere for what it means.
_SHORTEST_FOUND = 8

_WORDS = (
    r"pass(?:word|wd|phrase)|secret|token|credential|private[_-]?key|api[_-]?key|access[_-]?key|authorization|bearer"
)
# One of these is in each of them; most texts have none, and a search for any case takes long.
_STEMS = ("passw", "passphrase", "secret", "token", "credential", "key", "authorization", "bearer")
_NAME = re.compile(rf"(?i)({_WORDS})s?$")
_SURROUNDINGS = re.compile(r"(?i)^env(ironment|iron)?$")
_IN_TEXT = re.compile(
    rf"(?i)((?:{_WORDS})s?(?:\\?[\"'])?\s*[:=]\s*(?:(?:bearer|basic)\s+)?)"
    r"(?!<redacted>)(\\?\"[^\"\\]*\\?\"|'[^']*'|[^\s,;\"'}\]]+)"
)
_SCHEME = re.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{16,}")
_USER = re.compile(r"(://)[^\s/?#@\"'<>]*@")
# What keys, hashes and base64 are made of. There is little of it in a log, and a key has hundreds of forms to look for.
_RUN = re.compile(r"[A-Za-z0-9+/=_%.-]{16,}")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)


class Redactor:
    """Knows the secrets of one node."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Begin with these values."""
        self._secrets = {one for one in secrets if len(one) >= _SHORTEST}
        self._forms: tuple[tuple[str, bool], ...] | None = None

    def learn(self, content: Any) -> None:
        """Remember what stands at keys with the name of a secret, for the members that only mention the value."""
        for found in _named(content):
            if len(found) >= _SHORTEST_FOUND:
                self._secrets.add(found)
                self._forms = None

    def clean(self, content: Any) -> Any:
        """Return JSON values, or a text, without secrets."""
        if isinstance(content, str):
            return self._values(_text(content))
        # Most members hold none, and their text is searched at a hundredth of what a walk through them takes.
        walk = _structure(content)
        flat = json.dumps(walk, ensure_ascii=False, default=str)
        if _SCHEME.search(flat) or _USER.search(flat) or "-----BEGIN " in flat or self._in(flat):
            return _each(walk, lambda text: self._values(_text(text)))
        return walk

    def _in(self, text: str) -> bool:
        """Return whether any value is in the text of JSON, where quotes and backslashes are escaped."""
        runs = _runs(text)
        return any(json.dumps(form, ensure_ascii=False)[1:-1] in (runs if run else text) for form, run in self._all())

    def _values(self, text: str) -> str:
        runs = _runs(text)
        for form, run in self._all():
            if form in (runs if run else text):
                text = text.replace(form, REDACTED)
        return text

    def _all(self) -> tuple[tuple[str, bool], ...]:
        """Return all forms, and whether each is nothing but a run."""
        if self._forms is None:
            found = {form for secret in self._secrets for form in forms(secret)}
            # The longest first: a shorter one may be a part of it, and the rest would stay.
            ordered = sorted(found, key=lambda form: (-len(form), form))
            self._forms = tuple((form, bool(_RUN.fullmatch(form))) for form in ordered)
        return self._forms


def _runs(text: str) -> str:
    return "\n".join(set(_RUN.findall(text)))


def forms(secret: str) -> Iterator[str]:
    """Yield how a value may be written."""
    raw = secret.encode("utf-8", "surrogateescape")
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret, safe="")
    if len(raw) < 2 * _SHORTEST:
        # A few characters of base64 are part of many words.
        yield base64.b64encode(raw).decode()
        return
    yield from (raw.hex(), raw.hex().upper())
    for offset in range(3):
        # The characters at both ends share their bits with what stands beside the value.
        encoded = base64.b64encode(bytes(offset) + raw).decode().rstrip("=")
        first, last = (0, 2, 3)[offset], -1 if (offset + len(raw)) % 3 else None
        yield encoded[first:last]
        yield encoded[first:last].replace("+", "-").replace("/", "_")


def _secret_name(name: str) -> bool:
    return bool(_NAME.search(name))


def _named(content: Any) -> Iterator[str]:
    """Yield the strings at keys with a secret's name."""
    match content:
        case dict():
            for key, value in content.items():
                if _secret_name(str(key)) or _SURROUNDINGS.match(str(key)):
                    yield from _strings(value)
                else:
                    yield from _named(value)
        case list() | tuple():
            for one in content:
                yield from _named(one)
        case str() if (inner := _inner(content)) is not None:
            yield from _named(inner)
        case str():
            for user in _USER.finditer(content):
                _, _, password = user.group(0).partition("://")[2].rstrip("@").partition(":")
                yield password


def _strings(content: Any) -> Iterator[str]:
    match content:
        case str():
            yield content
        case dict():
            for one in content.values():
                yield from _strings(one)
        case list() | tuple():
            for one in content:
                yield from _strings(one)


def _structure(content: Any) -> Any:
    """Return JSON values without what stands at a secret's key."""
    match content:
        case dict():
            return {
                key: REDACTED
                if value and (_secret_name(str(key)) or _SURROUNDINGS.match(str(key)))
                else _structure(value)
                for key, value in content.items()
            }
        case list() | tuple():
            return [_structure(one) for one in content]
        case str() if (inner := _inner(content)) is not None:
            cleaned = _structure(inner)
            return content if cleaned == inner else json.dumps(cleaned, ensure_ascii=False)
        case str():
            return _at_names(content)
    return content


def _at_names(text: str) -> str:
    """Return a text without what stands behind a secret's name."""
    lowered = text.lower()
    return _IN_TEXT.sub(rf"\1{REDACTED}", text) if any(stem in lowered for stem in _STEMS) else text


def _inner(text: str) -> Any:
    """Return what a string holds that is itself a JSON object, as values of the kvstore are; None otherwise."""
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _text(text: str) -> str:
    text = _PEM.sub(REDACTED, text)
    text = _at_names(text)
    text = _SCHEME.sub(rf"\1{REDACTED}", text)
    return _USER.sub(rf"\1{REDACTED}@", text)


def _each(content: Any, change: Any) -> Any:
    match content:
        case dict():
            return {change(str(key)): _each(value, change) for key, value in content.items()}
        case list() | tuple():
            return [_each(one, change) for one in content]
        case str():
            return change(content)
    return content
