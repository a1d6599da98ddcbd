"""What an endpoint that isn't ready waits for, and what is said to unblock it."""

import pytest

from services.common.model import Attachment, Pod
from services.endpoint import publisher, regeneration, removal
from services.endpoint.cluster import addresses
from services.endpoint.line import Place
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, Level, Link, Regeneration
from services.endpoint.policies import RESOLVE_IDENTITY
from services.endpoint.stuck import RETRIES, Failing, Node, Stuck, of_endpoint

S = EndpointState
WELL = Node()
LOADER_AWAY = Node("podlane-loader does not answer", 900.0, ("loader",))
ETCD_AWAY = Node(kvstore_error="no member answers")


def endpoint(state: EndpointState, waiting_for: str = "", error: str = "", **fields: str) -> Endpoint:
    attachment = Attachment("podlane", "c1", "eth0")
    link = Link(attachment, "lxc1", 3, bytes(6), bytes(6))
    spec = EndpointSpec(attachment, Pod("shop", "web-0", "u1"), link, ())
    return Endpoint(
        7,
        1,
        spec,
        1000.0,
        state,
        waiting_for=waiting_for,
        unready_since=0.0 if state is S.READY else 950.0,
        last_regeneration=Regeneration(Level.REWRITE_LOAD, ("why not",), 990.0, error=error),
        policy_error=fields.get("policy", ""),
        lost=fields.get("lost", ""),
    )


def retry(name: str, error: str = "it failed") -> Failing:
    return Failing(name, 4, error, 960.0, 1005.0)


def one(found: Endpoint, node: Node = WELL, *failing: Failing, place: Place | None = None) -> Stuck:
    (stuck,) = of_endpoint(found, node, failing, place)
    return stuck


def test_an_endpoint_that_is_well_is_not_stuck():
    assert list(of_endpoint(endpoint(S.READY), WELL)) == []
    assert list(of_endpoint(endpoint(S.READY), LOADER_AWAY)) == []


def test_whoever_waits_in_the_line_is_told_its_place_and_that_nothing_is_wrong():
    stuck = one(endpoint(S.WAITING_TO_REGENERATE, "a regeneration"), place=Place(12, 190, 3.4))

    assert stuck.waits_for == "its turn to be created: 12 of 190 that wait"
    assert "nothing is wrong" in stuck.unblock[0]
    assert stuck.since == 950.0


def test_a_service_that_is_away_is_named_first_with_what_brings_it_back():
    states = set(S) - {S.READY, S.INVALID}
    for state in states:
        stuck = one(endpoint(state, "something"), LOADER_AWAY)
        assert stuck.unblock[0].startswith("podlane-loader must answer again"), state
        assert "podlane node up" in stuck.unblock[0]
    assert LOADER_AWAY.unblock()[0].startswith("podlane-loader must answer again")
    assert WELL.unblock() == ()


def test_a_regeneration_that_fails_is_told_with_its_attempts_and_how_to_try_at_once():
    found = endpoint(S.WAITING_TO_REGENERATE, "the next attempt", "clang said no; the whole log is in /run/x.log")
    stuck = one(found, WELL, retry(regeneration.RECOVERY))

    assert (stuck.controller, stuck.failures, stuck.next_attempt) == ("regeneration-recovery", 4, 1005.0)
    assert "/run/x.log says why" in stuck.unblock[0]
    assert "podlane endpoint regenerate 7" in stuck.unblock[1]


def test_a_removal_is_not_blamed_on_the_last_regeneration():
    stuck = one(endpoint(S.DISCONNECTING, "its removal", "an old failure"), WELL)
    assert stuck.last_error == ""

    again = one(endpoint(S.DISCONNECTING, "its removal"), WELL, retry(removal.REMOVAL, "no answer"))
    assert again.last_error == "no answer"
    assert "podlane controllers trigger endpoint-7 removal" in again.unblock[0]


def test_an_identity_is_waited_for_as_long_as_the_kvstore_is():
    waits = endpoint(S.WAITING_FOR_IDENTITY, "an identity")

    assert one(waits, ETCD_AWAY).unblock == ("the kvstore must answer again (`podlane status`): no member answers",)
    assert "after two seconds" in one(waits).unblock[0]


def test_one_that_is_invalid_is_not_said_to_be_tried_again():
    assert one(endpoint(S.INVALID, "nothing"), LOADER_AWAY).unblock == (
        "DEL and ADD of its pod: it is not tried again",
    )


def test_every_state_that_waits_says_what_unblocks_it():
    for node in (WELL, LOADER_AWAY, Node("the first comparison", 900.0)):
        for state in set(S) - {S.READY, S.DISCONNECTED, S.RESTORING}:
            assert one(endpoint(state, "something"), node).unblock, (state, node)


@pytest.mark.parametrize("name", [publisher.SYNC, addresses.SYNC_IP, RESOLVE_IDENTITY])
def test_a_controller_that_fails_for_the_kvstore_is_told_of_one_that_is_ready(name: str):
    stuck = one(endpoint(S.READY), ETCD_AWAY, retry(name, "no member answers"))

    assert (stuck.controller, stuck.since, stuck.last_error) == (name, 960.0, "no member answers")
    assert stuck.waits_for != f"its controller {name} to succeed"
    assert stuck.unblock[0].startswith("the kvstore must answer again")


def test_a_policy_that_does_not_fit_and_addresses_that_are_lost_are_things_of_their_own():
    found = list(of_endpoint(endpoint(S.READY, policy="too many entries", lost="somebody else has it"), WELL))

    assert [one.last_error for one in found] == ["too many entries", "somebody else has it"]
    assert all(one.unblock and not one.since for one in found)


def test_the_names_of_those_who_try_again_are_the_real_ones():
    assert set(RETRIES) == {regeneration.RECOVERY, removal.REMOVAL}


def test_how_long_it_is_not_ready_outlives_its_attempts_and_ends_when_it_is():
    now, attempt = endpoint(S.READY), ((S.WAITING_TO_REGENERATE, False), (S.REGENERATING, True))
    for at, (state, builder) in enumerate((*attempt, *attempt)):
        now = now.moved(state, "…", 100.0 + at, builder=builder)
        assert (now.state, now.unready_since) == (state, 100.0)
    assert now.moved(S.READY, "", 200.0, builder=True).unready_since == 0.0
