"""DEL: the attachment is taken away now, or its deletion is journalled and podlane-endpoint does it when it can.

    all three answer                                   teardown.py, as ever
    a service is away, or says that one is             it is waited for, WAIT_SECONDS in all; then: journalled
    a service does not answer in STEP_SECONDS          journalled
    a service refuses, fails, or may not be asked      an error, and nothing is journalled: a person has to know

A runtime calls DEL after DEL when a node is drained, so only the first of them waits: where an entry came into the
journal lately somebody has waited already, and a look at the sockets decides.

podlane-ipam's DEL is the same with one service, and journals that addresses alone are to be released.

What could be done is done all the same, and the rest is journalled with it: carrying out is idempotent.
"""

import time

from cni import http2, journal, teardown
from cni.rpc import StepFailed
from cni.spec import TRY_AGAIN, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.messages import Method
    from cni.session import Session
    from cni.wire import Values

# A service that is only being restarted is back by then.
WAIT_SECONDS = 2.0
# What a service that answers gets for each step: an endpoint that is being built is waited for by its deletion.
STEP_SECONDS = 10.0
_POLL_SECONDS = 0.05


def delete(session: "Session") -> None:
    """Take the attachment away, or journal that. Raises CniError."""
    hurry = journal.is_waited_for(session.config.journal)
    caller = Patient(session, 0.0 if hurry else WAIT_SECONDS, WAIT_SECONDS if hurry else STEP_SECONDS)
    away = caller.away() if hurry else ""
    if away:
        _journal(session, [CniError(TRY_AGAIN, away)])
        return
    caller.allow_one_more()
    failed = journal.carry_out(session, caller, session.attachment)
    if failed and all(isinstance(error, StepFailed) and error.later for error in failed):
        _journal(session, failed)
    elif failed:
        first = failed[0]
        raise CniError(first.code, first.message, f"{teardown.told(failed)}; {teardown.KEPT}")


def _journal(session: "Session", failed: list[CniError]) -> None:
    first = failed[0]
    begin = time.monotonic()
    try:
        journal.write(
            session.entry,
            session.attachment,
            session.environment.netns,
            session.request_id,
            addresses_only=session.config.addresses_only,
        )
    except OSError as error:
        problem = f"{session.config.journal}: the deletion can't be journalled: {error.strerror}"
        raise CniError(
            first.code, f"{first.message}; and {problem}", f"{teardown.told(failed)}; {teardown.KEPT}"
        ) from None
    session.note("journal", begin, f"journalled: {first.message}")


class Patient:
    """Calls services for a session; one that is away is waited for, `patience` seconds in all; `step` for each call."""

    __slots__ = ("_session", "_step", "_until")

    def __init__(self, session: "Session", patience: float, step: float) -> None:
        """Start the clock."""
        self._session = session
        self._until = time.monotonic() + patience
        self._step = step

    def away(self) -> str:
        """Return which service takes no connection, "" when all do."""
        for service, path in self._session.config.sockets.items():
            try:
                http2.connect(path, time.monotonic() + self._step).close()
            except http2.CallFailed as failed:
                if not failed.forbidden:
                    return f"podlane-{service} can't be reached at {path}: {failed.message}"
        return ""

    def allow_one_more(self) -> None:
        """Give the next step its time."""
        self._session.allow(self._step)

    def call(self, method: "Method", values: "Values") -> "Values":
        """Call a service, again if it was away and comes back. Raises StepFailed."""
        try:
            return self._session.call(method, values)
        except StepFailed as failed:
            if not failed.away or not self._comes_back(self._session.config.sockets[method.service]):
                raise
        self.allow_one_more()
        return self._session.call(method, values)

    def _comes_back(self, path: str) -> bool:
        while time.monotonic() < self._until:
            time.sleep(_POLL_SECONDS)  # noqa: TID251 - nothing tells when somebody listens
            try:
                http2.connect(path, self._until).close()
            except (http2.CallFailed, TimeoutError):
                continue
            return True
        return False
