"""The shim's HTTP/2: frames in any cut, headers in any form that it reads, and everything else refused."""

import base64
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import hpack, http2, huffman
from cni.hpack import Unsupported
from cni.http2 import Answer, CallFailed

SETTINGS = http2._frame(http2.SETTINGS, 0, 0, b"")
HEAD = b"\x88" + hpack.literal(b"content-type", b"application/grpc")
OK = hpack.literal(b"grpc-status", b"0")


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return http2._frame(kind, flags, stream, payload)


def body(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message


def answer(message: bytes = b"hello", trailers: bytes = OK) -> bytes:
    """Return what a server sends on a good day."""
    return (
        SETTINGS
        + frame(http2.HEADERS, http2.END_HEADERS, HEAD)
        + frame(http2.DATA, 0, body(message))
        + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, trailers)
    )


def fed(data: bytes) -> Answer:
    taken = Answer()
    taken.feed(data)
    return taken


def test_an_answer_in_one_piece_is_read():
    taken = fed(answer())

    assert taken.ended
    assert taken.message() == b"hello"
    assert taken.owed == http2.SETTINGS_ACK


@given(st.lists(st.integers(1, 30), max_size=40))
def test_an_answer_may_be_cut_anywhere(cuts: list[int]):
    data, taken, rest = answer(), Answer(), b""
    for size in cuts:
        rest = taken.feed(rest + data[:size])
        data = data[size:]
    taken.feed(rest + data)

    assert taken.message() == b"hello"


def test_padding_priority_and_continuation_are_read():
    padded = b"\x03" + body(b"hel")[:4] + b"\x00" * 3
    fields = HEAD + hpack.literal(b"x", b"y" * 300)
    data = (
        SETTINGS
        + frame(
            http2.HEADERS, http2.PRIORITY | http2.PADDED, b"\x02" + b"\x00\x00\x00\x00\x10" + fields[:20] + b"\x00\x00"
        )
        + frame(http2.CONTINUATION, 0, fields[20:100])
        + frame(http2.CONTINUATION, http2.END_HEADERS, fields[100:])
        + frame(http2.DATA, http2.PADDED, padded)
        + frame(http2.DATA, 0, body(b"hel")[4:])
        + frame(http2.HEADERS, http2.END_STREAM, OK[:5])
        + frame(http2.CONTINUATION, http2.END_HEADERS, OK[5:])
    )

    assert fed(data).message() == b"hel"


def test_a_ping_and_the_settings_are_acknowledged_and_the_rest_is_ignored():
    taken = fed(
        SETTINGS
        + frame(http2.PING, 0, b"12345678", 0)
        + frame(http2.PING, http2.ACK, b"87654321", 0)
        + frame(http2.SETTINGS, http2.ACK, b"", 0)
        + frame(8, 0, b"\x00\x00\x10\x00", 0)
        + frame(77, 0, b"a frame of the future", 0)
    )

    assert taken.owed == http2.SETTINGS_ACK + frame(http2.PING, http2.ACK, b"12345678", 0)
    assert not taken.ended


def test_an_error_comes_with_its_message_and_details():
    details = base64.b64encode(b"\x08\x05").rstrip(b"=")
    trailers = (
        HEAD
        + hpack.literal(b"grpc-status", b"8")
        + hpack.literal(b"grpc-message", b"pool %22a%22 is full %E2%80%93 100%, %zz")
        + hpack.literal(b"grpc-status-details-bin", details)
    )
    only = SETTINGS + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, trailers)

    with pytest.raises(CallFailed) as raised:
        fed(only).message()

    assert raised.value.code == http2.RESOURCE_EXHAUSTED
    assert raised.value.message == 'pool "a" is full – 100%, %zz'
    assert raised.value.details == b"\x08\x05"
    assert raised.value.answered
    assert raised.value.reached


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_percent_encoding(text: str):
    encoded = "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in text.encode()
    ).encode()

    assert http2.percent_decode(encoded) == text


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 64,
        b"\xff" * 64,
        frame(http2.HEADERS, http2.END_HEADERS, HEAD),
        SETTINGS + frame(http2.HEADERS, http2.END_HEADERS, b"\xbe"),
        SETTINGS + frame(http2.HEADERS, http2.END_HEADERS, b"\x00\x83\xff\xff\xff"),
        SETTINGS + frame(http2.HEADERS, http2.END_HEADERS, b"\x00\x05ab"),
        SETTINGS + frame(http2.PUSH_PROMISE, 0, b"\x00\x00\x00\x02"),
    ],
    ids=["http 1", "zeros", "ones", "no settings", "dynamic table", "huffman", "short", "push"],
)
def test_what_is_not_understood_goes_another_way(data: bytes):
    with pytest.raises(Unsupported):
        fed(data)


@pytest.mark.parametrize(
    "data",
    [
        answer(trailers=b"\x88"),
        SETTINGS + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, b"\x8c"),
        SETTINGS
        + frame(http2.HEADERS, http2.END_HEADERS, HEAD)
        + frame(http2.DATA, 0, b"\x01" + body(b"zipped")[1:])
        + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, OK),
        SETTINGS
        + frame(http2.HEADERS, http2.END_HEADERS, HEAD)
        + frame(http2.DATA, 0, body(b"one") + body(b"two"))
        + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, OK),
        SETTINGS + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, HEAD + OK),
    ],
    ids=["no grpc-status", "http 400", "compressed", "two messages", "no message"],
)
def test_an_answer_that_is_no_grpc_unary_answer_goes_another_way(data: bytes):
    with pytest.raises(Unsupported):
        fed(data).message()


@pytest.mark.parametrize(
    ("data", "reached"),
    [
        (frame(http2.RST_STREAM, 0, (2).to_bytes(4, "big")), True),
        (frame(http2.RST_STREAM, 0, (7).to_bytes(4, "big")), False),
        (frame(http2.GOAWAY, 0, bytes(8) + b"draining", 0), False),
    ],
    ids=["reset", "refused", "going away"],
)
def test_a_call_that_is_cut_off_says_whether_it_can_have_begun(data: bytes, reached: bool):
    with pytest.raises(CallFailed) as raised:
        fed(SETTINGS + data)

    assert raised.value.code == http2.UNAVAILABLE
    assert raised.value.reached is reached


def test_going_away_after_this_call_lets_it_finish():
    data = answer()
    goaway = frame(http2.GOAWAY, 0, (1).to_bytes(4, "big") + bytes(4), 0)

    assert fed(data[: len(SETTINGS)] + goaway + data[len(SETTINGS) :]).message() == b"hello"


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=400), st.binary(max_size=400))))
def test_literals_come_back(fields: list[tuple[bytes, bytes]]):
    block = b"".join(hpack.literal(name, value) for name, value in fields)

    assert list(hpack.decode(block)) == fields


@given(st.binary(max_size=80))
def test_any_header_block_is_read_or_refused(block: bytes):
    with contextlib.suppress(Unsupported):
        list(hpack.decode(block))


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes):
    for prefix in (b"", SETTINGS):
        try:
            taken = fed(prefix + data)
            if taken.ended:
                taken.message()
        except (Unsupported, CallFailed):
            pass


def test_huffmans_code_is_that_of_the_rfc():
    """RFC 7541, appendix C.4 and C.6."""
    assert huffman.decode(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == b"www.example.com"
    assert huffman.decode(bytes.fromhex("25a849e95bb8e8b4bf")) == b"custom-value"
    assert huffman.decode(bytes.fromhex("9d29ad171863c78f0b97c8e9ae82ae43d3")) == b"https://www.example.com"
    assert huffman.decode(b"") == b""


@pytest.mark.parametrize("coded", [b"\xff\xff", b"\xff\xfb", b"\x00\x00"])
def test_a_huffman_code_that_is_rare_or_cut_off_goes_another_way(coded: bytes):
    with pytest.raises(Unsupported):
        huffman.decode(coded)


def test_the_forms_of_literals_that_a_server_may_choose_are_all_read():
    block = (
        b"\x20"  # table size 0
        b"\x88"  # :status 200
        b"\x48\x03404"  # to be indexed, name from the static table
        b"\x40\x01a\x01b"  # to be indexed, new name
        b"\x10\x01c\x01d"  # never indexed
        b"\x0f\x10\x04grpc"  # content-type
        b"\x9f"  # an entry without a name of interest
    )

    read: list[Any] = list(hpack.decode(block))

    assert read[:4] == [(b":status", b"200"), (b":status", b"404"), (b"a", b"b"), (b"c", b"d")]
    assert read[4] == (b"content-type", b"grpc")
