"""podlane-ipam's CHECK: are the addresses of prevResult still this attachment's? Read only.

The plugin that asked looks at the interface itself. Addresses that other plugins of a chain added, of other ranges, are
none of podlane-ipam's business.
"""

from cni import ipammessages
from cni.check import previous_result
from cni.config import parse_prefix
from cni.ipamadd import prefix_of
from cni.messages import CONFIRMED
from cni.spec import BAD_CONFIG, NOT_AS_IT_SHOULD_BE, CniError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.session import Session
    from cni.wire import Values

    Prefix = tuple[bytes, int]


def check(session: "Session") -> None:
    """Return when all is well. Raises CniError with every problem in its details."""
    named = _named(previous_result(session.config.document)["ips"])
    allocations = session.call(ipammessages.LIST_ALLOCATIONS, {"owner": session.attachment})["allocations"]
    problems = [problem for one in allocations for problem in _problems(one, named)]
    if not allocations:
        problems.append("podlane-ipam holds no addresses for it, and may give those it uses to another container")
    if problems:
        which = f"{session.environment.ifname} of container {session.environment.container_id}"
        raise CniError(NOT_AS_IT_SHOULD_BE, f"{which} is not as ADD left it: {problems[0]}", "; ".join(problems))


def _named(ips: "list[dict[str, Any]]") -> "dict[Prefix, str]":
    named = {}
    for place, one in enumerate(ips):
        address, field = one.get("address"), f"prevResult.ips[{place}].address"
        if not isinstance(address, str):
            raise CniError(BAD_CONFIG, f"{field} must be an address with prefix length, not {quoted(address)}")
        named[parse_prefix(field, address, BAD_CONFIG)] = address
    return named


def _problems(allocation: "Values", named: "dict[Prefix, str]") -> list[str]:
    held = {_prefix(address): prefix_of(address) for address in allocation["addresses"]}
    shown = ", ".join(held.values())
    problems = []
    if allocation["endpoint_id"]:
        problems.append(f"podlane-ipam holds {shown} for endpoint {allocation['endpoint_id']} of podlane's own plugin")
    elif allocation["state"] != CONFIRMED:
        problems.append(f"podlane-ipam holds {shown} as a reservation, which expires")
    missing = [text for prefix, text in held.items() if prefix not in named]
    has = ", ".join(named.values()) or "none"
    problems += [f"podlane-ipam holds {text} for it, prevResult has {has}" for text in missing]
    ranges = [address["range"] for address in allocation["addresses"]]
    problems += [
        f"prevResult has {text}, which podlane-ipam doesn't hold for it; it holds {shown}"
        for prefix, text in named.items()
        if prefix not in held and any(_is_in(prefix[0], one) for one in ranges)
    ]
    return problems


def _prefix(address: "Values") -> "Prefix":
    prefix_of(address)  # raises when a part is missing
    return address["address"]["address"]["packed"], address["range"]["length"]


def _is_in(packed: bytes, network: "Values") -> bool:
    start: bytes = network["address"]["packed"]
    behind = len(start) * 8 - network["length"]
    return (
        len(packed) == len(start) and int.from_bytes(packed, "big") >> behind == int.from_bytes(start, "big") >> behind
    )
