"""How an endpoint is, as `podlane endpoint health` tells it. Pure: follows from the endpoint alone.

    bpf         programs and maps       policy      the rules in force       connected    link and addresses

`overall` is the worst of the three. A status that is not ok comes with a sentence that says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from services.endpoint.model import Endpoint, EndpointState


class HealthStatus(IntEnum):
    """How a part of an endpoint is, from best to worst; DISABLED isn't compared with the others."""

    OK = 1
    PENDING = 2
    WARNING = 3
    FAILURE = 4
    DISABLED = 5


_H, _S = HealthStatus, EndpointState

_BPF: Mapping[EndpointState, HealthStatus] = {
    _S.WAITING_FOR_IDENTITY: _H.DISABLED,
    _S.WAITING_TO_REGENERATE: _H.PENDING,
    _S.REGENERATING: _H.PENDING,
    _S.READY: _H.OK,
    _S.DISCONNECTING: _H.PENDING,
    _S.DISCONNECTED: _H.DISABLED,
    _S.RESTORING: _H.PENDING,
    _S.INVALID: _H.FAILURE,
}


@dataclass(frozen=True, slots=True)
class Health:
    """The three statuses and the sentences."""

    bpf: HealthStatus
    policy: HealthStatus
    connected: HealthStatus
    reasons: tuple[str, ...] = ()

    @property
    def overall(self) -> HealthStatus:
        """The worst of the three; disabled when nothing of it is in use."""
        used = [one for one in (self.bpf, self.policy, self.connected) if one is not _H.DISABLED]
        return max(used, default=_H.DISABLED)


def health(endpoint: Endpoint) -> Health:
    """Judge an endpoint."""
    bpf, reasons = _BPF[endpoint.state], []
    last = endpoint.last_regeneration
    if last is not None and last.error and endpoint.state is not _S.DISCONNECTING:
        # What ran before still runs, unless there was nothing before.
        bpf = _H.WARNING if last.programs else _H.FAILURE
        reasons.append(f"the last regeneration failed: {last.error}")
    if bpf is _H.PENDING:
        reasons.append(f"it is {endpoint.state} and waits for {endpoint.waiting_for}")
    policy = _policy(endpoint, bpf)
    if endpoint.policy_error:
        policy = _H.FAILURE
        reasons.append(endpoint.policy_error)
    connected = _H.DISABLED if endpoint.state is _S.DISCONNECTED else _H.OK
    if endpoint.lost:
        connected = _H.FAILURE
        reasons.append(endpoint.lost)
    return Health(bpf, policy, connected, tuple(reasons))


def _policy(endpoint: Endpoint, bpf: HealthStatus) -> HealthStatus:
    """Rules are in force as far as the programs are; a pod without an identity has those of `reserved:init`."""
    return _H.PENDING if endpoint.state is _S.WAITING_FOR_IDENTITY else bpf
