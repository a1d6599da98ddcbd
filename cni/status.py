"""STATUS: would an ADD work now? Every service must take a connection and call itself SERVING (grpc.health.v1)."""

from cni import messages
from cni.rpc import StepFailed
from cni.spec import NOT_AVAILABLE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.session import Session


def status(session: "Session") -> None:
    """Return when all three services serve. Raises CniError with code 50 that names those that don't."""
    problems = []
    for service, path in session.config.sockets.items():
        try:
            answer = session.call(messages.health_check(service), {})
        except StepFailed as failed:
            problems.append(failed.message)
            continue
        if answer["status"] != messages.SERVING:
            problems.append(f"podlane-{service} at {path} is up but not ready yet")
    if problems:
        raise CniError(NOT_AVAILABLE, f"pods can't be attached now: {problems[0]}", "; ".join(problems))
