"""The line of those who want to be created: order, bound, leaving, and what is said about the future."""

from hypothesis import given
from hypothesis import strategies as st

from services.endpoint.line import ENOUGH, REMEMBERED, Line, Place


@given(
    st.integers(1, 4),
    st.lists(st.one_of(st.tuples(st.just("join"), st.just(0)), st.tuples(st.just("leave"), st.integers(0, 30)))),
)
def test_turns_come_in_the_order_of_joining_never_too_many_and_never_too_few(
    width: int, moves: list[tuple[str, int]]
) -> None:
    """Against a model: whoever is there, in order; the first `width` that were let in and have not left work."""
    line, present, working, joined = Line(width), list[int](), set[int](), 0
    for move, which in moves:
        if move == "join":
            joined += 1
            present.append(joined)
            if line.join(joined):
                working.add(joined)
        elif present:
            gone = present.pop(which % len(present))
            working.discard(gone)
            following = line.leave(gone)
            if following is not None:
                assert following == next(one for one in present if one not in working)
                working.add(following)
        waiting = [one for one in present if one not in working]
        assert len(working) == line.working == min(width, len(present))
        assert list(line.places()) == waiting
        assert [place.position for place in line.places().values()] == list(range(1, len(waiting) + 1))
        # First come, first served: nobody who works came after somebody who waits.
        assert not waiting or not working or max(working) < min(waiting)


def test_leaving_twice_or_without_having_been_there_changes_nothing() -> None:
    """A withdrawal and the end of the wait both leave."""
    line = Line(1)
    assert line.join(1)
    assert not line.join(2)
    assert line.leave(7) is None
    assert line.leave(2) is None
    assert line.leave(2) is None
    assert (line.working, line.waiting) == (1, 0)


def test_nothing_is_said_before_enough_was_seen() -> None:
    """A guess would be wrong on every other machine."""
    line = Line(2)
    for key in range(5):
        line.join(key)
    for _ in range(ENOUGH - 1):
        line.learn(0.1)
    assert line.cost is None
    assert line.places()[4] == Place(3, 3, None)
    line.learn(0.1)
    assert line.places()[4] == Place(3, 3, 0.25)


def test_one_that_waited_for_the_compiler_does_not_count_for_all_who_wait_behind_it() -> None:
    """The median."""
    line = Line(1)
    for seconds in (0.1, 0.1, 90.0, 0.1):
        line.learn(seconds)
    assert line.cost == 0.1


def test_the_estimate_follows_when_the_machine_changes() -> None:
    """Only the last ones are remembered."""
    line = Line(4)
    for seconds in (*[9.0] * REMEMBERED, *[1.0] * (REMEMBERED // 2 + 1)):
        line.learn(seconds)
    assert line.estimate(8) == 3.0


def test_how_soon_it_can_be_at_best_is_judged_by_the_fastest_and_only_by_a_full_memory() -> None:
    """Who is refused must not have been right to wait."""
    line = Line(2)
    for seconds in (*[5.0] * (REMEMBERED - 2), 0.5):
        line.learn(seconds)
    assert line.soonest(100) is None
    line.learn(5.0)
    assert line.soonest(100) == 0.5 * 51
    assert line.estimate(100) == 5.0 * 51
