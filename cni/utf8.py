"""UTF-8 alone, under the name `encodings`: the first module that the plugin's interpreter imports.

Python doesn't start without `encodings`, and the standard library's costs every start half a millisecond: directories
of hundreds of files are read to find it, and it is three modules on top of `codecs`, with a table of 300 aliases. A
call needs one codec, which `_codecs` has in C. So install.py puts this file, as encodings.py, into the one directory
that is searched before the standard library.

Whoever wants another codec or anything else of the package, as grpcio does, gets the standard library's: `_standard`
puts it into this module's place, and from then on nothing is special.
"""

import _codecs
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


class Encoder:
    """codecs.IncrementalEncoder: UTF-8 has no state."""

    def __init__(self, errors: str = "strict") -> None:
        """Keep how errors are handled."""
        self._errors = errors

    def encode(self, text: str, _final: bool = False) -> bytes:
        """Return the bytes of a text."""
        return _codecs.utf_8_encode(text, self._errors)[0]

    def reset(self) -> None:
        """Nothing to do."""

    def getstate(self) -> int:
        """Return 0."""
        return 0

    def setstate(self, _state: int) -> None:
        """Nothing to do."""


class Decoder:
    """codecs.IncrementalDecoder: its state is the beginning of a character."""

    def __init__(self, errors: str = "strict") -> None:
        """Start with none."""
        self._errors = errors
        self._rest = b""

    def decode(self, data: bytes, final: bool = False) -> str:
        """Return the text of all whole characters; with `final` an incomplete one is an error."""
        data = self._rest + data
        text, used = _codecs.utf_8_decode(data, self._errors, final)
        self._rest = data[used:]
        return text

    def reset(self) -> None:
        """Forget the beginning of a character."""
        self._rest = b""

    def getstate(self) -> tuple[bytes, int]:
        """Return the beginning of a character, and 0."""
        return self._rest, 0

    def setstate(self, state: tuple[bytes, int]) -> None:
        """Set what `getstate` returned."""
        self._rest = state[0]


class Codec(tuple):  # type: ignore[type-arg] # of two functions and two that only the module codecs calls
    """codecs.CodecInfo, as far as Python itself asks for it."""

    __slots__ = ()
    _is_text_encoding = True
    name = "utf-8"
    incrementalencoder = Encoder
    incrementaldecoder = Decoder


def _decode(data: bytes, errors: str = "strict") -> tuple[str, int]:
    return _codecs.utf_8_decode(data, errors, True)


UTF_8 = Codec((_codecs.utf_8_encode, _decode, None, None))
HERE = __file__.rpartition("/")[0]
# Where submodules are, `encodings.idna` for example; after HERE comes the standard library (bundle.py).
__path__ = [f"{sys.path[1]}/encodings"]


def search(name: str) -> "Any":
    """Return a codec by its name in lower case, None when there is none."""
    if name in ("utf-8", "utf_8", "utf8"):
        return UTF_8
    return _standard().search_function(name)


def __getattr__(name: str) -> "Any":
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_standard(), name)


def _standard() -> "ModuleType":
    if HERE in sys.path:
        sys.path.remove(HERE)
        del sys.modules["encodings"]
    import encodings

    return encodings


_codecs.register(search)
