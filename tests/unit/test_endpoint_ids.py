"""Ids and generations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.common.errors import Exhausted
from services.endpoint.ids import Ids

LARGEST = 8


class IdsMachine(RuleBasedStateMachine):
    """Takes, frees and restarts in any order."""

    def __init__(self) -> None:
        """Start with a fresh node."""
        super().__init__()
        self.ids = Ids(largest=LARGEST)
        self.live: dict[int, int] = {}
        self.last = (0, 0)
        self.seen: set[tuple[int, int]] = set()

    @rule()
    @precondition(lambda self: len(self.live) < LARGEST)
    def take(self) -> None:
        """A new endpoint never gets what another has, and never a generation that was."""
        id_, generation = self.ids.take()
        assert 1 <= id_ <= LARGEST
        assert id_ not in self.live
        assert generation > self.last[1]
        self.live[id_] = generation
        self.last = (id_, generation)
        self.seen.add(self.last)

    @rule(data=st.data())
    @precondition(lambda self: self.live)
    def free(self, data: st.DataObject) -> None:
        """Any of them may go."""
        id_ = data.draw(st.sampled_from(sorted(self.live)))
        del self.live[id_]
        self.ids.free(id_)

    @rule()
    def restart(self) -> None:
        """What the record has is enough to go on."""
        self.ids = Ids(*self.last, largest=LARGEST)
        for id_, generation in self.live.items():
            self.ids.observe(id_, generation)

    @invariant()
    def a_full_node_says_so(self) -> None:
        """With numbers."""
        if len(self.live) == LARGEST:
            with pytest.raises(Exhausted, match=f"all {LARGEST} endpoint ids"):
                self.ids.take()


TestIds = IdsMachine.TestCase


def test_a_freed_id_comes_back_only_after_all_others_had_their_turn() -> None:
    """Whoever remembers the number has the longest time to forget it."""
    ids = Ids(largest=4)
    assert ids.take()[0] == 1
    ids.free(1)

    assert [ids.take()[0] for _ in range(4)] == [2, 3, 4, 1]


@given(st.sets(st.integers(1, LARGEST), max_size=LARGEST - 1))
def test_ids_that_only_the_kernel_has_are_not_handed_out(kernel: set[int]) -> None:
    """After a database was lost its pods still run."""
    ids = Ids(largest=LARGEST)
    ids.avoid((id_, 1000 + id_) for id_ in kernel)

    taken = [ids.take() for _ in range(LARGEST - len(kernel))]

    assert {id_ for id_, _ in taken}.isdisjoint(kernel)
    assert min(generation for _, generation in taken) > max((1000 + id_ for id_ in kernel), default=0)


def test_what_the_kernel_no_longer_has_is_free_again() -> None:
    """Each look at the kernel replaces the one before."""
    ids = Ids(largest=2)
    ids.avoid([(1, 1)])
    ids.avoid([])

    assert {ids.take()[0], ids.take()[0]} == {1, 2}
