"""What has changed since a revision, as readers of the page are told."""

from hypothesis import given
from hypothesis import strategies as st

from cli.ui.board import Board, Delta


def test_what_changed_since_is_told_and_nothing_else():
    board = Board()
    board.put("endpoints", "1", "ready")
    board.put("endpoints", "2", "ready")
    seen = board.revision
    board.put("endpoints", "2", "regenerating")
    board.put("pools", "default", 7)

    assert board.since(seen) == Delta(4, {"pools": {"default": 7}, "endpoints": {"2": "regenerating"}})


def test_a_value_that_is_put_again_as_it_was_is_no_change():
    board = Board()
    told: list[int] = []
    board.changed = lambda: told.append(board.revision)
    board.put("pools", "default", {"used": 1})
    board.put("pools", "default", {"used": 1})
    board.drop("pools", "other")

    assert (board.revision, told) == (1, [1])


def test_what_came_back_after_it_was_removed_is_no_removal():
    board = Board()
    board.put("endpoints", "1", "ready")
    board.drop("endpoints", "1")
    board.put("endpoints", "1", "ready")

    assert board.since(1) == Delta(3, {"endpoints": {"1": "ready"}})


def test_who_is_too_far_behind_or_of_another_board_begins_anew():
    board = Board(memory=2)
    for key in "abc":
        board.put("events", key, 0)
        board.drop("events", key)

    assert board.since(1) is None
    assert board.since(7) is None
    assert board.since(2) == Delta(6, {}, {"events": ["c", "b"]})


_STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop"]), st.sampled_from("abcd"), st.integers(0, 2)), max_size=30)


@given(before=_STEPS, after=_STEPS)
def test_a_snapshot_and_what_changed_since_is_a_later_snapshot(
    before: list[tuple[str, str, int]], after: list[tuple[str, str, int]]
):
    board = Board(memory=5)
    _take(board, before)
    snapshot = board.snapshot()
    _take(board, after)
    delta = board.since(snapshot.revision)
    if delta is None:
        return

    mirror = dict(snapshot.put.get("k", {}))
    for key in delta.gone.get("k", []):
        mirror.pop(key, None)
    mirror |= delta.put.get("k", {})
    assert mirror == dict(board.kind("k"))


def _take(board: Board, steps: list[tuple[str, str, int]]) -> None:
    for step, key, value in steps:
        if step == "put":
            board.put("k", key, value)
        else:
            board.drop("k", key)
