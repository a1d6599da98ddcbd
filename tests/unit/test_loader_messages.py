"""Bad input is refused with the name of its field."""

from typing import Any

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.loader.v1 import loader_pb2 as pb

from services.common.errors import InvalidArgument
from services.loader import messages
from services.loader.model import Level


def endpoint(**changes: Any) -> pb.EndpointConfig:
    fields: dict[str, Any] = {
        "id": 7,
        "generation": 1,
        "attachment": types.Attachment(network="podlane", container_id="c0ffee", ifname="eth0"),
        "host_ifindex": 42,
        "host_ifname": "lxc0",
        "host_mac": types.MacAddress(packed=b"\2" * 6),
        "pod_mac": types.MacAddress(packed=b"\4" * 6),
        "addresses": [types.IpAddress(packed=bytes((10, 244, 0, 9)))],
        "identity": 256,
    }
    return pb.EndpointConfig(**(fields | changes))


def test_a_whole_endpoint_is_read() -> None:
    spec = messages.read_endpoint(endpoint(options=[pb.EndpointOption(name="debug", enabled=True)]), "endpoint")

    assert (spec.id, spec.host_ifname, spec.pod_mac, spec.options) == (7, "lxc0", b"\4" * 6, {"debug": True})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": 0}, "endpoint.id"),
        ({"id": 65536}, "endpoint.id"),
        ({"host_ifindex": 0}, "endpoint.host_ifindex"),
        ({"host_ifname": ""}, "endpoint.host_ifname"),
        ({"host_ifname": "a/b"}, "endpoint.host_ifname"),
        ({"host_mac": types.MacAddress(packed=b"12345")}, "endpoint.host_mac"),
        ({"pod_mac": None}, "endpoint.pod_mac"),
        ({"attachment": None}, "endpoint.attachment.network"),
        ({"addresses": []}, "endpoint.addresses"),
        ({"addresses": [types.IpAddress(packed=b"123")]}, r"endpoint.addresses\[0\]"),
        ({"addresses": [types.IpAddress(packed=b"1234"), types.IpAddress(packed=b"5678")]}, "endpoint.addresses"),
        ({"options": [pb.EndpointOption(name="warp")]}, r"endpoint.options\[0\].name"),
        ({"options": [pb.EndpointOption(name="debug")] * 2}, r"endpoint.options\[1\].name"),
    ],
)
def test_a_bad_endpoint_is_refused_with_the_name_of_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{field}: "):
        messages.read_endpoint(endpoint(**changes), "endpoint")


@pytest.mark.parametrize("number", [0, 3])
def test_an_unknown_level_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgument, match=r"^level: "):
        messages.read_level(number, "level")


def test_the_levels_are_the_apis_numbers() -> None:
    assert messages.read_level(pb.REGENERATION_LEVEL_NO_REBUILD, "level") is Level.NO_REBUILD
    assert messages.read_level(pb.REGENERATION_LEVEL_REWRITE_LOAD, "level") is Level.REWRITE_LOAD


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (pb.NodeConfig(), "config.gateways"),
        (pb.NodeConfig(gateways=[types.IpAddress(packed=b"1")]), r"config.gateways\[0\]"),
        (pb.NodeConfig(gateways=[types.IpAddress(packed=b"1234")] * 2), "config.gateways"),
        (pb.NodeConfig(gateways=[types.IpAddress(packed=b"1234")], mtu=10), "config.mtu"),
        (
            pb.NodeConfig(gateways=[types.IpAddress(packed=b"1234")], pod_cidrs=[types.IpPrefix()]),
            r"config.pod_cidrs\[0\]\.address",
        ),
    ],
)
def test_a_bad_node_configuration_is_refused_with_the_name_of_its_field(config: pb.NodeConfig, field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{field}: "):
        messages.read_node_config(config, "config")


def test_a_node_configuration_survives_both_ways() -> None:
    config = pb.NodeConfig(
        pod_cidrs=[types.IpPrefix(address=types.IpAddress(packed=bytes((10, 244, 0, 0))), length=24)],
        gateways=[types.IpAddress(packed=bytes((10, 244, 0, 1)))],
        masquerade=True,
        mtu=1400,
    )

    assert messages.write_node_config(messages.read_node_config(config, "config")) == config
