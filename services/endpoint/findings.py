"""What a search for garbage is about: kinds, findings, and what was seen. Pure; garbage.py judges."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.common.model import Attachment
from services.endpoint import plan
from services.endpoint.model import Endpoint
from services.endpoint.observed import Allocation, Datapath, LinkState


class Kind(StrEnum):
    """What can be left behind, in the order in which it is taken away: addresses only after what uses them."""

    ENDPOINT = "endpoint"
    DATAPATH = "datapath"
    LINK = "link"
    ADDRESS = "address"


class Action(StrEnum):
    """What is to be done about a finding."""

    REMOVE = "remove"
    CLAIM = "claim"
    """A running endpoint's addresses that ipam doesn't hold for it."""
    KEEP = "keep"


Subject = Endpoint | Datapath | LinkState | Allocation


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is left behind. `evidence` is what was seen, one sentence each; `why` says why it is kept."""

    kind: Kind
    subject: Subject
    attachment: Attachment | None
    evidence: tuple[str, ...]
    action: Action = Action.REMOVE
    why: str = ""

    @property
    def key(self) -> Hashable:
        """What is the same for the same object only."""
        match self.subject:
            case Endpoint(id=id_, generation=generation):
                return self.kind, id_, generation
            case Datapath(id=id_, generation=generation, host_ifindex=ifindex):
                return self.kind, id_, generation, ifindex
            case LinkState(host_ifname=ifname, host_ifindex=ifindex):
                return self.kind, ifname, ifindex
            case Allocation(owner=owner, endpoint_id=id_, created=created):
                return self.kind, owner, id_, created

    def __str__(self) -> str:
        """Return its object as people name it."""
        match self.subject:
            case Endpoint() if self.kind is Kind.ADDRESS:
                return f"addresses {plan.join(self.subject.spec.ips)}"
            case Endpoint(id=id_) | Datapath(id=id_):
                return f"{self.kind} {id_}"
            case LinkState(host_ifname=ifname, host_ifindex=0):
                return f"record of link {ifname}"
            case LinkState(host_ifname=ifname):
                return f"link {ifname}"
            case Allocation(addresses=addresses):
                return f"addresses {plan.join(addresses)}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen, of the whole node or of one object's surroundings. `grace` is how long an ADD may be under way
    between its link and its endpoint, in seconds.
    """

    endpoints: Sequence[Endpoint]
    links: Sequence[LinkState]
    datapaths: Sequence[Datapath]
    allocations: Sequence[Allocation]
    grace: int
