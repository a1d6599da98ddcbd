"""Huffman's code of HPACK (RFC 7541, appendix B), to read what grpcio codes so: the values of `-bin` headers.

The code is canonical: codes of one length are consecutive numbers in the order of their symbols, and the first of a
length follows the last of the one before. So the symbols by length say everything. Only lengths up to eleven
bits are here, which is letters, digits and common punctuation; whatever holds a rarer one goes through grpcio.
"""

from cni.hpack import Unsupported

SYMBOLS = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    9: b"",
    10: b'!"()?',
    11: b"'+|",
}
# Less than a byte of ones fills the last byte up (section 5.2).
LONGEST_PADDING = 7


def decode(coded: bytes) -> bytes:
    """Return the text. Raises Unsupported."""
    table = _table()
    text = bytearray()
    code = length = 0
    for byte in coded:
        for shift in range(7, -1, -1):
            code = code << 1 | (byte >> shift & 1)
            length += 1
            symbol = table.get((length, code))
            if symbol is not None:
                text.append(symbol)
                code = length = 0
            elif length > max(SYMBOLS):
                raise Unsupported("a Huffman code of more than eleven bits")
    if length > LONGEST_PADDING or code != (1 << length) - 1:
        raise Unsupported("a Huffman-coded header that ends within a symbol")
    return bytes(text)


def _table() -> dict[tuple[int, int], int]:
    table = {}
    code = 0
    for length, symbols in SYMBOLS.items():
        code <<= 1
        for symbol in symbols:
            table[length, code] = symbol
            code += 1
    return table
