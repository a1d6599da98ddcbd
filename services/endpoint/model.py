"""What an endpoint is: the states it goes through, what was asked for, what exists. Pure.

    (new) ──▶ waiting-for-identity ──▶ ready ──▶ waiting-to-regenerate ══▶ regenerating ══▶ ready
      │              │                   │                │                     │
      └▶ restoring ══╪═════════▶ ready   └────────────────┴──────────┬──────────┘
                     ▼                                               ▼
                  invalid                                 disconnecting ──▶ disconnected

Arrows of two lines are the *builder's*: only the regeneration that runs may take them. `restoring ══▶ ready` is
ours: Cilium rebuilds every endpoint after a restart, here one whose datapath is right is left alone.

`EndpointSpec` is what was asked for. `Endpoint` is what exists. Both are values: a change makes a new one, so that
a watcher or a list can hold one without seeing it change. A transition that is not in the table is refused, noted
in the endpoint's log and counted; it never raises, because the kernel has moved on whatever the table thinks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Self

from services.common.model import Address, AssignedAddress, Attachment, Phase, Pod
from services.endpoint.policy.identity import Reserved
from services.endpoint.policy.labels import NO_LABELS, Labels
from services.endpoint.timeline import Timeline

LOG_ENTRIES = 256
"""Length of an endpoint's log; the newest are kept."""

INIT_IDENTITY = int(Reserved.INIT)
"""A pod whose labels have not become an identity."""


class EndpointState(StrEnum):
    """The states, by the names that people know from Cilium."""

    WAITING_FOR_IDENTITY = "waiting-for-identity"
    WAITING_TO_REGENERATE = "waiting-to-regenerate"
    REGENERATING = "regenerating"
    READY = "ready"
    DISCONNECTING = "disconnecting"
    DISCONNECTED = "disconnected"
    RESTORING = "restoring"
    INVALID = "invalid"


_S = EndpointState
_GOING = frozenset({_S.RESTORING, _S.DISCONNECTING})

TRANSITIONS: Mapping[EndpointState | None, frozenset[EndpointState]] = {
    None: frozenset({_S.WAITING_FOR_IDENTITY, _S.RESTORING}),
    _S.WAITING_FOR_IDENTITY: frozenset({_S.READY, _S.DISCONNECTING, _S.INVALID}),
    _S.READY: _GOING | {_S.WAITING_FOR_IDENTITY, _S.WAITING_TO_REGENERATE},
    _S.WAITING_TO_REGENERATE: _GOING,
    _S.REGENERATING: _GOING | {_S.WAITING_FOR_IDENTITY, _S.WAITING_TO_REGENERATE},
    _S.RESTORING: _GOING,
    _S.DISCONNECTING: frozenset({_S.DISCONNECTED}),
    _S.DISCONNECTED: frozenset(),
    _S.INVALID: frozenset(),
}
"""Who may follow whom; None is an endpoint that isn't there yet."""

BUILDER_TRANSITIONS: Mapping[EndpointState, frozenset[EndpointState]] = {
    _S.WAITING_TO_REGENERATE: frozenset({_S.REGENERATING}),
    _S.RESTORING: frozenset({_S.REGENERATING, _S.READY}),
    _S.REGENERATING: frozenset({_S.READY}),
}
"""What only the running regeneration may do."""

_SILENT: frozenset[tuple[EndpointState, EndpointState]] = frozenset(
    {
        # Somebody asked for another regeneration while one waits: the queue has folded it in.
        (_S.WAITING_TO_REGENERATE, _S.WAITING_TO_REGENERATE),
        (_S.WAITING_TO_REGENERATE, _S.WAITING_FOR_IDENTITY),
        (_S.RESTORING, _S.WAITING_TO_REGENERATE),
        # Somebody asked while one ran, which now is done: the next one says ready.
        (_S.WAITING_TO_REGENERATE, _S.READY),
        (_S.WAITING_FOR_IDENTITY, _S.READY),
    }
)


def may_follow(state: EndpointState | None, to: EndpointState, *, builder: bool = False) -> bool:
    """Return whether the table has the transition."""
    if builder:
        return state is not None and to in BUILDER_TRANSITIONS.get(state, frozenset())
    return to in TRANSITIONS[state]


class Level(IntEnum):
    """How much of an endpoint a regeneration renews; the numbers are the API's."""

    INVALID = 0
    NO_REBUILD = 1
    REWRITE_LOAD = 2

    def __str__(self) -> str:
        """Return the name that the seed gives the level."""
        return ("invalid", "no-rebuild", "rewrite+load")[self]


class LogType(StrEnum):
    """Which part of an endpoint a log entry is about."""

    BPF = "bpf"
    POLICY = "policy"
    OTHER = "other"


class LogCode(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of an endpoint's log. `number` counts from 1 over the endpoint's whole life; `time` is epoch seconds."""

    number: int
    time: float
    type: LogType
    code: LogCode
    message: str
    state: EndpointState


@dataclass(frozen=True, slots=True)
class Link:
    """A pod's veth pair as the loader made it, or `chained`: as another CNI plugin has made it."""

    attachment: Attachment
    host_ifname: str
    host_ifindex: int
    host_mac: bytes
    pod_mac: bytes
    netns_path: str = ""
    mtu: int = 0
    pod_ifindex: int = 0
    netns_inode: int = 0
    up: bool = False
    chained: bool = False

    def is_same(self, other: Self) -> bool:
        """Return whether both are one pair in the kernel; `up` and what describes the namespace may differ."""
        return (self.host_ifname, self.host_ifindex, self.host_mac, self.pod_mac) == (
            other.host_ifname,
            other.host_ifindex,
            other.host_mac,
            other.pod_mac,
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program: kernel id and tag, instructions translated and processed by the verifier, and its hook."""

    name: str
    id: int
    tag: bytes
    instructions: int
    verified_instructions: int
    hook: str


@dataclass(frozen=True, slots=True)
class Regeneration:
    """What one regeneration did; `error` empty: success. `started` in epoch seconds."""

    level: Level
    reasons: tuple[str, ...]
    started: float
    phases: tuple[Phase, ...] = ()
    error: str = ""
    programs: tuple[Program, ...] = ()
    config_hash: str = ""
    reload_reason: str = ""
    changes: tuple[str, ...] = ()
    request_id: str = ""
    """Of the call that has loaded the programs; empty: an older loader has."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What happened to an endpoint over its whole life, restarts included."""

    regenerations: int = 0
    failures: int = 0
    folded: int = 0
    """Triggers that cost no regeneration of their own."""
    refused: int = 0
    """Transitions that the table refused."""


@dataclass(frozen=True, slots=True)
class Publication:
    """An endpoint's record in the kvstore; `written` in epoch seconds."""

    key: str
    value: str
    revision: int
    written: float


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What was asked for."""

    attachment: Attachment
    pod: Pod
    link: Link
    addresses: tuple[AssignedAddress, ...]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def ips(self) -> tuple[Address, ...]:
        """The bare addresses."""
        return tuple(assigned.address.ip for assigned in self.addresses)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What exists. Times are epoch seconds."""

    id: int
    generation: int
    spec: EndpointSpec
    created: float
    state: EndpointState
    identity: int = INIT_IDENTITY
    built: bool = False
    """Whether its creation has finished once: an endpoint without that is undone after a restart."""
    last_regeneration: Regeneration | None = None
    log: tuple[LogEntry, ...] = ()
    waiting_for: str = ""
    """What a state other than ready waits for; empty when ready."""
    unready_since: float = 0.0
    """Since when it isn't ready, through all states and attempts; 0: it is."""
    timeline: Timeline | None = None
    """How its creation went."""
    lost: str = ""
    """Why ipam does not hold its addresses for it; empty: it does."""
    options: Mapping[str, bool] = field(default_factory=dict)
    """Switches that were set for this endpoint alone."""
    identity_labels: Labels = NO_LABELS
    """What its identity is made of; none while its labels aren't known."""
    label_changes: Mapping[str, str | None] = field(default_factory=dict)
    """What an operator has said about its labels; None takes one away."""
    policy_error: str = ""
    """Why its policy map isn't what its policies ask for; empty: it is, or is about to be."""
    counters: Counters = Counters()
    published: Publication | None = None
    """What this process last found or put in the kvstore."""

    def __str__(self) -> str:
        """Return it as errors and logs name it."""
        return f"endpoint {self.id} ({self.spec.attachment}, pod {self.spec.pod})"

    def noted(self, type_: LogType, code: LogCode, message: str, now: float) -> Self:
        """Return it with a new entry in its log."""
        number = self.log[-1].number + 1 if self.log else 1
        entry = LogEntry(number, now, type_, code, message, self.state)
        return replace(self, log=(*self.log[-LOG_ENTRIES + 1 :], entry))

    def counted(self, *, regenerations: int = 0, failures: int = 0, folded: int = 0, refused: int = 0) -> Self:
        """Return it with its counters increased."""
        now = self.counters
        return replace(
            self,
            counters=Counters(
                now.regenerations + regenerations,
                now.failures + failures,
                now.folded + folded,
                now.refused + refused,
            ),
        )

    def moved(self, to: EndpointState, waiting_for: str, now: float, *, builder: bool = False) -> Self:
        """Return it in another state, or in the same one with the refusal noted and counted."""
        if may_follow(self.state, to, builder=builder):
            since = 0.0 if to is EndpointState.READY else self.unready_since or now
            return replace(self, state=to, waiting_for=waiting_for, unready_since=since)
        if (self.state, to) in _SILENT:
            return self
        message = f"refused: {self.state} may not become {to}{' by a regeneration' if builder else ''}"
        return self.counted(refused=1).noted(LogType.OTHER, LogCode.WARNING, message, now)
