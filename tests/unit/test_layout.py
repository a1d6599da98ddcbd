"""Keys and values as bytes: what is packed reads back, and what an LPM key can't say is refused."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.loader import layout, refusal
from services.loader.layout import EndpointEntry
from services.loader.model import Direction, PolicyEntry
from services.loader.refusal import DropReason

MACS = st.binary(min_size=6, max_size=6)


@given(
    st.builds(
        EndpointEntry,
        address=st.ip_addresses(),
        ifindex=st.integers(0, 2**31 - 1),
        endpoint_id=st.integers(0, 65535),
        identity=st.integers(0, 2**32 - 1),
        pod_mac=MACS,
        host_mac=MACS,
        host=st.booleans(),
    )
)
def test_an_endpoint_entry_reads_back_as_it_was_written(entry: EndpointEntry) -> None:
    assert layout.read_endpoint(layout.endpoint_key(entry.address), layout.endpoint_value(entry)) == entry


@st.composite
def entries(draw: st.DrawFn) -> PolicyEntry:
    protocol = draw(st.integers(0, 255))
    length = draw(st.integers(0, 16)) if protocol else 0
    port = draw(st.integers(0, 65535)) & ~(0xFFFF >> length) & 0xFFFF
    return PolicyEntry(
        draw(st.sampled_from(Direction)), draw(st.integers(0, 2**32 - 1)), protocol, port, length, draw(st.booleans())
    )


@given(entries())
def test_a_policy_entry_reads_back_as_it_was_written(entry: PolicyEntry) -> None:
    found = layout.read_policy(layout.policy_key(entry), layout.policy_value(entry))

    assert (found.entry, found.packets, found.bytes) == (entry, 0, 0)


@pytest.mark.parametrize(
    ("entry", "prefix_length"),
    [
        (PolicyEntry(Direction.EGRESS), 40),
        (PolicyEntry(Direction.EGRESS, 300), 40),
        (PolicyEntry(Direction.EGRESS, 300, 6), 48),
        (PolicyEntry(Direction.EGRESS, 300, 6, 0x8000, 1), 49),
        (PolicyEntry(Direction.EGRESS, 300, 6, 443, 16), 64),
    ],
)
def test_a_policy_key_counts_the_bits_that_it_fixes(entry: PolicyEntry, prefix_length: int) -> None:
    assert int.from_bytes(layout.policy_key(entry)[:4], "little") == prefix_length


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (PolicyEntry(Direction.EGRESS, 0, 0, 80, 16), "protocol: port 80 needs a protocol"),
        (PolicyEntry(Direction.EGRESS, 0, 6, 80, 17), "port_prefix_length: 17 is not in 0–16"),
        (PolicyEntry(Direction.EGRESS, 0, 6, 81, 15), "port: 81 has bits set below its prefix of 15 bits"),
        (PolicyEntry(Direction.EGRESS, 0, 6, 80, 0), "port: 80 has bits set below its prefix of 0 bits"),
        (PolicyEntry(Direction.EGRESS, 0, 256), "protocol: 256"),
        (PolicyEntry(Direction.EGRESS, 0, 6, 65536, 16), "port: 65536"),
        (PolicyEntry(Direction.EGRESS, 2**32), "identity: 4294967296"),
    ],
)
def test_what_a_policy_key_can_not_say_is_refused_by_field(entry: PolicyEntry, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        layout.policy_key(entry)


def test_counters_are_summed_over_the_cpus() -> None:
    key = layout.METRICS_KEY.pack(7, DropReason.INVALID_SOURCE_IP, Direction.EGRESS)
    values = b"".join(layout.METRICS_VALUE.pack(*counts) for counts in ((1, 100), (0, 0), (2, 120)))

    metric = layout.read_metric(key, values)

    assert (metric.endpoint_id, metric.reason, metric.packets, metric.bytes) == (7, "invalid source ip", 3, 220)


def test_reasons_are_words_and_unknown_ones_keep_their_number() -> None:
    assert refusal.reason_text(203) == "endpoint not ready"
    assert refusal.reason_text(99) == "reason 99"


def test_constants_of_a_missing_family_are_zero() -> None:
    constants = layout.endpoint_constants(
        endpoint_id=7,
        identity=300,
        addresses=[ip_address("10.0.0.7")],
        gateways=[],
        pod_mac=b"\2\0\0\0\0\7",
        host_mac=b"\2\0\0\0\0\1",
        host_ifindex=3,
    )

    assert constants["endpoint_ipv4"] == b"\x0a\0\0\7"
    assert constants["endpoint_ipv6"] == constants["gateway_ipv6"] == bytes(16)
    assert constants["pod_mac"] == b"\2\0\0\0\0\7\0\0"
