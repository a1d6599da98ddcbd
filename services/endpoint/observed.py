"""What the other services say: values as `peer_messages.py` reads them, and what is told to them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from services.common.model import Address, Attachment, Network, Phase
from services.endpoint.model import Level, Link, Program
from services.endpoint.policy.desired import Delta
from services.endpoint.policy.entry import PROTOCOLS, Direction, protocol_name


class Routing(IntEnum):
    """How pods of other nodes are reached; the numbers are the API's."""

    ALONE = 0
    OVERLAY = 1
    NATIVE = 2


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What all endpoints of the node share. `mtu` in bytes, 0: the loader finds out; so it does for `underlay_device`,
    empty, and the other zeros.
    """

    pod_cidrs: tuple[Network, ...]
    gateways: tuple[Address, ...]
    masquerade: bool
    mtu: int
    routing: Routing = Routing.ALONE
    underlay_device: str = ""
    underlay_family: int = 0
    tunnel_port: int = 0
    cluster_cidrs: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolRange:
    """One range of a pool and its router."""

    prefix: Network
    gateway: Address


@dataclass(frozen=True, slots=True)
class Allocation:
    """What ipam holds for an owner, since `created` (epoch seconds).

    `endpoint_id` 0: reserved, not confirmed; or `ipam_only`: for another plugin's interface, none of this service's.
    """

    owner: Attachment
    addresses: tuple[Address, ...]
    endpoint_id: int
    created: float = 0.0
    ipam_only: bool = False


@dataclass(frozen=True, slots=True)
class Datapath:
    """What the kernel and the loader's state directory hold for one endpoint.

    `attachment` None: the loader has no record of it, and the link is what its remains lead to, if that is there.
    """

    id: int
    generation: int
    config_hash: str
    host_ifname: str
    host_ifindex: int
    reachable: bool
    programs: tuple[Program, ...]
    problems: tuple[str, ...] = ()
    attachment: Attachment | None = None
    options: Mapping[str, bool] = field(default_factory=dict)
    policy_digest: bytes = b""
    """Of what its policy map holds (`policydigest.py`); empty: there is no map."""
    policy_entries: int = 0
    identity: int = 0
    """That its programs have."""
    request_id: str = ""
    """Of the call that has loaded its programs; empty: an older loader has."""


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """An endpoint whose policy map is to change from one content to another; both are digests."""

    id: int
    generation: int
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One change of the policy maps of several endpoints."""

    delta: Delta
    targets: Sequence[PolicyTarget]


@dataclass(frozen=True, slots=True)
class Flow:
    """A live flow that the datapath tracks. Ports are 0 of protocols without; `direction` is its opener's."""

    endpoint_id: int
    direction: Direction
    protocol: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    peer_identity: int

    @property
    def protocol_name(self) -> str:
        """Its protocol in a word, or a number."""
        return protocol_name(self.protocol)

    @property
    def port(self) -> int | None:
        """The port that was connected to; None of protocols without ports."""
        if self.protocol not in PROTOCOLS.values():
            return None
        return self.local_port if self.direction is Direction.INGRESS else self.remote_port


@dataclass(frozen=True, slots=True)
class ProbePacket:
    """A packet that the programs are asked about. INGRESS: the stack sends it; `forwarded`: it came in elsewhere."""

    endpoint_id: int
    direction: Direction
    source: Address
    destination: Address
    protocol: int
    port: int
    forwarded: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """What the programs in force did with it: whose decided last, and of a drop why and where."""

    passed: bool
    endpoint_id: int
    direction: Direction
    reason: str
    source: str
    source_identity: int
    destination_identity: int


@dataclass(frozen=True, slots=True)
class Built:
    """What the loader did for a regeneration, or would do.

    `level` is what was needed: 1 may have become 2, for `reason`. `changes` says what differed from before.
    """

    datapath: Datapath
    level: Level
    phases: tuple[Phase, ...]
    reason: str = ""
    changes: tuple[str, ...] = ()


class Namespace(IntEnum):
    """What has become of the namespace that a link was made for; the numbers are the API's."""

    UNKNOWN = 0
    THERE = 1
    GONE = 2
    """Nothing is at its path any more."""
    OTHER = 3
    """Something else is at its path."""

    @classmethod
    def _missing_(cls, _value: object) -> "Namespace":
        """Return what nothing is concluded from, for what a newer loader may say."""
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link as the kernel and the loader's records have it.

    `attachment` None: there is no record of it. `host_ifindex` 0: there is only a record. `idle` is the seconds since
    it was last asked for. `processes` live where the pod's end is; told only when the namespace has lost its path.
    `chained`: another plugin has made it and deletes it.
    """

    attachment: Attachment | None
    host_ifname: str
    host_ifindex: int
    netns_path: str
    up: bool
    idle: int
    namespace: Namespace
    processes: tuple[str, ...] = ()
    chained: bool = False

    @property
    def abandoned(self) -> bool:
        """Whether nothing can live behind it: its namespace has no name any more, and nobody in it."""
        return self.namespace in {Namespace.GONE, Namespace.OTHER} and not self.processes


@dataclass(frozen=True, slots=True)
class LinkRemoval:
    """A podlane link that the kernel has reported gone."""

    host_ifname: str
    host_ifindex: int


@dataclass(frozen=True, slots=True)
class Observed:
    """One endpoint's surroundings, fetched together before anything is decided."""

    link: Link | None
    datapath: Datapath | None
    allocation: Allocation | None
