"""Where things lie in the running kernel, read from its own type information (BTF, /sys/kernel/btf/vmlinux). Pure.

Standard library only, because the tracer's process imports it. One pass over the kernel's types notes where each one
begins; names are then looked for by where they stand among the strings, so that two hundred thousand names need not be
read for a dozen of them.
"""

import struct
from collections.abc import Iterator

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")

_STRUCTS = frozenset({4, 5})
_ENUM, _PROTO, _TYPEDEF = 6, 13, 8
# Typedefs, volatile, const, restrict, type tags: what is looked through.
_THROUGH = frozenset({_TYPEDEF, 9, 10, 11, 18})
# By kind: bytes behind the type itself, once and for each member (kernel: Documentation/bpf/btf.rst).
_ONCE = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, _ENUM: 8, _PROTO: 8, 15: 12, 19: 12}


class UnknownTypeError(Exception):
    """The kernel has no such type or member; the message says which."""


class KernelTypes:
    """The kernel's types."""

    def __init__(self, raw: bytes) -> None:
        """Note where each type begins. Raises UnknownTypeError when `raw` is no BTF of this machine's byte order."""
        if len(raw) < _HEADER.size or _HEADER.unpack_from(raw)[0] != _MAGIC:
            raise UnknownTypeError(f"{len(raw)} bytes are no BTF of this machine's byte order")
        _, _, _, header, types, length, strings, _ = _HEADER.unpack_from(raw)
        self._raw = raw
        self._strings = header + strings
        self._starts = [0, *_starts(raw, header + types, length)]

    def offset(self, name: str, path: str) -> int:
        """Return where a member lies in a struct, in bytes; `path` goes through members: `__sk_common.skc_net.net`."""
        at, ident = 0, self._find(name, _STRUCTS)
        for word in path.split("."):
            found = self._member(ident, word)
            if found is None:
                raise UnknownTypeError(f"this kernel's struct {name} has no {path}")
            at, ident = at + found[0], found[1]
        return at

    def enum(self, name: str) -> dict[int, str]:
        """Return an enum's values and their names."""
        start = self._starts[self._find(name, frozenset({_ENUM}))]
        _, info, _ = _TYPE.unpack_from(self._raw, start)
        pairs = struct.iter_unpack("=II", self._raw[start + 12 : start + 12 + 8 * (info & 0xFFFF)])
        return {value: self._text(text) for text, value in pairs}

    def drop_reasons(self) -> dict[int, str]:
        """Return why packets are dropped: numbers, and names without their prefix, NO_SOCKET."""
        prefix = "SKB_DROP_REASON_"
        named = self.enum("skb_drop_reason")
        return {
            value: name.removeprefix(prefix if name.startswith(prefix) else "SKB_") for value, name in named.items()
        }

    def parameters(self, typedef: str) -> int:
        """Return how many parameters the function has that a typedef is a pointer to."""
        _, _, pointer = _TYPE.unpack_from(self._raw, self._starts[self._find(typedef, frozenset({_TYPEDEF}))])
        _, _, proto = _TYPE.unpack_from(self._raw, self._starts[pointer])
        _, info, _ = _TYPE.unpack_from(self._raw, self._starts[proto])
        return int(info & 0xFFFF)

    def _find(self, name: str, kinds: frozenset[int]) -> int:
        wanted = self._raw.find(b"\0" + name.encode() + b"\0", self._strings) + 1 - self._strings
        if wanted > 0:
            for ident in range(1, len(self._starts)):
                text, info, _ = _TYPE.unpack_from(self._raw, self._starts[ident])
                if text == wanted and info >> 24 & 0x1F in kinds:
                    return ident
        raise UnknownTypeError(f"this kernel has no type {name}")

    def _member(self, ident: int, name: str) -> tuple[int, int] | None:
        """Return offset and type of a member, also of one that is in a member without a name."""
        text, info, size_or_type = _TYPE.unpack_from(self._raw, self._starts[ident])
        kind = info >> 24 & 0x1F
        if kind in _THROUGH:
            return self._member(size_or_type, name)
        if kind not in _STRUCTS:
            return None
        start = self._starts[ident] + _TYPE.size
        for at in range(start, start + _MEMBER.size * (info & 0xFFFF), _MEMBER.size):
            text, member, bits = _MEMBER.unpack_from(self._raw, at)
            offset = (bits & 0xFFFFFF if info >> 31 else bits) // 8  # of bit fields the size is in the upper byte
            if text and self._text(text) == name:
                return offset, member
            if not text and (inner := self._member(member, name)) is not None:
                return offset + inner[0], inner[1]
        return None

    def _text(self, offset: int) -> str:
        start = self._strings + offset
        return self._raw[start : self._raw.index(0, start)].decode()


def _starts(raw: bytes, start: int, length: int) -> Iterator[int]:
    at, end = start, start + length
    unpack, once, each = _TYPE.unpack_from, _ONCE, _EACH
    while at < end:
        yield at
        info = unpack(raw, at)[1]
        kind = info >> 24 & 0x1F
        at += 12 + once.get(kind, 0) + each.get(kind, 0) * (info & 0xFFFF)
