"""How the overlay's two programs hang on its device, and how it is known which they are.

    from_overlay   ingress
    to_overlay     egress

As tcx links where the kernel has them, which saves a packet the way through clsact and its classifier; as cls_bpf
filters elsewhere, or if a setting says so. Either holds its program while no loader runs, and goes with the device;
what stays of a link then is its pin.

A program's digest, which stands for what it was made of, is in the kernel beside it:

    filter    its name is <program>:<digest>
    link      its pin is podlane/links/overlay/<direction>:<digest>

A filter gets program and name at once. A pin loses its digest before the link gets another program, and has the new one
after that. Killed in between, a loader leaves a link that runs one of both and whose pin is <direction>; the next one
takes that for unknown, and replaces its program.

A hook runs its links before its filters, and what ours return ends it: they never say TC_ACT_UNSPEC. So with both there
a packet is seen by the link's program alone, and by no other kind's once the one that is wanted is in force and the
other is taken away, in this order. That is how an earlier loader's filters go, and how links do when the setting
changes.
"""

from collections.abc import Mapping
from pathlib import Path

from services.loader import tcx
from services.loader.attach import check_mode
from services.loader.blocking import Blocking
from services.loader.libbpf import Fd
from services.loader.pins import Pins
from services.loader.tc import Filter, TcFilters

# By the hook.
PROGRAMS: Mapping[str, str] = {"ingress": "from_overlay", "egress": "to_overlay"}


class OverlayHooks:
    """Attaches, replaces and compares. One caller at a time."""

    def __init__(self, mode: str, filters: TcFilters, pins: Pins, blocking: Blocking) -> None:
        """`mode` is `tcx`, which is `tc` on kernels without, or `tc`. Raises InvalidArgument when it is neither."""
        self._wanted = check_mode(mode, "overlay_attach_mode")
        self._filters = filters
        self._directory = pins.overlay_links
        self._blocking = blocking

    @property
    def mode(self) -> str:
        """`tcx` or `tc`: how programs are attached on this kernel."""
        return "tcx" if self._wanted == "tcx" and tcx.supported() else "tc"

    async def have(self, ifindex: int, digest: str) -> bool:
        """Return whether programs of this digest run on both hooks of a device, attached as wanted and in no other way.

        Raises BpfError or Unavailable.
        """
        filters = await self._filters.attached(ifindex)
        if self.mode == "tcx":
            return not any(filters.values()) and await self._blocking.run(lambda: self._linked(ifindex, digest))
        names = {hook: one.name for hook, one in filters.items() if one is not None}
        return names == _names(digest) and not self._directory.exists()

    async def attach(self, ifindex: int, digest: str, programs: Mapping[str, Fd]) -> None:
        """Put a program on each hook, and take away what is attached in the other way.

        Raises BpfError, NotFound when there is no such device, Unavailable or FailedPrecondition.
        """
        if self.mode == "tcx":
            await self._blocking.run(lambda: self._link(ifindex, digest, programs))
            await self._filters.detach(ifindex)
        else:
            names = _names(digest)
            filters = {hook: Filter(names[hook], program.fileno()) for hook, program in programs.items()}
            await self._filters.attach(ifindex, filters)
            await self.forget()

    async def forget(self) -> None:
        """Take the links away: their device has gone, or has filters instead; none is fine."""
        await self._blocking.run(lambda: tcx.detach(self._directory))

    def _linked(self, ifindex: int, digest: str) -> bool:
        return all(tcx.attached(self._pin(hook, digest), ifindex, hook) is not None for hook in PROGRAMS)

    def _link(self, ifindex: int, digest: str, programs: Mapping[str, Fd]) -> None:
        for hook, program in programs.items():
            unknown = self._directory / hook
            for pin in self._directory.glob(f"{hook}:*"):
                pin.rename(unknown)
            tcx.attach(unknown, ifindex, hook, program)
            unknown.rename(self._pin(hook, digest))

    def _pin(self, hook: str, digest: str) -> Path:
        return self._directory / f"{hook}:{digest}"


def _names(digest: str) -> dict[str, str]:
    return {hook: f"{program}:{digest}" for hook, program in PROGRAMS.items()}
