"""A reader of BTF, the type information that an object carries (kernel: Documentation/bpf/btf.rst). Pure.

Enough of it to answer three questions: how is this struct laid out, what are this enum's values, and where in a
section does this variable lie. Names are looked up among all types; anonymous types are only reached through others.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from services.common.errors import Internal

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")


class Kind(IntEnum):
    """Kinds of types, as btf.rst numbers them."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_SIZED = {Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.FLOAT, Kind.ENUM64}
_TRAILER = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
_MEMBER = {Kind.STRUCT: 12, Kind.UNION: 12, Kind.ENUM: 8, Kind.FUNC_PROTO: 8, Kind.DATASEC: 12, Kind.ENUM64: 12}


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a struct or a variable of a section; offset and size in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: Kind
    vlen: int
    size_or_type: int
    trailer: int  # where its members begin


class Btf:
    """The types of one object."""

    def __init__(self, raw: bytes) -> None:
        """Index the types. Raises Internal when `raw` is no BTF of this machine's byte order."""
        if len(raw) < _HEADER.size or _HEADER.unpack_from(raw)[0] != _MAGIC:
            raise Internal(f"{len(raw)} bytes are not BTF of this machine's byte order: was the object built with -g?")
        _, _, _, header, type_off, type_len, str_off, _ = _HEADER.unpack_from(raw)
        self._raw = raw
        self._strings = header + str_off
        self._types = [_Type("void", Kind.INT, 0, 0, 0), *self._index(header + type_off, type_len)]

    def struct(self, name: str) -> tuple[int, list[Field]]:
        """Return a struct's size and its members. Bit fields are not used here and raise Internal."""
        found = self._find(name, Kind.STRUCT)
        fields = []
        for at in range(found.trailer, found.trailer + 12 * found.vlen, 12):
            text, kind, bits = struct.unpack_from("=III", self._raw, at)
            if bits % 8:
                raise Internal(f"struct {name}: {self._text(text)} is a bit field, which has no layout in bytes")
            fields.append(Field(self._text(text), bits // 8, self._size(kind)))
        return found.size_or_type, fields

    def has_struct(self, name: str) -> bool:
        """Return whether the object knows a struct of that name."""
        return any(found.name == name and found.kind is Kind.STRUCT for found in self._types)

    def enum(self, name: str) -> tuple[int, dict[str, int]]:
        """Return an enum's size and its values."""
        found = self._find(name, Kind.ENUM)
        pairs = struct.iter_unpack("=Ii", self._raw[found.trailer : found.trailer + 8 * found.vlen])
        return found.size_or_type, {self._text(text): value for text, value in pairs}

    def section(self, name: str) -> dict[str, Field]:
        """Return the variables of a data section, such as `.rodata`; empty when there is no such section."""
        fields = {}
        for found in self._types:
            if found.kind is not Kind.DATASEC or found.name != name:
                continue
            for kind, offset, size in struct.iter_unpack(
                "=III", self._raw[found.trailer : found.trailer + 12 * found.vlen]
            ):
                variable = self._types[kind].name
                fields[variable] = Field(variable, offset, size)
        return fields

    def _index(self, start: int, length: int) -> Iterator[_Type]:
        at = start
        while at < start + length:
            text, info, size_or_type = _TYPE.unpack_from(self._raw, at)
            kind, vlen = Kind(info >> 24 & 0x1F), info & 0xFFFF
            at += _TYPE.size
            yield _Type(self._text(text), kind, vlen, size_or_type, at)
            at += _TRAILER.get(kind, 0) + _MEMBER.get(kind, 0) * vlen

    def _find(self, name: str, kind: Kind) -> _Type:
        for found in self._types:
            if found.name == name and found.kind is kind:
                return found
        raise Internal(f"the object's BTF has no {kind.name.lower()} {name}")

    def _size(self, ident: int) -> int:
        """Return a type's size, through typedefs and qualifiers."""
        found = self._types[ident]
        if found.kind in _SIZED:
            return found.size_or_type
        if found.kind is Kind.PTR:
            return 8
        if found.kind is Kind.ARRAY:
            element, _, count = struct.unpack_from("=III", self._raw, found.trailer)
            return int(count) * self._size(element)
        return self._size(found.size_or_type)

    def _text(self, offset: int) -> str:
        start = self._strings + offset
        return self._raw[start : self._raw.index(0, start)].decode()
