"""Between the other services' messages and this service's values. Reading checks all and names the field."""

from collections.abc import Iterable, Mapping

from podlane.common.v1 import types_pb2 as types
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.model import Attachment, Network
from services.endpoint.model import Endpoint, Level, Link, Program
from services.endpoint.observed import (
    Allocation,
    Built,
    Datapath,
    Flow,
    LinkState,
    Namespace,
    NodeConfig,
    PolicyChange,
    PoolRange,
    Probe,
    ProbePacket,
)
from services.endpoint.options import OptionInfo, Options
from services.endpoint.policy import Direction, PolicyEntry

FAMILIES = {4: types.IP_FAMILY_IPV4, 6: types.IP_FAMILY_IPV6}
_LENGTHS = {types.IP_FAMILY_IPV4: 4, types.IP_FAMILY_IPV6: 16}
# What SQLite's integers hold, and what an ifindex can be (an int in struct ifinfomsg).
_LARGEST_INTEGER, _LARGEST_IFINDEX = 2**63 - 1, 2**31 - 1


NOBODY = Attachment("", "", "")
"""Whose a link is that the loader has no record of."""


def read_link(message: loader_pb2.Link, field: str, *, recorded: bool = True) -> Link:
    """Return a link; `recorded` False: its record may be lost."""
    if not 0 < message.host_ifindex <= _LARGEST_IFINDEX:
        raise InvalidArgument(f"{field}.host_ifindex: {message.host_ifindex} is no interface's", field=field)
    if message.netns_inode > _LARGEST_INTEGER:
        raise InvalidArgument(f"{field}.netns_inode: {message.netns_inode} is no inode", field=field)
    if "\0" in message.netns_path:
        raise InvalidArgument(f"{field}.netns_path: a path has no NUL byte", field=field)
    return Link(
        attachment=_read_owner(message, f"{field}.attachment", recorded=recorded) or NOBODY,
        host_ifname=wire.check_ifname(message.host_ifname, f"{field}.host_ifname"),
        host_ifindex=message.host_ifindex,
        host_mac=wire.read_mac(message.host_mac, f"{field}.host_mac"),
        pod_mac=wire.read_mac(message.pod_mac, f"{field}.pod_mac"),
        netns_path=message.netns_path,
        mtu=message.mtu,
        pod_ifindex=message.pod_ifindex,
        netns_inode=message.netns_inode,
        up=message.up,
        chained=message.chained,
    )


def write_link(link: Link) -> loader_pb2.Link:
    """Return the message of a link."""
    return loader_pb2.Link(
        attachment=wire.write_attachment(link.attachment),
        host_ifname=link.host_ifname,
        host_ifindex=link.host_ifindex,
        host_mac=wire.write_mac(link.host_mac),
        pod_mac=wire.write_mac(link.pod_mac),
        netns_path=link.netns_path,
        mtu=link.mtu,
        pod_ifindex=link.pod_ifindex,
        netns_inode=link.netns_inode,
        up=link.up,
        chained=link.chained,
    )


def read_option(message: loader_pb2.EndpointOptionInfo) -> OptionInfo:
    """Return a switch as the loader describes it."""
    return OptionInfo(message.name, message.default, message.text, message.define)


def write_option(info: OptionInfo) -> loader_pb2.EndpointOptionInfo:
    """Return the message of a switch."""
    return loader_pb2.EndpointOptionInfo(name=info.name, default=info.default, text=info.text, define=info.define)


def write_config(endpoint: Endpoint, options: Options) -> loader_pb2.EndpointConfig:
    """Return an endpoint as its programs are to see it."""
    link = endpoint.spec.link
    return loader_pb2.EndpointConfig(
        id=endpoint.id,
        generation=endpoint.generation,
        attachment=wire.write_attachment(endpoint.spec.attachment),
        host_ifname=link.host_ifname,
        host_ifindex=link.host_ifindex,
        host_mac=wire.write_mac(link.host_mac),
        pod_mac=wire.write_mac(link.pod_mac),
        addresses=map(wire.write_address, endpoint.spec.ips),
        identity=endpoint.identity,
        options=[loader_pb2.EndpointOption(name=name, enabled=enabled) for name, enabled in options.items()],
        chained=link.chained,
    )


def write_policy_entry(entry: PolicyEntry) -> loader_pb2.PolicyEntry:
    """Return the message of a policy entry."""
    return loader_pb2.PolicyEntry(
        direction=loader_pb2.TrafficDirection.ValueType(entry.direction),
        identity=entry.identity,
        protocol=entry.protocol,
        port=entry.port,
        port_prefix_length=entry.port_prefix_length,
        deny=entry.deny,
    )


def read_policy_entry(message: loader_pb2.PolicyEntry) -> PolicyEntry:
    """Return a policy entry."""
    return PolicyEntry(
        Direction(message.direction),
        message.identity,
        message.protocol,
        message.port,
        message.port_prefix_length,
        message.deny,
    )


def write_policy_change(change: PolicyChange) -> loader_pb2.PolicyChange:
    """Return the message of a change of policy maps."""
    return loader_pb2.PolicyChange(
        added=map(write_policy_entry, change.delta.added),
        removed=map(write_policy_entry, change.delta.removed),
        endpoints=[
            loader_pb2.PolicyTarget(id=one.id, generation=one.generation, before=one.before, after=one.after)
            for one in change.targets
        ],
    )


def write_prefixes(prefixes: Mapping[Network, int]) -> list[loader_pb2.PrefixIdentity]:
    """Return the messages of prefixes with their identities."""
    return [
        loader_pb2.PrefixIdentity(prefix=wire.write_network(network), identity=number)
        for network, number in prefixes.items()
    ]


def read_flow(message: loader_pb2.ConntrackEntry) -> Flow:
    """Return a live flow."""
    return Flow(
        endpoint_id=message.endpoint_id,
        direction=Direction(message.direction),
        protocol=message.protocol_number,
        local=wire.read_address(message.local, "flow.local"),
        local_port=message.local_port,
        remote=wire.read_address(message.remote, "flow.remote"),
        remote_port=message.remote_port,
        peer_identity=message.peer_identity,
    )


def write_probe(packet: ProbePacket) -> loader_pb2.ProbeEndpointRequest:
    """Return the message of a packet to ask about."""
    return loader_pb2.ProbeEndpointRequest(
        endpoint_id=packet.endpoint_id,
        direction=loader_pb2.TrafficDirection.ValueType(packet.direction),
        source=wire.write_address(packet.source),
        destination=wire.write_address(packet.destination),
        protocol=packet.protocol,
        port=packet.port,
        forwarded=packet.forwarded,
    )


def read_probe(message: loader_pb2.ProbeEndpointResponse) -> Probe:
    """Return what the programs did with a packet."""
    return Probe(
        passed=message.passed,
        endpoint_id=message.endpoint_id,
        direction=Direction(message.direction),
        reason=message.reason,
        source=message.source,
        source_identity=message.source_identity,
        destination_identity=message.destination_identity,
    )


def write_node_config(config: NodeConfig) -> loader_pb2.NodeConfig:
    """Return the message of the node's configuration."""
    return loader_pb2.NodeConfig(
        pod_cidrs=map(wire.write_network, config.pod_cidrs),
        gateways=map(wire.write_address, config.gateways),
        masquerade=config.masquerade,
        mtu=config.mtu,
        routing=loader_pb2.Routing.ValueType(config.routing),
        underlay_device=config.underlay_device,
        underlay_family=config.underlay_family,
        tunnel_port=config.tunnel_port,
        cluster_cidrs=map(wire.write_network, config.cluster_cidrs),
    )


def read_built(message: loader_pb2.RegenerateEndpointResponse) -> Built:
    """Return what a regeneration did."""
    return Built(
        read_datapath(message.datapath),
        Level(message.level),
        wire.read_phases(message.phases),
        message.reason,
        tuple(message.changes),
    )


def read_datapath(message: loader_pb2.EndpointDatapath) -> Datapath:
    """Return what the kernel holds for an endpoint."""
    return Datapath(
        id=message.id,
        generation=message.generation,
        config_hash=message.config_hash,
        host_ifname=message.host_ifname,
        host_ifindex=message.host_ifindex,
        reachable=message.reachable,
        programs=_read_programs(message.programs),
        problems=tuple(message.problems),
        attachment=_read_owner(message, "datapath.attachment"),
        options={one.name: one.enabled for one in message.options},
        policy_digest=message.policy_digest,
        policy_entries=message.policy_entries,
        identity=message.identity,
        request_id=message.request_id,
    )


def read_link_state(message: loader_pb2.LinkStatus) -> LinkState:
    """Return a link as the kernel and the loader's records have it."""
    link = message.link
    return LinkState(
        attachment=_read_owner(link, "links.link.attachment"),
        host_ifname=link.host_ifname,
        host_ifindex=link.host_ifindex,
        netns_path=link.netns_path,
        up=link.up,
        idle=message.idle_seconds,
        namespace=Namespace(message.namespace),
        processes=tuple(message.processes),
        chained=link.chained,
    )


def _read_owner(
    message: loader_pb2.Link | loader_pb2.EndpointDatapath, field: str, *, recorded: bool = False
) -> Attachment | None:
    """Return an attachment; without one None, where the loader may have no record."""
    if not recorded and not message.attachment.container_id:
        return None
    return wire.read_attachment(message.attachment, field)


def _read_programs(messages: Iterable[loader_pb2.Program]) -> tuple[Program, ...]:
    return tuple(
        Program(one.name, one.id, one.tag, one.instructions, one.verified_instructions, one.hook) for one in messages
    )


def read_ranges(pools: Iterable[ipam_pb2.Pool]) -> tuple[PoolRange, ...]:
    """Return the ranges of all pools that endpoints have addresses of."""
    return tuple(map(read_range, (one for pool in pools if not pool.delegated for one in pool.ranges)))


def missing_ranges(pools: Iterable[ipam_pb2.Pool]) -> str:
    """Say what the node waits for if a family that it is to have has no range yet; empty: it has all."""
    listed = tuple(pool for pool in pools if not pool.delegated)
    there = {len(one.prefix.address.packed) for pool in listed for one in pool.ranges}
    for pool in listed:
        if any(_LENGTHS[family] not in there for family in pool.families):
            return f"ipam waits for a pod CIDR from the kvstore: pool {pool.name!r}: {'; '.join(pool.problems)}"
    return ""


def read_range(message: ipam_pb2.PoolRange) -> PoolRange:
    """Return one range of a pool."""
    prefix = wire.read_network(message.prefix, "ranges.prefix")
    return PoolRange(prefix, wire.read_address(message.gateway, "ranges.gateway"))


def read_allocation(message: ipam_pb2.Allocation) -> Allocation:
    """Return what an owner holds."""
    return Allocation(
        owner=wire.read_attachment(message.owner, "allocation.owner"),
        addresses=tuple(
            wire.read_address(one.address.address, f"allocation.addresses[{index}].address")
            for index, one in enumerate(message.addresses)
        ),
        endpoint_id=message.endpoint_id,
        created=wire.read_time(message.created),
        ipam_only=message.state == ipam_pb2.ALLOCATION_STATE_CONFIRMED and not message.endpoint_id,
    )
