"""What a replay (replay.py) is made of: steps, the questions that they ask maps, and who answers those. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from services.common.model import Address, Network
from services.loader.layout import EndpointEntry, IpcacheEntry
from services.loader.model import Direction, EndpointSpec, PolicyEntry, Routing
from services.loader.refusal import DropReason, reason_text


class Verdict(IntEnum):
    """How a program ends; the numbers are the API's."""

    OK = 1
    REDIRECT = 2
    SHOT = 3
    TAIL_CALL = 4


@dataclass(frozen=True, slots=True)
class Lookup:
    """A question to a map, and its answer in words; empty: nothing."""

    map: str
    key: str
    found: str = ""
    entry: PolicyEntry | None = None


@dataclass(slots=True)
class Step:
    """What one program does. `conntrack` 0: it didn't come to that, or nothing is tracked."""

    program: str
    endpoint_id: int
    direction: Direction
    lookups: list[Lookup] = field(default_factory=list)
    verdict: Verdict = Verdict.OK
    reason: str = ""
    conntrack: int = 0
    source_identity: int = 0
    destination_identity: int = 0
    next: str = ""
    flow_key: bytes = b""

    def drop(self, reason: DropReason) -> "Step":
        """Let it end with a drop."""
        self.verdict, self.reason = Verdict.SHOT, reason_text(reason)
        self.next = f"dropped: {self.reason}"
        return self


class Tables(Protocol):
    """The maps, asked as the programs ask them."""

    def endpoint(self, address: Address) -> EndpointEntry | None:
        """Ask podlane_endpoints."""

    def ipcache(self, address: Address) -> IpcacheEntry | None:
        """Ask podlane_ipcache."""

    def prefix(self, address: Address) -> tuple[Network, int] | None:
        """Ask podlane_prefixes for the longest one."""

    def policy(self, endpoint_id: int) -> Sequence[PolicyEntry]:
        """Return an endpoint's rules."""

    def flow(self, key: bytes) -> bytes | None:
        """Ask podlane_conntrack."""

    def slot(self, endpoint_id: int) -> int | None:
        """Ask podlane_call_policy; 0: the tunnel."""

    def spec(self, endpoint_id: int) -> EndpointSpec | None:
        """Return what an endpoint's programs were made of."""

    @property
    def revision(self) -> int:
        """Policy's revision."""

    @property
    def now(self) -> int:
        """Nanoseconds of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Node:
    """What programs know of the node: how others are reached, by which port, the index of the device to them."""

    routing: Routing = Routing.ALONE
    tunnel_port: int = 0
    underlay_ifindex: int = 0
