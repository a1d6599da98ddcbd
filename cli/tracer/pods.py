"""Who is behind an address, an interface of the node, a network namespace; and what a tracer has to be told. Pure."""

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any


@dataclass(frozen=True, slots=True)
class Pod:
    """An endpoint as packets show it. `interface` is the node's end, `namespace` an inode; 0: not known."""

    id: int
    name: str
    addresses: tuple[str, ...]
    interface: int = 0
    namespace: int = 0

    @property
    def keys(self) -> frozenset[tuple[str, Any]]:
        """What the tracer is told of it: addresses as hexadecimal digits, numbers as they are."""
        numbers = (("interfaces", self.interface), ("namespaces", self.namespace))
        addresses = (("addresses", ip_address(one).packed.hex()) for one in self.addresses)
        return frozenset((*addresses, *(pair for pair in numbers if pair[1])))


def pod_of(endpoint: Any) -> Pod:
    """Return an endpoint's message as a pod."""
    name = f"{endpoint.pod.namespace}/{endpoint.pod.name}" if endpoint.pod.name else f"endpoint {endpoint.id}"
    addresses = tuple(str(ip_address(one.address.address.packed)) for one in endpoint.addresses)
    return Pod(endpoint.id, name, addresses, endpoint.link.host_ifindex, endpoint.link.netns_inode)


@dataclass
class Pods:
    """The pods of the node."""

    _by_id: dict[int, Pod] = field(default_factory=dict)
    _owners: dict[tuple[str, Any], Pod] = field(default_factory=dict)
    _counts: Counter[Hashable] = field(default_factory=Counter)

    def put(self, pod: Pod) -> dict[str, Any]:
        """Learn of a pod; return what the tracer has to be told, empty for nothing."""
        before = self._by_id.get(pod.id)
        if before == pod:
            return {}
        self._by_id[pod.id] = pod
        added = [key for key in pod.keys if not self._counts[key]]
        self._counts.update(pod.keys)
        self._owners.update(dict.fromkeys(pod.keys, pod))
        return _command(added, self._let_go(before) if before is not None else ())

    def drop(self, id_: int) -> dict[str, Any]:
        """Forget a pod; likewise."""
        gone = self._by_id.pop(id_, None)
        return _command((), self._let_go(gone)) if gone is not None else {}

    def keep(self, ids: Iterable[int]) -> list[dict[str, Any]]:
        """Forget all pods but these; likewise, for each that was forgotten."""
        return [self.drop(id_) for id_ in self._by_id.keys() - set(ids)]

    def _let_go(self, pod: Pod) -> list[tuple[str, Any]]:
        """Forget what a pod had, and return that which nobody has now: an address may be another pod's already."""
        self._counts.subtract(pod.keys)
        removed = [key for key in pod.keys if not self._counts[key]]
        for key in removed:
            del self._counts[key], self._owners[key]
        return removed

    def by_id(self, id_: int) -> Pod | None:
        """Return the pod of an endpoint."""
        return self._by_id.get(id_)

    def by_address(self, address: str) -> Pod | None:
        """Return whose an address is."""
        return self._owners.get(("addresses", ip_address(address).packed.hex())) if address else None

    def by_interface(self, ifindex: int) -> Pod | None:
        """Return whose interface on the node it is."""
        return self._owners.get(("interfaces", ifindex))

    def by_namespace(self, inode: int) -> Pod | None:
        """Return whose network namespace it is."""
        return self._owners.get(("namespaces", inode))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_id)


def _command(added: Iterable[tuple[str, Any]], removed: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    command: dict[str, Any] = {}
    for verb, keys in (("add", added), ("remove", removed)):
        for name, key in sorted(keys):
            command.setdefault(verb, {}).setdefault(name, []).append(key)
    return command
