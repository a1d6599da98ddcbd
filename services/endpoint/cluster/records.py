"""The values of keys: what nodes tell each other, as JSON. Pure.

A record is read strictly as far as it is used, and what is wrong with one is a sentence that names its key: whoever
wrote it is another node, perhaps of another version. Keys of an object that aren't known are passed over.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from services.common.errors import InvalidArgument
from services.common.model import Address, Network
from services.endpoint.policy.identity import LARGEST, SMALLEST, Reserved
from services.endpoint.policy.labels import Labels
from services.endpoint.policy.networkpolicy import NamedPort

T = TypeVar("T")

_IDENTITIES = {int(Reserved.INIT), int(Reserved.HEALTH)}
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node. `instance` tells two machines of one name apart; `gateways` are its routers, inside its pod ranges."""

    name: str
    instance: str
    address: Address
    """Where other nodes send packets for its pods."""
    addresses: tuple[Address, ...] = ()
    """All its own addresses, without the gateways."""
    gateways: tuple[Address, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()
    routing: str = "overlay"

    def write(self) -> str:
        """Return the value of its key."""
        return _json(
            {
                "name": self.name,
                "instance": self.instance,
                "address": str(self.address),
                "addresses": list(map(str, self.addresses)),
                "gateways": list(map(str, self.gateways)),
                "pod_cidrs": list(map(str, self.pod_cidrs)),
                "routing": self.routing,
            }
        )


@dataclass(frozen=True, slots=True)
class IpRecord:
    """Whose address it is: an endpoint of `node`, which is reached at `host`. `pod` is `namespace/name`, or empty."""

    node: str
    host: Address
    identity: int
    endpoint: int
    pod: str = ""
    key: int = 0
    """Of the encryption between nodes; 0: there is none."""
    ports: frozenset[NamedPort] = frozenset()

    def write(self) -> str:
        """Return the value of its key."""
        value: dict[str, Any] = {
            "node": self.node,
            "host": str(self.host),
            "identity": self.identity,
            "endpoint": self.endpoint,
            "pod": self.pod,
            "key": self.key,
        }
        if self.ports:
            value["ports"] = [
                {"name": one.name, "protocol": one.protocol, "port": one.port} for one in sorted(self.ports)
            ]
        return _json(value)


def read_node(key: str, value: str) -> NodeRecord:
    """Return the node of a key. Raises InvalidArgument."""
    fields = _Fields(key, value)
    return NodeRecord(
        name=fields.text("name"),
        instance=fields.text("instance"),
        address=fields.one("address", ip_address),
        addresses=fields.many("addresses", ip_address),
        gateways=fields.many("gateways", ip_address),
        pod_cidrs=fields.many("pod_cidrs", ip_network),
        routing=fields.text("routing"),
    )


def read_ip(key: str, value: str) -> IpRecord:
    """Return whose address it is. Raises InvalidArgument; also for an identity that no pod has."""
    fields = _Fields(key, value)
    identity = fields.number("identity", LARGEST)
    if identity < SMALLEST and identity not in _IDENTITIES:
        raise InvalidArgument(f"{key}: identity {identity} is not a pod's", key=key)
    return IpRecord(
        node=fields.text("node"),
        host=fields.one("host", ip_address),
        identity=identity,
        endpoint=fields.number("endpoint", LARGEST),
        pod=fields.text("pod", ""),
        key=fields.number("key", 255, 0),
        ports=frozenset(map(fields.port, fields.items("ports"))),
    )


def write_labels(labels: Labels) -> str:
    """Return the value of an identity's key."""
    return _json({"labels": dict(labels)})


def read_labels(key: str, value: str) -> Labels:
    """Return what an identity stands for. Raises InvalidArgument."""
    found = _Fields(key, value).get("labels")
    if not isinstance(found, Mapping) or not found or not all(isinstance(one, str) for one in found.values()):
        raise InvalidArgument(f"{key}: labels must be an object of strings that isn't empty", key=key)
    return Labels(found)


def write_number(number: int) -> str:
    """Return the value of a set of labels' key."""
    return _json({"identity": number})


def read_number(key: str, value: str) -> int:
    """Return the number of a set of labels. Raises InvalidArgument."""
    number = _Fields(key, value).number("identity", LARGEST)
    if number < SMALLEST:
        raise InvalidArgument(f"{key}: identity {number} is less than {SMALLEST}", key=key)
    return number


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class _Fields:
    """The fields of one value."""

    def __init__(self, key: str, value: str) -> None:
        self._key = key
        try:
            found = json.loads(value)
        except ValueError as error:
            raise InvalidArgument(f"{key}: not JSON: {error}", key=key) from None
        if not isinstance(found, dict):
            raise InvalidArgument(f"{key}: must be an object", key=key)
        self._found: Mapping[str, object] = found

    def get(self, name: str) -> object:
        return self._found.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        found = self._found.get(name, default)
        if not isinstance(found, str) or (default is None and not found):
            raise self._wrong(name, found, "text")
        return found

    def number(self, name: str, largest: int, default: int | None = None) -> int:
        found = self._found.get(name, default)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= largest:
            raise self._wrong(name, found, f"a number up to {largest}")
        return found

    def one(self, name: str, read: Callable[[str], T]) -> T:
        return self._read(name, self._found.get(name), read)

    def many(self, name: str, read: Callable[[str], T]) -> tuple[T, ...]:
        return tuple(self._read(name, one, read) for one in self.items(name))

    def items(self, name: str) -> Iterable[Any]:
        found = self._found.get(name, [])
        if not isinstance(found, list):
            raise self._wrong(name, found, "an array")
        return found

    def port(self, item: object) -> NamedPort:
        if not isinstance(item, Mapping):
            raise self._wrong("ports", item, "an array of objects")
        name, protocol, port = (item.get(one) for one in ("name", "protocol", "port"))
        if not (isinstance(name, str) and name and _within(protocol, 255) and _within(port, _LARGEST_PORT)):
            raise self._wrong("ports", dict(item), 'like {"name": "http", "protocol": 6, "port": 80}')
        return NamedPort(name, int(str(protocol)), int(str(port)))

    def _read(self, name: str, found: object, read: Callable[[str], T]) -> T:
        if not isinstance(found, str):
            raise self._wrong(name, found, "text")
        try:
            return read(found)
        except ValueError as error:
            raise InvalidArgument(f"{self._key}: {name}: {error}", key=self._key) from None

    def _wrong(self, name: str, found: object, what: str) -> InvalidArgument:
        return InvalidArgument(f"{self._key}: {name} must be {what}, not {found!r}", key=self._key)


def _within(value: object, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= largest
