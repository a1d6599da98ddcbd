"""Links and endpoint datapaths as the fake loader has them, in dictionaries; they outlive it (B7 of tests/fakes.py)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from podlane.common.v1 import types_pb2 as types
from podlane.loader.v1 import loader_pb2

from services.common import policydigest, wire
from services.common.model import Attachment
from tests.fakes import Key, key

# What a policy map holds, by what is a key there: all but the last.
Policy = dict[tuple[int, ...], policydigest.Entry]


def policy(entries: Iterable[loader_pb2.PolicyEntry]) -> Policy:
    """Return the policy map that holds these."""
    fields = [
        (one.direction, one.identity, one.protocol, one.port, one.port_prefix_length, one.deny) for one in entries
    ]
    return {one[:-1]: one for one in fields}


@dataclass
class FakeKernel:
    """Links and endpoint datapaths, which outlive the loader (B7)."""

    links: dict[Key, loader_pb2.Link] = field(default_factory=dict)
    recorded: dict[Key, loader_pb2.Link] = field(default_factory=dict)
    datapaths: dict[int, loader_pb2.EndpointDatapath] = field(default_factory=dict)
    policies: dict[int, Policy] = field(default_factory=dict)
    prefixes: dict[bytes, loader_pb2.PrefixIdentity] = field(default_factory=dict)
    ipcache: dict[bytes, loader_pb2.IpcacheEntry] = field(default_factory=dict)
    nodes: dict[str, loader_pb2.RemoteNode] = field(default_factory=dict)
    programs: int = 100
    ifindexes: int = 10
    seen: dict[Key, loader_pb2.LinkStatus] = field(default_factory=dict)

    def status(self, link: loader_pb2.Link) -> loader_pb2.LinkStatus:
        """Return a link with what a look into its pod finds (B12): unless a test says otherwise, all is well there."""
        well = loader_pb2.LinkStatus(idle_seconds=3600, namespace=loader_pb2.NAMESPACE_STATE_THERE)
        status = self.seen.get(key(link.attachment), well if link.host_ifindex else loader_pb2.LinkStatus())
        return loader_pb2.LinkStatus(
            link=link, idle_seconds=status.idle_seconds, namespace=status.namespace, processes=status.processes
        )

    def add_link(self, attachment: Attachment) -> loader_pb2.Link:
        """Make a veth pair."""
        self.ifindexes += 1
        link = loader_pb2.Link(
            attachment=wire.write_attachment(attachment),
            host_ifname=attachment.host_ifname(),
            host_ifindex=self.ifindexes,
            host_mac=types.MacAddress(packed=bytes([2, 0, 0, 0, *self.ifindexes.to_bytes(2)])),
            pod_mac=types.MacAddress(packed=bytes([2, 0, 0, 1, *self.ifindexes.to_bytes(2)])),
            netns_path=f"/run/netns/{attachment.container_id}",
            mtu=1500,
            pod_ifindex=2,
            netns_inode=4026532000 + self.ifindexes,
            up=True,
        )
        self.links[key(link.attachment)] = self.recorded[key(link.attachment)] = link
        return link

    def datapath(self, id_: int) -> loader_pb2.EndpointDatapath:
        """Return an endpoint's datapath with what its policy map holds now (B17)."""
        datapath = loader_pb2.EndpointDatapath()
        datapath.CopyFrom(self.datapaths[id_])
        datapath.policy_digest = policydigest.digest(self.policies.get(id_, {}).values())
        datapath.policy_entries = len(self.policies.get(id_, {}))
        return datapath

    def listed(self) -> list[loader_pb2.Link]:
        """Return all links as the loader lists them (B5): there, lost, and a stranger's."""
        stranger = loader_pb2.Link(
            attachment=types.Attachment(),
            host_ifname="lxc0123456789ab",
            host_ifindex=9,
            host_mac=types.MacAddress(packed=bytes(6)),
            pod_mac=types.MacAddress(packed=bytes(6)),
        )
        listed = [stranger]
        for name, recorded in self.recorded.items():
            link = loader_pb2.Link()
            link.CopyFrom(self.links.get(name, recorded))
            if name not in self.links:
                link.host_ifindex = 0
            listed.append(link)
        return listed
