"""Attaching by tcx links (kernel 6.6 and later).

A link is pinned (pins.py): it holds its program while no loader runs, and through it the next loader replaces the
program atomically. The first link on a device costs an RCU grace period (about 11 ms, where a tc filter takes 0.3), an
update 0.02 ms. A link whose device has gone is empty and never filled again; so is one that was detached.

Blocking calls; no decisions: what to attach where is attach.py's business for an endpoint's programs, overlayhooks.py's
for the overlay's.
"""

import contextlib
import errno
import functools
from collections.abc import Mapping
from pathlib import Path

from services.loader.libbpf import BpfError, Fd, link_info, object_get, object_pin
from services.loader.libbpf_programs import AttachType, attached_programs, link_create, link_detach, link_update

_HOOKS: Mapping[str, AttachType] = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
# Every network namespace has it, and always under this number.
_LOOPBACK = 1


@functools.cache
def supported() -> bool:
    """Return whether this kernel has tcx: 6.6 and later do, others know no such hook."""
    try:
        attached_programs(_LOOPBACK, AttachType.TCX_INGRESS)
    except BpfError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def attach(pin: Path, ifindex: int, direction: str, program: Fd) -> None:
    """Put a program on `ingress` or `egress`, through the pinned link if that is on this device, else a new one."""
    link = object_get(pin)
    if link is not None:
        with link:
            if link_info(link).ifindex == ifindex and _updated(link, program):
                return
        pin.unlink(missing_ok=True)
    pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with link_create(program, ifindex, _HOOKS[direction]) as link:
        object_pin(link, pin)


def _updated(link: Fd, program: Fd) -> bool:
    try:
        link_update(link, program)
    except BpfError as error:
        if error.errno != errno.ENOLINK:  # detached behind our back: an empty link can't be filled again
            raise
        return False
    return True


def detach(directory: Path) -> None:
    """Detach all links that are pinned in a directory, and remove it; none is fine."""
    if not directory.is_dir():
        return
    for pin in directory.iterdir():
        link = object_get(pin)
        if link is not None:
            with link, contextlib.suppress(BpfError):  # the device has gone, and the attachment with it
                link_detach(link)
        pin.unlink(missing_ok=True)
    directory.rmdir()


def devices(directory: Path) -> list[int]:
    """Return the index of the device that each link pinned in a directory is on, 0 when that has gone."""
    found = []
    for pin in directory.glob("*"):
        link = object_get(pin)
        if link is not None:
            with link:
                found.append(link_info(link).ifindex)
    return found


def attached(pin: Path, ifindex: int, direction: str) -> int | None:
    """Return the id of the program that the pinned link has on a hook, None when there is none."""
    with contextlib.suppress(BpfError):  # no such device
        running = attached_programs(ifindex, _HOOKS[direction])
        link = object_get(pin)
        if link is not None:
            with link:
                program = link_info(link).program_id
            return program if program in running else None
    return None
