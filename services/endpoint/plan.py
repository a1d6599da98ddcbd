"""Decisions: what was recorded + what was seen → what to do. Pure: the flows fetch before and act after.

The rule over all of them: traffic of a healthy pod is never touched. So an endpoint whose addresses ipam has given
to somebody else is kept and says so (taking it down would hit the pod that was there first), and a datapath that is
as it should be is not written again, however the services were restarted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto

from services.common.model import Address
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState
from services.endpoint.observed import Allocation, Datapath, NodeConfig, Observed, PoolRange
from services.endpoint.options import Options, describe


class Action(Enum):
    """What restoring does with one endpoint."""

    KEEP = auto()
    """All is right: ready, nothing is touched."""
    REGENERATE = auto()
    """The link is there and its datapath is not right: level 1, which loads where that is needed."""
    REMOVE = auto()
    """The link has gone: take the endpoint down and release its addresses."""
    UNDO = auto()
    """Its creation did not finish: take it down, its addresses become a reservation again."""
    FINISH = auto()
    """Its deletion never finished: take it down; addresses and link are the CNI shim's to free."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action and why, one sentence each."""

    action: Action
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an endpoint's datapath is to be like."""

    options: Options
    """Its switches, as far as they differ from the defaults."""
    policy: bytes | None
    """Digest of what its policy map is to hold; None: whatever it holds, because what is wanted doesn't fit."""


class Claim(Enum):
    """What ipam must be told so that an endpoint's addresses are its own."""

    HELD = auto()
    CONFIRM = auto()
    ALLOCATE = auto()
    """ipam has forgotten them: reserve exactly these, then confirm."""
    LOST = auto()
    """ipam holds other addresses for this owner, or these for another endpoint or another plugin."""


class Repeat(Enum):
    """What a CreateEndpoint for a known attachment finds."""

    SAME = auto()
    REBUILD = auto()
    """A remainder, or the link or the addresses are other ones."""


def verdict(endpoint: Endpoint, observed: Observed, wanted: Wanted) -> Verdict:
    """Decide what to do with a recorded endpoint whose datapath is to be as `wanted`."""
    if not endpoint.built:
        return _half_made(endpoint, observed)
    if endpoint.state is EndpointState.DISCONNECTING:
        # Without a link there is no pod, and perhaps nobody who comes back to free the addresses.
        action = Action.FINISH if observed.link is not None else Action.REMOVE
        return Verdict(action, ("its deletion had not finished",))
    link = endpoint.spec.link
    if observed.link is None or not observed.link.is_same(link):
        return Verdict(Action.REMOVE, (f"link {link.host_ifname} (ifindex {link.host_ifindex}) is gone",))
    wrong = (*datapath_problems(endpoint, observed.datapath), *_wish_problems(endpoint, wanted, observed.datapath))
    return Verdict(Action.REGENERATE, wrong) if wrong else Verdict(Action.KEEP)


def _half_made(endpoint: Endpoint, observed: Observed) -> Verdict:
    """Decide about a record of a creation that may have finished: its last write comes behind the answer."""
    if observed.link is None:
        # Nobody goes on with an ADD whose link is gone: a reservation would only keep the addresses from others.
        return Verdict(Action.REMOVE, ("its creation had not finished, and its link is gone",))
    whole = (
        endpoint.state is not EndpointState.DISCONNECTING
        and observed.link.is_same(endpoint.spec.link)
        and not datapath_problems(endpoint, observed.datapath)
        and claim(endpoint, observed.allocation) is Claim.HELD
    )
    return Verdict(Action.KEEP) if whole else Verdict(Action.UNDO, ("its creation had not finished",))


def datapath_problems(endpoint: Endpoint, datapath: Datapath | None) -> tuple[str, ...]:
    """Say how the kernel differs from what was put in force, one sentence each."""
    if datapath is None:
        return ("the loader has no datapath for it",)
    found = []
    if datapath.generation != endpoint.generation:
        found.append(f"the datapath is of generation {datapath.generation}, the endpoint is {endpoint.generation}")
    link = endpoint.spec.link
    if datapath.host_ifindex != link.host_ifindex:
        found.append(f"the datapath is on ifindex {datapath.host_ifindex}, the link has {link.host_ifindex}")
    if not datapath.programs:
        found.append("no program is attached")
    if not datapath.reachable:
        found.append("the endpoint map does not lead to it for all of its addresses")
    last = endpoint.last_regeneration
    if last is not None and last.config_hash and datapath.config_hash != last.config_hash:
        found.append(f"its programs have config {datapath.config_hash[:12]}, put in force was {last.config_hash[:12]}")
    return (*found, *datapath.problems)


def _wish_problems(endpoint: Endpoint, wanted: Wanted, datapath: Datapath | None) -> tuple[str, ...]:
    """Say what was asked for and is not in force: whoever asked was killed, or the loader was away."""
    if datapath is None:
        return ()
    found = []
    if datapath.options != wanted.options:
        has, asked = describe(datapath.options) or "the defaults", describe(wanted.options) or "none"
        found.append(f"its switches are {has}, set is {asked}")
    if datapath.identity != endpoint.identity:
        found.append(f"its programs have identity {datapath.identity}, it has {endpoint.identity}")
    if wanted.policy is not None and datapath.policy_digest != wanted.policy:
        count = datapath.policy_entries
        found.append(f"policy map policy_{endpoint.id} has {count} entries and is not what its policies ask for")
    return tuple(found)


def claim(endpoint: Endpoint, allocation: Allocation | None) -> Claim:
    """Decide how ipam comes to hold an endpoint's addresses for it; those of a chained one aren't ipam's."""
    if endpoint.spec.link.chained:
        return Claim.HELD
    if allocation is None:
        return Claim.ALLOCATE
    if not agrees(endpoint.spec, allocation) or allocation.ipam_only:
        return Claim.LOST
    if not allocation.endpoint_id:
        return Claim.CONFIRM
    return Claim.HELD if allocation.endpoint_id == endpoint.id else Claim.LOST


def agrees(spec: EndpointSpec, allocation: Allocation) -> bool:
    """Return whether ipam holds exactly these addresses for this attachment."""
    return allocation.owner == spec.attachment and set(allocation.addresses) == set(spec.ips)


def allocation_problems(endpoint: Endpoint, allocation: Allocation | None) -> tuple[str, ...]:
    """Say how ipam's books differ from the endpoint, one sentence each."""
    ips = join(endpoint.spec.ips)
    if endpoint.spec.link.chained:
        return ()
    if allocation is None:
        return (endpoint.lost or f"ipam holds nothing for {endpoint.spec.attachment}, which uses {ips}",)
    if not agrees(endpoint.spec, allocation):
        return (f"ipam holds {join(allocation.addresses)} for {endpoint.spec.attachment}, which uses {ips}",)
    if allocation.ipam_only:
        return (f"ipam holds {ips} for another plugin's interface (podlane-ipam)",)
    if not allocation.endpoint_id:
        return (f"the reservation of {ips} was never confirmed",)
    if allocation.endpoint_id != endpoint.id:
        return (f"ipam holds {ips} for endpoint {allocation.endpoint_id}",)
    return ()


def problems(
    endpoint: Endpoint, datapath: Datapath | None, allocation: Allocation | None, wanted: Wanted
) -> tuple[str, ...]:
    """Say all that is wrong with an endpoint, for CNI CHECK; its datapath is to be as `wanted`."""
    state = () if endpoint.state is EndpointState.READY else (f"it is {endpoint.state}: {endpoint.waiting_for}",)
    return (
        *state,
        *datapath_problems(endpoint, datapath),
        *_wish_problems(endpoint, wanted, datapath),
        *allocation_problems(endpoint, allocation),
    )


def repeat(endpoint: Endpoint, spec: EndpointSpec) -> Repeat:
    """Decide whether a known endpoint is what a CreateEndpoint asks for. Pod and labels don't make another one."""
    usable = endpoint.built and endpoint.state not in {EndpointState.DISCONNECTING, EndpointState.INVALID}
    same = endpoint.spec.link.is_same(spec.link) and set(endpoint.spec.ips) == set(spec.ips)
    return Repeat.SAME if usable and same else Repeat.REBUILD


def node_config(ranges: Iterable[PoolRange], common: NodeConfig) -> NodeConfig:
    """Return what the loader is to be told: `common`, all ranges, and the first range's router of each family."""
    listed = tuple(ranges)
    gateways: dict[int, Address] = {}
    for one in listed:
        gateways.setdefault(one.gateway.version, one.gateway)
    return replace(common, pod_cidrs=tuple(one.prefix for one in listed), gateways=tuple(gateways.values()))


def join(addresses: Iterable[Address]) -> str:
    """Return addresses as a sentence has them."""
    return ", ".join(map(str, addresses)) or "nothing"
