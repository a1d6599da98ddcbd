"""What is left of pods that are gone: everything that was seen → what nobody can be using any more, and why. Pure.

    endpoint   its link is gone, or the link's namespace has lost its name and no process lives in it; or its removal
               was begun and nobody finished it
    datapath   programs, map entries, pins, a directory: no endpoint owns them, and their link is gone or goes
    link       no endpoint stands on it: the remains of an ADD that died, or a record that outlived its link
    address    ipam holds it for an owner that has neither endpoint nor link; or ipam's books differ from an endpoint

The rule over all of it: what may belong to a running pod is kept and told, never removed. So absence must be seen, not
inferred: a namespace that can't be looked at is no evidence, nor is a lost record. A link whose node's end is up, or
that a datapath is on, may carry a pod's traffic although no endpoint is known, because the endpoint database was lost:
it stays as long as its namespace may be alive. One whose node's end is down carries nothing, and goes once no ADD can
be on its way to it.

Each finding (`findings.py`) names its object so that no other can be taken for it (`Finding.key`): an endpoint id with
its generation, a link by its index, which the kernel does not give again, an allocation with the time of its creation.
The same function finds and, with what was seen of one object anew, tells whether it still finds the same (`sweep.py`).

Not here: reservations, which expire by themselves; addresses that are *ipam only*, because another plugin's interface
has them, of which nothing is seen here (podlane-ipam's DEL and GC release those); a datapath that is not as it should
be (`plan.py`).
"""

from collections.abc import Iterator

from services.endpoint import plan
from services.endpoint.findings import Action, Finding, Kind, Seen
from services.endpoint.model import Endpoint, EndpointState
from services.endpoint.observed import Allocation, Datapath, LinkState, Namespace
from services.endpoint.plan import Claim

_KEPT_RUNNING = "a pod may be using it: the record of its endpoint was lost; it keeps its network until its DEL"


def find(seen: Seen) -> list[Finding]:
    """Return what is left behind, in the order in which it is to be taken away."""
    view = _View(seen)
    return [finding for judge in _JUDGES.values() for finding in judge(view)]


def find_again(finding: Finding, seen: Seen) -> Finding | None:
    """Return the finding about the same object in what was seen anew; None: it is gone, or in order."""
    return next((found for found in _JUDGES[finding.kind](_View(seen)) if found.key == finding.key), None)


class _View:
    """What was seen, by every name that it is looked up by."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.endpoints = {one.spec.attachment: one for one in seen.endpoints}
        self.ids = {one.id for one in seen.endpoints}
        self.generations = {(one.id, one.generation) for one in seen.endpoints}
        self.standing = {(one.spec.link.host_ifname, one.spec.link.host_ifindex): one for one in seen.endpoints}
        self.named = {one.host_ifname: one for one in seen.links}
        self.allocations = {one.owner: one for one in seen.allocations}

    def link(self, ifname: str, ifindex: int) -> LinkState | None:
        """Return a link that the kernel has."""
        found = self.named.get(ifname)
        return found if found is not None and ifindex and found.host_ifindex == ifindex else None

    def standing_on(self, link: LinkState) -> Endpoint | None:
        """Return the endpoint that a link belongs to, by its record or because it stands on it."""
        owner = self.endpoints.get(link.attachment) if link.attachment is not None else None
        return owner or self.standing.get((link.host_ifname, link.host_ifindex))

    def on(self, link: LinkState) -> list[Datapath]:
        """Return the datapaths that are on a link."""
        return [one for one in self.seen.datapaths if one.host_ifindex and one.host_ifindex == link.host_ifindex]


def _endpoints(view: _View) -> Iterator[Finding]:
    for endpoint in view.seen.endpoints:
        finding = _endpoint(view, endpoint)
        if finding is not None:
            yield finding


def _endpoint(view: _View, endpoint: Endpoint) -> Finding | None:
    attachment, link = endpoint.spec.attachment, endpoint.spec.link
    if link.host_ifname != attachment.host_ifname() and not link.chained:
        return None  # not made by the loader, which doesn't list it
    there = view.link(link.host_ifname, link.host_ifindex)
    if there is None:
        gone = f"link {link.host_ifname} (ifindex {link.host_ifindex}) is gone"
        other = view.named.get(link.host_ifname)
        if other is not None and other.host_ifindex:
            gone += f"; that name is another link's now (ifindex {other.host_ifindex})"
        return Finding(Kind.ENDPOINT, endpoint, attachment, (gone,))
    if there.abandoned:
        return Finding(Kind.ENDPOINT, endpoint, attachment, _abandoned(there))
    if there.processes:
        living = f"processes live in the namespace that its pod's end is in: {', '.join(there.processes)}"
        evidence = (_nameless(there), living)
        return Finding(Kind.ENDPOINT, endpoint, attachment, evidence, Action.KEEP, "its pod runs")
    if endpoint.state is EndpointState.DISCONNECTING:
        begun = f"its removal began and did not finish; it waits for {endpoint.waiting_for}"
        return Finding(Kind.ENDPOINT, endpoint, attachment, (begun,))
    return None


def _nameless(link: LinkState) -> str:
    where = link.netns_path
    return f"nothing is at {where} any more" if link.namespace is Namespace.GONE else f"{where} is something else now"


def _abandoned(link: LinkState) -> tuple[str, ...]:
    held = "no process lives in the namespace that its pod's end is in: a forgotten descriptor or mount holds it"
    return _nameless(link), held


def _datapaths(view: _View) -> Iterator[Finding]:
    for datapath in view.seen.datapaths:
        finding = None if _is_owned(view, datapath) else _datapath(view, datapath)
        if finding is not None:
            yield finding


def _is_owned(view: _View, datapath: Datapath) -> bool:
    """Whether an endpoint owns it. What has no record belongs to whoever has the id: a bare id proves nothing else."""
    if datapath.attachment is None:
        return datapath.id in view.ids
    return (datapath.id, datapath.generation) in view.generations


def _datapath(view: _View, datapath: Datapath) -> Finding | None:
    """Judge a datapath that no endpoint owns."""
    attachment = datapath.attachment
    if attachment is None:
        nobody = f"no endpoint has id {datapath.id}"
    elif datapath.host_ifname == attachment.host_ifname() or datapath.host_ifname in view.named:
        nobody = f"no endpoint has id {datapath.id} in generation {datapath.generation}"
    else:
        return None  # on a link that the loader doesn't list
    link = view.link(datapath.host_ifname, datapath.host_ifindex)
    if link is None:
        return _without_link(datapath, nobody)
    standing = view.standing_on(link)
    if standing is not None:
        evidence = (nobody, f"its link {link.host_ifname} is there, and {standing} stands on it")
        return Finding(Kind.DATAPATH, datapath, attachment, evidence, Action.KEEP, "it goes with its link")
    of_link = _link(view, link)
    if of_link is not None and of_link.action is Action.REMOVE:
        return Finding(Kind.DATAPATH, datapath, attachment, (nobody, *of_link.evidence[1:]))
    return None  # the finding about its link tells of it


def _without_link(datapath: Datapath, nobody: str) -> Finding:
    where = f"{datapath.host_ifname} (ifindex {datapath.host_ifindex})"
    if datapath.attachment is not None:
        return Finding(Kind.DATAPATH, datapath, datapath.attachment, (nobody, f"its link {where} is gone"))
    seen = (nobody, *datapath.problems)
    if not datapath.host_ifindex:
        return Finding(Kind.DATAPATH, datapath, None, (*seen, "none of it leads to a link"))
    strange = f"it leads to {where}, which is no pod's link"
    return Finding(Kind.DATAPATH, datapath, None, (*seen, strange), Action.KEEP, _KEPT_RUNNING)


def _links(view: _View) -> Iterator[Finding]:
    for link in view.seen.links:
        finding = None if view.standing_on(link) is not None else _link(view, link)
        if finding is not None:
            yield finding


def _link(view: _View, link: LinkState) -> Finding | None:
    """Judge a link that no endpoint stands on."""
    if link.attachment is None:
        evidence = ("the loader has no record of it, and no endpoint stands on it", *_traffic(view, link))
        why = f"whose it is can't be told: if no pod needs it, `ip link del {link.host_ifname}`"
        return Finding(Kind.LINK, link, None, evidence, Action.KEEP, why)
    nobody = f"no endpoint of {link.attachment} stands on it"
    traffic = _traffic(view, link)
    if link.chained and not view.on(link) and link.idle >= view.seen.grace:
        since = f"it was chained {link.idle} s ago"
        return Finding(
            Kind.LINK, link, link.attachment, (nobody, since, "only the record goes, the link is a plugin's")
        )
    if traffic and not link.abandoned:
        return Finding(Kind.LINK, link, link.attachment, (nobody, *traffic), Action.KEEP, _KEPT_RUNNING)
    if link.idle < view.seen.grace:
        return None
    since = f"it was last asked for {link.idle} s ago"
    if not link.host_ifindex:
        return Finding(Kind.LINK, link, link.attachment, (nobody, "the kernel has no such link", since))
    if link.abandoned:
        return Finding(Kind.LINK, link, link.attachment, (nobody, *_abandoned(link)))
    return Finding(Kind.LINK, link, link.attachment, (nobody, since, "its node's end is down: nothing passes"))


def _traffic(view: _View, link: LinkState) -> tuple[str, ...]:
    """Say why a link may carry traffic."""
    up = ("its node's end is up",) if link.up else ()
    return (*up, *(f"the datapath of endpoint id {one.id} is on it" for one in view.on(link)))


def _addresses(view: _View) -> Iterator[Finding]:
    for allocation in view.seen.allocations:
        finding = _address(view, allocation) if allocation.endpoint_id or allocation.ipam_only else None
        if finding is not None:
            yield finding
    for endpoint in view.seen.endpoints:
        finding = _unclaimed(view, endpoint)
        if finding is not None:
            yield finding


def _address(view: _View, allocation: Allocation) -> Finding | None:
    """Judge confirmed addresses."""
    owner = allocation.owner
    endpoint = view.endpoints.get(owner)
    if endpoint is not None:
        if plan.claim(endpoint, allocation) is not Claim.LOST:
            return None
        evidence = plan.allocation_problems(endpoint, allocation)
        why = f"endpoint {endpoint.id} uses {plan.join(endpoint.spec.ips)}; nothing may be taken from a running pod"
        return Finding(Kind.ADDRESS, allocation, owner, evidence, Action.KEEP, why)
    if allocation.ipam_only:
        return None
    link = view.named.get(owner.host_ifname())
    if link is not None and link.host_ifindex:
        of_link = _link(view, link)
        if of_link is None or of_link.action is not Action.REMOVE:
            return None  # the pod behind the link may use them: the finding about the link tells of it
    evidence = (
        f"ipam holds them for endpoint {allocation.endpoint_id} of {owner}",
        f"{owner} has no endpoint",
        f"its link {owner.host_ifname()} is gone" if link is None or not link.host_ifindex else "its link is garbage",
    )
    return Finding(Kind.ADDRESS, allocation, owner, evidence)


def _unclaimed(view: _View, endpoint: Endpoint) -> Finding | None:
    """Judge an endpoint whose addresses ipam may give to somebody else."""
    attachment = endpoint.spec.attachment
    allocation = view.allocations.get(attachment)
    going = _endpoint(view, endpoint)
    if going is not None and going.action is Action.REMOVE:
        return None
    if plan.claim(endpoint, allocation) not in {Claim.ALLOCATE, Claim.CONFIRM}:
        return None
    evidence = (f"endpoint {endpoint.id} uses them", *plan.allocation_problems(endpoint, allocation))
    return Finding(Kind.ADDRESS, endpoint, attachment, evidence, Action.CLAIM)


_JUDGES = {
    Kind.ENDPOINT: _endpoints,
    Kind.DATAPATH: _datapaths,
    Kind.LINK: _links,
    Kind.ADDRESS: _addresses,
}
