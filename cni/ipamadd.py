"""podlane-ipam's ADD: AllocateAddresses → ConfirmAllocation without an endpoint, and its undoing.

Confirmed, because nobody else will: an endpoint's reservation is confirmed by the endpoint service, and these have no
endpoint. Both steps are idempotent, so an ADD that is repeated has the same addresses, also after a kill in between.

A failure gives back what this ADD took:

    reserved by this ADD, or by one that didn't come to its end      released
    confirmed before: another ADD's, whose container may be running  never touched
    the answer was lost                                              looked up: released while it is only reserved

Nothing that an endpoint has is ever released: the service is told to take only what has none.

The result is that of an IPAM plugin (SPEC.md, section 4): ips, routes and dns, no interfaces. An address has the prefix
length of its pool's range, because the plugin that asked makes a subnet of it with the gateway in it. The default
routes name their gateway, so that bridge's isDefaultGateway finds them and adds none of its own.
"""

from cni import ipammessages, result
from cni.add import ABSENT, MADE, STOOD, UNKNOWN
from cni.messages import RESERVED
from cni.rpc import StepFailed
from cni.spec import SERVICE_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.ipamconfig import AddressConfig
    from cni.session import Session
    from cni.wire import Values

DEFAULTS = {4: "0.0.0.0/0", 16: "::/0"}


class Addition:
    """One ADD: `run`, and `undo` if `run` raised or its result didn't reach the plugin that asked."""

    __slots__ = ("_addresses", "_asked", "_session")

    def __init__(self, session: "Session", asked: "AddressConfig") -> None:
        """Begin with nothing done."""
        self._session = session
        self._asked = asked
        self._addresses = ABSENT

    def run(self) -> "dict[str, Any]":
        """Do both steps and return the result. Raises CniError."""
        allocation = self._allocate()
        if self._addresses == MADE or allocation["endpoint_id"]:
            # What an endpoint has is refused here, by the service that knows of it.
            self._session.call(ipammessages.CONFIRM_ALLOCATION, {"owner": self._session.attachment})
        return self._result(allocation["addresses"])

    def _allocate(self) -> "Values":
        asked = self._asked
        request = {
            "owner": self._session.attachment,
            "pod": asked.pod,
            "pool": asked.pool,
            "requested": [{"packed": address} for address in asked.requested],
            "delegated": True,
        }
        try:
            answer = self._session.call(ipammessages.ALLOCATE_ADDRESSES, request)
        except StepFailed as failed:
            self._addresses = UNKNOWN if failed.may_have_happened else ABSENT
            raise
        allocation: Values = answer["allocation"] or ipammessages.ALLOCATION.decode(b"")
        self._addresses = MADE if allocation["state"] == RESERVED else STOOD
        return allocation

    def _result(self, addresses: "list[Values]") -> "dict[str, Any]":
        version = self._session.config.version
        routes = self._asked.routes
        return {
            "cniVersion": version,
            "ips": [_ip(address, version) for address in addresses],
            "routes": [_default(address) for address in addresses] if routes is None else routes,
            "dns": self._asked.dns,
        }

    def undo(self) -> "list[CniError]":
        """Give back what this ADD took and return what failed of that."""
        try:
            if self._addresses == MADE or (self._addresses == UNKNOWN and self._is_reserved()):
                self._session.allow_one_more()
                request = {"owner": self._session.attachment, "without_endpoint": True}
                self._session.call(ipammessages.RELEASE_ADDRESSES, request)
        except StepFailed as failed:
            return [failed]
        return []

    def _is_reserved(self) -> bool:
        self._session.allow_one_more()
        answer = self._session.call(ipammessages.LIST_ALLOCATIONS, {"owner": self._session.attachment})
        return any(allocation["state"] == RESERVED for allocation in answer["allocations"])


def prefix_of(address: "Values") -> str:
    """Return an AssignedAddress as the interface is to have it: `10.0.0.5/24`."""
    if not (address["address"] and address["range"] and address["gateway"]):
        raise CniError(SERVICE_FAILURE, "podlane-ipam answered with an address without its range or its gateway")
    return f"{result.format_address(address['address']['address'])}/{address['range']['length']}"


def _ip(address: "Values", version: str) -> "dict[str, Any]":
    ip = {"address": prefix_of(address), "gateway": result.format_address(address["gateway"])}
    if version.startswith("0."):
        ip["version"] = "6" if ":" in ip["address"] else "4"
    return ip


def _default(address: "Values") -> "dict[str, Any]":
    gateway = address["gateway"]
    return {"dst": DEFAULTS.get(len(gateway["packed"]), ""), "gw": result.format_address(gateway)}
