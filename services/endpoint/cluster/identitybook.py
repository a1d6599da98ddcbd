"""What this node knows of the cluster's identities, and which it uses. Pure; times are monotonic seconds.

    seen        the store says what a number means                   → what is to be told, in order
    use, unuse  an endpoint has a number, or has left it
    wanted      numbers that the store is to know as used by this node: those in use, and for a grace time after that

A number in use is never forgotten: a store that has lost it gets it back. A number in use that means other labels in
the store is a *conflict*: it isn't given out any more, its endpoints get another one, and what the store says is told
when the last of them has left it.

Labels that have no number in the cluster, because it can't be asked, get one from LOCAL_SCOPE. No other node knows it:
to them its endpoints are the world.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from services.common.errors import Exhausted, Internal
from services.endpoint.policy.identity import LARGEST, LOCAL_SCOPE, SMALLEST, LocalIdentities
from services.endpoint.policy.labels import Labels

Told = Mapping[int, Labels | None]
"""What identities are now; None: no more."""

_LOCAL_NUMBERS = 65535
_DRAWS = 64


@dataclass(slots=True)
class _Shared:
    labels: Labels
    revision: int = 0
    """Of its key in the store; 0: not seen there."""
    uses: int = 0
    released: float | None = None


class IdentityBook:
    """All identities that are known here. `draw` returns a number at random between its arguments, both included."""

    def __init__(self, grace: float, draw: Callable[[int, int], int] = random.randint) -> None:
        """Start empty; `grace` in seconds."""
        self._grace = grace
        self._draw = draw
        self._shared: dict[int, _Shared] = {}
        self._numbers: dict[Labels, int] = {}
        self._conflicts: dict[int, tuple[Labels, int] | None] = {}
        self._local = LocalIdentities(grace, smallest=LOCAL_SCOPE + 1, largest=LOCAL_SCOPE + _LOCAL_NUMBERS)

    def restore(self, known: Mapping[int, Labels], used: Mapping[int, int], now: float) -> None:
        """Take over what an earlier run knew; `used` counts the endpoints of each."""
        for number, labels in known.items():
            uses = used.get(number, 0)
            if number <= LARGEST:
                self.add(number, labels)
                self._shared[number].uses = uses
                continue
            for _ in range(max(1, uses)):
                self._local.restore(number, labels)
            if not uses:
                self._local.release(number, now)

    # What is

    def known(self) -> dict[int, Labels]:
        """Return all identities; of two numbers for the same labels the cluster's comes last."""
        return self._local.known() | {number: one.labels for number, one in self._shared.items()}

    def shared(self) -> Iterator[int]:
        """Go through the numbers that the cluster shares."""
        return iter(self._shared)

    def labels(self, number: int) -> Labels | None:
        """Return what a shared number means."""
        one = self._shared.get(number)
        return one.labels if one is not None else None

    def revision(self, number: int) -> int:
        """Return the revision of a shared number's key, 0: it wasn't seen in the store."""
        one = self._shared.get(number)
        return one.revision if one is not None else 0

    def find(self, labels: Labels) -> int | None:
        """Return the cluster's number of a set of labels."""
        return self._numbers.get(labels)

    def uses(self, number: int) -> int:
        """Return how many endpoints of this node have it."""
        return self._shared[number].uses if number in self._shared else self._local.uses(number)

    def wanted(self, now: float) -> set[int]:
        """Return the numbers that the store is to know as used here."""
        return {number for number in self._shared if self._is_wanted(number, now)}

    def conflicting(self) -> frozenset[int]:
        """Return the numbers in use that mean something else in the cluster."""
        return frozenset(self._conflicts)

    def expires_in(self, number: int, now: float) -> float:
        """Return for how many seconds a number is kept although nobody has it; 0: it is in use, or not kept."""
        one = self._shared.get(number)
        if one is None:
            return self._local.expires_in(number, now)
        return max(0.0, one.released + self._grace - now) if not one.uses and one.released is not None else 0.0

    # Numbers are given out

    def free(self) -> int:
        """Return a number that nobody is known to have. Raises Exhausted."""
        size = LARGEST - SMALLEST + 1
        for _ in range(_DRAWS):
            number = self._draw(SMALLEST, LARGEST)
            if number not in self._shared:
                return number
        for number in range(SMALLEST, LARGEST + 1):
            if number not in self._shared:
                return number
        raise Exhausted(
            f"all {size:,} identities of the cluster are taken: leave labels out of identities that differ from pod to "
            "pod ([endpoint] identity_labels)",
            size=size,
            used=len(self._shared),
        )

    def add(self, number: int, labels: Labels, revision: int = 0) -> None:
        """Note a number that the cluster has given out. Raises Internal when it means something else here."""
        one = self._shared.setdefault(number, _Shared(labels))
        if one.labels != labels:
            raise Internal(f"identity {number} is {one.labels} here, and {labels} is to get it", identity=number)
        one.revision = revision or one.revision
        self._numbers.setdefault(labels, number)

    def use(self, number: int) -> None:
        """Count a use of a shared number."""
        one = self._shared[number]
        one.uses, one.released = one.uses + 1, None

    def use_local(self, labels: Labels) -> int:
        """Count a use of this node's own number for a set of labels, and return it. Raises Exhausted."""
        return self._local.acquire(labels)

    def unuse(self, number: int, now: float) -> list[Told]:
        """Take a use back; return what is to be told. Raises Internal when there is none."""
        if number > LOCAL_SCOPE:
            self._local.release(number, now)
            return []
        one = self._shared.get(number)
        if one is None or not one.uses:
            raise Internal(f"identity {number} is released more often than it was acquired", identity=number)
        one.uses -= 1
        if one.uses:
            return []
        one.released = now
        if number in self._conflicts:
            return self._give_in(number)
        return []

    def expire(self, now: float) -> Told:
        """Forget this node's own numbers whose grace time is over."""
        return dict.fromkeys(self._local.expire(now))

    # What the store says

    def seen(self, number: int, labels: Labels | None, revision: int, now: float) -> list[Told]:
        """Take in what a number means in the store, None: nothing; return what is to be told, in order."""
        one = self._shared.get(number)
        if labels is None:
            self._conflicts.pop(number, None)
            if one is None:
                return []
            one.revision = 0
            return [] if self._is_wanted(number, now) else [self._forget(number)]
        if one is not None and one.labels == labels:
            one.revision = revision
            if self._conflicts.pop(number, None) is not None:
                self._numbers.setdefault(labels, number)
            return []
        if one is None:
            self.add(number, labels, revision)
            return [{number: labels}]
        self.conflict(number, labels, revision)
        return [] if one.uses else self._give_in(number)

    def conflict(self, number: int, labels: Labels | None, revision: int = 0) -> None:
        """Note that a number means other labels in the store, or None: nothing, and its labels have another one. It
        isn't given out from now on.
        """
        self._conflicts[number] = (labels, revision) if labels is not None else None
        ours = self._shared[number].labels
        if self._numbers.get(ours) == number:
            del self._numbers[ours]

    def _is_wanted(self, number: int, now: float) -> bool:
        one = self._shared[number]
        if number in self._conflicts:
            return False
        return bool(one.uses) or (one.released is not None and now - one.released < self._grace)

    def _forget(self, number: int) -> Told:
        one = self._shared.pop(number)
        if self._numbers.get(one.labels) == number:
            del self._numbers[one.labels]
        return {number: None}

    def _give_in(self, number: int) -> list[Told]:
        meaning = self._conflicts.pop(number)
        told = [self._forget(number)]
        if meaning is not None:
            self.add(number, *meaning)
            told.append({number: meaning[0]})
        return told
