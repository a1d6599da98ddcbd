"""The edge of a service: the gRPC server on its Unix socket, and the one place where errors become status codes.

Every RPC passes one interceptor, which binds the request id to the log context, lets domain errors through as
`google.rpc.Status` with an ErrorInfo, answers anything unforeseen with INTERNAL and an id (the traceback goes to the
log, never to the caller), and writes one canonical line per call. Handlers are wrapped once per method, not once
per call: at thousands of calls a second that is the difference between paying and not paying for this file.

Health (`grpc.health.v1`) says NOT_SERVING until `serving(True)`; reflection is always on, and so is LogService, because
a process has one log whatever it serves.
"""

# grpc's stubs make RpcMethodHandler generic, its code does not: annotations must not be evaluated.
from __future__ import annotations

import asyncio
import inspect
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from services.common import errors, log_service, sockets, telemetry

DOMAIN = "podlane"
REQUEST_ID = "x-request-id"

CODES: dict[type[errors.PodlaneError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CorruptState: grpc.StatusCode.DATA_LOSS,
    errors.Internal: grpc.StatusCode.INTERNAL,
}

# Messages of a long list: 10,000 allocations are about 2 MiB.
OPTIONS = (("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20))

_log = telemetry.logger("edge")
Handler = Callable[[Any, Any], Any]
Observe = Callable[[str, str, float | None], None]
"""Told of each call that ends: method, status code, seconds in the handler (None: a stream)."""


def _unobserved(_method: str, _code: str, _seconds: float | None) -> None:
    """Nobody counts."""


def status_of(error: errors.PodlaneError) -> grpc.Status:
    """Return an error as rich status: code, sentence, and an ErrorInfo with the class name and the fields."""
    code = _status_code(error)
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN, metadata=error.fields))
    message = status_pb2.Status(code=code.value[0], message=error.message, details=[detail])
    status: grpc.Status = rpc_status.to_status(message)
    return status


def _status_code(error: errors.PodlaneError) -> grpc.StatusCode:
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


class Edge(grpc.aio.ServerInterceptor):
    """Request id, errors, log. `quiet` method names are logged at debug level only."""

    def __init__(self, quiet: frozenset[str], observe: Observe) -> None:
        """Start with no handler wrapped."""
        self._quiet = quiet
        self._observe = observe
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any] | None] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the wrapped handler of the method, made at its first call; None is UNIMPLEMENTED."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            self._wrapped[method] = self._wrap(method, handler) if handler is not None else None
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        name = method.rpartition("/")[2]
        quiet = name in self._quiet or not method.startswith("/podlane.")
        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _unary(handler.unary_unary, name, quiet, self._observe), **serializers
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                _unary(handler.stream_unary, name, quiet, self._observe), **serializers
            )
        # Health's Watch is of grpc's other kind of stream: a coroutine that writes to the context itself.
        if handler.unary_stream and inspect.isasyncgenfunction(handler.unary_stream):
            return grpc.unary_stream_rpc_method_handler(
                _stream(handler.unary_stream, name, quiet, self._observe), **serializers
            )
        wrapped: grpc.RpcMethodHandler[Any, Any] = handler  # grpc's own code: health's and reflection's streams
        return wrapped


def _unary(inner: Handler, name: str, quiet: bool, observe: Observe) -> Handler:
    async def call(request: Any, context: Any) -> Any:
        begin = _begin(context)
        try:
            response = await inner(request, context)
        except BaseException as error:
            observe(name, _code(error, context), time.perf_counter() - begin)
            await _fail(error, name, begin, context)
            raise
        observe(name, "OK", time.perf_counter() - begin)
        _done(name, begin, quiet)
        return response

    return call


def _stream(inner: Handler, name: str, quiet: bool, observe: Observe) -> Handler:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        begin = _begin(context)
        try:
            async for response in inner(request, context):
                yield response
        except (GeneratorExit, asyncio.CancelledError):
            observe(name, "CANCELLED", None)
            _done(name, begin, quiet=True)
            raise
        except Exception as error:
            observe(name, _code(error, context), None)
            await _fail(error, name, begin, context)
            raise
        observe(name, "OK", None)
        _done(name, begin, quiet)

    return call


def _begin(context: Any) -> float:
    given = next((value for key, value in context.invocation_metadata() or () if key == REQUEST_ID), None)
    structlog.contextvars.bind_contextvars(request_id=given or os.urandom(6).hex())
    return time.perf_counter()


def _milliseconds(begin: float) -> float:
    return round((time.perf_counter() - begin) * 1e3, 3)


def _done(name: str, begin: float, quiet: bool) -> None:
    write = _log.debug if quiet else _log.info
    write("rpc", method=name, code="OK", ms=_milliseconds(begin))


def _code(error: BaseException, context: Any) -> str:
    """Return the name of the status code that a failed call ends with."""
    if isinstance(error, errors.PodlaneError):
        return _status_code(error).name
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    aborted = isinstance(error, grpc.aio.AbortError) and isinstance(context.code(), grpc.StatusCode)
    return str(context.code().name) if aborted else "INTERNAL"


async def _fail(error: BaseException, name: str, begin: float, context: Any) -> None:
    """Log the failure and abort the call; returns only for what grpc must see itself."""
    took = _milliseconds(begin)
    if isinstance(error, errors.PodlaneError):
        status = status_of(error)
        write = _log.error if isinstance(error, errors.Internal) else _log.info
        write("rpc", method=name, code=status.code.name, ms=took, error=error.message, **error.fields)
        await context.abort_with_status(status)
    if isinstance(error, grpc.aio.AbortError):
        return
    if isinstance(error, asyncio.CancelledError):
        _log.info("rpc", method=name, code="CANCELLED", ms=took)
        return
    incident = uuid.uuid4().hex[:12]
    _log.error("rpc", method=name, code="INTERNAL", ms=took, incident=incident, exc_info=error)
    internal = errors.Internal(f"internal error {incident}: the service's log has the details", incident=incident)
    await context.abort_with_status(status_of(internal))


class _Symbols:
    """What reflection describes. protobuf's pool doesn't find a method by its name, which people ask for most."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - the pool's name for it
        """Return the file of a symbol, of a method by its service. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service = self._pool.FindServiceByName(symbol.rpartition(".")[0])
            return service.FindMethodByName(symbol.rpartition(".")[2]).containing_service.file

    def __getattr__(self, name: str) -> Any:
        """Everything else is the pool's."""
        return getattr(self._pool, name)


class Server:
    """The gRPC server of one service on a private Unix socket.

    `register` adds the servicers; `names` are their full names for health and reflection.
    """

    def __init__(
        self,
        socket: Path,
        names: Sequence[str],
        register: Callable[[grpc.aio.Server], None],
        quiet: frozenset[str] = frozenset(),
        observe: Observe = _unobserved,
    ) -> None:
        """Wire everything; nothing is bound before `start`. `observe` is told of each call that ends."""
        self._socket = socket
        self._names = (*names, log_service.NAME)
        self._register = register
        self._quiet = quiet | log_service.QUIET
        self._observe = observe
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Bind the socket and answer, NOT_SERVING. Raises Unavailable when another process serves there."""
        sockets.prepare(self._socket)
        self._server = grpc.aio.server(interceptors=[Edge(self._quiet, self._observe)], options=OPTIONS)
        self._register(self._server)
        log_service.register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        pool: Any = _Symbols()
        reflection.enable_server_reflection(names, self._server, pool=pool)
        await self.serving(ready=False)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    async def serving(self, *, ready: bool) -> None:
        """Tell health whether the service can do its work."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self) -> None:
        """Refuse new calls, let running ones finish for at most five seconds, close the socket."""
        if self._server is not None:
            await self.serving(ready=False)
            await self._server.stop(5.0)
            self._server = None
