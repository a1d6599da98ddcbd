"""What is kept of events, who gets which, and how rows of traffic are joined."""

from ipaddress import ip_address, ip_network

import pytest

from services.endpoint.monitor.filters import Facts, Filter, Kind, Party, PeerFilter, Verdict
from services.endpoint.monitor.flowtable import Drops, End, Pair, Row, Traffic, join, pairs
from services.endpoint.monitor.history import History
from services.endpoint.policy.entry import Direction

IN, OUT = Direction.INGRESS, Direction.EGRESS


# ── history ──


def test_the_oldest_go_and_are_counted() -> None:
    history: History[int] = History(3)
    for n in range(5):
        history.add(n)

    assert (len(history), history.added, history.gone) == (3, 5, 2)
    assert history.last(10, lambda _: True) == [2, 3, 4]


def test_the_last_are_those_that_fit_oldest_first() -> None:
    history: History[int] = History(10)
    for n in range(10):
        history.add(n)

    assert history.last(2, lambda n: n % 3 == 0) == [6, 9]
    assert history.last(0, lambda _: True) == []


def test_a_history_of_nothing_keeps_nothing() -> None:
    history: History[int] = History(0)
    history.add(1)

    assert (history.last(1, lambda _: True), history.gone) == ([], 1)


# ── filters ──

WEB = Party(7, (ip_address("10.0.0.7"),), "shop", "web-0", {"k8s:app": "web", "k8s:tier": "front"}, 300)
DB = Party(8, (ip_address("10.0.0.8"), ip_address("fd00::8")), "shop", "db-0", {"k8s:app": "db"}, 301)
DROP = Facts(Kind.DROP, WEB, DB, ports=(4242, 5432), protocol=6, reason="policy", verdict=Verdict.DENIED)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Filter(), True),
        (Filter(kinds=frozenset({Kind.DROP, Kind.TRACE})), True),
        (Filter(kinds=frozenset({Kind.TRACE})), False),
        (Filter(either=PeerFilter(endpoint_id=8)), True),
        (Filter(either=PeerFilter(endpoint_id=9)), False),
        (Filter(source=PeerFilter(endpoint_id=7)), True),
        (Filter(source=PeerFilter(endpoint_id=8)), False),
        (Filter(destination=PeerFilter(network=ip_network("fd00::/64"))), True),
        (Filter(destination=PeerFilter(network=ip_network("10.0.1.0/24"))), False),
        (Filter(source=PeerFilter(namespace="shop", pod="web-0")), True),
        (Filter(source=PeerFilter(namespace="shop", pod="db-0")), False),
        (Filter(either=PeerFilter(labels={"app": "db"})), True),
        (Filter(either=PeerFilter(labels={"k8s:app": "db"})), True),
        (Filter(either=PeerFilter(labels={"app": "web", "tier": "front"})), True),
        (Filter(either=PeerFilter(labels={"app": "web", "tier": "back"})), False),
        (Filter(either=PeerFilter(labels={"tier": ""})), True),
        (Filter(either=PeerFilter(labels={"zone": ""})), False),
        # One end has to have all of it.
        (Filter(either=PeerFilter(endpoint_id=7, labels={"app": "db"})), False),
        (Filter(either=PeerFilter(identity=301)), True),
        (Filter(source=PeerFilter(identity=301)), False),
        (Filter(port=5432), True),
        (Filter(port=4242), True),
        (Filter(port=80), False),
        (Filter(protocol=6), True),
        (Filter(protocol=17), False),
        (Filter(reason="policy"), True),
        (Filter(reason="policy deny"), False),
        (Filter(verdict=Verdict.DENIED), True),
        (Filter(verdict=Verdict.ALLOWED), False),
        (Filter(port=5432, protocol=6, source=PeerFilter(pod="web-0"), verdict=Verdict.DENIED), True),
        (Filter(port=5432, protocol=17, source=PeerFilter(pod="web-0"), verdict=Verdict.DENIED), False),
    ],
)
def test_all_that_a_filter_names_must_hold(wanted: Filter, fits: bool) -> None:
    assert wanted.fits(DROP) is fits


def test_what_has_not_got_what_is_asked_about_does_not_fit_but_what_is_lost_does() -> None:
    moved, failing = Facts(Kind.ENDPOINT, about=WEB), Facts(Kind.CONTROLLER)

    assert Filter(either=PeerFilter(endpoint_id=7)).fits(moved)
    for wanted in (Filter(port=80), Filter(source=PeerFilter(endpoint_id=7)), Filter(verdict=Verdict.ALLOWED)):
        assert not wanted.fits(moved)
        assert not wanted.fits(failing)
        assert wanted.fits(Facts(Kind.LOST))


def test_a_filter_says_what_the_loader_is_to_be_asked_for() -> None:
    assert Filter(kinds=frozenset({Kind.DROP, Kind.ENDPOINT})).of_packets() == {Kind.DROP}
    assert Filter(kinds=frozenset({Kind.CONTROLLER})).of_packets() == frozenset()
    assert Filter().of_packets() == {Kind.DROP, Kind.TRACE, Kind.VERDICT, Kind.CONNECTION}


# ── flows ──


def end(name: str, id_: int = 0, generation: int = 1) -> End:
    return End(name, id_, generation if id_ else 0, identity=300 + id_)


A, B, WORLD = end("shop/a", 1), end("shop/b", 2), end("reserved:world")


def row(source: End, destination: End, there: int = 1, seen_at: Direction = OUT, **changes: object) -> Row:
    ours: dict[str, object] = {
        "protocol": 6,
        "port": 80,
        "verdict": Verdict.ALLOWED,
        "back": Traffic(),
        "first": 1.0,
        "last": 2.0,
        "connections": 1,
    }
    return Row(source, destination, there=Traffic(there, 100 * there), seen_at=seen_at, **{**ours, **changes})  # type: ignore[arg-type] # fields by name


def test_of_two_views_of_one_node_the_one_who_is_asked_counts() -> None:
    """What A has sent beyond that was denied at B."""
    assert join([row(A, B, 5), row(A, B, 3, IN)]) == [row(A, B, 3, IN)]


def test_what_the_other_end_denies_is_not_allowed_unless_that_one_counts_nothing() -> None:
    assert join([row(A, B, 5)]) == []
    assert join([row(A, B, 5)], silent={2}) == [row(A, B, 5)]


def test_with_ends_elsewhere_the_one_view_is_all_there_is() -> None:
    assert join([row(A, WORLD, 5), row(WORLD, B, 7, IN)]) == [row(A, WORLD, 5), row(WORLD, B, 7, IN)]


def test_rows_of_one_key_are_summed_and_names_are_the_later_ones() -> None:
    renamed = End("shop/b-renamed", 2, 1, identity=9)
    (found,) = join([row(A, B, 5, IN, first=4.0, last=5.0), row(A, renamed, 3, IN, first=1.0, last=9.0)])

    assert (found.there, found.connections, found.first, found.last) == (Traffic(8, 800), 2, 1.0, 9.0)
    assert found.destination is renamed


@pytest.mark.parametrize(
    "other",
    [
        row(A, B, 1, IN, port=81),
        row(A, B, 1, IN, protocol=17),
        row(B, A, 1, IN),
        row(A, end("shop/b", 2, 2), 1, IN),  # another pod that has its id by now
        row(A, B, 1, IN, verdict=Verdict.DENIED, reason="policy"),
    ],
)
def test_other_traffic_is_another_row(other: Row) -> None:
    assert len(join([row(A, B, 1, IN), other])) == 2


def test_pairs_have_all_their_traffic_in_the_order_of_their_rows() -> None:
    denied = row(A, B, 4, IN, verdict=Verdict.DENIED, reason="policy", last=7.0)
    found = pairs([row(A, WORLD, 1), row(A, B, 1, IN, back=Traffic(2, 20)), denied, row(A, B, 3, IN, port=81)])

    assert found == [Pair(A, WORLD, Traffic(1, 100), 0, 2.0), Pair(A, B, Traffic(6, 420), 4, 7.0)]


def test_drops_are_counted_and_the_least_recent_rows_go() -> None:
    drops = Drops(0.0, longest=2)
    for port in (1, 2, 1, 3):
        drops.add(row(A, B, port=port, verdict=Verdict.DENIED, reason="policy"))

    assert [(one.port, one.drops) for one in drops.rows()] == [(1, 2), (3, 1)]
    assert drops.forgotten == 1
