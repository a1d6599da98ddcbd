"""HPACK (RFC 7541) without its state: literals out, literals and the static table in.

The shim announces a dynamic table of size 0 (SETTINGS_HEADER_TABLE_SIZE) and so needs none; a peer that refers to one
raises `Unsupported`, and grpcio makes the call instead. Strings in Huffman's code come with errors only (huffman.py).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# RFC 7541, appendix A: the names of the entries that an answer may use, without those that no gRPC server sends.
STATIC_NAMES = {**dict.fromkeys(range(8, 15), b":status"), 31: b"content-type", 33: b"date", 54: b"server"}
STATIC_STATUS = {8: b"200", 9: b"204", 10: b"206", 11: b"304", 12: b"400", 13: b"404", 14: b"500"}
STATIC_SIZE = 61


class Unsupported(Exception):
    """The peer speaks more HTTP/2 than the shim; `reached`: the request had been sent when that showed."""

    reached = False


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field that no table remembers. Lower-case name; both shorter than 2^14 bytes."""
    return b"\x00" + _string(name) + _string(value)


def indexed_literal(index: int, value: bytes) -> bytes:
    """Return a header field whose name is an entry (1–14) of the static table."""
    return index.to_bytes(1, "big") + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return size.to_bytes(1, "big") + text
    rest = size - 127
    groups = bytearray(b"\x7f")
    while rest > 127:
        groups.append(rest & 127 | 128)
        rest >>= 7
    groups.append(rest)
    return bytes(groups) + text


def decode(block: bytes) -> "Iterator[tuple[bytes, bytes]]":
    """Yield names and values of a whole header block. Raises Unsupported."""
    at, end = 0, len(block)
    try:
        while at < end:
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                yield _static_name(index), STATIC_STATUS.get(index, b"")
                continue
            if first & 0xE0 == 0x20:
                # A change of the dynamic table's size: it says yes to our 0.
                _, at = _integer(block, at, 5)
                continue
            # Literals: to be indexed (6 bits), not to be (4 bits), never to be (4 bits).
            index, at = _integer(block, at, 6 if first & 0x40 else 4)
            if index:
                name = _static_name(index)
            else:
                name, at = _read_string(block, at)
            value, at = _read_string(block, at)
            yield name, value
    except IndexError:
        raise Unsupported(f"a header block of {end} bytes ends within a field") from None


def _static_name(index: int) -> bytes:
    if not 1 <= index <= STATIC_SIZE:
        raise Unsupported(f"entry {index} of a dynamic table of size 0")
    return STATIC_NAMES.get(index, b"")


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        number += (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at
        if shift > 28:
            raise Unsupported("an integer of more than 32 bits in a header block")


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    huffman = block[at] & 0x80
    size, at = _integer(block, at, 7)
    if at + size > len(block):
        raise Unsupported(f"a header of {size} bytes in a block of {len(block)}")
    text = block[at : at + size]
    if huffman:
        from cni.huffman import decode as decode_huffman

        text = decode_huffman(text)
    return text, at + size
