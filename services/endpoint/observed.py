"""What the other services say: values as `peers.py` reads them, and what is told to them. Pure."""

from dataclasses import dataclass

from services.common.model import Address, Attachment, Network, Phase
from services.endpoint.model import Level, Link, Program


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What all endpoints of the node share. `mtu` in bytes, 0: the loader finds out."""

    pod_cidrs: tuple[Network, ...]
    gateways: tuple[Address, ...]
    masquerade: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class PoolRange:
    """One range of a pool and its router."""

    prefix: Network
    gateway: Address


@dataclass(frozen=True, slots=True)
class Allocation:
    """What ipam holds for an owner; `endpoint_id` 0: reserved, nobody has confirmed it."""

    owner: Attachment
    addresses: tuple[Address, ...]
    endpoint_id: int


@dataclass(frozen=True, slots=True)
class Datapath:
    """What the kernel and the loader's state directory hold for one endpoint."""

    id: int
    generation: int
    config_hash: str
    host_ifname: str
    host_ifindex: int
    reachable: bool
    programs: tuple[Program, ...]
    problems: tuple[str, ...] = ()


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
