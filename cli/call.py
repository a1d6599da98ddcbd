"""One unary call as the shim makes it: without grpcio and asyncio, whose imports take longer than a command may.

    connect → send → message, or the PodlaneError that the service raised

A request that doesn't fit a frame (policy documents), an answer that may be longer than the shim's window (`long`) and
a peer that speaks more HTTP/2 go by grpcio, as streams do. A service that doesn't listen is waited for, because it may
be restarting, but not for long; then the error says what is at its socket and what to do.
"""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cli import unreachable
from cni import http2
from cni.hpack import Unsupported
from cni.http2 import CallFailed
from services.common import errors
from services.common.errors import PodlaneError

Answer = TypeVar("Answer")

_LOOK = 0.05
# grpc.health.v1.HealthCheckResponse with `status` SERVING: one field, number 1.
_SERVING = b"\x08\x01"
_HEALTH = "/grpc.health.v1.Health/Check"
_KINDS: dict[int, type[PodlaneError]] = {
    http2.INVALID_ARGUMENT: errors.InvalidArgument,
    http2.NOT_FOUND: errors.NotFound,
    http2.ALREADY_EXISTS: errors.AlreadyExists,
    http2.RESOURCE_EXHAUSTED: errors.Exhausted,
    http2.FAILED_PRECONDITION: errors.FailedPrecondition,
    http2.UNAVAILABLE: errors.Unavailable,
    http2.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}
# Codes that gRPC's own server and client give, too, and then without a word of ours.
_LATE = (http2.DEADLINE_EXCEEDED, http2.CANCELLED)


def call(name: str, socket: Path, method: Any, request: Any, *, timeout: float, wait: float) -> Any:
    """Call `method`, a descriptor, of podlane-`name` and return its message; both times in seconds.

    Raises what the service raised, Unavailable, DeadlineExceeded, or `hpack.Unsupported`: grpcio must do it.
    """
    from google.protobuf.message_factory import GetMessageClass

    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        deadline, sent = time.monotonic() + timeout, request.SerializeToString()
        answer = _patient(lambda: http2.call(str(socket), path, sent, deadline, _request_id()), min(wait, timeout))
    except CallFailed as failed:
        raise translated(failed, name, socket, timeout) from None
    return GetMessageClass(method.output_type).FromString(answer)


def reach(name: str, socket: Path, wait: float) -> None:
    """See that somebody listens. Raises Unavailable."""
    try:
        _patient(lambda: http2.connect(str(socket), time.monotonic() + 2.0).close(), wait)
    except CallFailed as failed:
        raise translated(failed, name, socket, wait) from None


def _patient(attempt: Callable[[], Answer], wait: float) -> Answer:
    """Return what an attempt returns, as soon as somebody listens."""
    patience = time.monotonic() + wait
    while True:
        try:
            return attempt()
        except CallFailed as failed:
            if failed.reached or failed.forbidden or time.monotonic() >= patience:
                raise
        select.select((), (), (), _LOOK)


def _request_id() -> str:
    return os.urandom(6).hex()


def health(socket: Path) -> str:
    """Return `serving`, `not serving` or `down`."""
    try:
        answer = http2.call(str(socket), _HEALTH, b"", time.monotonic() + 2.0, _request_id())
    except (CallFailed, Unsupported):
        return "down"
    return "serving" if answer == _SERVING else "not serving"


def translated(failed: CallFailed, name: str, socket: Path, timeout: float) -> PodlaneError:
    """Return what a call failed with, as the service raised it, or why there was no answer."""
    facts = {"service": name, "socket": socket}
    if failed.details and (told := _told(failed)) is not None:
        return told
    if failed.code in _LATE:
        return errors.DeadlineExceeded(unreachable.late(name, socket, timeout), **facts)
    if failed.code == http2.UNIMPLEMENTED:
        return errors.FailedPrecondition(
            f"podlane-{name} does not know this call, so it is older than who asks: restart it", **facts
        )
    if not failed.reached:
        return errors.Unavailable(unreachable.reason(name, socket, failed.errno), **facts)
    if failed.code == http2.UNAVAILABLE:
        return errors.Unavailable(unreachable.broke(name, socket, failed.message), **facts)
    return errors.Internal(failed.message or f"podlane-{name} failed without a word; see its log", **facts)


def _told(failed: CallFailed) -> PodlaneError | None:
    """Return the error that the service raised, by its code, as client.py does; None when it has another form."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    info = error_details_pb2.ErrorInfo()
    try:
        for detail in status_pb2.Status.FromString(failed.details).details:
            if detail.Unpack(info):
                return _KINDS.get(failed.code, errors.Internal)(failed.message, **dict(info.metadata))
    except DecodeError:
        pass
    return None
