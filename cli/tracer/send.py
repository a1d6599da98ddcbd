"""The packet of `podlane trace packet`, really sent: seen where it comes by, and told where it dies.

It leaves the sender's interface as the programs' test run had it, so what the pod's own stack would have done to it
(routes, iptables, sockets) is not in the way. Packet sockets see it in the sender's namespace, on the node and in the
receiver's; whoever drops it is heard as `podlane trace drops` hears it. Programs and switches are left as they are.
"""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from podlane.endpoint.v1 import endpoint_pb2, trace_pb2

from cli import connect
from cli.tracer import show
from cli.tracer.drops import DropTrace, Wanted
from cli.tracer.process import BccMissing
from cli.tracer.seen import Seen
from services.common.config import Settings
from services.common.errors import FailedPrecondition, Unavailable

_TAP = str(Path(__file__).with_name("tap.py"))
_ARRIVES_WITHIN, _DIES_WITHIN = 3.0, 1.0


@dataclass
class Sent:
    """What became of it: where it was seen (who, device, whether outgoing), and who dropped it."""

    places: tuple[str, ...] = ()
    """Those where somebody looks, in the order of the packet's way."""
    _seen: list[tuple[int, float, tuple[str, str, bool]]] = field(default_factory=list)
    drops: list[Seen] = field(default_factory=list)
    untraced: str = ""
    """Why the kernel's own drops were not heard; empty: they were."""

    def note(self, time: float, where: tuple[str, str, bool]) -> None:
        """Note where it was seen."""
        # A packet keeps the time of its first reception from one interface to the next.
        self._seen.append((self.places.index(where[0]), time, where))

    @property
    def seen(self) -> list[tuple[str, str, bool]]:
        """Where it was seen, in that order."""
        return [where for *_, where in sorted(self._seen)]

    def arrived(self, name: str) -> bool:
        """Whether the receiver's interface has had it."""
        return any(who == name and not outgoing for who, _, outgoing in self.seen)


def needle(frame: bytes) -> bytes:
    """Return what a packet is recognised by, wherever in a frame it is: addresses, and the four octets behind them."""
    return frame[26:38] if frame[12:14] == b"\x08\x00" else frame[22:58]


def lines(sent: Sent, receiver: str) -> list[str]:
    """Return what became of it, as text; `receiver` empty: it is for nobody on this node."""
    told = ["", "really sent:"]
    told += [f"  {'leaves' if outgoing else 'comes to'} {who}, {device}" for who, device, outgoing in sent.seen]
    told += [f"  {show.line(drop)}" for drop in sent.drops]
    if sent.untraced:
        told.append(f"  the kernel's own drops were not heard: {sent.untraced}")
    last = sent.seen[-1] if sent.seen else None
    where = f"{last[0]}'s {last[1]}" if last is not None else "nowhere"
    if sent.drops:
        told.append(f"it died: {sent.drops[-1].reason} {sent.drops[-1].where}".rstrip())
    elif receiver and sent.arrived(receiver):
        told.append(f"it arrived at {receiver}, and nobody dropped it there")
    else:
        told.append(f"it was seen last at {where}, and nobody has said that it was dropped")
    return told


def plain(sent: Sent) -> dict[str, Any]:
    """Return what became of it as JSON-ready values."""
    return {
        "seen": [{"where": who, "device": device, "outgoing": outgoing} for who, device, outgoing in sent.seen],
        "drops": [show.plain(drop) for drop in sent.drops],
        "untraced": sent.untraced,
    }


async def send(settings: Settings, reply: trace_pb2.TracePacketResponse) -> Sent:
    """Send the packet that a trace was about. Raises FailedPrecondition, Unavailable, PodlaneError."""
    if not reply.source_endpoint_id:
        raise FailedPrecondition("--send: only a pod of this node can be made to send: name one with --from")
    sender = await _endpoint(settings, reply.source_endpoint_id)
    places = {reply.source_name: sender.link.netns_path, "the node": ""}
    if reply.destination_endpoint_id:
        receiver = await _endpoint(settings, reply.destination_endpoint_id)
        places[reply.destination_name] = receiver.link.netns_path
    sent, done = Sent(tuple(places)), asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        for name, path in places.items():
            await stack.enter_async_context(_tap(name, path, needle(reply.packet), sent, done))
        await stack.enter_async_context(_drops(settings, reply, sent, done))
        await _run(sender.link.netns_path, "send", sender.attachment.ifname, reply.packet.hex())
        await _settle(sent, done, reply)
    if sent.arrived(reply.destination_name):
        sent.drops = [drop for drop in sent.drops if drop.reason not in _COPIES]
    return sent


# Of a packet that has arrived: the end of a copy, which a packet socket had.
_COPIES = frozenset({"NOT_SPECIFIED", "CONSUMED"})


async def _settle(sent: Sent, changed: asyncio.Event, reply: trace_pb2.TracePacketResponse) -> None:
    """Wait until it has arrived, and then for somebody to drop it behind its interface; or until it was dropped."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ARRIVES_WITHIN):
            while not (sent.drops or sent.arrived(reply.destination_name)):
                changed.clear()
                await changed.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DIES_WITHIN):
            while not sent.drops:
                changed.clear()
                await changed.wait()


async def _endpoint(settings: Settings, id_: int) -> Any:
    request = endpoint_pb2.GetEndpointRequest(selector=endpoint_pb2.EndpointSelector(id=id_))
    return (await asyncio.to_thread(connect.ask, connect.endpoint(settings), "GetEndpoint", request)).endpoint


@contextlib.asynccontextmanager
async def _drops(
    settings: Settings, reply: trace_pb2.TracePacketResponse, sent: Sent, changed: asyncio.Event
) -> AsyncIterator[None]:
    """Hear drops of the packet while the block runs."""
    source, destination = (str(ip_address(one.packed)) for one in (reply.source, reply.destination))

    def each(drop: Seen) -> None:
        if (drop.source, drop.destination) == (source, destination) and _same(drop, reply.packet):
            sent.drops.append(drop)
            changed.set()

    begun = asyncio.Event()
    tracing = DropTrace(settings, Wanted(ordinary=True), each, _nobody, begun.set)
    task = asyncio.create_task(tracing.run(None))
    waiting = asyncio.create_task(begun.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            try:
                task.result()
            except BccMissing as error:
                sent.untraced = error.message
        yield
    finally:
        waiting.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BccMissing):
            await task


def _same(drop: Seen, frame: bytes) -> bool:
    """Return whether a drop has the packet's protocol and, where there are any, its ports."""
    version4 = frame[12:14] == b"\x08\x00"
    protocol, at = (frame[23], 34) if version4 else (frame[20], 54)
    if drop.protocol != protocol:
        return False
    if drop.icmp is not None or not drop.has_ports:
        return True
    ports = (drop.source_port, drop.destination_port)
    return ports == (int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big"))


def _nobody(_text: str) -> None:
    """Hear what the tracing has to say for somebody who watches it; here nobody does."""


@contextlib.asynccontextmanager
async def _tap(name: str, path: str, wanted: bytes, sent: Sent, changed: asyncio.Event) -> AsyncIterator[None]:
    """Note where the packet is seen in a namespace while the block runs."""
    process = await _start(path, "listen", wanted.hex())
    if not await _line(process):
        raise Unavailable(f"--send: nobody can listen in {name} ({path or 'here'}): {await _said(process)}")

    def each(message: dict[str, Any]) -> None:
        sent.note(message["time"], (name, message["device"], message["outgoing"]))
        changed.set()

    task = asyncio.create_task(_hear(process, each))
    try:
        yield
    finally:
        assert process.stdin is not None  # noqa: S101 # it was asked for
        process.stdin.close()
        await task
        await process.wait()


async def _hear(process: Process, each: Callable[[dict[str, Any]], None]) -> None:
    while (line := await _line(process)) is not None:
        each(line)


async def _line(process: Process) -> dict[str, Any] | None:
    assert process.stdout is not None  # noqa: S101 # it was asked for
    line = await process.stdout.readline()
    return json.loads(line) if line else None


async def _said(process: Process) -> str:
    assert process.stderr is not None  # noqa: S101 # it was asked for
    said = (await process.stderr.read()).decode(errors="replace").strip()
    return said.rpartition("\n")[2] or "it said nothing"


async def _run(path: str, *argv: str) -> None:
    process = await _start(path, *argv)
    _, said = await process.communicate()
    if process.returncode:
        raise Unavailable(f"--send: the packet could not be sent: {said.decode(errors='replace').strip()[-300:]}")


async def _start(path: str, *argv: str) -> Process:
    """Start a tap in a namespace; empty: this one."""
    enter = ("nsenter", f"--net={path}") if path else ()
    command = (*enter, sys.executable, "-I", "-B", _TAP, *argv)
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True)
