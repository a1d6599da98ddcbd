"""ipam and the loader as this service sees them: two Protocols in its own values.

Every call has a timeout of its own and none inherits the caller's deadline: what was begun is finished or undone even
when nobody waits any more. An answer that makes no sense is Internal and names the peer; the caller of this service
did nothing wrong.

Not here: the messages and who sends them (`loaderpeer.py`, `ipampeer.py`).
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Protocol

from podlane.loader.v1 import loader_pb2

from services.common.errors import Internal, InvalidArgument
from services.common.model import Address, Attachment, Network, Pod
from services.endpoint.model import Endpoint, Level, Link
from services.endpoint.observed import (
    Allocation,
    Built,
    Datapath,
    Flow,
    LinkRemoval,
    LinkState,
    NodeConfig,
    PolicyChange,
    PoolRange,
    Probe,
    ProbePacket,
)
from services.endpoint.options import OptionInfo, Options
from services.endpoint.policy import PolicyEntry
from services.endpoint.policy.prefixes import PrefixChanges

CALL_SECONDS = 10.0


class Loader(Protocol):
    """The privileged room."""

    async def configure_node(self, config: NodeConfig) -> bool:
        """Put the node's configuration in force; return whether it changed."""

    async def options(self) -> tuple[OptionInfo, ...]:
        """Return the switches that endpoint programs have."""

    async def regenerate(
        self,
        endpoint: Endpoint,
        level: Level,
        policy: tuple[PolicyEntry, ...] | None,
        options: Options,
        *,
        dry_run: bool,
    ) -> Built:
        """Put an endpoint's datapath in force, or only say what that would change. `policy` None: its map stays.

        Raises NotFound (link), FailedPrecondition (verifier, compiler).
        """

    async def update_policies(self, changes: Iterable[PolicyChange], prefixes: PrefixChanges) -> Mapping[int, str]:
        """Change policy maps and prefixes; return whom it refused, and why. Raises Exhausted (prefixes)."""

    async def prefixes(self) -> dict[Network, int]:
        """Return the prefixes that have identities in the kernel."""

    async def sync_prefixes(self, prefixes: Mapping[Network, int]) -> None:
        """Make the kernel have exactly these. Raises Exhausted."""

    async def policy(self, endpoint_id: int) -> tuple[PolicyEntry, ...]:
        """Return what an endpoint's policy map holds. Raises NotFound."""

    async def flows(self, endpoint_id: int) -> tuple[Flow, ...]:
        """Return an endpoint's live flows; of TCP those that aren't closed."""

    async def node_addresses(self) -> frozenset[Address]:
        """Return the addresses that are the node's own to the datapath."""

    async def probe(self, packet: ProbePacket) -> Probe:
        """Ask an endpoint's programs about a packet. Raises NotFound (no programs), Unavailable."""

    def events(
        self, types: Iterable[int], endpoint_id: int, begun: Callable[[], Awaitable[None]], *, background: bool = False
    ) -> AsyncIterator[loader_pb2.WatchEventsResponse]:
        """Yield what happens to packets, as the loader says it; 0: of all endpoints. `begun`: from now on.

        `background`: nobody looks on, so a small part of a flood will do.
        """

    async def flow_counts(self) -> loader_pb2.ListFlowCountsResponse:
        """Return what flows have counted, as the loader says it."""

    async def remove(self, endpoint_id: int, generation: int) -> bool:
        """Take an endpoint's datapath down; False when there was none, or another generation's."""

    async def remove_unrecorded(self, endpoint_id: int) -> bool:
        """Remove what is left of a datapath that the loader has no record of; False when there is none, or it has."""

    async def datapaths(self, endpoint_id: int = 0, *, slots: bool = False) -> tuple[Datapath, ...]:
        """Return what is in the kernel for one endpoint, or for all; `slots`: see ListEndpointDatapathsRequest."""

    async def links(self, attachment: Attachment | None = None) -> tuple[Link, ...]:
        """Return the podlane links of the kernel, of one attachment or all; of a lost record's nobody's."""

    async def link_states(self, attachment: Attachment | None = None) -> tuple[LinkState, ...]:
        """Return links and records of links, and what has become of their pods' namespaces."""

    async def repair_link(self, attachment: Attachment) -> tuple[str, ...]:
        """Make a link what it was made as; return what wasn't. Raises NotFound when it is gone."""

    async def delete_link(self, attachment: Attachment, host_ifindex: int, idle: int = 0) -> bool:
        """Delete a link; False when it was gone. Raises FailedPrecondition: see DeleteLinkRequest."""

    def removals(self) -> AsyncIterator[LinkRemoval]:
        """Yield each link that goes, until the loader does."""


class Ipam(Protocol):
    """Who holds which address."""

    async def ranges(self) -> tuple[PoolRange, ...]:
        """Return all ranges of all pools. Raises Unavailable while a family has none: its router isn't known."""

    def range_changes(self) -> AsyncIterator[tuple[PoolRange, ...]]:
        """Yield all ranges of all pools, and again whenever they change."""

    async def confirm(self, owner: Attachment, endpoint_id: int) -> Allocation:
        """Make a reservation permanent. Raises NotFound when it has expired."""

    async def unconfirm(self, owner: Attachment, endpoint_id: int) -> None:
        """Make what this endpoint has confirmed a reservation again; anything else is left as it is."""

    async def allocate(self, owner: Attachment, pod: Pod, requested: tuple[Address, ...]) -> Allocation:
        """Reserve exactly these addresses. Raises AlreadyExists, FailedPrecondition, InvalidArgument."""

    async def release(self, owner: Attachment, endpoint_id: int = 0, *, ipam_only: bool = False) -> bool:
        """Free all that the owner holds; False when that is nothing.

        With `endpoint_id` only what that endpoint confirmed: FailedPrecondition. `ipam_only`: what no endpoint has.
        """

    async def allocations(self, owner: Attachment | None = None) -> tuple[Allocation, ...]:
        """Return what one owner, or every owner, holds."""

    async def lost(self) -> None:
        """Return when the connection is lost."""


@contextlib.contextmanager
def trusting(peer: str) -> Iterator[None]:
    """Say whose fault it is when an answer can't be read."""
    try:
        yield
    except InvalidArgument as error:
        raise Internal(f"podlane-{peer} answered what can't be: {error.message}", service=peer) from None
