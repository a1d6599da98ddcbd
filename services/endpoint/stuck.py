"""What an endpoint waits for that isn't ready, since when, and what would unblock it. Pure.

What it waits for, the endpoint says itself (`waiting_for`). Here that is put together with what else is known: who
tries again and how that went, which peers are away, what the kvstore said last, its place in the line. What would
unblock it is told as something a person can do or look at, the cause first; where nothing is to be done, that is said.

An endpoint can be ready and something of it fail all the same: a controller, its policy map, its addresses. Each is
told on its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.endpoint.line import Place
from services.endpoint.model import Endpoint, EndpointState

# Who takes an endpoint out of a state that isn't ready (regeneration.py, removal.py).
RETRIES = ("regeneration-recovery", "removal")
_WAITS_FOR = {
    "sync-to-kvstore": "its record to be written to the kvstore",
    "sync-ip-identity": "its addresses to be told to the other nodes",
    "resolve-identity": "an identity that all nodes agree on",
}
_OF_KVSTORE = frozenset(_WAITS_FOR)
_LOG = "the whole log is in "
_S = EndpointState


@dataclass(frozen=True, slots=True)
class Failing:
    """A controller that failed since it last succeeded. Times in epoch seconds; `next_attempt` 0: one runs now."""

    name: str
    failures: int
    last_error: str
    since: float
    next_attempt: float


@dataclass(frozen=True, slots=True)
class Node:
    """How it is with the node. `waits_for` empty: it takes endpoints; `away`: services that don't answer, `ipam` or
    `loader`; `kvstore_error` empty: it answers.
    """

    waits_for: str = ""
    since: float = 0.0
    away: tuple[str, ...] = ()
    kvstore_error: str = ""

    def unblock(self) -> tuple[str, ...]:
        """Say what would have the node take endpoints."""
        if not self.waits_for:
            return ()
        return self.services() or (f"the node must get what it waits for, and asks by itself: {self.waits_for}",)

    def services(self) -> tuple[str, ...]:
        """Say what would bring back the services that are away."""
        return tuple(
            f"podlane-{name} must answer again: see its log for why it went, then `podlane node up` or "
            f"`systemctl start podlane-{name}`"
            for name in self.away
        )

    def kvstore(self) -> tuple[str, ...]:
        """Say what would bring back the kvstore."""
        if not self.kvstore_error:
            return ()
        return (f"the kvstore must answer again (`podlane status`): {self.kvstore_error}",)


@dataclass(frozen=True, slots=True)
class Stuck:
    """One thing that an endpoint waits for. `since` and `next_attempt` in epoch seconds, 0: not known, none."""

    endpoint: Endpoint
    waits_for: str
    since: float
    unblock: tuple[str, ...]
    controller: str = ""
    last_error: str = ""
    failures: int = 0
    next_attempt: float = 0.0


def of_endpoint(
    endpoint: Endpoint, node: Node, failing: Iterable[Failing] = (), place: Place | None = None
) -> Iterator[Stuck]:
    """Yield what an endpoint waits for, itself first; nothing: all is well."""
    by_name = {one.name: one for one in failing}
    retry = next((by_name[name] for name in RETRIES if name in by_name), None)
    if endpoint.state is not _S.READY:
        yield _unready(endpoint, node, retry, place)
    if endpoint.policy_error:
        unblock = ("its policies must get fewer or broader rules: `podlane policy list`; its map stays as it was",)
        waits_for = "its policy map to hold what its policies ask for"
        yield Stuck(endpoint, waits_for, 0.0, unblock, last_error=endpoint.policy_error)
    if endpoint.lost:
        unblock = (f"DEL and ADD of its pod give it other addresses; `podlane endpoint check {endpoint.id} --repair`",)
        yield Stuck(endpoint, "ipam to hold its addresses for it", 0.0, unblock, last_error=endpoint.lost)
    for one in by_name.values():
        if one.name not in RETRIES or endpoint.state is _S.READY:
            yield _controlled(endpoint, node, one)


def _unready(endpoint: Endpoint, node: Node, retry: Failing | None, place: Place | None) -> Stuck:
    last = endpoint.last_regeneration
    # The error of a regeneration isn't what keeps a removal.
    failed = last.error if last is not None and endpoint.state is not _S.DISCONNECTING else ""
    waits_for = endpoint.waiting_for
    if place is not None:
        waits_for = f"its turn to be created: {place.position} of {place.waiting} that wait"
    return Stuck(
        endpoint,
        waits_for,
        endpoint.unready_since,
        tuple(_unblock(endpoint, node, retry, place)),
        retry.name if retry is not None else "",
        retry.last_error if retry is not None else failed,
        retry.failures if retry is not None else 0,
        retry.next_attempt if retry is not None else 0.0,
    )


def _unblock(endpoint: Endpoint, node: Node, retry: Failing | None, place: Place | None) -> Iterator[str]:
    state, last = endpoint.state, endpoint.last_regeneration
    if state is _S.INVALID:
        yield "DEL and ADD of its pod: it is not tried again"
        return
    if place is not None and not node.waits_for:
        yield "those before it must be done, nothing is wrong; `[endpoint] create_permits` has more made at a time"
        return
    yield from node.services()
    if state is _S.WAITING_FOR_IDENTITY:
        yield from node.kvstore() or ("the kvstore's answer; after two seconds it is made without",)
    elif node.waits_for and not node.away:
        yield from node.unblock()
    elif state is not _S.DISCONNECTING and last is not None and _LOG in last.error:
        log = last.error.partition(_LOG)[2]
        yield f"its programs must build: {log} says why; `podlane endpoint config {endpoint.id}` shows its switches"
    if retry is not None and state is not _S.DISCONNECTING:
        yield f"it is tried again by itself; `podlane endpoint regenerate {endpoint.id}` tries at once"
    elif retry is not None:
        yield _again(endpoint, retry.name)
    elif not node.away and not node.waits_for and state in {_S.REGENERATING, _S.DISCONNECTING}:
        yield "the loader's answer: its log has the call, `podlane controllers --failing` what else is slow"
    elif not node.away and not node.waits_for and state is _S.WAITING_TO_REGENERATE:
        yield f"what is before it: `podlane endpoint get {endpoint.id}` shows its queue"


def _controlled(endpoint: Endpoint, node: Node, one: Failing) -> Stuck:
    unblock = (*(node.kvstore() if one.name in _OF_KVSTORE else ()), _again(endpoint, one.name))
    waits_for = _WAITS_FOR.get(one.name, f"its controller {one.name} to succeed")
    return Stuck(endpoint, waits_for, one.since, unblock, one.name, one.last_error, one.failures, one.next_attempt)


def _again(endpoint: Endpoint, controller: str) -> str:
    return (
        f"it is tried again by itself; `podlane controllers trigger endpoint-{endpoint.id} {controller}` tries at once"
    )
