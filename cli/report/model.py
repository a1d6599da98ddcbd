"""A report as checks see it. Pure.

Whoever told of a thing, a service or a file, it looks the same here; what nobody told of is None, and a check that
needs it finds nothing. Addresses are texts without a prefix's length, hardware addresses have colons, times are
seconds since the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Owner = tuple[str, str, str]
"""An attachment: network, container, interface."""

READY = "ready"


def name_of(owner: Owner) -> str:
    """Return an attachment as logs have it."""
    return f"{owner[0]}/{owner[1][:12]}/{owner[2]}"


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair as an endpoint or the loader has it. `idle_seconds` None: not known."""

    owner: Owner
    host_ifname: str
    host_ifindex: int
    host_mac: str
    pod_mac: str
    netns_path: str = ""
    netns_inode: int = 0
    mtu: int = 0
    chained: bool = False
    problems: tuple[str, ...] = ()
    idle_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint. `policies` are those that isolate it, by direction; None: not known."""

    id: int
    generation: int
    owner: Owner
    pod: str
    state: str
    identity: int
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    link: Link
    policies: Mapping[str, tuple[str, ...]] | None = None
    published: Mapping[str, Any] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    """All that its service said."""

    @property
    def title(self) -> str:
        """What findings call it."""
        return f"endpoint {self.id} ({self.pod or name_of(self.owner)})"


@dataclass(frozen=True, slots=True)
class Datapath:
    """What kernel and state directory hold for an endpoint. `programs`: the kernel's ids by name; `reachable` and
    `digest` None: only the record was read."""

    id: int
    generation: int
    owner: Owner | None
    identity: int
    host_ifname: str
    host_ifindex: int
    programs: Mapping[str, int]
    problems: tuple[str, ...] = ()
    reachable: bool | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an attachment holds of ipam. `endpoint_id` 0 of a confirmed one: another plugin's interface."""

    owner: Owner
    pod: str
    pool: str
    addresses: tuple[str, ...]
    confirmed: bool
    endpoint_id: int
    expires: float | None = None

    @property
    def title(self) -> str:
        """What findings call it."""
        return f"allocation of {self.pod or name_of(self.owner)}"


@dataclass(frozen=True, slots=True)
class Device:
    """A network device as the kernel has it."""

    ifname: str
    ifindex: int
    mac: str
    mtu: int
    up: bool
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Inside:
    """A pod's namespace. `error` says why the rest is empty."""

    netns_inode: int
    devices: Mapping[str, Device]
    routes: tuple[Mapping[str, Any], ...]
    neighbours: tuple[Mapping[str, Any], ...]
    error: str = ""


@dataclass(frozen=True)
class Report:
    """All of it. `members` by name: what is here in no other form."""

    node: str
    created: str
    created_seconds: float
    failed: Mapping[str, str]
    members: Mapping[str, Any]
    endpoints: tuple[Endpoint, ...]
    settled: tuple[Endpoint, ...]
    """Who was ready and the same before and after all else was collected."""
    ids: frozenset[int]
    """Of all endpoints that anybody told of."""
    owners: frozenset[Owner]
    """Theirs."""
    links: Mapping[Owner, Link] | None
    datapaths: Mapping[int, Datapath] | None
    allocations: Mapping[Owner, Allocation] | None
    devices: Mapping[str, Device] | None
    pods: Mapping[str, Inside]
    """By the name of the link's record, which is that of the node's end of podlane's own links."""

    def get(self, name: str) -> Any:
        """Return a member's content, None when it isn't there."""
        return self.members.get(name)

    def items(self, name: str) -> list[Any]:
        """Return a member that is a list, empty when it isn't there."""
        return self.members.get(name) or []

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The settings, empty when they weren't collected."""
        return self.get("files/settings.json") or {}

    @cached_property
    def sysctls(self) -> Mapping[str, str]:
        """By their paths in /proc/sys."""
        return self.get("kernel/sysctls.json") or {}

    @cached_property
    def by_id(self) -> Mapping[int, Endpoint]:
        """Endpoints by their ids."""
        return {one.id: one for one in self.endpoints}
