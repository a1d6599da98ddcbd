"""The endpoints of this node, and every way to find one. One dictionary per name, kept together here.

An address has one endpoint or none: `put` refuses a second one, so whoever makes an endpoint puts it in before
anything else and takes it out last.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.common.model import Address, Attachment, Pod
from services.endpoint.managed import ManagedEndpoint


@dataclass(frozen=True, slots=True)
class Selector:
    """Names one endpoint, by exactly one of its names."""

    id: int = 0
    attachment: Attachment | None = None
    address: Address | None = None
    pod: Pod | None = None

    def __str__(self) -> str:
        """Return it as a sentence has it."""
        if self.attachment is not None:
            return f"attachment {self.attachment}"
        if self.address is not None:
            return f"address {self.address}"
        return f"pod {self.pod}" if self.pod is not None else f"id {self.id}"


class Registry:
    """Live endpoints by id, attachment, address, link and pod."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_id: dict[int, ManagedEndpoint] = {}
        self._by_attachment: dict[Attachment, ManagedEndpoint] = {}
        self._by_address: dict[Address, ManagedEndpoint] = {}
        self._by_link: dict[tuple[str, int], ManagedEndpoint] = {}
        self._by_pod: dict[tuple[str, str], list[ManagedEndpoint]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[ManagedEndpoint]:
        """Go through them in the order of their ids."""
        return iter([self._by_id[id_] for id_ in sorted(self._by_id)])

    def check_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Raise AlreadyExists when an address has an endpoint."""
        for address in addresses:
            if address in self._by_address:
                holder = self._by_address[address].endpoint
                raise AlreadyExists(
                    f"addresses: {address} belongs to {holder}, which is {holder.state}: delete that one first",
                    address=address,
                    endpoint_id=holder.id,
                )

    def put(self, managed: ManagedEndpoint) -> None:
        """Take an endpoint in. Raises AlreadyExists as `check_addresses` does."""
        endpoint = managed.endpoint
        self.check_addresses(endpoint.spec.ips)
        self._by_id[endpoint.id] = managed
        self._by_attachment[endpoint.spec.attachment] = managed
        self._by_address.update(dict.fromkeys(endpoint.spec.ips, managed))
        self._by_link[_link(managed)] = managed
        if endpoint.spec.pod.name:
            self._by_pod.setdefault((endpoint.spec.pod.namespace, endpoint.spec.pod.name), []).append(managed)

    def remove(self, managed: ManagedEndpoint) -> None:
        """Let an endpoint go; one that isn't here any more changes nothing."""
        endpoint = managed.endpoint
        if self._by_id.get(endpoint.id) is not managed:
            return
        del self._by_id[endpoint.id]
        del self._by_attachment[endpoint.spec.attachment]
        for address in endpoint.spec.ips:
            del self._by_address[address]
        if self.linked(*_link(managed)) is managed:
            del self._by_link[_link(managed)]
        pod = (endpoint.spec.pod.namespace, endpoint.spec.pod.name)
        if pod in self._by_pod:
            self._by_pod[pod].remove(managed)
            if not self._by_pod[pod]:
                del self._by_pod[pod]

    def attached(self, attachment: Attachment) -> ManagedEndpoint | None:
        """Return the endpoint of an attachment."""
        return self._by_attachment.get(attachment)

    def linked(self, host_ifname: str, host_ifindex: int) -> ManagedEndpoint | None:
        """Return the endpoint that stands on a link."""
        return self._by_link.get((host_ifname, host_ifindex))

    def find(self, selector: Selector) -> ManagedEndpoint | None:
        """Return the endpoint that is meant. Raises FailedPrecondition when a pod has several."""
        if selector.attachment is not None:
            return self._by_attachment.get(selector.attachment)
        if selector.address is not None:
            return self._by_address.get(selector.address)
        if selector.pod is not None:
            return self._find_pod(selector.pod)
        return self._by_id.get(selector.id)

    def get(self, selector: Selector) -> ManagedEndpoint:
        """Return the endpoint that is meant. Raises NotFound, and as `find` does."""
        found = self.find(selector)
        if found is None:
            raise NotFound(f"there is no endpoint with {selector}: see `podlane endpoint list`")
        return found

    def _find_pod(self, pod: Pod) -> ManagedEndpoint | None:
        found = [
            managed
            for managed in self._by_pod.get((pod.namespace, pod.name), ())
            if not pod.uid or managed.endpoint.spec.pod.uid == pod.uid
        ]
        if len(found) > 1:
            ids = ", ".join(str(managed.endpoint.id) for managed in found)
            raise FailedPrecondition(f"pod {pod} has {len(found)} endpoints ({ids}): name one by its id", ids=ids)
        return found[0] if found else None


def _link(managed: ManagedEndpoint) -> tuple[str, int]:
    link = managed.endpoint.spec.link
    return link.host_ifname, link.host_ifindex
