"""Names for ends of traffic: endpoints that are there, endpoints that have gone, and who is elsewhere.

An id and an address are given again, and what was counted is told long after. So endpoints that go are remembered with
their generations, as many as KEPT, and an address is only taken for a pod that has the identity which was seen with it.
"""

from collections import OrderedDict

from services.common.model import Address
from services.endpoint.model import Endpoint
from services.endpoint.monitor.flowtable import End
from services.endpoint.policies import Policies
from services.endpoint.policy.identity import SMALLEST, Reserved
from services.endpoint.policyview import name_of
from services.endpoint.registry import Registry, Selector

KEPT = 1024
"""Endpoints that have gone and are remembered."""

_OF_PREFIXES = 1 << 24


class Names:
    """Knows who is who."""

    def __init__(self, registry: Registry, policies: Policies) -> None:
        """Wire."""
        self._registry = registry
        self._policies = policies
        self._departed: OrderedDict[tuple[int, int], Endpoint] = OrderedDict()

    def departed(self, endpoint: Endpoint) -> None:
        """Remember an endpoint that goes."""
        self._departed[endpoint.id, endpoint.generation] = endpoint
        while len(self._departed) > KEPT:
            self._departed.popitem(last=False)

    def endpoint(self, id_: int, generation: int = 0) -> End:
        """Return the endpoint with an id; generation 0: the one that has it now, or has had it last."""
        managed = self._registry.find(Selector(id=id_))
        if managed is not None and generation in {0, managed.endpoint.generation}:
            return of(managed.endpoint)
        known = reversed(self._departed.values())
        found = next((one for one in known if one.id == id_ and generation in {0, one.generation}), None)
        return of(found) if found is not None else End(f"endpoint {id_}, which is gone", id_, generation)

    def elsewhere(self, address: Address | None, identity: int) -> End:
        """Return who is at an address under an identity (0: not known); no address: whoever has the identity."""
        addresses = (address,) if address is not None else ()
        if address is not None:
            managed = self._registry.find(Selector(address=address))
            known = [managed.endpoint] if managed is not None else []
            known += [one for one in reversed(self._departed.values()) if address in one.spec.ips]
            found = next((one for one in known if identity in {0, one.identity}), None)
            if found is not None:
                return of(found)
        if identity >= _OF_PREFIXES:
            numbers = self._policies.resolver.prefixes().numbers()
            prefix = next((str(one) for one, number in numbers.items() if number == identity), f"identity {identity}")
            return End(prefix, identity=identity, addresses=addresses)
        if 0 < identity < SMALLEST and identity in set(Reserved):
            reserved = Reserved(identity)
            return End(str(reserved), identity=identity, labels=tuple(reserved.labels.items()), addresses=addresses)
        labels = self._policies.backend.known().get(identity)
        name = str(address) if address is not None else f"identity {identity}"
        return End(name, identity=identity, labels=tuple((labels or {}).items()), addresses=addresses)


def of(endpoint: Endpoint) -> End:
    """Return an endpoint as an end."""
    return End(
        name_of(endpoint),
        endpoint.id,
        endpoint.generation,
        endpoint.spec.pod.namespace,
        endpoint.spec.pod.name,
        endpoint.identity,
        tuple(endpoint.identity_labels.items()),
        endpoint.spec.ips,
    )
