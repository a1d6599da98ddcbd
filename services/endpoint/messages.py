"""Between this service's messages and its values. Reading checks all and names the field; writing never fails."""

import re
from collections.abc import Iterable, Mapping

from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.model import Pod
from services.endpoint.ids import LARGEST
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, Level, Link, LogEntry, Program, Regeneration
from services.endpoint.observed import Allocation, Built, Datapath, NodeConfig, PoolRange
from services.endpoint.policy import PolicyEntry
from services.endpoint.registry import Selector
from services.endpoint.watch import Change, Told

FAMILIES = {4: types.IP_FAMILY_IPV4, 6: types.IP_FAMILY_IPV6}
_STATES = {state: pb.EndpointState.Value(f"ENDPOINT_STATE_{state.name}") for state in EndpointState}
_CHANGES = {change: pb.WatchEndpointsResponse.Change.Value(f"CHANGE_{change.name}") for change in Change}
# Kubernetes labels, with an optional source in front as in `k8s:app` (Kubernetes, "Labels and Selectors").
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:/\-]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.\-]*[A-Za-z0-9])?)?")
_LONGEST_KEY, _LONGEST_VALUE, _LONGEST_POD = 317, 63, 253
_RESERVED = "reserved:"
# What SQLite's integers hold, and what an ifindex can be (an int in struct ifinfomsg).
_LARGEST_INTEGER, _LARGEST_IFINDEX = 2**63 - 1, 2**31 - 1


def read_spec(request: pb.CreateEndpointRequest) -> EndpointSpec:
    """Return what is asked for."""
    attachment = wire.read_attachment(request.attachment, "attachment")
    link = read_link(request.link, "link")
    if link.attachment != attachment:
        raise InvalidArgument(
            f"link.attachment: this link is {link.attachment}'s, the endpoint is to be {attachment}'s",
            field="link.attachment",
        )
    return EndpointSpec(
        attachment=attachment,
        pod=_read_pod(request.pod, "pod"),
        link=link,
        addresses=wire.read_assigned_list(request.addresses, "addresses"),
        labels=_read_labels(request.labels),
    )


def read_link(message: loader_pb2.Link, field: str) -> Link:
    """Return a link."""
    if not 0 < message.host_ifindex <= _LARGEST_IFINDEX:
        raise InvalidArgument(f"{field}.host_ifindex: {message.host_ifindex} is no interface's", field=field)
    if message.netns_inode > _LARGEST_INTEGER:
        raise InvalidArgument(f"{field}.netns_inode: {message.netns_inode} is no inode", field=field)
    if "\0" in message.netns_path:
        raise InvalidArgument(f"{field}.netns_path: a path has no NUL byte", field=field)
    return Link(
        attachment=wire.read_attachment(message.attachment, f"{field}.attachment"),
        host_ifname=wire.check_ifname(message.host_ifname, f"{field}.host_ifname"),
        host_ifindex=message.host_ifindex,
        host_mac=wire.read_mac(message.host_mac, f"{field}.host_mac"),
        pod_mac=wire.read_mac(message.pod_mac, f"{field}.pod_mac"),
        netns_path=message.netns_path,
        mtu=message.mtu,
        pod_ifindex=message.pod_ifindex,
        netns_inode=message.netns_inode,
        up=message.up,
    )


def _read_pod(message: types.Pod, field: str) -> Pod:
    for name in ("namespace", "name", "uid"):
        value = getattr(message, name)
        if len(value) > _LONGEST_POD:
            raise InvalidArgument(f"{field}.{name}: {len(value)} characters, {_LONGEST_POD} are allowed", field=field)
    return wire.read_pod(message)


def _read_labels(labels: Mapping[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        field = f"labels[{key[:80]!r}]"
        if key.startswith(_RESERVED):
            raise InvalidArgument(f"{field}: labels that begin with {_RESERVED!r} are podlane's own", field="labels")
        if len(key) > _LONGEST_KEY or not _LABEL_KEY.fullmatch(key):
            raise InvalidArgument(f"{field}: not a label key (letters, digits, '_', '.', '/', '-')", field="labels")
        if len(value) > _LONGEST_VALUE or not _LABEL_VALUE.fullmatch(value):
            raise InvalidArgument(
                f"{field}: {value[:80]!r} is not a label value (at most {_LONGEST_VALUE} letters, digits, '_', '.', "
                "'-', a letter or digit at both ends)",
                field="labels",
            )
    return dict(labels)


def read_selector(message: pb.EndpointSelector) -> Selector:
    """Return which endpoint is meant."""
    kind = message.WhichOneof("selector")
    if kind == "id":
        if not 0 < message.id <= LARGEST:
            raise InvalidArgument(f"selector.id: {message.id} is not an endpoint id (1–{LARGEST})", field="selector.id")
        return Selector(id=message.id)
    if kind == "attachment":
        return Selector(attachment=wire.read_attachment(message.attachment, "selector.attachment"))
    if kind == "address":
        return Selector(address=wire.read_address(message.address, "selector.address"))
    if kind == "pod":
        if not message.pod.name:
            raise InvalidArgument("selector.pod.name: a value is needed", field="selector.pod.name")
        return Selector(pod=wire.read_pod(message.pod))
    raise InvalidArgument("selector: one of id, attachment, address and pod is needed", field="selector")


def write_endpoint(endpoint: Endpoint, *, log: bool) -> pb.Endpoint:
    """Return the message of an endpoint, with or without its log."""
    spec, last = endpoint.spec, endpoint.last_regeneration
    return pb.Endpoint(
        id=endpoint.id,
        generation=endpoint.generation,
        attachment=wire.write_attachment(spec.attachment),
        pod=wire.write_pod(spec.pod),
        state=_STATES[endpoint.state],
        addresses=map(wire.write_assigned, spec.addresses),
        link=_write_link(spec.link),
        labels=spec.labels,
        identity=endpoint.identity,
        created=wire.write_time(endpoint.created),
        last_regeneration=_write_regeneration(last) if last is not None else None,
        log=map(_write_entry, endpoint.log) if log else (),
        waiting_for=endpoint.waiting_for,
    )


def _write_link(link: Link) -> loader_pb2.Link:
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
    )


def _write_regeneration(last: Regeneration) -> pb.Regeneration:
    return pb.Regeneration(
        level=loader_pb2.RegenerationLevel.ValueType(last.level),
        reasons=last.reasons,
        started=wire.write_time(last.started),
        phases=wire.write_phases(last.phases),
        error=last.error,
        programs=[
            loader_pb2.Program(
                name=one.name,
                id=one.id,
                tag=one.tag,
                instructions=one.instructions,
                verified_instructions=one.verified_instructions,
                hook=one.hook,
            )
            for one in last.programs
        ],
        config_hash=last.config_hash,
    )


def _write_entry(entry: LogEntry) -> pb.LogEntry:
    return pb.LogEntry(
        time=wire.write_time(entry.time),
        type=entry.type,
        code=entry.code,
        message=entry.message,
        state=_STATES[entry.state],
    )


def write_told(told: Told) -> pb.WatchEndpointsResponse:
    """Return what a watcher is told; without the log, which has a Get of its own."""
    change, endpoint = told
    message = write_endpoint(endpoint, log=False) if endpoint is not None else None
    return pb.WatchEndpointsResponse(change=_CHANGES[change], endpoint=message)


def write_config(endpoint: Endpoint) -> loader_pb2.EndpointConfig:
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


def write_node_config(config: NodeConfig) -> loader_pb2.NodeConfig:
    """Return the message of the node's configuration."""
    return loader_pb2.NodeConfig(
        pod_cidrs=map(wire.write_network, config.pod_cidrs),
        gateways=map(wire.write_address, config.gateways),
        masquerade=config.masquerade,
        mtu=config.mtu,
    )


def read_built(message: loader_pb2.RegenerateEndpointResponse) -> Built:
    """Return what a regeneration did."""
    return Built(read_datapath(message.datapath), Level(message.level), wire.read_phases(message.phases))


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
    )


def _read_programs(messages: Iterable[loader_pb2.Program]) -> tuple[Program, ...]:
    return tuple(
        Program(one.name, one.id, one.tag, one.instructions, one.verified_instructions, one.hook) for one in messages
    )


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
    )
