"""The ipcache's book: what the datapath is told adds up to what the newest records say."""

from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.common.model import Address
from services.endpoint.cluster.ipcache import Ipcache, Peer
from services.endpoint.cluster.records import IpRecord, NodeRecord

ADDRESSES = [ip_address(text) for text in ("10.1.0.1", "10.1.0.2", "fd00::1", "192.0.2.1")]
HOSTS = [ip_address(text) for text in ("192.0.2.1", "192.0.2.2")]
NODES = ["own", "a", "b"]


def ip(node: str, host: Address, identity: int) -> IpRecord:
    return IpRecord(node, host, identity, 7)


def node(name: str, addresses: list[Address], gateways: list[Address]) -> NodeRecord:
    return NodeRecord(name, "i", HOSTS[0], tuple(addresses), tuple(gateways))


ip_changes = st.tuples(
    st.just("ip"),
    st.sampled_from(ADDRESSES),
    st.none() | st.builds(ip, st.sampled_from(NODES), st.sampled_from(HOSTS), st.integers(256, 258)),
)
node_changes = st.tuples(
    st.just("node"),
    st.sampled_from(NODES),
    st.none() | st.tuples(st.lists(st.sampled_from(ADDRESSES)), st.lists(st.sampled_from(ADDRESSES))),
)
steps = st.lists(ip_changes | node_changes | st.tuples(st.just("tell"), st.integers(1, 5), st.none()))


def expected(
    ips: dict[Address, IpRecord | None], nodes: dict[str, NodeRecord | None], *, overlay: bool
) -> dict[Address, Peer]:
    found: dict[Address, Peer] = {}
    for name, record in nodes.items():
        if name == "own" or record is None:
            continue
        found |= {address: Peer(6, None) for address in record.addresses}
        found |= {address: Peer(6, record.address if overlay else None) for address in record.gateways}
    for address, one in ips.items():
        if one is not None and one.node != "own":
            found[address] = Peer(one.identity, one.host if overlay else None)
    return found


@given(steps, st.booleans())
def test_differences_add_up(changes: list[Any], overlay: bool) -> None:
    book = Ipcache("own", overlay=overlay)
    kernel: dict[Address, Peer] = {}
    ips: dict[Address, IpRecord | None] = {}
    nodes: dict[str, NodeRecord | None] = {}
    for what, which, value in changes:
        if what == "ip":
            ips[which] = value
            book.put_ip(which, value)
        elif what == "node":
            # Two nodes of one address are somebody's mistake, and whichever came last counts.
            record = node(which, *value) if value is not None else None
            if record is not None and any(
                {*record.addresses, *record.gateways} & {*other.addresses, *other.gateways}
                for name, other in nodes.items()
                if other is not None and name != which
            ):
                continue
            nodes[which] = record
            book.put_node(which, record)
        else:
            apply(book, kernel, which)
    while book.pending:
        apply(book, kernel, 3)
    want = expected(ips, nodes, overlay=overlay)
    assert kernel == want
    assert dict(book.all()) == want
    assert len(book) == len(want)
    assert all(book.identity_of(one) == (want[one].identity if one in want else None) for one in ADDRESSES)


def apply(book: Ipcache, kernel: dict[Address, Peer], limit: int) -> None:
    told = book.changes(limit)
    assert len(told.upserts) + len(told.removals) <= limit
    kernel.update(told.upserts)
    for address in told.removals:
        kernel.pop(address, None)


def test_what_could_not_be_written_is_told_again() -> None:
    book = Ipcache("own", overlay=True)
    book.put_ip(ADDRESSES[0], ip("a", HOSTS[1], 300))
    lost = book.changes(10)
    book.put_ip(ADDRESSES[0], ip("a", HOSTS[1], 301))
    book.retry(lost)
    assert book.changes(10).upserts == {ADDRESSES[0]: Peer(301, HOSTS[1])}
    assert not book.pending


def test_after_all_was_told_nothing_is_left_to_tell() -> None:
    book = Ipcache("own", overlay=False)
    book.put_ip(ADDRESSES[0], ip("a", HOSTS[1], 300))
    assert list(book.all()) == [(ADDRESSES[0], Peer(300, None))]
    assert not book.pending


def test_many_pairs_are_not_kept_for_ever() -> None:
    book = Ipcache("own", overlay=True)
    for number in range(10_000):
        book.put_ip(ADDRESSES[0], ip("a", HOSTS[0], 256 + number))
    assert len(book._shared) < 2000


def test_who_can_not_be_tunnelled_to_is_not_told() -> None:
    book = Ipcache("own", overlay=True)
    book.family = 4
    book.put_ip(ADDRESSES[0], ip("a", ip_address("2001:db8::1"), 300))
    book.put_ip(ADDRESSES[1], ip("b", HOSTS[0], 301))
    assert dict(book.all()) == {ADDRESSES[1]: Peer(301, HOSTS[0])}
    book.put_ip(ADDRESSES[1], ip("b", ip_address("2001:db8::1"), 301))
    assert book.changes(10).removals == [ADDRESSES[1]]
