"""What a flush sends: changes of policy maps, each for all endpoints that it is the same for. Pure."""

from dataclasses import dataclass

from services.common import policydigest
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.observed import PolicyChange, PolicyTarget
from services.endpoint.policy.desired import Delta, EndpointPolicy


@dataclass
class InForce:
    """A policy that an endpoint's map holds."""

    policy: EndpointPolicy
    _digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = policydigest.digest(self.policy.entries())
        return self._digest


class Change:
    """What endpoints have in common that go from one policy to another."""

    def __init__(self, before: InForce, policy: EndpointPolicy) -> None:
        self.before = before
        self.delta: Delta = policy.difference(before.policy)
        digest = policydigest.changed(before.digest, self.delta.added, self.delta.removed)
        self.after = InForce(policy, digest)
        self.targets: list[tuple[ManagedEndpoint, str]] = []

    def message(self) -> PolicyChange:
        """Return it as the loader takes it."""
        before, after = self.before.digest, self.after.digest
        targets = [PolicyTarget(one.endpoint.id, one.endpoint.generation, before, after) for one, _ in self.targets]
        return PolicyChange(self.delta, targets)


class Batch:
    """Changes, by what they go from and to: endpoints of one subject share their policies as objects."""

    def __init__(self) -> None:
        self.changes: dict[tuple[int, int], Change] = {}

    def add(self, managed: ManagedEndpoint, known: InForce, policy: EndpointPolicy, why: str) -> None:
        """Add an endpoint."""
        key = id(known.policy), id(policy)
        if key not in self.changes:
            self.changes[key] = Change(known, policy)
        self.changes[key].targets.append((managed, why))
