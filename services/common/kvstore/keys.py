"""The keys of the kvstore, version 1: who is found where. Pure. docs/kvstore.md shows each with its value.

    <root>/cluster                                      {"name", "layout": 1}       unleased; whose store it is
    <root>/state/nodes/v1/<node>                        a Node record               leased
    <root>/state/ip/v1/<address>                        whose address it is         leased
    <root>/state/endpoints/v1/<node>/<id>               an endpoint's record        leased
    <root>/state/identities/v1/id/<number>              its labels                  unleased, garbage-collected
    <root>/state/identities/v1/value/<labels>           its number                  unleased, goes with id/
    <root>/state/identities/v1/ref/<number>/<node>      the node uses it            leased
    <root>/state/policies/v1/<kind>/<namespace>/<name>  a document                  unleased
    <root>/state/pools/v1/<pool>/<range>                {"node", "instance"}        unleased: a claim outlives its node

Values are JSON objects. What is added to one later has a new name; what it means to lack it stays.
"""

from dataclasses import dataclass
from ipaddress import ip_network

from services.common.model import Address, Network

LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys below one root."""

    root: str = "podlane"

    @property
    def state(self) -> str:
        """Everything but the cluster's own record."""
        return f"{self.root}/state/"

    @property
    def cluster(self) -> str:
        """Whose store it is."""
        return f"{self.root}/cluster"

    @property
    def nodes(self) -> str:
        """All nodes."""
        return f"{self.root}/state/nodes/v1/"

    def node(self, name: str) -> str:
        """One node."""
        return f"{self.nodes}{name}"

    @property
    def ips(self) -> str:
        """All addresses."""
        return f"{self.root}/state/ip/v1/"

    def ip(self, address: Address) -> str:
        """One address."""
        return f"{self.ips}{address}"

    @property
    def endpoints(self) -> str:
        """All endpoints of all nodes."""
        return f"{self.root}/state/endpoints/v1/"

    def endpoints_of(self, node: str) -> str:
        """All endpoints of one node."""
        return f"{self.endpoints}{node}/"

    def endpoint(self, node: str, id_: int) -> str:
        """One endpoint."""
        return f"{self.endpoints_of(node)}{id_}"

    @property
    def identities(self) -> str:
        """All identities, by number."""
        return f"{self.root}/state/identities/v1/id/"

    def identity(self, number: int) -> str:
        """One identity."""
        return f"{self.identities}{number}"

    @property
    def identity_values(self) -> str:
        """All identities, by labels."""
        return f"{self.root}/state/identities/v1/value/"

    def identity_value(self, labels: str) -> str:
        """One identity; `labels` in their canonical text."""
        return f"{self.identity_values}{labels}"

    @property
    def identity_references(self) -> str:
        """Who uses identities."""
        return f"{self.root}/state/identities/v1/ref/"

    def identity_references_of(self, number: int) -> str:
        """Who uses one identity."""
        return f"{self.identity_references}{number}/"

    def identity_reference(self, number: int, node: str) -> str:
        """One node's use of one identity."""
        return f"{self.identity_references_of(number)}{node}"

    @property
    def policies(self) -> str:
        """All documents that hold for the whole cluster."""
        return f"{self.root}/state/policies/v1/"

    @property
    def claims(self) -> str:
        """All claims of all pools."""
        return f"{self.root}/state/pools/v1/"

    def claims_of(self, pool: str) -> str:
        """All claims of one pool."""
        return f"{self.claims}{pool}/"

    def claim(self, pool: str, network: Network) -> str:
        """One claim. A key is a path, so the prefix's length stands behind `-`: `10.1.2.0-24`."""
        return f"{self.claims_of(pool)}{network.network_address}-{network.prefixlen}"


def last(key: str) -> str:
    """Return the last part of a key."""
    return key.rpartition("/")[2]


def claimed(key: str) -> Network:
    """Return the range of a claim's key. Raises ValueError for other keys."""
    return ip_network(last(key).replace("-", "/"))
