"""Which program hangs where, and the two ways of attaching.

    from_container   ingress of the node's end: what the pod sends
    to_container     egress of the node's end: what the stack sends to the pod
    policy           the endpoint's slot of podlane_call_policy (not attached: tail-called)

`tc` hangs them as cls_bpf filters on clsact, `tcx` as links (tcx.py). Both replace a program atomically: a packet sees
the old one or the new one. Which is used for new builds is a setting, but an endpoint with the option `host-routing`
has links where the kernel knows them: clsact takes the place of the `ingress` qdisc, which others want there (the
bandwidth plugin for what a pod sends). An endpoint attached the other way before is observed, replaced and taken down
in its own way.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import InvalidArgument
from services.loader import tcx
from services.loader.blocking import Blocking
from services.loader.libbpf import Fd
from services.loader.model import EndpointSpec
from services.loader.pins import Pins
from services.loader.tc import Filter, TcFilters

DIRECTIONS: Mapping[str, str] = {"from_container": "ingress", "to_container": "egress"}
POLICY_PROGRAM = "policy"


class Attacher(Protocol):
    """One way of attaching. Programs go by their names, the keys of DIRECTIONS."""

    mode: str

    async def attach(self, spec: EndpointSpec, programs: Mapping[str, Fd]) -> None:
        """Put each program on its hook, atomically where one is there already."""

    async def detach(self, spec: EndpointSpec) -> None:
        """Empty both hooks; already empty, or the link gone, is fine."""

    async def attached(self, spec: EndpointSpec) -> Mapping[str, int | None]:
        """Return the id of the program on each hook, None for an empty one."""

    async def forget(self, id_: int) -> None:
        """Remove what is kept for an endpoint of which nothing but the id is known; nothing is fine."""


class Tc:
    """cls_bpf filters."""

    mode = "tc"

    def __init__(self, filters: TcFilters) -> None:
        """`filters` speaks netlink."""
        self._filters = filters

    async def attach(self, spec: EndpointSpec, programs: Mapping[str, Fd]) -> None:
        """Add or replace the filters, in one batch."""
        wanted = {DIRECTIONS[name]: Filter(name, program.fileno()) for name, program in programs.items()}
        await self._filters.attach(spec.host_ifindex, wanted)

    async def detach(self, spec: EndpointSpec) -> None:
        """Remove the filters; when the link is gone they are."""
        if link_exists(spec):
            await self._filters.detach(spec.host_ifindex)

    async def attached(self, spec: EndpointSpec) -> Mapping[str, int | None]:
        """Ask for the filters."""
        found = await self._filters.attached(spec.host_ifindex)
        there = {name: found[direction] for name, direction in DIRECTIONS.items()}
        return {name: one.id if one is not None else None for name, one in there.items()}

    async def forget(self, id_: int) -> None:
        """Nothing: filters live on the device and go with it."""


class Tcx:
    """tcx links."""

    mode = "tcx"

    def __init__(self, pins: Pins, blocking: Blocking) -> None:
        """Links are pinned below `pins`."""
        self._pins = pins
        self._blocking = blocking

    async def attach(self, spec: EndpointSpec, programs: Mapping[str, Fd]) -> None:
        """Create or update the links; see Attacher."""
        directory = self._pins.links(spec.id)

        def work() -> None:
            for name, program in programs.items():
                tcx.attach(directory / DIRECTIONS[name], spec.host_ifindex, DIRECTIONS[name], program)

        await self._blocking.run(work)

    async def detach(self, spec: EndpointSpec) -> None:
        """Detach and unpin the links."""
        await self.forget(spec.id)

    async def attached(self, spec: EndpointSpec) -> Mapping[str, int | None]:
        """Ask the pinned links."""
        directory = self._pins.links(spec.id)
        return {
            name: tcx.attached(directory / direction, spec.host_ifindex, direction)
            for name, direction in DIRECTIONS.items()
        }

    async def forget(self, id_: int) -> None:
        """Detach and unpin the links."""
        await self._blocking.run(lambda: tcx.detach(self._pins.links(id_)))


@dataclass(frozen=True, slots=True)
class Attachers:
    """Every way of attaching by its mode, and the one that new builds use."""

    by_mode: Mapping[str, Attacher]
    mode: str

    def mode_of(self, spec: EndpointSpec) -> str:
        """Return how new builds of an endpoint are attached."""
        return Tcx.mode if spec.host_routed and tcx.supported() else self.mode

    def of(self, spec: EndpointSpec) -> Attacher:
        """Return what attaches new builds of an endpoint."""
        return self.by_mode[self.mode_of(spec)]


def link_exists(spec: EndpointSpec) -> bool:
    """Return whether the endpoint's link is there: an index is reused, a name too, both together are ours."""
    try:
        return socket.if_indextoname(spec.host_ifindex) == spec.host_ifname
    except OSError:
        return False


def hook(mode: str, program: str, id_: int) -> str:
    """Return where a program of an endpoint hangs, as people read it: `tc ingress`, `call_policy[7]`."""
    return f"{mode} {DIRECTIONS[program]}" if program in DIRECTIONS else f"call_policy[{id_}]"


def check_mode(mode: str, key: str = "attach_mode") -> str:
    """Return a known mode. Raises InvalidArgument naming the setting."""
    if mode not in {"tc", "tcx"}:
        raise InvalidArgument(f"loader.{key}: {mode!r} is neither tc nor tcx", key=key)
    return mode
