"""Which address comes next, held against a model that is too slow to be wrong."""

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.common.config import PoolSettings
from services.common.model import Attachment
from services.ipam.pool import AddressPool, Origin, Taken
from services.ipam.poolplan import plan
from services.ipam.ranges import Range

OWNER = Attachment("net", "c0ffee", "eth0")
COOLDOWN = 10.0


def ranges_of(*cidrs: str, exclude: tuple[str, ...] = ()) -> tuple[Range, ...]:
    return plan((PoolSettings("default", cidrs, exclude),))[0].ranges


def pool_of(*cidrs: str) -> AddressPool:
    return AddressPool(ranges_of(*cidrs), COOLDOWN)


def take(pool: AddressPool, now: float = 0.0) -> Taken:
    taken = pool.take(OWNER, now)
    assert taken is not None
    return taken


class PoolAgainstModel(RuleBasedStateMachine):
    """The model: sets and a list sorted by time. Two ranges, out of order, one of them with holes."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = ranges_of("10.0.1.0/29", "10.0.0.0/28", exclude=("10.0.0.4/31", "10.0.0.9"))
        self.usable = [
            address for one in self.ranges for first, last in one.spans for address in range(first, last + 1)
        ]
        self.pool = AddressPool(self.ranges, COOLDOWN)
        self.now = 100.0
        self.held: set[int] = set()
        self.released: dict[int, float] = {}
        self.undoable: list[Taken] = []

    def expected_origin(self) -> Origin | None:
        fresh = set(self.usable) - self.held - self.released.keys()
        if any(self.now - at >= COOLDOWN for at in self.released.values()):
            return Origin.COOLED
        if fresh:
            return Origin.FRESH
        return Origin.COOLING if self.released else None

    def note(self, taken: Taken) -> None:
        assert taken.address in self.usable
        assert taken.address not in self.held
        if taken.origin is Origin.FRESH:
            assert taken.address not in self.released
        else:
            assert taken.released == self.released.pop(taken.address)
        self.held.add(taken.address)
        self.undoable.append(taken)

    @rule(seconds=strategies.floats(0.0, 8.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        expected = self.expected_origin()
        oldest = min(self.released.values(), default=None)

        taken = self.pool.take(OWNER, self.now)

        assert (taken.origin if taken else None) == expected
        if taken is None:
            return
        if taken.origin is not Origin.FRESH:
            assert taken.released == oldest
        self.note(taken)

    @rule(data=strategies.data())
    def claim(self, data: strategies.DataObject) -> None:
        free = [address for address in self.usable if address not in self.held]
        if free:
            self.note(self.pool.claim(data.draw(strategies.sampled_from(free)), OWNER, self.now))

    @precondition(lambda self: self.held)
    @rule(data=strategies.data())
    def release(self, data: strategies.DataObject) -> None:
        address = data.draw(strategies.sampled_from(sorted(self.held)))
        self.pool.release(address, self.now)
        self.held.remove(address)
        self.released[address] = self.now
        self.undoable = [taken for taken in self.undoable if taken.address != address]

    @precondition(lambda self: self.undoable)
    @rule(data=strategies.data())
    def a_commit_fails(self, data: strategies.DataObject) -> None:
        taken = data.draw(strategies.sampled_from(self.undoable))
        self.pool.undo(taken)
        self.undoable.remove(taken)
        self.held.remove(taken.address)
        if taken.origin is not Origin.FRESH:
            self.released[taken.address] = taken.released

    @rule()
    def a_range_comes(self) -> None:
        if len(self.ranges) == 2:
            (more,) = ranges_of("10.0.0.128/29")
            self.ranges = (*self.ranges, more)
            self.usable += [address for first, last in more.spans for address in range(first, last + 1)]
            self.pool.add(more, self.now)

    @precondition(lambda self: len(self.ranges) == 3)
    @rule()
    def it_goes(self) -> None:
        """Whatever is held of it."""
        *rest, gone = self.ranges
        self.ranges = tuple(rest)
        self.pool.remove(gone.prefix)
        self.usable = [address for address in self.usable if not gone.usable(address)]
        self.held = {address for address in self.held if not gone.usable(address)}
        self.released = {address: at for address, at in self.released.items() if not gone.usable(address)}
        self.undoable = [taken for taken in self.undoable if not gone.usable(taken.address)]

    @rule()
    def restart(self) -> None:
        """Rebuilding from the rows gives a pool that goes on as the old one would have."""
        self.pool = AddressPool(self.ranges, COOLDOWN)
        for address in self.held:
            self.pool.restore_held(address, OWNER)
        for address, at in sorted(self.released.items(), key=lambda item: item[1]):
            self.pool.restore_released(address, at)
        self.undoable.clear()

    @invariant()
    def holders_and_counts_are_right(self) -> None:
        cooling = {address for address, at in self.released.items() if self.now - at < COOLDOWN}
        for index, one in enumerate(self.ranges):
            assert self.pool.used()[index] == sum(one.usable(address) for address in self.held)
            assert self.pool.cooling(self.now)[index] == sum(one.usable(address) for address in cooling)
            idle = self.pool.idle_since(one.prefix)
            released = [at for address, at in self.released.items() if one.usable(address)]
            assert (idle is None) == any(one.usable(address) for address in self.held)
            assert idle is None or idle >= max(released, default=0.0)
        assert self.pool.free(self.now) == len(self.usable) - len(self.held) - len(cooling)
        assert self.pool.surely_free() <= self.pool.free(self.now)
        assert all((self.pool.holder(address) == OWNER) == (address in self.held) for address in self.usable)


PoolAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_the_pool_agrees_with_the_model = PoolAgainstModel.TestCase


def test_fresh_addresses_come_in_order_the_first_range_first():
    pool = pool_of("10.0.9.0/30", "10.0.1.0/30")

    addresses = [take(pool).address & 0xFFFF for _ in range(3)]

    assert addresses == [0x0902, 0x0101, 0x0102]


def test_a_released_address_rests_while_others_are_left():
    pool = pool_of("10.0.0.0/29")
    first = take(pool)
    pool.release(first.address, 0.0)

    others = {take(pool, 1.0).address for _ in range(4)}

    assert first.address not in others


def test_a_cooled_address_comes_before_a_fresh_one():
    pool = pool_of("10.0.0.0/24")
    first = take(pool)
    pool.release(first.address, 0.0)

    assert take(pool, COOLDOWN) == Taken(first.address, Origin.COOLED, 0.0)


def test_the_one_that_cooled_longest_comes_when_nothing_else_is_left():
    pool = pool_of("10.0.0.0/29")
    taken = [take(pool).address for _ in range(5)]
    pool.release(taken[3], 1.0)
    pool.release(taken[1], 2.0)

    assert take(pool, 3.0) == Taken(taken[3], Origin.COOLING, 1.0)
    assert take(pool, 3.0) == Taken(taken[1], Origin.COOLING, 2.0)
    assert pool.take(OWNER, 3.0) is None


def test_undoing_several_keeps_the_order_of_their_releases():
    pool = pool_of("10.0.0.0/28")
    taken = [take(pool).address for _ in range(6)]
    for second, address in enumerate(taken):
        pool.release(address, float(second))
    again = [take(pool, 100.0) for _ in range(4)]

    for one in (again[1], again[3], again[0], again[2]):
        pool.undo(one)

    assert [take(pool, 100.0).address for _ in range(6)] == taken


def test_a_slash_64_costs_no_more_than_a_slash_112():
    pool = AddressPool(ranges_of("fd00::/64"), COOLDOWN)

    addresses = [take(pool).address - (0xFD << 120) for _ in range(1000)]

    assert addresses == list(range(2, 1002))
    assert pool.claim((0xFD << 120) + 2**63, OWNER, 0.0).origin is Origin.FRESH
