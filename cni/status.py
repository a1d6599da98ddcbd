"""STATUS: would an ADD work now?

Every service must take a connection and call itself SERVING (grpc.health.v1), and the pool that the network's addresses
come from must have a free address of each of its families. In a cluster pool that has none another range is claimed,
so it is a problem only once that fails.
"""

from cni import ipammessages, messages
from cni.rpc import StepFailed
from cni.spec import NOT_AVAILABLE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.session import Session
    from cni.wire import Values

DEFAULT_POOL = "default"
# Number of the family in the contract, its name, and how many bytes an address has.
FAMILIES = ((1, "IPv4", 4), (2, "IPv6", 16))


def status(session: "Session", pool: str, *, delegated: bool = False) -> None:
    """Return when all of the session's services serve and `pool` has addresses.

    `delegated`: for other plugins' interfaces. Raises CniError with code 50 that names every problem.
    """
    problems: list[str] = []
    for service in session.config.sockets:
        found = _service_problems(session, service)
        if service == "ipam" and not found:
            found = _pool_problems(session, pool or DEFAULT_POOL, delegated=delegated)
        problems += found
    if problems:
        raise CniError(NOT_AVAILABLE, f"pods can't be attached now: {problems[0]}", "; ".join(problems))


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
