"""The same unary call by grpcio, for what http2.py does not understand: a long request, a peer with other habits.

It costs 80 ms, which is why it isn't the first choice, and it is found in the environment that the plugin was installed
from. Messages stay bytes on both sides: protobuf is not needed.
"""

import sys

from cni import http2
from cni.http2 import CallFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    ("grpc.max_receive_message_length", http2.WINDOW),
    ("grpc.enable_http_proxy", 0),
)
DETAILS_KEY = "grpc-status-details-bin"
# What grpcio says by itself, without a word from the service.
LOCAL_CODES = (
    http2.UNAVAILABLE,
    http2.DEADLINE_EXCEEDED,
    http2.CANCELLED,
    http2.INTERNAL,
    http2.UNKNOWN,
)


def call(
    socket_path: str, method: str, request: bytes, deadline: float, request_id: str, *, library: list[str]
) -> bytes:
    """Call `method` and return the response message, as http2.call does. Raises CallFailed."""
    grpc = _load(library)
    # grpcio can't say whether a call that failed had reached anybody; a connection that doesn't come about can.
    http2.connect(socket_path, deadline).close()
    try:
        timeout = http2.left(deadline)
    except TimeoutError:
        raise CallFailed(http2.DEADLINE_EXCEEDED, "no answer in time", reached=True) from None
    with grpc.insecure_channel(f"unix:{socket_path}", options=OPTIONS) as channel:
        try:
            answer: bytes = channel.unary_unary(method)(
                request, timeout=timeout, metadata=(("x-request-id", request_id),)
            )
        except grpc.RpcError as error:
            raise _failure(error) from None
    return answer


def _load(library: list[str]) -> "Any":
    import os

    # Its own opinions on broken connections would end in the runtime's log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.path += [directory for directory in library if directory not in sys.path]
    try:
        import grpc
    except ImportError as error:
        message = f"the quick way doesn't do for this call and grpcio can't be loaded: {error}"
        raise CallFailed(http2.INTERNAL, message, reached=True) from None
    return grpc


def _failure(error: "Any") -> CallFailed:
    code: int = error.code().value[0]
    details = next((value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY), b"")
    answered = bool(details) or code not in LOCAL_CODES
    return CallFailed(code, error.details() or "", reached=True, answered=answered, details=details)
