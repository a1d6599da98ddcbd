"""STATUS: would an ADD work now?

Every service must take a connection and call itself SERVING (grpc.health.v1), and the pool that the network's addresses
come from must have a free address of each of its families. In a cluster pool that has none another range is claimed,
so it is a problem only once that fails.

Code 51 instead of 50 when pods of the network that run already have limited connectivity, too: the endpoint service
says of one that it doesn't work, or not as configured. A service that is down limits nobody by itself: links, programs
and maps are the kernel's. Whether somebody is limited can't be told while the endpoint service is down: 50.
"""

from cni import ipammessages, messages
from cni.gc import pages
from cni.rpc import StepFailed
from cni.spec import LIMITED_CONNECTIVITY, NOT_AVAILABLE, CniError
from cni.wire import MESSAGE, MESSAGES, NUMBER, TEXT, TEXTS, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.session import Session
    from cni.wire import Values

DEFAULT_POOL = "default"
# Number of the family in the contract, its name, and how many bytes an address has.
FAMILIES = ((1, "IPv4", 4), (2, "IPv6", 16))
# podlane.endpoint.v1.EndpointHealth.Status
FAILURE = 4
# As much of an endpoint as tells how it is.
HEALTH = Message("EndpointHealth", (1, "overall", NUMBER), (5, "reasons", TEXTS))
ENDPOINT = Message(
    "Endpoint",
    (1, "id", NUMBER),
    (3, "attachment", MESSAGE, messages.ATTACHMENT),
    (4, "pod", MESSAGE, messages.POD),
    (15, "health", MESSAGE, HEALTH),
)
LIST_ENDPOINTS = messages.Method(
    "endpoint",
    messages.LIST_ENDPOINTS.path,
    messages.LIST_ENDPOINTS_REQUEST,
    Message("ListEndpointsResponse", (1, "endpoints", MESSAGES, ENDPOINT), (2, "next_page_token", TEXT)),
)


def status(session: "Session", pool: str, *, delegated: bool = False) -> None:
    """Return when all of the session's services serve and `pool` has addresses.

    `delegated`: for other plugins' interfaces. Raises CniError with code 50 or 51 that names every problem.
    """
    problems: list[str] = []
    for service in session.config.sockets:
        found = _service_problems(session, service)
        if service == "ipam" and not found:
            found = _pool_problems(session, pool or DEFAULT_POOL, delegated=delegated)
        problems += found
    if problems:
        limited = [] if delegated else _limited(session)
        message = f"pods can't be attached now: {problems[0]}"
        if limited:
            message += f"; and {len(limited)} running pods have limited connectivity, first: {limited[0]}"
        code = LIMITED_CONNECTIVITY if limited else NOT_AVAILABLE
        raise CniError(code, message, "; ".join([*problems, *limited]))


def _limited(session: "Session") -> list[str]:
    """Say of each pod of the network that runs and doesn't work as it should what is wrong with it."""
    found: list[str] = []
    try:
        for one in pages(session, LIST_ENDPOINTS, "endpoints"):
            health, pod = one["health"] or {}, one["pod"] or {}
            ours = (one["attachment"] or {}).get("network") == session.config.network
            if ours and health.get("overall") == FAILURE:
                name = f" ({pod['namespace']}/{pod['name']})" if pod.get("name") else ""
                found.append(f"endpoint {one['id']}{name}: {'; '.join(health['reasons'])}")
    except StepFailed:
        pass  # it is among the problems already
    return found


def _service_problems(session: "Session", service: str) -> list[str]:
    try:
        answer = session.call(messages.health_check(service), {})
    except StepFailed as failed:
        return [failed.message]
    path = session.config.sockets[service]
    return [] if answer["status"] == messages.SERVING else [f"podlane-{service} at {path} is up but not ready yet"]


def _pool_problems(session: "Session", name: str, *, delegated: bool) -> list[str]:
    try:
        pools = session.call(ipammessages.LIST_POOLS, {})["pools"]
    except StepFailed as failed:
        return [failed.message]
    pool = next((one for one in pools if one["name"] == name), None)
    if pool is None:
        return [f"pool {name}: podlane-ipam has no such pool, it has {', '.join(one['name'] for one in pools)}"]
    if pool["delegated"] and not delegated:
        return [f"pool {name}: it is delegated, for other plugins with podlane-ipam; name another pool"]
    return [problem for family in FAMILIES for problem in _family_problems(pool, *family)]


def _family_problems(pool: "Values", family: int, words: str, length: int) -> list[str]:
    ranges = [one for one in pool["ranges"] if len(_packed(one["prefix"])) == length]
    size, used = sum(one["size"] for one in ranges), sum(one["used"] for one in ranges)
    if (not ranges and family not in pool["families"]) or used < size:
        return []
    if pool["cluster"] and not pool["problems"]:
        return []
    what = "; ".join(pool["problems"]) if pool["cluster"] else "delete pods or add a range to [[ipam.pools]]"
    return [f"pool {pool['name']}: {max(size - used, 0)} of {size} {words} addresses free; {what}"]


def _packed(prefix: "Values | None") -> bytes:
    packed: bytes = ((prefix or {}).get("address") or {}).get("packed", b"")
    return packed
