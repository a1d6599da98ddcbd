"""How one service calls another: a channel to its Unix socket, and errors that arrive as they were raised.

Every call has a timeout, there is no default. A peer that is restarting is waited for, but only `wait` seconds:
gRPC's own back-off grows to minutes, and a runtime waits for the answer. Only this file and `edge.py` know that errors
have gRPC codes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.common import edge, errors, telemetry

Reply = TypeVar("Reply")

# The trailer that carries google.rpc.Status (gRPC, "Richer error model").
_DETAILS = "grpc-status-details-bin"
_KINDS = {code: kind for kind, code in edge.CODES.items()}
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.max_receive_message_length", 64 << 20),
    # Two channels of one process to one socket must not share a connection's fate.
    ("grpc.use_local_subchannel_pool", 1),
)


class Peer:
    """The channel to one service. `name` is how errors call it: `ipam`, `loader`, `endpoint`."""

    def __init__(self, name: str, socket: Path, wait: float) -> None:
        """Remember where; `start` makes the channel."""
        self._name = name
        self._socket = socket
        self._wait = wait
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel that stubs are made of."""
        if self._channel is None:
            raise errors.Internal(f"the channel to {self._name} is not open")
        return self._channel

    @property
    def away(self) -> bool:
        """Whether the last attempt to connect has failed, or one is under way."""
        lost = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.CONNECTING)
        return self._channel is not None and self._channel.get_state() in lost

    async def start(self) -> None:
        """Make the channel; it connects by itself, now and after every loss."""
        self._channel = grpc.aio.insecure_channel(f"unix:{self._socket}", options=_OPTIONS)
        self._channel.get_state(try_to_connect=True)

    async def stop(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def call(self, method: Any, request: Any, *, timeout: float) -> Any:
        """Call a unary method of a stub, or with an iterator of requests one that takes a stream of them.

        Raises what the service raised, or Unavailable or DeadlineExceeded.
        """
        await self._ready(timeout)
        try:
            return await method(request, timeout=timeout, metadata=_metadata())
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None

    async def stream(
        self, method: Any, request: Any, *, begun: Callable[[], Awaitable[None] | None] = lambda: None
    ) -> AsyncIterator[Any]:
        """Call a server-streaming method; it ends when the service ends it, or raises as `call` does.

        `begun` is called, and awaited, when the service has sent its header, maybe before there is a message.
        """
        await self._ready(self._wait)
        call = method(request, metadata=_metadata())
        try:
            await call.initial_metadata()
            if (beginning := begun()) is not None:
                await beginning
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        finally:
            # A generator that is closed between two messages would leave the call to the collector, and its service
            # with a listener that hears nothing.
            call.cancel()

    async def _ready(self, timeout: float) -> None:
        channel = self.channel
        if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        try:
            await asyncio.wait_for(channel.channel_ready(), min(self._wait, timeout))
        except TimeoutError:
            raise self._down() from None

    def _down(self) -> errors.Unavailable:
        return errors.Unavailable(
            f"podlane-{self._name} does not answer on {self._socket}: see `podlane node status` and its log",
            service=self._name,
            socket=self._socket,
        )

    def _translate(self, error: grpc.aio.AioRpcError) -> errors.PodlaneError:
        code, message = error.code(), error.details() or ""
        reason = error_info(error)
        if reason is None and code is grpc.StatusCode.UNAVAILABLE:
            return self._down()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(
                f"podlane-{self._name} did not finish in time", service=self._name, socket=self._socket
            )
        if reason is None and code is grpc.StatusCode.UNIMPLEMENTED:
            return errors.FailedPrecondition(
                f"podlane-{self._name} does not know this call, so it is older than who asks: restart it",
                service=self._name,
                socket=self._socket,
            )
        kind = _KINDS.get(code, errors.Internal)
        fields = dict(reason.metadata) if reason is not None else {}
        return kind(message, **fields)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """Return the ErrorInfo in a failed call's trailers, or None: the error did not come from podlane."""
    trailers = error.trailing_metadata() if isinstance(error, grpc.aio.AioRpcError) else None
    for key, value in trailers or ():
        if key == _DETAILS:
            info = error_details_pb2.ErrorInfo()
            packed = value if isinstance(value, bytes) else value.encode()
            for detail in status_pb2.Status.FromString(packed).details:
                if detail.Unpack(info):
                    return info
    return None


def _metadata() -> tuple[tuple[str, str], ...]:
    request_id = telemetry.request_id()
    return ((edge.REQUEST_ID, request_id),) if request_id else ()
