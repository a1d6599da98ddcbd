"""Between the loader's messages and its values. Reading checks everything and names the field; writing never fails."""

from collections.abc import Iterable, Sequence

from podlane.common.v1 import types_pb2 as types
from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.model import Address
from services.loader import clustermessages, eventmessages, model
from services.loader.conntrack import Flow
from services.loader.dump import CallPolicyEntry, Entry, PrefixEntry
from services.loader.headers import OPTIONS
from services.loader.inventory import Status
from services.loader.layout import EndpointEntry, IpcacheEntry, Metric, PolicyCount
from services.loader.nodeconfig import NodeView
from services.loader.policymessages import read_id, write_policy_entry, write_prefix


def read_node_config(message: pb.NodeConfig, field: str) -> model.NodeConfig:
    """Return the node's configuration."""
    if not message.gateways:
        raise InvalidArgument(f"{field}.gateways: at least one router address is needed", field=f"{field}.gateways")
    cidrs = tuple(wire.read_network(one, f"{field}.pod_cidrs[{i}]") for i, one in enumerate(message.pod_cidrs))
    gateways = _addresses(message.gateways, f"{field}.gateways")
    mtu = message.mtu
    if mtu and not 68 <= mtu <= 65535:
        raise InvalidArgument(f"{field}.mtu: {mtu} is not between 68 and 65535 bytes", field=f"{field}.mtu")
    return model.NodeConfig(
        cidrs,
        gateways,
        message.masquerade,
        mtu,
        clustermessages.read_routing(message.routing, f"{field}.routing"),
        wire.check_ifname(message.underlay_device, f"{field}.underlay_device") if message.underlay_device else "",
        clustermessages.read_family(message.underlay_family, f"{field}.underlay_family"),
        clustermessages.read_port(message.tunnel_port, f"{field}.tunnel_port"),
        tuple(wire.read_network(one, f"{field}.cluster_cidrs[{i}]") for i, one in enumerate(message.cluster_cidrs)),
    )


def write_node_config(config: model.NodeConfig) -> pb.NodeConfig:
    """Return the message of a node's configuration."""
    return pb.NodeConfig(
        pod_cidrs=map(wire.write_network, config.pod_cidrs),
        gateways=map(wire.write_address, config.gateways),
        masquerade=config.masquerade,
        mtu=config.mtu,
        routing=pb.Routing.ValueType(config.routing),
        underlay_device=config.underlay_device,
        tunnel_port=config.tunnel_port if config.routing else 0,
        cluster_cidrs=map(wire.write_network, config.cluster_cidrs),
        underlay_family=config.underlay_family,
    )


def write_node(view: NodeView) -> pb.GetNodeResponse:
    """Return the node as the loader sees it."""
    return pb.GetNodeResponse(
        config=write_node_config(view.config) if view.config is not None else None,
        hash=view.hash,
        attach_mode=view.attach_mode,
        mtu=view.mtu,
        kernel=view.kernel,
        compiler=view.compiler,
        templates=[
            pb.Template(hash=one.hash, built=wire.write_time(one.built), compile_us=one.compile_us)
            for one in view.templates
        ],
        options=[
            pb.EndpointOptionInfo(name=name, default=one.default, text=one.text, define=one.define)
            for name, one in OPTIONS.items()
        ],
        underlay=clustermessages.write_underlay(view.underlay) if view.underlay is not None else None,
    )


def read_endpoint(message: pb.EndpointConfig, field: str) -> model.EndpointSpec:
    """Return the endpoint as its programs are to see it."""
    if not message.host_ifindex:
        raise InvalidArgument(f"{field}.host_ifindex: the link's index is needed", field=f"{field}.host_ifindex")
    addresses = _addresses(message.addresses, f"{field}.addresses")
    if not addresses:
        raise InvalidArgument(f"{field}.addresses: at least one address is needed", field=f"{field}.addresses")
    return model.EndpointSpec(
        id=read_id(message.id, f"{field}.id"),
        generation=message.generation,
        attachment=wire.read_attachment(message.attachment, f"{field}.attachment"),
        host_ifname=wire.check_ifname(message.host_ifname, f"{field}.host_ifname"),
        host_ifindex=message.host_ifindex,
        host_mac=wire.read_mac(message.host_mac, f"{field}.host_mac"),
        pod_mac=wire.read_mac(message.pod_mac, f"{field}.pod_mac"),
        addresses=addresses,
        identity=message.identity,
        options=_options(message.options, f"{field}.options"),
        chained=message.chained,
    )


def read_level(number: int, field: str) -> model.Level:
    """Return the level, or raise InvalidArgument."""
    try:
        return model.Level(number)
    except ValueError:
        raise InvalidArgument(
            f"{field}: {number} is not a regeneration level: 1 (maps only) or 2 (rewrite and load)", field=field
        ) from None


def _addresses(messages: Sequence[types.IpAddress], field: str) -> tuple[Address, ...]:
    found = tuple(wire.read_address(one, f"{field}[{i}]") for i, one in enumerate(messages))
    if len({one.version for one in found}) != len(found):
        raise InvalidArgument(f"{field}: at most one address per family", field=field)
    return found


def _options(messages: Iterable[pb.EndpointOption], field: str) -> dict[str, bool]:
    options: dict[str, bool] = {}
    for index, message in enumerate(messages):
        if message.name not in OPTIONS:
            raise InvalidArgument(
                f"{field}[{index}].name: {message.name!r} is no option; there are {', '.join(OPTIONS)}", field=field
            )
        if message.name in options:
            raise InvalidArgument(f"{field}[{index}].name: {message.name} was given before", field=field)
        options[message.name] = message.enabled
    return options


def write_status(status: Status) -> pb.EndpointDatapath:
    """Return the message of an endpoint's datapath."""
    message = pb.EndpointDatapath(
        id=status.id,
        reachable=status.reachable,
        policy_entries=status.policy.entries,
        policy_digest=status.policy.digest,
        problems=status.problems,
        host_ifname=status.host_ifname,
        host_ifindex=status.host_ifindex,
    )
    record = status.record
    if record is not None:
        message.generation = record.spec.generation
        message.attachment.CopyFrom(wire.write_attachment(record.spec.attachment))
        message.config_hash = record.config_hash
        message.template_hash = record.template_hash
        message.request_id = record.request_id
        message.identity = record.spec.identity
        message.host_ifname = record.spec.host_ifname
        message.host_ifindex = record.spec.host_ifindex
        message.programs.extend(map(_write_program, record.programs))
        for name, enabled in sorted(record.spec.options.items()):
            message.options.add(name=name, enabled=enabled)
    return message


def _write_program(program: model.Program) -> pb.Program:
    return pb.Program(
        name=program.name,
        id=program.id,
        tag=program.tag,
        instructions=program.instructions,
        verified_instructions=program.verified_instructions,
        hook=program.hook,
    )


def write_map_entry(entry: Entry) -> pb.MapEntry:
    """Return the message of one map entry of any kind."""
    match entry:
        case EndpointEntry():
            return pb.MapEntry(
                endpoint=pb.EndpointMapEntry(
                    address=wire.write_address(entry.address),
                    endpoint_id=entry.endpoint_id,
                    ifindex=entry.ifindex,
                    pod_mac=wire.write_mac(entry.pod_mac),
                    host_mac=wire.write_mac(entry.host_mac),
                    identity=entry.identity,
                )
            )
        case CallPolicyEntry():
            return pb.MapEntry(
                call_policy=pb.CallPolicyEntry(endpoint_id=entry.endpoint_id, program_id=entry.program_id)
            )
        case PolicyCount():
            return pb.MapEntry(
                policy=pb.PolicyMapEntry(
                    entry=write_policy_entry(entry.entry), packets=entry.packets, bytes=entry.bytes
                )
            )
        case PrefixEntry():
            return pb.MapEntry(prefix=write_prefix(entry.network, entry.identity))
        case Metric():
            return pb.MapEntry(
                metrics=pb.MetricsEntry(
                    endpoint_id=entry.endpoint_id,
                    direction=pb.TrafficDirection.ValueType(entry.direction),
                    reason=entry.reason,
                    packets=entry.packets,
                    bytes=entry.bytes,
                )
            )
        case Flow():
            return pb.MapEntry(conntrack=eventmessages.write_flow(entry, eventmessages.clock_offset()))
        case IpcacheEntry():
            return pb.MapEntry(ipcache=clustermessages.write_ipcache_entry(entry))
