"""`podlane trace drops` at work: the tracer, podlane's own drops and the node's pods, all heard at the same time.

Services may go and come back meanwhile: names are then as they were, and podlane's own drops are told as the kernel's
until its events are heard again. The tracer needs none of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from podlane.endpoint.v1 import endpoint_pb2, policy_pb2
from podlane.loader.v1 import loader_pb2

from cli import connect
from cli.tracer.pairs import WAIT, Pairs
from cli.tracer.pods import Pods, pod_of
from cli.tracer.process import Tracer
from cli.tracer.reasons import ORDINARY, TC
from cli.tracer.seen import PODLANE, Machine, Seen, of_kernel
from services.common.client import Peer
from services.common.config import Settings
from services.common.errors import PodlaneError

_AGAIN, _WAIT = 1.0, 3.0
# What every pod's kernel sends unasked.
_NOISE = frozenset({"link local noise"})
_NUMBERS = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132}
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which drops are shown: all, or one endpoint's (by its id, 0: all), or some reasons'."""

    endpoint: int = 0
    reasons: frozenset[str] = frozenset()
    ordinary: bool = False


@dataclass
class Counts:
    """What wasn't shown: ordinary ends of packets, drops lost between kernel and tracer, podlane's lost events."""

    ordinary: int = 0
    lost: int = 0
    lost_events: int = 0


@dataclass
class DropTrace:
    """One tracing. `show` gets each drop, `note` sentences for the person; `begun`: from now on nothing is missed."""

    settings: Settings
    wanted: Wanted
    show: Callable[[Seen], None]
    note: Callable[[str], None]
    begun: Callable[[], None] = lambda: None
    counts: Counts = field(default_factory=Counts)
    names: dict[int, str] = field(default_factory=dict)
    """Of all endpoints that there were."""

    def __post_init__(self) -> None:
        """Begin with nothing known."""
        self._pods, self._pairs = Pods(), Pairs()
        self._changed = asyncio.Event()
        self._pods_known, self._drops_heard = asyncio.Event(), asyncio.Event()

    async def run(self, seconds: float | None) -> None:
        """Trace for so long, or until cancelled. Raises PodlaneError when it can't begin, or the tracer dies."""
        tracer = await Tracer.start()
        machine = Machine(tracer.reasons, time.time() - time.monotonic(), _own_namespace())
        try:
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(self._hear(tracer, machine))
                others = [group.create_task(one) for one in (self._follow_pods(tracer), self._follow_drops())]
                others.append(group.create_task(self._tell_alone()))
                # Nobody is cancelled before it has begun: its calls may be on their way.
                await group.create_task(self._begin(tracer))
                if seconds is not None:
                    await asyncio.sleep(seconds)
                    for task in others:
                        task.cancel()
                    tracer.finish()
                await hearing
        except BaseExceptionGroup as group_of_errors:
            raise _first(group_of_errors) from None
        finally:
            await tracer.stop(lambda message: self._heard(message, machine))
            for drop in self._pairs.rest():
                self._tell(drop)

    async def _begin(self, tracer: Tracer) -> None:
        """Say so when the tracer knows the pods and podlane's own drops are heard."""
        await self._pods_known.wait()
        await self._drops_heard.wait()
        while not tracer.knows:
            self._changed.clear()
            await self._changed.wait()
        self.begun()
        whose = self.names.get(self.wanted.endpoint, f"{len(self._pods)} pods")
        self.note(f"listening for dropped packets of {whose}; Ctrl-C ends")

    # ── what is heard ──

    async def _hear(self, tracer: Tracer, machine: Machine) -> None:
        async for message in tracer.messages():
            self._heard(message, machine)
            self._changed.set()

    def _heard(self, message: dict[str, Any], machine: Machine) -> None:
        if "drop" in message:
            drop = of_kernel(message["drop"], machine, self._pods)
            told = self._pairs.kernel(drop, time.monotonic()) if drop.reason in TC else drop
            if told is not None:
                self._tell(told)
        self.counts.lost += message.get("lost", 0)

    async def _follow_drops(self) -> None:
        service = connect.policy(self.settings)
        request = policy_pb2.WatchFlowsRequest(types=[loader_pb2.EVENT_TYPE_DROP])
        async for flow in self._always(service, "WatchFlows", request, self._drops_heard.set):
            if flow.event.HasField("lost"):
                self.counts.lost_events += flow.event.lost.events
            elif flow.event.HasField("drop"):
                told = self._pairs.podlane(of_podlane(flow), time.monotonic())
                if told is not None:
                    self._tell(told)

    async def _follow_pods(self, tracer: Tracer) -> None:
        service = connect.endpoint(self.settings)
        kinds = endpoint_pb2.WatchEndpointsResponse
        existing: set[int] = set()
        async for change in self._always(service, "WatchEndpoints", endpoint_pb2.WatchEndpointsRequest()):
            if change.change == kinds.CHANGE_SYNCED:
                for command in self._pods.keep(existing):
                    tracer.tell(command)
                existing = set()
                self._pods_known.set()
            elif change.change == kinds.CHANGE_DELETED:
                tracer.tell(self._pods.drop(change.endpoint.id))
            else:
                pod = pod_of(change.endpoint)
                existing |= {pod.id} if change.change == kinds.CHANGE_EXISTING else set()
                self.names[pod.id] = pod.name
                tracer.tell(self._pods.put(pod))

    async def _always(
        self, service: connect.Service, method: str, request: Any, begun: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Any]:
        """Follow a stream, and follow it again when it breaks off; of its first time errors are raised."""
        answered = False
        while True:
            peer = Peer(service.name, service.socket, _WAIT)
            await peer.start()
            try:
                async for message in peer.stream(getattr(service.stub(peer.channel), method), request, begun=begun):
                    answered = True
                    yield message
            except PodlaneError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # grpc has taken the cancellation for the call's.
                    raise asyncio.CancelledError from None
                if not answered and not self._pods_known.is_set():
                    raise
                self.note(f"{error.message}; names and podlane's own reasons may be missing until it is back")
            finally:
                await peer.stop()
            await asyncio.sleep(_AGAIN)

    # ── what is told ──

    async def _tell_alone(self) -> None:
        while True:
            await asyncio.sleep(WAIT / 2)
            for drop in self._pairs.expired(time.monotonic()):
                self._tell(drop)

    def _tell(self, drop: Seen) -> None:
        wanted = self.wanted
        if wanted.endpoint and wanted.endpoint not in drop.endpoints:
            return
        if wanted.reasons and not wanted.reasons & {drop.reason.lower(), drop.kernel_reason.lower()}:
            return
        if drop.reason in ORDINARY | _NOISE and not wanted.ordinary and not wanted.reasons:
            self.counts.ordinary += 1
            return
        self.show(drop)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that a group of tasks ended by; a bug before what is for a person."""
    _, others = group.split(PodlaneError)
    return others or group.exceptions[0]


def _own_namespace() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


def of_podlane(flow: Any) -> Seen:
    """Return a drop that podlane tells of."""
    event, packet = flow.event, flow.event.packet
    isolated = f"isolated by {', '.join(flow.isolated_by)}" if flow.isolated_by else ""
    concerned = {event.endpoint_id, packet.peer_endpoint_id, flow.source.endpoint_id, flow.destination.endpoint_id}
    is_icmp = packet.protocol_number in {1, 58}
    flags = sum(1 << _FLAGS.index(name) for name in packet.tcp_flags if name in _FLAGS)
    return Seen(
        time=event.time.seconds + event.time.nanos / 1e9,
        by=PODLANE,
        reason=event.drop.reason,
        place=event.drop.source,
        explanation=isolated,
        endpoint=event.endpoint_id,
        endpoints=frozenset(concerned - {0}),
        source=_address(packet.source),
        destination=_address(packet.destination),
        source_name=flow.source.name if flow.source.endpoint_id else "",
        destination_name=flow.destination.name if flow.destination.endpoint_id else "",
        source_port=packet.source_port,
        destination_port=packet.icmp_type if is_icmp else packet.destination_port,
        protocol=packet.protocol_number,
        has_ports=bool(packet.protocol_number),
        flags=packet.icmp_code if is_icmp else flags,
        length=packet.length,
    )


def _address(message: Any) -> str:
    return str(ip_address(message.packed)) if message.packed else ""
