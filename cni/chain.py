"""ADD behind another plugin of the list: CreateLink (chained) → CreateEndpoint, and prevResult is passed on.

The plugin before has made the interface and given it addresses; podlane finds its end on the node and enforces policy
there, in both directions. Addresses, routes and the way of packets stay that plugin's, so whatever would change them is
refused by name. From prevResult the addresses of CNI_IFNAME are read; the result is prevResult with what it lacks of
the two ends of the link.

Undoing is add.py's: there are no addresses of ours to release, and taking back the link only forgets it.
"""

import _socket

from cni import messages, result
from cni.add import Addition
from cni.config import OFFLOAD_KEYS, endpoint_options, parse_args, pod_labels, pod_of
from cni.messages import IP_ADDRESS, IP_PREFIX
from cni.spec import BAD_CONFIG, CniError, quoted
from cni.wire import MESSAGE, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.spec import Environment


# What an ADD of podlane's own link can be asked for.
LINK_KEYS = ("mtu", "routeMtu", "pool", *OFFLOAD_KEYS)
# With all its fields: messages.py has those that the result needs.
ASSIGNED_ADDRESS = Message(
    "AssignedAddress",
    (1, "address", MESSAGE, IP_PREFIX),
    (2, "gateway", MESSAGE, IP_ADDRESS),
    (3, "range", MESSAGE, IP_PREFIX),
)


class ChainConfig:
    """What an ADD behind another plugin asks for: previous, pod, labels, options."""

    __slots__ = ("labels", "options", "pod", "previous")

    def __init__(self, document: "dict[str, Any]", environment: "Environment") -> None:
        """Check; raises CniError with code 7, or 4 for CNI_ARGS."""
        for key in LINK_KEYS:
            if key in document:
                raise CniError(
                    BAD_CONFIG,
                    f"{key} can't be set behind another plugin, whose the interface is: set it there, or make podlane "
                    "the first in the list",
                )
        self.previous = Previous(document["prevResult"], environment.ifname, environment.netns)
        self.pod = pod_of(parse_args(environment))
        self.labels = pod_labels(document)
        self.options = endpoint_options(document)


class Chained(Addition):
    """One ADD behind another plugin."""

    __slots__ = ()

    def follow(self, asked: ChainConfig) -> "dict[str, Any]":
        """Do the two steps and return the result. Raises StepFailed."""
        session, addresses = self._session, asked.previous.addresses
        request = {
            "attachment": session.attachment,
            "netns_path": session.environment.netns,
            "addresses": addresses,
            "chained": True,
        }
        link = self._create_link(request)["link"]
        self._create_endpoint(link, addresses, asked)
        return asked.previous.amended(session.config.version, messages.LINK.decode(link))


class Previous:
    """What the plugin before has said. `addresses` are AssignedAddress messages, encoded, one per family at most."""

    __slots__ = ("_ifname", "_interfaces", "_netns", "_result", "addresses")

    def __init__(self, previous: "Any", ifname: str, netns: str) -> None:
        """Read; raises CniError with code 7 that names the key."""
        if not isinstance(previous, dict):
            raise CniError(BAD_CONFIG, f"prevResult must be an object, not {quoted(previous)}")
        self._result = previous
        self._ifname, self._netns = ifname, netns
        self._interfaces = _objects(previous, "interfaces")
        ours = [place for place, one in enumerate(self._interfaces) if one.get("name") == ifname and one.get("sandbox")]
        self.addresses: list[bytes] = []
        families = set()
        for place, ip in enumerate(_objects(previous, "ips")):
            # An address without an interface is the only interface's.
            if ip.get("interface") is not None and ip["interface"] not in ours:
                continue
            encoded, family = _assigned(ip, f"prevResult.ips[{place}]")
            if family not in families:
                families.add(family)
                self.addresses.append(encoded)
        if not self.addresses:
            raise CniError(
                BAD_CONFIG, f"prevResult has no address of {ifname}: podlane can only follow a plugin that gives one"
            )

    def amended(self, version: str, link: "dict[str, Any]") -> "dict[str, Any]":
        """Return the result with the two ends of the link, as far as it doesn't have them."""
        interfaces = [dict(one) for one in self._interfaces]
        for name, mac, sandbox in (
            (link["host_ifname"], result.format_mac(link["host_mac"]), ""),
            (self._ifname, result.format_mac(link["pod_mac"]), self._netns),
        ):
            named = [one for one in interfaces if one.get("name") == name and bool(one.get("sandbox")) == bool(sandbox)]
            if not named:
                named = [{"name": name, **({"sandbox": sandbox} if sandbox else {})}]
                interfaces += named
            for one in named:
                one["mac"] = mac
        return {**self._result, "cniVersion": version, "interfaces": interfaces}


def _objects(previous: "dict[str, Any]", key: str) -> "list[dict[str, Any]]":
    listed = previous.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise CniError(BAD_CONFIG, f"prevResult.{key} must be a list of objects, not {quoted(listed)}")
    return listed


def _assigned(ip: "dict[str, Any]", name: str) -> tuple[bytes, int]:
    """Return an address as the services have it, and how many bytes it has."""
    text, _, mask = str(ip.get("address")).partition("/")
    address = _packed(text, f"{name}.address")
    bits = 8 * len(address)
    length = int(mask) if mask.isascii() and mask.isdigit() else -1
    if not 0 <= length <= bits:
        raise CniError(BAD_CONFIG, f"{name}.address {quoted(ip.get('address'))} needs a prefix length up to {bits}")
    gateway = ip.get("gateway")
    # Nobody is asked for it: what the pod's router is, is its plugin's business.
    router = _packed(str(gateway), f"{name}.gateway") if gateway else address
    if len(router) != len(address):
        raise CniError(BAD_CONFIG, f"{name}.gateway {quoted(gateway)} is not of the address's family")
    network = int.from_bytes(address) >> bits - length << bits - length
    values = {
        "address": {"address": {"packed": address}, "length": length},
        "gateway": {"packed": router},
        "range": {"address": {"packed": network.to_bytes(len(address))}, "length": length},
    }
    return ASSIGNED_ADDRESS.encode(values), len(address)


def _packed(text: str, name: str) -> bytes:
    try:
        return _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except OSError:
        raise CniError(BAD_CONFIG, f"{name}: {quoted(text)} is not an IP address") from None
