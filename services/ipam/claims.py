"""The claims of this node on the cluster's ranges, and when it wants more or fewer. Pure.

    nothing ─▶ CLAIMING ─won──▶ HELD ──wholly free for long──▶ RETURNING ─key deleted─▶ nothing
                  │              │ ▲
                  └─lost─▶ nothing │ │ the key is ours again, or nobody's
                                 ▼ │
                                LOST ──no pod needs it──▶ nothing

CLAIMING and RETURNING are intents: the row is on disk, what the kvstore says is not known. Addresses are given out of
HELD claims only. LOST: the kvstore names another holder. What pods have of it stays theirs until they end, because to
take it from them helps nobody; nothing new is given out.

Invariants: a range has one claim or none, and no two overlap. A claim that has something allocated or cooling down is
not given back. The *gateway's claim* of a family, the first that was held, is never given back, and is forgotten only
once it is lost and no pod has its gateway any more: so a node's gateway stays what it is for as long as somebody uses
it. `first` is written down with a claim, because an exclusion that is configured later must not move the gateway.

Not here: which range comes next (`claimchoice.py`), the kvstore and the order of steps (`clusterpool.py`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from services.common.errors import Internal
from services.common.model import Address, Network
from services.ipam.ranges import overlap


class State(StrEnum):
    """What is known of a claim; see the module."""

    CLAIMING = "claiming"
    HELD = "held"
    RETURNING = "returning"
    LOST = "lost"


_NEXT: dict[State | None, frozenset[State | None]] = {
    None: frozenset({State.CLAIMING, State.HELD}),
    State.CLAIMING: frozenset({None, State.HELD}),
    State.HELD: frozenset({State.RETURNING, State.LOST}),
    State.RETURNING: frozenset({None}),
    State.LOST: frozenset({None, State.HELD}),
}
"""None: there is no such claim. Adopting an own key that no row knows goes straight to HELD."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of this node."""

    pool: str
    prefix: Network
    state: State
    first: Address
    """Its first usable address: the gateway's, if this claim is the gateway's."""
    claimed: float
    """Seconds since the epoch."""
    number: int = 0
    """Grows with each claim that becomes held, the order of ranges; 0 before that."""

    @property
    def family(self) -> int:
        """The IP version."""
        return self.prefix.version

    def become(self, state: State) -> "Claim":
        """Return it in another state."""
        return replace(self, state=state)


class Claims:
    """All claims of the node."""

    def __init__(self, claims: Iterable[Claim] = ()) -> None:
        """Start with what is on disk."""
        self._claims = {claim.prefix: claim for claim in claims}

    def __iter__(self) -> Iterator[Claim]:
        """Iterate over the claims in the order in which they were held, the intents first."""
        return iter(sorted(self._claims.values(), key=lambda claim: claim.number))

    def get(self, prefix: Network) -> Claim | None:
        """Return the claim of exactly this range."""
        return self._claims.get(prefix)

    def of(self, *states: State, pool: str = "", family: int = 0) -> list[Claim]:
        """Return the claims in some states, of one pool and family or all."""
        return [
            claim
            for claim in self
            if claim.state in states and pool in {"", claim.pool} and family in {0, claim.family}
        ]

    def next_held(self, claim: Claim) -> Claim:
        """Return a claim as held; `put` makes it so."""
        number = claim.number or 1 + max((one.number for one in self._claims.values()), default=0)
        return replace(claim, state=State.HELD, number=number)

    def check(self, claim: Claim) -> None:
        """Raise Internal when `put` would."""
        before = self._claims.get(claim.prefix)
        state = before.state if before is not None else None
        if claim.state is not state and claim.state not in _NEXT[state]:
            raise Internal(f"the claim of {claim.prefix} is {state} and can't become {claim.state}")
        other = next((one for one in self._claims if one != claim.prefix and overlap(one, claim.prefix)), None)
        if other is not None:
            raise Internal(f"this node has claimed {other}, which overlaps {claim.prefix}")

    def put(self, claim: Claim) -> None:
        """Add a claim or replace it by itself in another state. Raises Internal for what can't be."""
        self.check(claim)
        self._claims[claim.prefix] = claim

    def drop(self, prefix: Network) -> None:
        """Forget a claim; unknown is fine. Raises Internal for one that is held."""
        claim = self._claims.get(prefix)
        if claim is not None and None not in _NEXT[claim.state]:
            raise Internal(f"the claim of {prefix} is {claim.state} and can't be forgotten")
        self._claims.pop(prefix, None)

    def gateways(self) -> dict[int, Claim]:
        """Return the gateway's claim of each family."""
        found: dict[int, Claim] = {}
        for claim in self.of(State.HELD, State.LOST):
            found.setdefault(claim.family, claim)
        return found


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a held claim is in use. Times are monotonic seconds."""

    claim: Claim
    free: int
    """Addresses that nobody holds and that don't cool down."""
    idle_since: float | None
    """Since when nobody holds any; None: somebody does."""
    cooling: int


def is_short(free: int, spare: int, waiting: int) -> bool:
    """Return whether a pool needs another claim for a family; `waiting` are requests that found nothing."""
    return free < spare + waiting


def spare_claim(usages: Iterable[Usage], kept: Network | None, spare: int, now: float, after: float) -> Claim | None:
    """Return the claim of a pool and family that is given back next, None when there is none.

    It is not `kept` (the gateway's), has been wholly free for `after` seconds, and without it twice the spare are
    free: enough that the next few pods don't claim it again. The one that came last goes first.
    """
    listed = list(usages)
    free = sum(one.free for one in listed)
    for usage in sorted(listed, key=lambda one: -one.claim.number):
        idle = usage.idle_since
        rested = idle is not None and now - idle >= after and not usage.cooling
        if rested and usage.claim.prefix != kept and free - usage.free >= 2 * spare:
            return usage.claim
    return None
