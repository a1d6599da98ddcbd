"""How an endpoint is judged."""

import dataclasses

import pytest

from services.endpoint.health import HealthStatus, health
from services.endpoint.model import Endpoint, EndpointState, Level, Program, Regeneration
from tests.unit.test_endpoint_watch import endpoint

H = HealthStatus
PROGRAM = Program("policy", 7, bytes(8), 100, 200, "call_policy[1]")
FAILED = Regeneration(Level.NO_REBUILD, ("a change",), 0.0, error="the verifier refused it")


def of(state: EndpointState, **changes: object) -> Endpoint:
    """Return an endpoint in a state."""
    return dataclasses.replace(endpoint(1), state=state, **changes)  # type: ignore[arg-type] # whatever a test changes


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (EndpointState.READY, (H.OK, H.OK, H.OK, H.OK)),
        (EndpointState.WAITING_FOR_IDENTITY, (H.PENDING, H.DISABLED, H.PENDING, H.OK)),
        (EndpointState.REGENERATING, (H.PENDING, H.PENDING, H.PENDING, H.OK)),
        (EndpointState.RESTORING, (H.PENDING, H.PENDING, H.PENDING, H.OK)),
        (EndpointState.DISCONNECTED, (H.DISABLED, H.DISABLED, H.DISABLED, H.DISABLED)),
        (EndpointState.INVALID, (H.FAILURE, H.FAILURE, H.FAILURE, H.OK)),
    ],
)
def test_health_follows_the_state(state: EndpointState, expected: tuple[HealthStatus, ...]) -> None:
    """Overall is the worst of what is in use."""
    judged = health(of(state))

    assert (judged.overall, judged.bpf, judged.policy, judged.connected) == expected


def test_a_failed_regeneration_is_a_warning_while_older_programs_run_and_a_failure_without_any() -> None:
    """What ran before still runs."""
    running = dataclasses.replace(FAILED, programs=(PROGRAM,))

    warned = health(of(EndpointState.WAITING_TO_REGENERATE, last_regeneration=running))
    failed = health(of(EndpointState.WAITING_TO_REGENERATE, last_regeneration=FAILED))

    assert (warned.overall, failed.overall) == (H.WARNING, H.FAILURE)
    assert warned.reasons == ("the last regeneration failed: the verifier refused it",)


def test_lost_addresses_are_a_failure_of_the_connection_alone() -> None:
    """The programs are as they should be."""
    judged = health(of(EndpointState.READY, lost="ipam holds nothing for it"))

    assert (judged.overall, judged.bpf, judged.connected) == (H.FAILURE, H.OK, H.FAILURE)
    assert judged.reasons == ("ipam holds nothing for it",)


def test_waiting_says_what_for() -> None:
    """A status without a reason helps nobody."""
    judged = health(of(EndpointState.RESTORING, waiting_for="a comparison with the kernel"))

    assert judged.reasons == ("it is restoring and waits for a comparison with the kernel",)
