"""Whatever is changed in whatever order: the same as from scratch, and every change is told, with what it takes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.entry import PolicyEntry
from services.endpoint.policy.identity import CIDR_SCOPE, Reserved
from services.endpoint.policy.labels import Labels
from services.endpoint.policy.networkpolicy import NamedPort, NetworkPolicy, PolicyName
from services.endpoint.policy.parse import parse
from services.endpoint.policy.resolve import Changes, Resolver
from tests.examples import examples
from tests.policy_model import labels_of, named_ports
from tests.policy_oracle import Document, Pod, World
from tests.policy_strategies import NAMESPACES, labels, policies, port_sets, worlds

pytestmark = pytest.mark.long

TEAMS = {"default": {"team": "x"}, "shop": {"team": "y"}}
WORLD = World(TEAMS, (), ())
IDENTITIES = range(256, 262)
ENDPOINTS = range(1, 6)
PEERS = ("far-1", "far-2")


@st.composite
def identity_labels(draw: st.DrawFn) -> Labels:
    """Generate the labels of a pod."""
    return labels_of(WORLD, Pod(draw(st.sampled_from(NAMESPACES)), "pod", (), draw(labels())))


class ResolverMachine(RuleBasedStateMachine):
    """Puts and drops everything; what is in force is kept as a datapath would keep it, by differences."""

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.resolver = Resolver()
        self.identities: dict[int, Labels] = {}
        self.policies: dict[PolicyName, NetworkPolicy] = {}
        self.endpoints: dict[int, tuple[int, frozenset[NamedPort]]] = {}
        self.peers: dict[str, tuple[int, frozenset[NamedPort]]] = {}
        self.told: dict[int, EndpointPolicy] = {}
        self.maps: dict[int, set[PolicyEntry]] = {}
        self.prefixes: dict[Any, int] = {}
        self.changes = Changes(frozenset(), self.resolver.settle().prefixes)

    @initialize(world=worlds())
    def begin_with_a_world(self, world: World) -> None:
        """Most of what can go wrong needs several policies that select the same pods."""
        for id_, pod in enumerate(world.pods, 1):
            number = 255 + next(place for place, one in enumerate(world.pods, 1) if one.labels == pod.labels)
            self.put_identity(number, labels_of(WORLD, pod))
            self.endpoints[id_] = (number, named_ports(pod))
            self.resolver.put_endpoint(id_, *self.endpoints[id_])
        for document in world.policies:
            self._put(document)
        self.settle()

    @rule(number=st.sampled_from(IDENTITIES), of=identity_labels())
    def put_identity(self, number: int, of: Labels) -> None:
        """An identity comes, or is told again."""
        self.resolver.put_identity(number, self.identities.setdefault(number, of))

    @rule(number=st.sampled_from(IDENTITIES))
    def drop_identity(self, number: int) -> None:
        """An identity goes that no endpoint has."""
        if number not in {identity for identity, _ in self.endpoints.values()}:
            self.identities.pop(number, None)
            self.resolver.drop_identity(number)

    @rule(document=policies(), number=st.integers(0, 3))
    def put_policy(self, document: dict[str, Any], number: int) -> None:
        """A policy comes, or another one of its name."""
        self._put({**document, "metadata": {**document["metadata"], "name": f"policy-{number}"}})

    @rule(data=st.data())
    def drop_policy(self, data: st.DataObject) -> None:
        """A policy goes."""
        name = data.draw(st.sampled_from(sorted(self.policies) or [PolicyName("default", "none")]))
        self.policies.pop(name, None)
        self.resolver.drop_policy(name)

    @rule(endpoint=st.sampled_from(ENDPOINTS), data=st.data(), ports=port_sets())
    def put_endpoint(self, endpoint: int, data: st.DataObject, ports: dict[str, tuple[str, int]]) -> None:
        """An endpoint comes, or gets another identity."""
        identity = data.draw(st.sampled_from([*sorted(self.identities), int(Reserved.INIT)]))
        self.endpoints[endpoint] = (identity, named_ports(Pod("", "", (), ports=ports)))
        self.resolver.put_endpoint(endpoint, *self.endpoints[endpoint])

    @rule(endpoint=st.sampled_from(ENDPOINTS))
    def drop_endpoint(self, endpoint: int) -> None:
        """An endpoint goes."""
        for known in (self.endpoints, self.told, self.maps):
            known.pop(endpoint, None)
        self.resolver.drop_endpoint(endpoint)

    @rule(peer=st.sampled_from(PEERS), identity=st.sampled_from(IDENTITIES), ports=port_sets())
    def put_peer(self, peer: str, identity: int, ports: dict[str, tuple[str, int]]) -> None:
        """A pod elsewhere comes, perhaps before its identity."""
        self.peers[peer] = (identity, named_ports(Pod("", "", (), ports=ports)))
        self.resolver.put_peer(peer, *self.peers[peer])

    @rule(peer=st.sampled_from(PEERS))
    def drop_peer(self, peer: str) -> None:
        """A pod elsewhere goes."""
        self.peers.pop(peer, None)
        self.resolver.drop_peer(peer)

    @rule()
    def settle(self) -> None:
        """All that was noted is worked out, and written as the differences say."""
        self.changes = self.resolver.settle()
        added, removed = self.changes.prefixes
        assert all(self.prefixes[prefix] == number for prefix, number in removed.items())
        self.prefixes = {key: one for key, one in self.prefixes.items() if key not in removed} | dict(added)
        for endpoint in self.changes.endpoints:
            new = self.resolver.desired(endpoint)
            assert new != self.told.get(endpoint)
            if endpoint in self.told:
                delta = new.difference(self.told[endpoint])
                assert self.maps[endpoint].issuperset(delta.removed)
                assert self.maps[endpoint].isdisjoint(delta.added)
                self.maps[endpoint] = self.maps[endpoint].union(delta.added) - set(delta.removed)
            else:
                self.maps[endpoint] = set(new.entries())
            self.told[endpoint] = new
        self._compare()

    @rule(document=policies())
    def trying_something_on_a_clone_changes_nothing(self, document: dict[str, Any]) -> None:
        """Whatever happens to the clone, the original goes on as if it did not."""
        clone = self.resolver.clone()
        clone.put_policy(parse(json.dumps(document)).policies[0])
        for name in self.policies:
            clone.drop_policy(name)
        for endpoint in self.endpoints:
            clone.drop_endpoint(endpoint)
        for number in self.identities:
            clone.drop_identity(number)
        for peer in PEERS:
            clone.drop_peer(peer)
        clone.settle()

    def _put(self, document: Document) -> None:
        policy = parse(json.dumps(document)).policies[0]
        self.policies[policy.name] = policy
        self.resolver.put_policy(policy)

    def _compare(self) -> None:
        scratch = Resolver()
        for number, of in sorted(self.identities.items()):
            scratch.put_identity(number, of)
        for endpoint, subject in self.endpoints.items():
            scratch.put_endpoint(endpoint, *subject)
        for peer, subject in self.peers.items():
            scratch.put_peer(peer, *subject)
        for policy in self.policies.values():
            scratch.put_policy(policy)
        scratch.settle()
        assert self.prefixes == self.resolver.prefixes().numbers()
        assert self.prefixes.keys() == scratch.prefixes().numbers().keys()
        assert self.maps.keys() == self.endpoints.keys()
        for endpoint, entries in self.maps.items():
            assert entries == set(self.resolver.desired(endpoint).entries())
            ours, theirs = by_prefix(self.resolver), by_prefix(scratch)
            assert {ours(one) for one in entries} == {theirs(one) for one in scratch.desired(endpoint).entries()}
            assert len(entries) == self.resolver.desired(endpoint).size() <= self.resolver.desired(endpoint).cost()

    @invariant()
    def prefixes_have_numbers_of_their_own(self) -> None:
        """No two have one number, and none is an identity's."""
        numbers = list(self.resolver.prefixes().numbers().values())
        assert len(set(numbers)) == len(numbers)
        assert all(CIDR_SCOPE < number < 2 * CIDR_SCOPE for number in numbers)

    def teardown(self) -> None:
        """The last changes are looked at, too."""
        self.settle()


def by_prefix(resolver: Resolver) -> Callable[[PolicyEntry], tuple[Any, ...]]:
    """Return how to write an entry without the numbers of prefixes, which depend on what came first."""
    names = {number: prefix for prefix, number in resolver.prefixes().numbers().items()}
    return lambda entry: (entry.direction, names.get(entry.identity, entry.identity), *entry[2:])


TestResolver = ResolverMachine.TestCase
TestResolver.settings = settings(max_examples=examples(40), stateful_step_count=30, deadline=None)
