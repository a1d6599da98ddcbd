"""JSON by CPython's own scanner and encoder (`_json`), without the package around them.

`import json` costs 6 ms, nearly all of them for the regular expressions of its pure Python half; `_json` alone 0.2 ms.
Where `_json` is missing, isn't what it was, or finds something wrong, the package does the work again: its
errors say what and where, and nobody waits for them.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BLANKS = " \t\n\r"


def _refuse_constant(name: str) -> "Any":
    # RFC 8259, section 6: NaN and the infinities are not JSON.
    raise ValueError(f"{name} is not JSON")


class _Context:
    """What json.JSONDecoder hands to the scanner: every hook at its default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


def loads(text: str) -> "Any":
    """Return the value of a JSON text. Raises ValueError, or RecursionError for what is nested too deeply."""
    try:
        from _json import make_scanner

        start = len(text) - len(text.lstrip(BLANKS))
        value, end = make_scanner(_Context)(text, start)  # type: ignore[arg-type] # the stub mixes up class and context
        if not text[end:].strip(BLANKS):
            return value
    except (ImportError, AttributeError, TypeError, SystemError, StopIteration):
        # SystemError: the scanner wants to raise json's JSONDecodeError, and json isn't imported.
        pass
    import json

    return json.loads(text, parse_constant=_refuse_constant)


def dumps(value: "Any") -> str:
    """Return a value as JSON on one line, ASCII only."""
    try:
        from _json import encode_basestring_ascii, make_encoder

        encoder = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, False)
        return "".join(encoder(value, 0))
    except (ImportError, TypeError):
        import json

        return json.dumps(value, allow_nan=False)


def _refuse(value: object) -> "Any":
    raise TypeError(f"{type(value).__name__} is not JSON")
