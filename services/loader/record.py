"""How what was put in force is written down: JSON, one object per file, with the format's number. Pure.

`endpoint.json` (an EndpointRecord), `node.json` (a NodeConfig) and `nodes.json` (RemoteNodes) are read after a restart
by whatever version of the loader starts then. A file that can't be read, or that a newer loader wrote, is CorruptState:
it is kept and named.

    1    endpoint.json also has `policy_digest` and `policy_entries`; nobody reads them any more
    2    a policy is no part of it
    3    endpoint.json has `chained`, and is written only for an endpoint that is: loaders before it would take its link
         for their own

`request_id` of endpoint.json needed no new number: who doesn't know it passes it over, and where it is missing it is
empty.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from services.common.errors import CorruptState
from services.common.model import Attachment, format_address
from services.loader.model import (
    DEFAULT_TUNNEL_PORT,
    EndpointRecord,
    EndpointSpec,
    NodeConfig,
    Program,
    RemoteNode,
    Routing,
)

FORMAT, FORMAT_UNCHAINED = 3, 2
# A line per value, for people. json's own indentation has no fast path, and this is written at each regeneration.
_ENCODER = json.JSONEncoder(separators=(",\n ", ": "))

T = TypeVar("T")


def write_endpoint(record: EndpointRecord) -> str:
    """Return the text of `endpoint.json`."""
    spec = record.spec
    return _write(
        {
            "id": spec.id,
            "generation": spec.generation,
            "attachment": [spec.attachment.network, spec.attachment.container_id, spec.attachment.ifname],
            "host_ifname": spec.host_ifname,
            "host_ifindex": spec.host_ifindex,
            "host_mac": spec.host_mac.hex(":"),
            "pod_mac": spec.pod_mac.hex(":"),
            "addresses": list(map(format_address, spec.addresses)),
            "identity": spec.identity,
            "options": dict(spec.options),
            **({"chained": True} if spec.chained else {}),
            "config_hash": record.config_hash,
            "template_hash": record.template_hash,
            "attach_mode": record.attach_mode,
            "policy_map": record.policy_map,
            **({"request_id": record.request_id} if record.request_id else {}),
            "programs": [
                {
                    "name": program.name,
                    "hook": program.hook,
                    "id": program.id,
                    "tag": program.tag.hex(),
                    "instructions": program.instructions,
                    "verified_instructions": program.verified_instructions,
                }
                for program in record.programs
            ],
        },
        FORMAT if spec.chained else FORMAT_UNCHAINED,
    )


def read_endpoint(text: str, path: Path) -> EndpointRecord:
    """Return what `endpoint.json` says; `path` is for errors. Raises CorruptState."""
    return _read(text, path, _endpoint)


def write_node(config: NodeConfig) -> str:
    """Return the text of `node.json`."""
    return _write(
        {
            "pod_cidrs": [str(network) for network in config.pod_cidrs],
            "gateways": [str(address) for address in config.gateways],
            "masquerade": config.masquerade,
            "mtu": config.mtu,
            **(_write_routing(config) if config.routing is not Routing.ALONE else {}),
        }
    )


def _write_routing(config: NodeConfig) -> dict[str, Any]:
    return {
        "routing": config.routing.name.lower(),
        "underlay_device": config.underlay_device,
        "underlay_family": config.underlay_family,
        "tunnel_port": config.tunnel_port,
        "cluster_cidrs": [str(network) for network in config.cluster_cidrs],
    }


def read_node(text: str, path: Path) -> NodeConfig:
    """Return what `node.json` says; `path` is for errors. Raises CorruptState."""
    return _read(text, path, _node)


def _write(values: Mapping[str, Any], number: int = FORMAT_UNCHAINED) -> str:
    return _ENCODER.encode({"format": number, **values}) + "\n"


def _read(text: str, path: Path, convert: Callable[[Any], T]) -> T:
    try:
        values = json.loads(text)
        if values["format"] > FORMAT:
            raise CorruptState(
                f"{path} has format {values['format']} and this loader knows formats up to {FORMAT}: a newer podlane "
                "wrote it; run that one",
                path=path,
            )
        return convert(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptState(
            f"{path} is damaged ({type(error).__name__}: {error}); it was left as it is: move its directory away, "
            "then regenerate the endpoint or configure the node again",
            path=path,
        ) from None


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _endpoint(values: Any) -> EndpointRecord:
    network, container_id, ifname = values["attachment"]
    spec = EndpointSpec(
        id=int(values["id"]),
        generation=int(values["generation"]),
        attachment=Attachment(network, container_id, ifname),
        host_ifname=values["host_ifname"],
        host_ifindex=int(values["host_ifindex"]),
        host_mac=_mac(values["host_mac"]),
        pod_mac=_mac(values["pod_mac"]),
        addresses=tuple(ip_address(text) for text in values["addresses"]),
        identity=int(values["identity"]),
        options={name: bool(on) for name, on in values["options"].items()},
        chained=bool(values.get("chained", False)),
    )
    programs = tuple(
        Program(
            name=one["name"],
            id=int(one["id"]),
            tag=bytes.fromhex(one["tag"]),
            instructions=int(one["instructions"]),
            verified_instructions=int(one["verified_instructions"]),
            hook=one["hook"],
        )
        for one in values["programs"]
    )
    return EndpointRecord(
        spec=spec,
        config_hash=values["config_hash"],
        template_hash=values["template_hash"],
        attach_mode=values["attach_mode"],
        programs=programs,
        policy_map=int(values["policy_map"]),
        request_id=str(values.get("request_id", "")),
    )


def _node(values: Any) -> NodeConfig:
    return NodeConfig(
        pod_cidrs=tuple(ip_network(text) for text in values["pod_cidrs"]),
        gateways=tuple(ip_address(text) for text in values["gateways"]),
        masquerade=bool(values["masquerade"]),
        mtu=int(values["mtu"]),
        # What follows is not in the files of nodes that are alone, nor of versions that knew of no others.
        routing=Routing[values.get("routing", Routing.ALONE.name).upper()],
        underlay_device=str(values.get("underlay_device", "")),
        underlay_family=int(values.get("underlay_family", 0)),
        tunnel_port=int(values.get("tunnel_port", DEFAULT_TUNNEL_PORT)),
        cluster_cidrs=tuple(ip_network(text) for text in values.get("cluster_cidrs", ())),
    )


def write_nodes(nodes: Iterable[RemoteNode]) -> str:
    """Return the text of `nodes.json`."""
    return _write(
        {
            "nodes": [
                {
                    "name": node.name,
                    "address": str(node.address),
                    "pod_cidrs": [str(network) for network in node.pod_cidrs],
                    "addresses": [str(address) for address in node.addresses],
                }
                for node in nodes
            ]
        }
    )


def read_nodes(text: str, path: Path) -> tuple[RemoteNode, ...]:
    """Return what `nodes.json` says; `path` is for errors. Raises CorruptState."""
    return _read(text, path, _nodes)


def _nodes(values: Any) -> tuple[RemoteNode, ...]:
    return tuple(
        RemoteNode(
            name=str(one["name"]),
            address=ip_address(one["address"]),
            pod_cidrs=tuple(ip_network(text) for text in one["pod_cidrs"]),
            addresses=tuple(ip_address(text) for text in one["addresses"]),
        )
        for one in values["nodes"]
    )
