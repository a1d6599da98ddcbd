"""Real packets of every kind from everybody to everybody: what the kernel lets pass.

    with Prober(node, {end: netns path}) as prober:
        prober.answers(probes)     # probe → whether it came through

Nobody waits for a packet that doesn't come: the datapath tells of each that it drops, so a round is over when every
probe has arrived or was told of. TCP is a connection (so replies pass), UDP a datagram
that the other end has received, ICMP an echo and its reply.
"""

import contextlib
import errno
import re
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Self

from podlane.loader.v1 import loader_pb2

from tests.agreement import Agreement
from tests.netns_support import in_netns
from tests.policy_oracle import End, Probe, address_of

# Probes of one round: the loader tells of 64 drops of each CPU in 20 ms.
_ROUND = 60
_PATIENCE = 15.0
_ECHO = {4: (8, 0), 6: (128, 129)}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_IDENTIFIER = re.compile(r"echo request id (\d+)")
_DENIED = {"policy", "policy deny", "ports missing"}


Flow = tuple[str, int, str, int]
"""Source and its port or identifier, destination and its port."""


class Prober:
    """Listeners everywhere, and senders as they are needed."""

    def __init__(self, agreement: Agreement, places: Mapping[End, str], tcp: Sequence[int], udp: Sequence[int]) -> None:
        """`places` are the namespaces of the ends; everybody listens at these ports."""
        self._agreement = agreement
        self._places = places
        self._tcp, self._udp = tcp, udp
        self._open = contextlib.ExitStack()
        self._listeners: list[socket.socket] = []
        self._receivers: list[socket.socket] = []
        self._echoes: dict[tuple[str, int, str], socket.socket] = {}
        self._dropped: set[Flow] = set()
        # Flows outlive a prober, so each begins somewhere else.
        self._number = secrets.randbelow(1 << 24)

    def __enter__(self) -> Self:
        """Listen."""
        for path in set(self._places.values()):
            in_netns(path, self._listen)
        self._open.enter_context(self._agreement.watch(loader_pb2.EVENT_TYPE_DROP, self._hear))
        return self

    def _hear(self, event: loader_pb2.WatchEventsResponse) -> None:
        """Take note of a dropped packet."""
        assert not event.HasField("lost"), event
        if event.drop.reason in _DENIED:
            packet = event.packet
            echo = _IDENTIFIER.search(event.summary)
            source, destination = (str(ip_address(one.packed)) for one in (packet.source, packet.destination))
            port = int(echo[1]) if echo is not None else packet.source_port
            self._dropped.add((source, port, destination, packet.destination_port))

    def __exit__(self, *_: object) -> None:
        """Close everything."""
        self._open.close()

    def answers(self, probes: Iterable[Probe]) -> dict[Probe, bool]:
        """Send all; return what came through."""
        listed = list(probes)
        found: dict[Probe, bool] = {}
        for start in range(0, len(listed), _ROUND):
            found |= self._round(listed[start : start + _ROUND])
        return found

    def _listen(self) -> None:
        for family in _FAMILIES.values():
            for kind, ports in ((socket.SOCK_STREAM, self._tcp), (socket.SOCK_DGRAM, self._udp)):
                for port in ports:
                    one = self._open.enter_context(socket.socket(family, kind))
                    one.setblocking(False)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    one.bind(("", port))
                    if kind == socket.SOCK_STREAM:
                        one.listen(256)
                    (self._listeners if kind == socket.SOCK_STREAM else self._receivers).append(one)

    def _echoing(self, path: str, version: int, source: str) -> socket.socket:
        """Return what sends echo requests from an address, and hears their replies."""
        key = (path, version, source)
        if key not in self._echoes:
            self._echoes[key] = in_netns(path, lambda: self._echo_socket(version))
            self._echoes[key].bind((source, 0))
        return self._echoes[key]

    def _echo_socket(self, version: int) -> socket.socket:
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        one = self._open.enter_context(socket.socket(_FAMILIES[version], socket.SOCK_RAW, protocol))
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        return one

    def _round(self, probes: Sequence[Probe]) -> dict[Probe, bool]:
        numbered = {self._number + place: probe for place, probe in enumerate(probes, 1)}
        self._number += len(probes)
        came: set[int] = set()
        self._dropped.clear()
        with contextlib.ExitStack() as opened:
            waiting: dict[int, tuple[int, socket.socket]] = {}
            flows = {number: self._send(number, probe, opened, waiting) for number, probe in numbered.items()}
            deadline = time.monotonic() + _PATIENCE
            while left := [number for number in numbered if number not in came and flows[number] not in self._dropped]:
                assert time.monotonic() < deadline, [numbered[number] for number in left]
                self._gather(waiting, came)
            self._gather(waiting, came)
        self._hang_up()
        return {probe: number in came for number, probe in numbered.items()}

    def _send(
        self,
        number: int,
        probe: Probe,
        opened: contextlib.ExitStack,
        waiting: dict[int, tuple[int, socket.socket]],
    ) -> Flow:
        """Send a probe; return its flow. One that connects is put to those that wait."""
        path, family = self._places[probe.source], _FAMILIES[probe.version]
        source, destination = address_of(probe.source, probe.version), address_of(probe.destination, probe.version)
        assert source is not None
        assert destination is not None
        if probe.port is None:
            request, _ = _ECHO[probe.version]
            _send(self._echoing(path, probe.version, source), _echo(request, number), (destination, 0))
            return source, _identify(number)[0], destination, 0
        kind = socket.SOCK_STREAM if probe.protocol == "TCP" else socket.SOCK_DGRAM
        one = opened.enter_context(in_netns(path, lambda: socket.socket(family, kind)))
        one.setblocking(False)
        one.bind((source, 0))
        flow = (source, one.getsockname()[1], destination, probe.port)
        if kind == socket.SOCK_DGRAM:
            _send(one, number.to_bytes(4, "big"), (destination, probe.port))
            return flow
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT by the thousand
        with contextlib.suppress(BlockingIOError):
            one.connect((destination, probe.port))
        waiting[one.fileno()] = (number, one)
        return flow

    def _gather(self, waiting: dict[int, tuple[int, socket.socket]], came: set[int]) -> None:
        """Take note of what has arrived, waiting a moment for the first of it."""
        poll = select.poll()
        for one in (*self._receivers, *self._echoes.values()):
            poll.register(one, select.POLLIN)
        for descriptor in waiting:
            poll.register(descriptor, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(5)}
        for descriptor in ready & waiting.keys():
            number, one = waiting.pop(descriptor)
            error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            assert not error, f"probe {number} was refused with error {error}"
            came.add(number)
        for one in self._receivers:
            while one.fileno() in ready and (data := _receive(one)):
                came.add(int.from_bytes(data, "big"))
        for (_, version, _), one in self._echoes.items():
            while one.fileno() in ready and (data := _receive(one)):
                came |= _replied(data, version)

    def _hang_up(self) -> None:
        """Accept and close what has connected, so that no listener's queue fills."""
        for one in self._listeners:
            with contextlib.suppress(BlockingIOError):
                while True:
                    one.accept()[0].close()


def _send(one: socket.socket, data: bytes, to: tuple[str, int]) -> None:
    """Send; what a program drops on the sender's own way out is ENOBUFS to it (net_xmit_errno), and counted as all."""
    try:
        one.sendto(data, to)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise


def _receive(one: socket.socket) -> bytes:
    try:
        return one.recv(2048)
    except BlockingIOError:
        return b""


def _echo(kind: int, number: int) -> bytes:
    """Return an echo request (RFC 792); of ICMPv6 the kernel writes the checksum."""
    identifier, sequence = _identify(number)
    total = (kind << 8) + identifier + sequence
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", kind, 0, ~(total + (total >> 16)) & 0xFFFF, identifier, sequence)


def _identify(number: int) -> tuple[int, int]:
    """Return identifier and sequence number of an echo: each has a flow of its own, and 0 is nobody's."""
    return 1 + number % 0xFFFF, number // 0xFFFF


def _replied(data: bytes, version: int) -> set[int]:
    """Return the number of an echo reply; a raw socket hears of other messages, too."""
    header = (data[0] & 0xF) * 4 if version == 4 else 0
    kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", data, header)
    return {sequence * 0xFFFF + identifier - 1} if kind == _ECHO[version][1] else set()
