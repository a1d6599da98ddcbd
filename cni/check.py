"""CHECK: is the attachment what its ADD said? Read only.

The endpoint service compares the endpoint with the kernel, the loader looks into the pod, and the runtime's prevResult
is compared with what both say. Interfaces and addresses that later plugins of a chain added are none of podlane's
business; what podlane gave must still be named.
"""

from cni import messages, result
from cni.spec import BAD_CONFIG, NOT_AS_IT_SHOULD_BE, CniError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.session import Session
    from cni.wire import Values


def check(session: "Session") -> None:
    """Return when all is well. Raises CniError with every problem in its details."""
    previous = previous_result(session.config.document)
    problems: list[str] = []
    answer = session.call(messages.CHECK_ENDPOINT, messages.selector(session.attachment))
    problems += answer["problems"]
    addresses = (answer["endpoint"] or {}).get("addresses", [])
    links = session.call(messages.LIST_LINKS, {"attachment": session.attachment, "verify": True})["links"]
    if not links:
        problems.append("the loader knows no link of this attachment")
    for status in links:
        problems += status["problems"]
        problems += _compare_interfaces(previous["interfaces"], status["link"] or messages.LINK.decode(b""), session)
    problems += _compare_ips(previous["ips"], addresses)
    if problems:
        which = f"{session.environment.ifname} of container {session.environment.container_id}"
        raise CniError(
            NOT_AS_IT_SHOULD_BE, f"{which} is not as ADD left it: {problems[0]}", "; ".join(dict.fromkeys(problems))
        )


def previous_result(document: "dict[str, Any]") -> "dict[str, list[dict[str, Any]]]":
    """Return prevResult's interfaces and ips. Raises CniError with code 7 when they can't be read."""
    previous = document.get("prevResult")
    if not isinstance(previous, dict):
        found = "missing" if previous is None else f"not an object: {quoted(previous)}"
        raise CniError(BAD_CONFIG, f"prevResult is {found}; CHECK compares with the result of the ADD")
    parts = {}
    for key in ("interfaces", "ips"):
        part = previous.get(key) or []
        if not isinstance(part, list) or not all(isinstance(one, dict) for one in part):
            raise CniError(BAD_CONFIG, f"prevResult.{key} must be a list of objects, not {quoted(part)}")
        parts[key] = part
    return parts


def _compare_interfaces(previous: "list[dict[str, Any]]", link: "Values", session: "Session") -> list[str]:
    ifname, netns = session.environment.ifname, session.environment.netns
    problems = []
    for name, mac, sandbox in (
        (link["host_ifname"], result.format_mac(link["host_mac"]), ""),
        (ifname, result.format_mac(link["pod_mac"]), netns),
    ):
        where = f"in {sandbox}" if sandbox else "on the node"
        named = [one for one in previous if one.get("name") == name and (one.get("sandbox") or "") == sandbox]
        if not named:
            problems.append(f"prevResult has no interface {name} {where}, which is there")
        problems += [
            f"{name} {where} has the address {mac}, prevResult says {quoted(one['mac'])}"
            for one in named
            if str(one.get("mac") or mac).lower() != mac
        ]
    return problems


def _compare_ips(previous: "list[dict[str, Any]]", addresses: list[bytes]) -> list[str]:
    known = [result.format_prefix(messages.ASSIGNED_ADDRESS.decode(address)["address"]) for address in addresses]
    named = [one.get("address") for one in previous]
    return [
        f"the endpoint has the address {address}, prevResult has {', '.join(map(str, named)) or 'none'}"
        for address in known
        if address not in named
    ]
