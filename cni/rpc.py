"""One gRPC call from tables to tables, and what its failure means to a runtime.

    gRPC                                  CNI   may it have happened?
    INVALID_ARGUMENT of a variable        4     no
    INVALID_ARGUMENT of anything else     7     no
    NOT_FOUND of the network namespace    4     no
    NOT_FOUND of the pool                 7     no
    NOT_FOUND of anything else            102   no
    FAILED_PRECONDITION                   102   no
    ALREADY_EXISTS                        103   no
    RESOURCE_EXHAUSTED                    11    no    addresses come back when pods go: a retry is right
    no connection                         11    no    5 when it is the permissions
    UNAVAILABLE, ABORTED                  11    yes
    DEADLINE_EXCEEDED, CANCELLED          11    yes
    UNIMPLEMENTED                         104   no    the service is older than the plugin
    anything else                         104   yes

"No" are the refusals of which the contract says that they leave nothing behind. After "yes" the step has to be
undone although its answer never came.
"""

from cni import http2, spec
from cni.hpack import Unsupported
from cni.http2 import CallFailed
from cni.wire import BYTES, MESSAGES, TEXT, TEXT_MAP, Message, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.messages import Method
    from cni.wire import Values

CODE_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
CNI_CODES = {
    http2.INVALID_ARGUMENT: spec.BAD_CONFIG,
    http2.NOT_FOUND: spec.PRECONDITION,
    http2.FAILED_PRECONDITION: spec.PRECONDITION,
    http2.ALREADY_EXISTS: spec.CONFLICT,
    http2.RESOURCE_EXHAUSTED: spec.TRY_AGAIN,
    http2.UNAVAILABLE: spec.TRY_AGAIN,
    http2.ABORTED: spec.TRY_AGAIN,
    http2.DEADLINE_EXCEEDED: spec.TRY_AGAIN,
    http2.CANCELLED: spec.TRY_AGAIN,
}
REFUSALS = (
    http2.INVALID_ARGUMENT,
    http2.NOT_FOUND,
    http2.ALREADY_EXISTS,
    http2.RESOURCE_EXHAUSTED,
    http2.FAILED_PRECONDITION,
    http2.UNIMPLEMENTED,
)
LATER = (http2.UNAVAILABLE, http2.DEADLINE_EXCEEDED, http2.CANCELLED)
# Fields of requests that come from the environment: the message's own name may stand before the last part.
ENVIRONMENT_FIELDS = ("netns_path", "container_id", "ifname", "pod")

# google.rpc.Status, google.protobuf.Any, google.rpc.ErrorInfo.
_ERROR_INFO = Message("ErrorInfo", (1, "reason", TEXT), (2, "domain", TEXT), (3, "metadata", TEXT_MAP))
_ANY = Message("Any", (1, "type_url", TEXT), (2, "value", BYTES))
_STATUS = Message("Status", (3, "details", MESSAGES, _ANY))


class StepFailed(spec.CniError):
    """A call failed.

    `may_have_happened`: the service may have done all the same what it was asked for.
    `later`: the service, or one that it needs, is away or too slow: the same call may succeed later.
    `away`: nobody took the call, or whoever did was gone before there was an answer.
    """

    def __init__(
        self, code: int, message: str, details: str, *, may_have_happened: bool, later: bool = False, away: bool = False
    ) -> None:
        """Keep all of it."""
        super().__init__(code, message, details)
        self.may_have_happened = may_have_happened
        self.later = later
        self.away = away


def call(
    socket_path: str, method: "Method", values: "Values", deadline: float, request_id: str, *, library: list[str]
) -> "Values":
    """Call and return the response's fields, and with them why grpcio made the call and whether it was the second one.

    `detour` is the reason, "" when there was none; `repeated` is True when the service had been asked before.
    `library` are the directories where grpcio is found. Raises StepFailed.
    """
    request = method.request.encode(values)
    detour, repeated = "", False
    try:
        try:
            answer = http2.call(socket_path, method.path, request, deadline, request_id)
        except Unsupported as unsupported:
            from cni import fallback

            detour, repeated = str(unsupported), unsupported.reached
            answer = fallback.call(socket_path, method.path, request, deadline, request_id, library=library)
        response = method.response.decode(answer)
    except CallFailed as failed:
        raise _translated(failed, socket_path, method) from None
    except WireError as error:
        message = f"podlane-{method.service} answered {method.name} with something that is no {error}"
        raise StepFailed(spec.SERVICE_FAILURE, message, "", may_have_happened=True) from None
    response["detour"], response["repeated"] = detour, repeated
    return response


def _translated(failed: CallFailed, socket_path: str, method: "Method") -> StepFailed:
    name = CODE_NAMES[failed.code] if failed.code < len(CODE_NAMES) else str(failed.code)
    whom = f"podlane-{method.service}"
    # A server cuts a call off at its deadline with a status of its own, which says nothing that isn't known.
    if failed.answered and failed.code not in (http2.DEADLINE_EXCEEDED, http2.CANCELLED):
        fields = _error_fields(failed.details)
        facts = "".join(f" {key}={value}" for key, value in fields.items())
        details = f"{whom} {method.name} at {socket_path}: {name}{facts}"
        return StepFailed(
            _cni_code(failed.code, fields.get("field", failed.message.partition(":")[0])),
            failed.message or f"{whom} failed {method.name} with {name} and no message",
            details,
            may_have_happened=failed.code not in REFUSALS,
            later=failed.code == http2.UNAVAILABLE,
        )
    if not failed.reached:
        return _not_reached(failed, socket_path, whom)
    return StepFailed(
        CNI_CODES.get(failed.code, spec.SERVICE_FAILURE),
        f"{whom} did not answer {method.name} at {socket_path}: {failed.message}",
        f"{name}; `podlane node status` and the service's log tell more",
        may_have_happened=True,
        later=failed.code in LATER,
        away=failed.code == http2.UNAVAILABLE,
    )


def _not_reached(failed: CallFailed, socket_path: str, whom: str) -> StepFailed:
    code, fix = spec.TRY_AGAIN, f"start it with `podlane node up` or `systemctl start {whom}`"
    if failed.forbidden:
        code, fix = spec.IO_FAILURE, "the plugin must run as root or in the socket's group"
    message = f"{whom} can't be reached at {socket_path}: {failed.message}"
    later = not failed.forbidden
    return StepFailed(code, message, fix, may_have_happened=False, later=later, away=later)


def _cni_code(code: int, field: str) -> int:
    parts = field.replace("[", ".").split(".")
    if code in (http2.INVALID_ARGUMENT, http2.NOT_FOUND) and any(part in ENVIRONMENT_FIELDS for part in parts):
        return spec.BAD_ENVIRONMENT
    if code == http2.NOT_FOUND and "pool" in parts:
        return spec.BAD_CONFIG
    return CNI_CODES.get(code, spec.SERVICE_FAILURE)


def _error_fields(details: bytes) -> dict[str, str]:
    """Return the fields that the service gave with its error, {} when there are none or they can't be read."""
    try:
        for packed in _STATUS.decode(details)["details"]:
            if packed["type_url"].endswith("/google.rpc.ErrorInfo"):
                fields: dict[str, str] = _ERROR_INFO.decode(packed["value"])["metadata"]
                return fields
    except WireError:
        pass
    return {}
