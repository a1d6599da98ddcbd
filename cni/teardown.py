"""DeleteEndpoint → DeleteLink → ReleaseAddresses: how DEL, GC and the undoing of an ADD take an attachment away.

Errors are collected and the rest goes on, with one exception: addresses are released only when everything before
went well. An address that is released while its link or its endpoint may still stand would be given to another pod
and be in use twice; one that is kept too long is merely missing from the pool until the next DEL, GC or expiry.
Each step has some time of its own, so that a service that hangs costs the others nothing.
"""

from cni import messages
from cni.rpc import StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cni.messages import Method
    from cni.spec import CniError
    from cni.wire import Values

    class Caller(Protocol):
        """Who makes the calls: a session, or somebody with more patience (delete.py)."""

        def allow_one_more(self) -> None:
            """Give the next step its time."""

        def call(self, method: Method, values: Values) -> Values:
            """Call a service. Raises StepFailed."""


KEPT = "the addresses are kept until the rest is gone: repeat DEL"


def tear_down(
    caller: "Caller", attachment: "Values", *, endpoint: bool = True, link: bool = True, addresses: bool = True
) -> "list[CniError]":
    """Take away the named parts and return what failed, in order. What is gone already is no failure."""
    failed: list[CniError] = []
    steps = (
        (endpoint, messages.DELETE_ENDPOINT, messages.selector(attachment)),
        (link, messages.DELETE_LINK, {"attachment": attachment}),
        (addresses, messages.RELEASE_ADDRESSES, {"owner": attachment}),
    )
    for wanted, method, request in steps:
        if not wanted or (method is messages.RELEASE_ADDRESSES and failed):
            continue
        caller.allow_one_more()
        try:
            caller.call(method, request)
        except StepFailed as error:
            failed.append(error)
    return failed


def release(caller: "Caller", attachment: "Values") -> "list[CniError]":
    """Release what no endpoint has, and return what failed of that."""
    from cni.ipammessages import RELEASE_ADDRESSES

    caller.allow_one_more()
    try:
        caller.call(RELEASE_ADDRESSES, {"owner": attachment, "without_endpoint": True})
    except StepFailed as error:
        return [error]
    return []


def told(failed: "list[CniError]") -> str:
    """Return failures as one text, for `details`."""
    return "; ".join(f"{error.message} ({error.details})" if error.details else error.message for error in failed)
