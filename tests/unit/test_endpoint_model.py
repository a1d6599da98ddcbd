"""The endpoint's states and its log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.model import Attachment, Pod
from services.endpoint.model import (
    LOG_ENTRIES,
    TRANSITIONS,
    Endpoint,
    EndpointSpec,
    EndpointState,
    Level,
    Link,
    LogCode,
    LogType,
    may_follow,
)

S = EndpointState
ATTACHMENT = Attachment("podnet", "c0ffee", "eth0")


def endpoint(state: EndpointState = S.READY) -> Endpoint:
    """Return an endpoint in a state."""
    link = Link(ATTACHMENT, "lxc1", 7, b"\2" * 6, b"\4" * 6)
    return Endpoint(1, 1, EndpointSpec(ATTACHMENT, Pod(), link, ()), 0.0, state)


def test_the_ordinary_transitions_are_exactly_those_of_cilium() -> None:
    """The whole table, so that a change of it is seen here."""
    allowed = {(a, b) for a in (None, *S) for b in S if may_follow(a, b)}

    assert allowed == {
        (None, S.WAITING_FOR_IDENTITY),
        (None, S.RESTORING),
        (S.WAITING_FOR_IDENTITY, S.READY),
        (S.WAITING_FOR_IDENTITY, S.DISCONNECTING),
        (S.WAITING_FOR_IDENTITY, S.INVALID),
        (S.READY, S.WAITING_FOR_IDENTITY),
        (S.READY, S.WAITING_TO_REGENERATE),
        (S.READY, S.RESTORING),
        (S.READY, S.DISCONNECTING),
        (S.WAITING_TO_REGENERATE, S.RESTORING),
        (S.WAITING_TO_REGENERATE, S.DISCONNECTING),
        (S.REGENERATING, S.WAITING_FOR_IDENTITY),
        (S.REGENERATING, S.WAITING_TO_REGENERATE),
        (S.REGENERATING, S.RESTORING),
        (S.REGENERATING, S.DISCONNECTING),
        (S.RESTORING, S.DISCONNECTING),
        (S.RESTORING, S.RESTORING),
        (S.DISCONNECTING, S.DISCONNECTED),
    }


def test_the_builder_may_also_regenerate_say_ready_and_keep_a_restored_endpoint() -> None:
    """Restoring to ready without a build is ours; the rest is Cilium's."""
    allowed = {(a, b) for a in S for b in S if may_follow(a, b, builder=True)}

    assert allowed == {
        (S.WAITING_TO_REGENERATE, S.REGENERATING),
        (S.RESTORING, S.REGENERATING),
        (S.RESTORING, S.READY),
        (S.REGENERATING, S.READY),
    }


@given(st.sampled_from(S), st.sampled_from(S), st.booleans())
def test_a_refused_transition_changes_no_state_and_is_noted_or_silent_by_design(
    before: EndpointState, to: EndpointState, builder: bool
) -> None:
    """Never an exception, and nothing counted where nothing was wrong."""
    moved = endpoint(before).moved(to, "something", 1.0, builder=builder)

    if may_follow(before, to, builder=builder):
        assert (moved.state, moved.waiting_for, moved.counters.refused) == (to, "something", 0)
    else:
        assert moved.state is before
        assert len(moved.log) == moved.counters.refused
        assert all(entry.code is LogCode.WARNING for entry in moved.log)


def test_a_trigger_while_one_waits_is_refused_without_a_word() -> None:
    """The queue has folded it in: nothing is wrong."""
    waiting = endpoint(S.WAITING_TO_REGENERATE)

    assert waiting.moved(S.WAITING_TO_REGENERATE, "again", 1.0) is waiting


def test_a_build_that_ends_while_another_waits_does_not_say_ready() -> None:
    """The one that waits will."""
    waiting = endpoint(S.WAITING_TO_REGENERATE)

    assert waiting.moved(S.READY, "", 1.0, builder=True) is waiting


@pytest.mark.parametrize("state", [S.DISCONNECTED, S.INVALID])
def test_nothing_follows_a_terminal_state(state: EndpointState) -> None:
    """Gone is gone."""
    assert not TRANSITIONS[state]


@given(st.integers(0, 3 * LOG_ENTRIES))
def test_the_log_keeps_the_newest_entries_under_their_numbers(count: int) -> None:
    """Numbers go on over entries that fell out."""
    noted = endpoint()
    for number in range(count):
        noted = noted.noted(LogType.BPF, LogCode.OK, f"entry {number + 1}", float(number))

    assert [entry.message for entry in noted.log] == [
        f"entry {number}" for number in range(max(1, count - LOG_ENTRIES + 1), count + 1)
    ]
    assert all(entry.message == f"entry {entry.number}" for entry in noted.log)


def test_links_are_the_same_by_names_and_addresses_not_by_what_may_change() -> None:
    """`up` changes when the programs are attached; the ifindex never does."""
    link = Link(ATTACHMENT, "lxc1", 7, b"\2" * 6, b"\4" * 6)

    assert link.is_same(Link(ATTACHMENT, "lxc1", 7, b"\2" * 6, b"\4" * 6, "/run/netns/x", 1500, up=True))
    assert not link.is_same(Link(ATTACHMENT, "lxc1", 8, b"\2" * 6, b"\4" * 6))


def test_levels_have_the_names_that_the_seed_gives_them() -> None:
    """They appear in logs and in the state directory's neighbours."""
    assert [str(level) for level in Level] == ["invalid", "no-rebuild", "rewrite+load"]
