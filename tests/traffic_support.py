"""Traffic that goes on while things happen: what a running pod would notice.

with Pings(one, *addresses) as pings, TcpStream(one, other, address) as stream:
    ...                     # kill something
    stream.goes_on()
assert pings.lost == []
"""

import re
import select
import signal
import socket
import subprocess
import threading
from typing import Any, Self

from tests.netns_support import in_netns
from tests.node_support import Pod

PATIENCE = 20.0
_COUNTS = re.compile(r"(\d+) packets transmitted, (\d+) received")


class Pings:
    """Echo requests from a pod to each address, `every` so many seconds. Below 0.01 ping(8) keeps a CPU busy."""

    def __init__(self, pod: Pod, *addresses: str, every: float = 0.005) -> None:
        """Name them."""
        self._pod = pod
        self._every = every
        self._addresses = addresses
        self.lost: list[str] = []
        """After the block: the addresses that left a request without an answer."""

    def __enter__(self) -> Self:
        """Start, and wait for the first answers."""
        self._processes = [
            subprocess.Popen(
                ["nsenter", f"--net={self._pod.path}", "ping", "-n", "-i", str(self._every), "-W", "2", address],
                stdout=subprocess.PIPE,
                text=True,
            )
            for address in self._addresses
        ]
        for process in self._processes:
            assert process.stdout is not None
            while "bytes from" not in process.stdout.readline():
                assert process.poll() is None, "ping ended at once"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and count. The last request may be on its way when the signal comes: it doesn't count."""
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for address, process in zip(self._addresses, self._processes, strict=True):
            told, _error = process.communicate(timeout=PATIENCE)
            counted = _COUNTS.search(told)
            assert counted is not None, told
            sent, received = map(int, counted.groups())
            if sent - received > 1:
                self.lost.append(f"{address}: {sent - received} of {sent}")


class TcpStream:
    """One TCP connection between two pods: numbers go to and fro, each is sent when the one before has come back."""

    def __init__(self, client: Pod, server: Pod, address: str) -> None:
        """Name the ends; `address` is the server's."""
        self._ends = (client, server)
        self._address = address
        self._stopping = False
        self._came = threading.Condition()
        self._count = 0
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        """Connect and begin."""
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        sockets = [in_netns(pod.path, lambda: socket.socket(family, socket.SOCK_STREAM)) for pod in self._ends]
        self._client, listener = sockets
        with listener:
            listener.bind((self._address, 0))
            listener.listen()
            self._client.settimeout(PATIENCE)
            self._client.connect(listener.getsockname()[:2])
            self._server, _peer = listener.accept()
        self._server.settimeout(PATIENCE)
        self._threads = [threading.Thread(target=self._echo), threading.Thread(target=self._count_up)]
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        """End it; a connection that broke meanwhile fails the test."""
        self._stopping = True
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()
        if self._failure is not None:
            raise self._failure

    def goes_on(self) -> None:
        """Wait for ten more numbers to come back."""
        with self._came:
            target = self._count + 10
            came = self._came.wait_for(lambda: self._count >= target or self._failure is not None, PATIENCE)
        if self._failure is not None:
            raise self._failure
        assert came, f"the stream to {self._address} stands still at {self._count}"

    def _echo(self) -> None:
        while data := self._server.recv(64):
            self._server.sendall(data)

    def _count_up(self) -> None:
        try:
            while not self._stopping:
                sent = (self._count + 1).to_bytes(8, "big")
                self._client.sendall(sent)
                back = self._client.recv(8, socket.MSG_WAITALL)
                assert back == sent, f"{sent!r} came back as {back!r}"
                with self._came:
                    self._count += 1
                    self._came.notify_all()
                # A pod that talks all the time would leave the services no CPU.
                select.select([], [], [], 0.001)
        except BaseException as error:  # noqa: BLE001 - carried to the test's thread
            with self._came:
                self._failure = error
                self._came.notify_all()
        finally:
            self._client.shutdown(socket.SHUT_WR)


class Echo:
    """A server in a pod that sends back what it gets, over TCP and both families."""

    def __init__(self, pod: Pod, port: int) -> None:
        """Name where it listens."""
        self._pod = pod
        self._port = port

    def __enter__(self) -> Self:
        """Listen."""
        self._listener = in_netns(self._pod.path, lambda: socket.create_server(("::", self._port), **_BOTH))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(PATIENCE)
                while came := connection.recv(65536):
                    connection.sendall(came)


_BOTH: Any = {"family": socket.AF_INET6, "dualstack_ipv6": True}


def echoes(netns: str, address: str, port: int, patience: float = PATIENCE, size: int = 1) -> bool:
    """Return whether an Echo is reached at an address from the namespace that a path names; `size` bytes go and come.

    Whoever expects that it isn't, waits for `patience`.
    """
    try:
        connection = in_netns(netns, lambda: socket.create_connection((address, port), patience))
    except OSError:
        return False
    with connection:
        sender = threading.Thread(target=connection.sendall, args=(bytes(size),))
        sender.start()
        came = 0
        while came < size and (part := connection.recv(65536)):
            came += len(part)
        sender.join()
    return came == size
