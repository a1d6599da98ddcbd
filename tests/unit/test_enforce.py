"""What a lost flush leaves is made up for before anything else is written: order, not content."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

import pytest

from services.common.errors import Unavailable
from services.endpoint.enforce import Enforcer
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.observed import PolicyChange
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.prefixes import PrefixChanges
from services.endpoint.registry import Registry

BLOCK = ip_network("192.0.2.0/24")


class World:
    """A loader that is dead or not, and what was asked of it."""

    def __init__(self) -> None:
        """All is well."""
        self.dead = False
        self.done: list[object] = []
        self.enforcer = Enforcer(self, Registry(), self.wanted, self.again, self.catch_up)

    async def update_policies(self, changes: Iterable[PolicyChange], prefixes: PrefixChanges) -> Mapping[int, str]:
        """Take a flush, or lose it."""
        self.answer((list(changes), prefixes))
        return {}

    async def catch_up(self) -> None:
        """Take it that all was compared."""
        self.answer("caught up")

    def answer(self, what: object) -> None:
        """Raise Unavailable while it is dead."""
        if self.dead:
            raise Unavailable("the loader is dead")
        self.done.append(what)

    def wanted(self, _id: int) -> EndpointPolicy:
        """Nobody has a policy."""
        raise AssertionError

    async def again(self, _managed: ManagedEndpoint, _why: str) -> None:
        """Nobody is regenerated."""


async def test_what_is_left_of_a_lost_flush_is_not_sent_before_all_was_made_up_for() -> None:
    """The prefixes alone would go from under the entries that maps still have: a gap for pods that run."""
    world, gone = World(), PrefixChanges({}, {BLOCK: 1 << 24})
    world.enforcer.note((), gone, "a policy was deleted")
    world.dead = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.enforcer.flush()
    assert world.enforcer.pending

    world.dead = False
    await world.enforcer.flush()

    assert world.done == ["caught up", ([], gone)]
    assert not world.enforcer.pending


async def test_nothing_is_compared_when_no_flush_was_lost() -> None:
    world, new = World(), PrefixChanges({BLOCK: 1 << 24}, {})
    world.enforcer.note((), new, "a policy has come")

    await world.enforcer.flush()
    await world.enforcer.flush()

    assert world.done == [([], new)]
