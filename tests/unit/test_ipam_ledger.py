"""Who holds what: requests that are refused, numbers that are right, clocks that jump."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from services.common.config import PoolSettings
from services.common.errors import AlreadyExists, Exhausted, FailedPrecondition, InvalidArgument, NotFound
from services.common.model import Attachment
from services.ipam.ledger import Ledger
from services.ipam.model import Allocation, AllocationRequest, Clock, Release
from services.ipam.poolplan import plan
from services.ipam.ranges import Range

POOLS = (
    PoolSettings("default", ("10.0.0.0/29", "fd00::/120")),
    PoolSettings("blue", ("10.0.1.0/29", "10.0.2.0/29"), mtu=1400),
)
COOLDOWN, RESERVATION = 30.0, 600.0


class Time:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_700_000_000.0, 50.0

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.monotonic)

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def ledger(time: Time) -> Ledger:
    return make(time)


def make(time: Time, *pools: PoolSettings) -> Ledger:
    return Ledger(plan(pools or POOLS), COOLDOWN, RESERVATION, time.clock())


def owner(name: str = "c1") -> Attachment:
    return Attachment("net", name, "eth0")


def request(
    name: str = "c1", pool: str = "", families: str = "", requested: str = "", *, delegated: bool = False
) -> AllocationRequest:
    addresses = [ip_address(word) for word in requested.split()]
    return AllocationRequest(
        owner(name),
        pool=pool,
        families=frozenset(int(digit) for digit in families),
        requested={address.version: address for address in addresses},
        delegated=delegated,
    )


def addresses(held: Allocation) -> list[str]:
    return [str(one.address) for one in held.addresses]


def test_an_allocation_has_every_family_of_the_pool(ledger: Ledger):
    held = ledger.reserve(request()).allocation

    assert addresses(held) == ["10.0.0.2", "fd00::2"]
    assert [str(one.gateway) for one in held.addresses] == ["10.0.0.1", "fd00::1"]
    assert [str(one.range) for one in held.addresses] == ["10.0.0.0/29", "fd00::/120"]


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        (request(pool="red"), NotFound, "no pool 'red'; the configuration has default, blue"),
        (request(pool="blue", families="6"), InvalidArgument, "pool 'blue' has no IPv6 range, only IPv4"),
        (request(families="4", requested="fd00::9"), InvalidArgument, "which `families` leaves out"),
        (request(requested="10.9.9.9"), InvalidArgument, "in no range of pool 'default' (10.0.0.0/29)"),
        (request(pool="default", requested="10.0.1.3"), InvalidArgument, "in no range of pool 'default'"),
        (request(requested="10.0.0.1"), InvalidArgument, "never given out: it is the gateway"),
        (request(requested="10.0.0.7"), InvalidArgument, "never given out: it is the network or broadcast"),
    ],
)
def test_a_request_that_can_never_succeed_says_why(ledger: Ledger, asked: AllocationRequest, kind: type, words: str):
    with pytest.raises(kind) as refused:
        ledger.reserve(asked)

    assert words in str(refused.value)
    assert ledger.held_by(owner()) is None
    assert all(one.used == 0 for pool in ledger.status() for one in pool.ranges)


def test_a_requested_address_of_another_owner_is_refused_with_the_owners_name(ledger: Ledger):
    ledger.reserve(request("c1"))

    with pytest.raises(AlreadyExists, match=r"10\.0\.0\.2 is held by net/c1/eth0"):
        ledger.reserve(request("c2", requested="10.0.0.2"))


def test_requested_addresses_without_a_pool_name_find_their_pool(ledger: Ledger):
    """An endpoint that is restored knows its addresses, not the name of the pool."""
    assert ledger.reserve(request(requested="10.0.2.3")).allocation.pool == "blue"


def test_a_requested_address_may_be_cooling(ledger: Ledger):
    ledger.release(ledger.reserve(request(requested="10.0.0.4")).allocation)

    reservation = ledger.reserve(request(requested="10.0.0.4"))

    assert addresses(reservation.allocation)[0] == "10.0.0.4"
    assert [str(address) for address in reservation.reused] == ["10.0.0.4"]
    assert reservation.too_early == ()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request(requested="10.0.0.5"), "is not the requested 10.0.0.5"),
        (request(pool="blue"), "is of pool 'default', not 'blue'"),
        (request(families="4"), "is not exactly IPv4"),
    ],
)
def test_a_repeat_that_asks_for_other_addresses_is_refused(ledger: Ledger, asked: AllocationRequest, words: str):
    held = ledger.reserve(request()).allocation

    with pytest.raises(FailedPrecondition) as refused:
        ledger.check_repeat(held, asked)

    assert words in refused.value.message
    assert "10.0.0.2, fd00::2" in refused.value.message


@pytest.mark.parametrize(
    "asked", [request(), request(families="46"), request(requested="fd00::2"), request("c1", "default")]
)
def test_a_repeat_that_asks_for_what_is_held_passes(ledger: Ledger, asked: AllocationRequest):
    ledger.check_repeat(ledger.reserve(request()).allocation, asked)


def test_a_repeat_without_pool_name_by_an_owner_in_another_pool(ledger: Ledger):
    held = ledger.reserve(request(pool="blue")).allocation

    ledger.check_repeat(held, request(requested="10.0.1.1"))
    with pytest.raises(FailedPrecondition, match="is of pool 'blue', not 'default'"):
        ledger.check_repeat(held, request())


def test_exhaustion_tells_all_numbers(ledger: Ledger, time: Time):
    for number in range(5):
        held = ledger.reserve(request(f"c{number}", families="4")).allocation
        if number % 2:
            ledger.put(ledger.confirmed(held, 7))
        time.pass_(1.0)

    with pytest.raises(Exhausted) as refused:
        ledger.reserve(request("late"))

    assert refused.value.fields == {
        "pool": "default",
        "family": "IPv4",
        "ranges": "10.0.0.0/29",
        "size": "5",
        "used": "5",
        "reserved": "3",
        "cooling": "0",
        "next_expiry": "2023-11-14T22:23:20Z",
    }
    assert "5 of 5 used, 3 of them reserved, 0 cooling down" in refused.value.message
    assert "the next reservation expires 2023-11-14T22:23:20Z" in refused.value.message


def test_dual_stack_is_all_or_nothing(time: Time):
    ledger = make(time, PoolSettings("default", ("10.0.0.0/24", "fd00::/126")))
    for number in range(2):
        ledger.reserve(request(f"c{number}"))
    before = ledger.status()

    with pytest.raises(Exhausted, match="IPv6"):
        ledger.reserve(request("late"))

    assert ledger.status() == before
    assert addresses(ledger.reserve(request("v4", families="4")).allocation) == ["10.0.0.4"]


def test_undo_leaves_everything_as_it_was(ledger: Ledger):
    ledger.release(ledger.reserve(request(requested="10.0.0.3")).allocation)
    before = ledger.status()

    ledger.undo(ledger.reserve(request(requested="10.0.0.3")))

    assert ledger.status() == before
    assert ledger.held_by(owner()) is None
    assert ledger.next_deadline() is None


def test_statistics_follow_the_life_of_an_allocation(ledger: Ledger, time: Time):
    def counts() -> list[tuple[int, int, int]]:
        return [(one.used, one.reserved, one.cooling) for one in ledger.status()[0].ranges]

    held = ledger.reserve(request()).allocation
    assert counts() == [(1, 1, 0)] * 2
    assert ledger.status()[0].next_expiry == time.wall + RESERVATION

    held = ledger.confirmed(held, 9)
    ledger.put(held)
    assert counts() == [(1, 0, 0)] * 2
    assert ledger.status()[0].next_expiry is None

    ledger.release(held)
    assert counts() == [(0, 0, 1)] * 2

    time.pass_(COOLDOWN)
    assert counts() == [(0, 0, 0)] * 2


def test_a_confirmation_that_is_taken_back_is_a_new_reservation_of_the_same_addresses(ledger: Ledger, time: Time):
    held = ledger.reserve(request()).allocation
    confirmed = ledger.confirmed(held, 9)
    ledger.put(confirmed)
    time.pass_(RESERVATION * 2)

    reserved = ledger.unconfirmed(confirmed)
    ledger.put(reserved)

    assert (reserved.addresses, reserved.confirmed, reserved.endpoint_id) == (held.addresses, None, 0)
    assert [(one.used, one.reserved, one.cooling) for one in ledger.status()[0].ranges] == [(1, 1, 0)] * 2
    assert ledger.status()[0].next_expiry == time.wall + RESERVATION
    time.pass_(RESERVATION)
    assert ledger.due() == [owner()]


def test_a_reservation_wears_out_and_is_renewed(ledger: Ledger, time: Time):
    held = ledger.reserve(request()).allocation
    assert not ledger.wears_out(held)
    time.pass_(RESERVATION * 0.6)
    assert ledger.wears_out(held)

    ledger.put(ledger.renewed(held))

    time.pass_(RESERVATION * 0.9)
    assert ledger.due() == []
    time.pass_(RESERVATION * 0.1)
    assert ledger.due() == [owner()]


@pytest.mark.parametrize("step", [-1e6, 1e6])
def test_setting_the_wall_clock_expires_nothing_early_and_keeps_nothing_for_ever(
    ledger: Ledger, time: Time, step: float
):
    ledger.reserve(request())
    time.wall += step
    assert ledger.due() == []

    time.pass_(RESERVATION)

    assert ledger.due() == [owner()]


def test_after_a_restart_a_reservation_has_what_was_left_of_its_time(ledger: Ledger, time: Time):
    held = ledger.reserve(request()).allocation
    time.wall += 400.0
    after = make(time)

    after.restore([held], [])

    assert after.next_deadline() == time.monotonic + 200.0
    assert after.status()[0].ranges[0].reserved == 1


def test_after_a_restart_with_the_wall_clock_set_back_a_reservation_waits_no_longer_than_a_new_one(
    ledger: Ledger, time: Time
):
    held = ledger.reserve(request()).allocation
    time.wall -= 1e6
    after = make(time)

    after.restore([held], [])

    assert after.next_deadline() == time.monotonic + RESERVATION


def test_after_a_restart_released_addresses_go_on_cooling(time: Time):
    after = make(time)
    releases = [Release(ip_address("10.0.0.2"), time.wall - 5.0), Release(ip_address("10.0.0.3"), time.wall - 31.0)]

    after.restore([], [*releases, Release(ip_address("10.0.0.4"), time.wall + 1e6)])

    assert after.status()[0].ranges[0].cooling == 2
    taken = [addresses(after.reserve(request(f"c{n}", families="4")).allocation)[0] for n in range(5)]
    assert taken == ["10.0.0.3", "10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.4"]


def test_allocations_that_no_range_holds_any_more_are_kept_and_can_be_released(ledger: Ledger, time: Time):
    held = ledger.reserve(request(pool="blue")).allocation
    after = make(time, POOLS[0])

    stranded = after.restore([held], [])

    assert stranded == [held]
    assert after.held_by(owner()) == held
    after.check_repeat(held, request(pool="blue"))
    after.put(after.confirmed(held, 5))
    after.release(replace(held, expires=None))
    assert after.held_by(owner()) is None


def test_a_renamed_pool_still_knows_who_holds_its_addresses(ledger: Ledger, time: Time):
    """Rows say `blue`, the configuration says `green` with the same range: nothing may be given out twice."""
    held = ledger.reserve(request(pool="blue")).allocation
    after = make(time, POOLS[0], PoolSettings("green", ("10.0.1.0/29",)))

    assert after.restore([held], []) == []

    with pytest.raises(AlreadyExists):
        after.reserve(request("c2", pool="green", requested=addresses(held)[0]))
    assert addresses(after.reserve(request("c3", pool="green")).allocation) != addresses(held)


def test_ids_go_on_after_a_restart(ledger: Ledger, time: Time):
    held = ledger.reserve(request()).allocation
    after = make(time)
    after.restore([held], [])

    assert after.reserve(request("c2")).allocation.id == held.id + 1


CLUSTER = PoolSettings("default", cluster_ranges=("10.0.0.0/24",), node_prefix_v4=29)


def part(third: int) -> Range:
    cluster = plan((CLUSTER,))[0].cluster
    assert cluster is not None
    return cluster.claimed(ip_network(f"10.0.0.{third}/29"), ip_address("10.0.0.1"))


def test_a_cluster_pool_begins_with_nothing_and_gives_what_comes(time: Time):
    ledger = make(time, CLUSTER)
    with pytest.raises(Exhausted, match="0 of 0 used"):
        ledger.reserve(request())

    ledger.add_range("default", part(0))
    ledger.add_range("default", part(8))

    taken = [addresses(ledger.reserve(request(f"c{number}")).allocation)[0] for number in range(11)]
    assert taken == [f"10.0.0.{number}" for number in (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14)]
    assert [one.used for one in ledger.status()[0].ranges] == [5, 6]


def test_what_is_held_of_a_range_that_goes_is_kept_and_found_when_it_comes_back(time: Time):
    ledger = make(time, CLUSTER)
    ledger.add_range("default", part(0))
    reserved = ledger.reserve(request("c1")).allocation
    confirmed = ledger.confirmed(ledger.reserve(request("c2")).allocation, 7)
    ledger.put(confirmed)

    ledger.remove_range("default", part(0).prefix)
    assert ledger.status()[0].ranges == ()
    assert ledger.held_by(owner("c1")) == reserved
    assert ledger.holders(part(0).prefix) == 2
    with pytest.raises(InvalidArgument, match="in no range"):
        ledger.reserve(request("c3", requested="10.0.0.4"))

    ledger.add_range("default", part(0))
    (status,) = ledger.status()[0].ranges
    assert (status.used, status.reserved) == (2, 1)
    assert addresses(ledger.reserve(request("c3")).allocation) == ["10.0.0.4"]
    ledger.release(confirmed)
    ledger.release(reserved)
    assert ledger.status()[0].ranges[0].used == 1


def test_a_commit_that_fails_after_its_range_has_gone_is_undone(time: Time):
    ledger = make(time, CLUSTER)
    ledger.add_range("default", part(0))
    ledger.add_range("default", part(8))
    reservation = ledger.reserve(request("c1"))
    before = ledger.status()[0].ranges[1]

    ledger.remove_range("default", part(0).prefix)
    ledger.undo(reservation)

    assert ledger.held_by(owner("c1")) is None
    assert ledger.status()[0].ranges == (before,)


def test_a_release_of_before_a_range_went_does_not_free_what_is_held_now(time: Time):
    """Rows of a range that was lost and came back may tell of both."""
    ledger = make(time, CLUSTER)
    ledger.add_range("default", part(0))
    held = ledger.reserve(request("c1")).allocation
    after = make(time, CLUSTER)
    after.add_range("default", part(0))

    after.restore([held], [Release(held.addresses[0].address, time.wall - 1.0)])

    assert [one.used for one in after.status()[0].ranges] == [1]
    others = {addresses(after.reserve(request(f"d{number}")).allocation)[0] for number in range(4)}
    assert addresses(held)[0] not in others
    with pytest.raises(Exhausted):
        after.reserve(request("late"))


DELEGATED = (*POOLS, PoolSettings("bridge", ("10.9.0.0/29",), delegated=True))


def test_a_delegated_pool_gives_to_other_plugins_only(time: Time):
    ledger = make(time, *DELEGATED)
    with pytest.raises(InvalidArgument, match=r"pool: 'bridge' is delegated, .*: name another pool"):
        ledger.reserve(request(pool="bridge"))
    with pytest.raises(InvalidArgument, match="'bridge' is delegated"):
        ledger.reserve(request(requested="10.9.0.3"))

    held = ledger.reserve(request(pool="bridge", delegated=True)).allocation

    assert (addresses(held), str(held.addresses[0].gateway)) == (["10.9.0.2"], "10.9.0.1")


def test_other_plugins_get_addresses_only_of_ranges_with_their_gateway(time: Time):
    ledger = make(time, *DELEGATED)
    with pytest.raises(InvalidArgument, match=r"10.0.1.0/29 of 'blue' has the node's gateway 10.0.0.1, which isn't in"):
        ledger.reserve(request(pool="blue", delegated=True))

    assert addresses(ledger.reserve(request(delegated=True)).allocation) == ["10.0.0.2", "fd00::2"]


def test_other_plugins_get_nothing_of_a_clusters_pool(time: Time):
    ledger = make(time, PoolSettings("default", cluster_ranges=("10.0.0.0/16",)))

    with pytest.raises(InvalidArgument, match="'default' is the cluster's"):
        ledger.reserve(request(delegated=True))
