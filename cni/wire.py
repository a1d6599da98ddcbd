"""The protobuf wire format, as much of it as the shim's messages use.

A message type is a `Message`: a table of fields. `encode` turns a dict into bytes, `decode` bytes into a dict, field by
field in the order of their numbers and map entries in the order of their keys, so that the bytes are those of
protobuf's own deterministic serialisation (a test holds them equal for random messages).

Invariants:
- Only the fields of the table are encoded; unknown ones, and known ones of another wire type, are skipped on decoding.
- `decode` fills in proto3's defaults: "", b"", 0, False, None for an absent message, [] and {}.
- A RAW field is a message that stays encoded: what one service answered is handed to the next one unread, with
  whatever fields a newer service has put into it. Reading it is another `decode`.

Not here: fixed-width and signed numbers, groups, repeated numbers, merging a message field that occurs twice (the last
one wins): no message of the contract that the shim reads needs them. protobuf's own runtime costs 25 ms to import.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Values = dict[str, Any]

TEXT, BYTES, NUMBER, FLAG, MESSAGE, RAW, TEXTS, MESSAGES, RAWS, TEXT_MAP = range(10)

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
DEFAULTS = {TEXT: "", BYTES: b"", NUMBER: 0, FLAG: False, MESSAGE: None, RAW: None}


class WireError(ValueError):
    """The bytes are not a message of the expected kind."""


class Message:
    """A message type: `fields` are (number, name, kind), and for MESSAGE and MESSAGES the type of what is in it."""

    __slots__ = ("_by_tag", "_fields", "name")

    def __init__(self, name: str, *fields: "tuple[Any, ...]") -> None:
        """Keep the table; what decoding needs is made of it at the first use, as most types are never decoded."""
        self.name = name
        self._fields = fields
        self._by_tag: dict[int, tuple[Any, ...]] = {}

    def encode(self, values: "Values") -> bytes:
        """Return the message; what `values` doesn't name is left out. Numbers are unsigned."""
        parts: list[bytes] = []
        for number, name, kind, *of in self._fields:
            value = values.get(name)
            if value is None or (not value and kind not in (MESSAGE, RAW)):
                continue
            if kind in (NUMBER, FLAG):
                parts += (varint(number << 3 | VARINT), varint(value))
                continue
            tag = varint(number << 3 | DELIMITED)
            for payload in _payloads(value, kind, *of):
                parts += (tag, varint(len(payload)), payload)
        return b"".join(parts)

    def decode(self, data: bytes) -> "Values":
        """Return all fields of the table. Raises WireError."""
        if not self._by_tag:
            self._by_tag = {
                number << 3 | _wire_type(kind): (name, kind, *of) for number, name, kind, *of in self._fields
            }
        values = {name: _default(kind) for name, kind, *_ in self._by_tag.values()}
        at, end = 0, len(data)
        while at < end:
            tag, payload, at = _read_field(data, at)
            if tag not in self._by_tag:
                continue
            name, kind, *of = self._by_tag[tag]
            if kind == FLAG:
                values[name] = payload != 0
            elif kind == TEXT_MAP:
                pair = MAP_ENTRY.decode(payload)
                values[name][pair["key"]] = pair["value"]
            elif kind >= TEXTS:
                values[name].append(_value(payload, kind, *of))
            else:
                values[name] = _value(payload, kind, *of)
        return values


def _wire_type(kind: int) -> int:
    return VARINT if kind in (NUMBER, FLAG) else DELIMITED


def _default(kind: int) -> "Any":
    if kind < TEXTS:
        return DEFAULTS[kind]
    return {} if kind == TEXT_MAP else []


def _payloads(value: "Any", kind: int, of: "Message | None" = None) -> "list[bytes]":
    """Return what goes into each occurrence of a length-delimited field."""
    if kind == TEXT:
        return [value.encode()]
    if kind in (BYTES, RAW):
        return [value]
    if kind == RAWS:
        return list(value)
    if kind == TEXTS:
        return [one.encode() for one in value]
    if of is not None:
        return [of.encode(one) for one in (value if kind == MESSAGES else (value,))]
    return [_map_entry(key, value[key]) for key in sorted(value)]


def _value(payload: "Any", kind: int, of: "Message | None" = None) -> "Any":
    if of is not None:
        return of.decode(payload)
    if kind in (TEXT, TEXTS):
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            raise WireError(f"text that is not UTF-8: {error}") from None
    return payload


def _read_field(data: bytes, at: int) -> "tuple[int, Any, int]":
    """Return a field's tag, its number or its bytes, and where it ends."""
    tag, at = read_varint(data, at)
    kind = tag & 7
    if kind == VARINT:
        number, at = read_varint(data, at)
        return tag, number, at
    if kind == DELIMITED:
        length, at = read_varint(data, at)
    elif kind in (FIXED32, FIXED64):
        length = 4 if kind == FIXED32 else 8
    else:
        raise WireError(f"wire type {kind} of field {tag >> 3} is not in use any more")
    if at + length > len(data):
        raise WireError(f"{len(data)} bytes end within field {tag >> 3}")
    return tag, data[at : at + length], at + length


def _map_entry(key: str, value: str) -> bytes:
    # Unlike ordinary fields, both halves of a map entry are written even when they are empty.
    coded, text = key.encode(), value.encode()
    return b"".join((b"\x0a", varint(len(coded)), coded, b"\x12", varint(len(text)), text))


def varint(number: int) -> bytes:
    """Return an unsigned number in base 128, least significant group first."""
    if number < 128:
        return number.to_bytes(1, "little")
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and where it ends. Raises WireError when it does not end within ten bytes."""
    try:
        byte = data[at]
        if byte < 128:
            return byte, at + 1
        number, shift = byte & 127, 7
        while shift < 70:
            at += 1
            byte = data[at]
            number |= (byte & 127) << shift
            if byte < 128:
                return number & 0xFFFFFFFFFFFFFFFF, at + 1
            shift += 7
    except IndexError:
        raise WireError(f"{len(data)} bytes end within a number") from None
    raise WireError(f"a number of more than ten bytes at {at}")


MAP_ENTRY = Message("map entry", (1, "key", TEXT), (2, "value", TEXT))
