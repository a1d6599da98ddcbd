"""ADD: AllocateAddresses → CreateLink → CreateEndpoint, each by its own service, and their undoing.

A failure undoes what this ADD did, last step first, and reports the first error. What each step left is known as

    ABSENT   nothing, or nothing any more: the step wasn't begun or was refused
    MADE     by this ADD
    STOOD    there before this ADD: it is repeated, for a pod that may be running
    UNKNOWN  the answer was lost: a deadline, a broken connection

and an undo must neither leave behind what this ADD made nor take anything from a healthy pod:

- MADE is undone, STOOD never.
- UNKNOWN link and endpoint are undone when the attachment is new, which its addresses tell: they were made by this ADD,
  or are merely reserved, so that no endpoint was ever confirmed behind them.
- UNKNOWN addresses are looked up: reserved ones are released, confirmed ones belong to a pod.
- Addresses stay while a link or an endpoint of the attachment stands (teardown.py says why); a reservation that nobody
  confirms expires by itself.

A shim that is killed undoes nothing: expiry, the runtime's DEL and CNI's GC heal what it leaves.
"""

from cni import messages, result, teardown
from cni.rpc import StepFailed
from cni.timing import Stopwatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.chain import ChainConfig
    from cni.config import LinkConfig
    from cni.session import Session
    from cni.spec import CniError
    from cni.wire import Values

ABSENT, MADE, STOOD, UNKNOWN = "absent", "made", "stood", "unknown"


class Addition:
    """One ADD: `run`, and `undo` if `run` raised or its result didn't reach the runtime."""

    __slots__ = ("_addresses", "_endpoint", "_link", "_new", "_session", "_watch")

    def __init__(self, session: "Session") -> None:
        """Begin with nothing done."""
        self._session = session
        self._addresses = self._link = self._endpoint = ABSENT
        # Whether the attachment cannot have a running pod behind it.
        self._new = False
        self._watch = Stopwatch(session)

    def run(self, asked: "LinkConfig") -> "dict[str, Any]":
        """Do the three steps and return the result. Raises StepFailed."""
        session = self._session
        given = self._allocate(asked)
        created = self._create_link(self._link_asked(given, asked))
        self._create_endpoint(created["link"], given["allocation"]["addresses"], asked)
        made = result.build(
            session.config.version,
            created["link"],
            given["allocation"]["addresses"],
            # In a pod that another interface leads out of they are not as asked.
            created["routes"] or given["routes"],
            netns=session.environment.netns,
            ifname=session.environment.ifname,
            route_mtu=asked.route_mtu,
        )
        made["dns"] = asked.dns
        return made

    def _allocate(self, asked: "LinkConfig") -> "Values":
        request = {
            "owner": self._session.attachment,
            "pod": asked.pod,
            "pool": asked.pool,
            "requested": [{"packed": address} for address in asked.requested],
        }
        try:
            given = self._watch.call("addresses", messages.ALLOCATE_ADDRESSES, request)
        except StepFailed as failed:
            self._addresses = UNKNOWN if failed.may_have_happened else ABSENT
            raise
        given["allocation"] = allocation = given["allocation"] or messages.ALLOCATION.decode(b"")
        reserved = allocation["state"] == messages.RESERVED
        # Asked twice, the second answer can't tell whether the first call made the reservation.
        self._addresses = MADE if given["created"] or (given["repeated"] and reserved) else STOOD
        self._new = self._addresses == MADE or reserved
        return given

    def _link_asked(self, given: "Values", asked: "LinkConfig") -> "Values":
        return {
            "attachment": self._session.attachment,
            "netns_path": self._session.environment.netns,
            "addresses": given["allocation"]["addresses"],
            "routes": given["routes"],
            "mtu": asked.mtu or given["mtu"],
            "route_mtu": asked.route_mtu,
            "offload": asked.offload or None,
            "pod_mac": {"packed": asked.mac} if asked.mac else None,
        }

    def _create_link(self, request: "Values") -> "Values":
        try:
            answer = self._watch.call("link", messages.CREATE_LINK, request)
        except StepFailed as failed:
            self._link = UNKNOWN if failed.may_have_happened else ABSENT
            raise
        self._link = _outcome(answer)
        answer["link"] = answer["link"] or b""
        return answer

    def _create_endpoint(self, link: bytes, addresses: "list[bytes]", asked: "LinkConfig | ChainConfig") -> None:
        session = self._session
        request = {
            "attachment": session.attachment,
            "pod": asked.pod,
            "link": link,
            "addresses": addresses,
            "labels": asked.labels,
            "options": asked.options,
            "addition": self._watch.addition,
        }
        try:
            answer = session.call(messages.CREATE_ENDPOINT, request)
        except StepFailed as failed:
            self._endpoint = UNKNOWN if failed.may_have_happened else ABSENT
            raise
        self._endpoint = _outcome(answer)

    def undo(self) -> "list[CniError]":
        """Take back what this ADD did and return what failed of that."""
        session = self._session
        endpoint, link = self._is_ours(self._endpoint), self._is_ours(self._link)
        stands = (self._endpoint != ABSENT and not endpoint) or (self._link != ABSENT and not link)
        addresses = self._addresses == MADE and not stands
        failed: list[CniError] = []
        if self._addresses == UNKNOWN:
            session.allow_one_more()
            try:
                addresses = self._is_reserved()
            except StepFailed as error:
                failed.append(error)
        return failed + teardown.tear_down(
            session, session.attachment, endpoint=endpoint, link=link, addresses=addresses
        )

    def _is_ours(self, outcome: str) -> bool:
        return outcome == MADE or (outcome == UNKNOWN and self._new)

    def _is_reserved(self) -> bool:
        answer = self._session.call(messages.LIST_ALLOCATIONS, {"owner": self._session.attachment})
        return any(allocation["state"] == messages.RESERVED for allocation in answer["allocations"])


def _outcome(answer: "Values") -> str:
    if answer["created"]:
        return MADE
    # Asked twice, "it existed already" may be the first call's own work.
    return UNKNOWN if answer["repeated"] else STOOD
