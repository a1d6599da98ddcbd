"""GC: everything of this network's attachments that the runtime doesn't name any more is taken away.

What there is, is asked of all three services, so that the remains of every kind of accident are found: an address
without a link, a link without an endpoint, a DEL that is only journalled (journal.py). Each attachment is taken away as
DEL would do it, with its entry in the journal; errors are collected, and the others go on. An empty list means all. A
missing list is refused: nothing must be deleted by a runtime's mistake.

A service that can't be asked is an error, and what the others know is still taken away, with the addresses last and
only after the rest (teardown.py).
"""

from cni import journal, messages, teardown
from cni.rpc import StepFailed
from cni.spec import BAD_CONFIG, INCOMPLETE, CniError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cni.messages import Method
    from cni.session import Session
    from cni.wire import Values

# The specification's name, and the one that a draft of it used and libcni still sends beside it.
KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")


def collect(session: "Session") -> None:
    """Take away what isn't valid. Raises CniError with everything that failed."""
    network = session.config.network
    valid = valid_attachments(session.config.document)
    failed: list[CniError] = []
    found = journal.of_network(session.config.journal, network)
    for listing in (_endpoints, _links, _allocations):
        try:
            for attachment in listing(session):
                if attachment and attachment["network"] == network:
                    found.add((attachment["container_id"], attachment["ifname"]))
        except StepFailed as error:
            failed.append(error)
    for container_id, ifname in sorted(found - valid):
        attachment = {"network": network, "container_id": container_id, "ifname": ifname}
        try:
            failed += journal.carry_out(session, session, attachment)
        except CniError as error:
            failed.append(error)
    if failed:
        message = f"network {network}: {len(failed)} steps of the garbage collection failed, first: {failed[0].message}"
        raise CniError(INCOMPLETE, message, teardown.told(failed))


def valid_attachments(document: "dict[str, Any]") -> set[tuple[str, str]]:
    """Return container id and interface of what is to stay. Raises CniError with code 7 when that isn't told."""
    key = next((key for key in KEYS if key in document), None)
    if key is None:
        raise CniError(BAD_CONFIG, f"{KEYS[0]} is missing; GC removes all that it doesn't name, [] removes everything")
    attachments = document[key]
    if not isinstance(attachments, list):
        raise CniError(BAD_CONFIG, f"{key} must be a list, not {quoted(attachments)}; [] removes everything")
    valid = set()
    for index, one in enumerate(attachments):
        pair = (one.get("containerID"), one.get("ifname")) if isinstance(one, dict) else (None, None)
        if not isinstance(pair[0], str) or not isinstance(pair[1], str):
            raise CniError(BAD_CONFIG, f"{key}[{index}] must have containerID and ifname, not {quoted(one)}")
        valid.add((pair[0], pair[1]))
    return valid


def _endpoints(session: "Session") -> "Iterator[Values | None]":
    return (one["attachment"] for one in pages(session, messages.LIST_ENDPOINTS, "endpoints"))


def _links(session: "Session") -> "Iterator[Values | None]":
    for status in session.call(messages.LIST_LINKS, {})["links"]:
        yield (status["link"] or {}).get("attachment")


def _allocations(session: "Session") -> "Iterator[Values | None]":
    return (one["owner"] for one in pages(session, messages.LIST_ALLOCATIONS, "allocations"))


def pages(session: "Session", method: "Method", key: str) -> "Iterator[Values]":
    """Yield what a method lists, page by page. Raises StepFailed."""
    token = ""
    while True:
        answer = session.call(method, {"page_size": messages.PAGE_SIZE, "page_token": token})
        yield from answer[key]
        token = answer["next_page_token"]
        if not token:
            return
