"""Which identities a selector selects, kept up to date as either of them comes and goes. Pure.

Selectors are interned and counted: a thousand policies that say `namespaceSelector: {}` share one set of members. The
sets are frozen, and a change makes a new one; so whoever holds a set may compare it, and a policy that was resolved
yesterday still says what it said.

Two indexes keep both directions from being a walk over everything:

    label → identities            a new selector intersects a few sets
    label → selectors that need it   a new identity is tried on those few that it could match
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from services.common.errors import Internal
from services.endpoint.policy.clone import Cloneable
from services.endpoint.policy.labels import POD_NAMESPACE, Labels
from services.endpoint.policy.selectors import LabelSelector, Operator, Requirement

_NOBODY: frozenset[int] = frozenset()
_Hook = tuple[str, str | None]
"""A label that a selector needs: key and value, or a key with any value (None)."""


class Selection(Cloneable):
    """Identities on one side, selectors on the other."""

    def __init__(self) -> None:
        """Start with neither."""
        self._labels: dict[int, Labels] = {}
        self._holders: defaultdict[str, defaultdict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        self._members: dict[LabelSelector, frozenset[int]] = {}
        self._uses: dict[LabelSelector, int] = {}
        self._hooked: defaultdict[_Hook, set[LabelSelector]] = defaultdict(set)

    def labels(self, identity: int) -> Labels | None:
        """Return the labels of an identity, None when it isn't known."""
        return self._labels.get(identity)

    def identities(self) -> dict[int, Labels]:
        """Return all identities."""
        return self._labels.copy()

    def add(self, identity: int, labels: Labels) -> list[LabelSelector]:
        """Take in an identity; return the selectors that select it."""
        known = self._labels.get(identity)
        if known is not None and known != labels:
            raise Internal(f"identity {identity} stands for {known} and can't stand for {labels}", identity=identity)
        if known is not None:
            return []
        self._labels[identity] = labels
        for key, value in labels.items():
            self._holders[key][value].add(identity)
        selecting = list(self.selecting(labels))
        for selector in selecting:
            self._members[selector] |= {identity}
        return selecting

    def remove(self, identity: int) -> list[LabelSelector]:
        """Forget an identity; return the selectors that selected it."""
        labels = self._labels.pop(identity, None)
        if labels is None:
            return []
        for key, value in labels.items():
            self._holders[key][value].discard(identity)
            if not self._holders[key][value]:
                del self._holders[key][value]
        selecting = list(self.selecting(labels))
        for selector in selecting:
            self._members[selector] -= {identity}
        return selecting

    def use(self, selector: LabelSelector) -> None:
        """Take in a selector, once more."""
        self._uses[selector] = self._uses.get(selector, 0) + 1
        if self._uses[selector] == 1:
            self._members[selector] = self._evaluate(selector)
            for hook in _hooks(selector):
                self._hooked[hook].add(selector)

    def disuse(self, selector: LabelSelector) -> None:
        """Take back a use; the last one forgets the selector."""
        self._uses[selector] -= 1
        if not self._uses[selector]:
            del self._uses[selector], self._members[selector]
            for hook in _hooks(selector):
                self._hooked[hook].discard(selector)
                if not self._hooked[hook]:
                    del self._hooked[hook]

    def members(self, selector: LabelSelector) -> frozenset[int]:
        """Return the identities that a selector in use selects."""
        return self._members[selector]

    def selecting(self, labels: Labels) -> Iterator[LabelSelector]:
        """Yield the selectors in use that select a set of labels."""
        for key, value in labels.items():
            for hook in ((key, value), (key, None)):
                for selector in self._hooked.get(hook, ()):
                    if selector.matches(labels):
                        yield selector

    def _evaluate(self, selector: LabelSelector) -> frozenset[int]:
        wanted: list[set[int]] = []
        unwanted: list[set[int]] = []
        for one in selector.requirements:
            side = wanted if one.operator in {Operator.IN, Operator.EXISTS} else unwanted
            side.append(self._meeting(one))
        wanted.sort(key=len)
        found = wanted[0].intersection(*wanted[1:]) if wanted else set(self._labels)
        return frozenset(found.difference(*unwanted))

    def _meeting(self, one: Requirement) -> set[int]:
        """Return who has the label that a requirement is about, wanted or not."""
        values: Mapping[str, set[int]] = self._holders.get(one.key, {})
        if one.values:
            return set().union(*(values[value] for value in one.values if value in values))
        return set().union(*values.values())


def _hooks(selector: LabelSelector) -> list[_Hook]:
    """Return labels of which everybody has exactly one who is selected.

    One requirement is enough, and the fewer have what it asks for, the fewer selectors a new identity is tried on: so
    the namespace is the last choice. Every selector of a policy asks at least for one.
    """
    wanted = [one for one in selector.requirements if one.operator in {Operator.IN, Operator.EXISTS}]
    if not wanted:
        raise Internal(f"selector {selector} would select reserved identities: it asks for no label")
    best = min(wanted, key=lambda one: (one.key == POD_NAMESPACE, len(one.values) or 1 << 16))
    return [(best.key, value) for value in best.values] or [(best.key, None)]
