"""Which routes lead to other nodes' pods, what is written down about the nodes, and what is said instead of a route."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from services.common.errors import CorruptState
from services.common.model import Route
from services.loader import headers, record
from services.loader.model import NodeConfig, RemoteNode, Routing, Underlay
from services.loader.remotenodes import WantedRoute, wanted

UNDERLAY = Underlay("eth0", 2, ip_address("192.0.2.5"), (ip_address("192.0.2.5"),), 1500)
FOUR, SIX = ip_network("10.45.0.0/24"), ip_network("fd00:45::/112")
GATEWAYS = (ip_address("10.44.0.1"), ip_address("fd00:44::1"))
OVERLAY = NodeConfig((ip_network("10.44.0.0/24"),), GATEWAYS, routing=Routing.OVERLAY)
NATIVE = NodeConfig((ip_network("10.44.0.0/24"),), GATEWAYS, routing=Routing.NATIVE)
NODE = RemoteNode(
    "n2",
    ip_address("192.0.2.6"),
    (FOUR, SIX),
    (ip_address("192.0.2.6"), ip_address("fd00:45::1"), ip_address("2001:db8::6")),
)


def test_in_overlay_mode_the_device_is_the_way_and_the_gateway_the_source() -> None:
    routes, problems = wanted(OVERLAY, UNDERLAY, 7, 1450, [NODE])

    assert routes == [
        WantedRoute("n2", Route(FOUR, None, 1450), 7, GATEWAYS[0], NODE.address),
        WantedRoute("n2", Route(SIX, None, 1450), 7, GATEWAYS[1], NODE.address),
    ]
    assert problems == []


def test_in_native_mode_the_node_is_the_way_by_an_address_of_the_family_that_is_no_pods() -> None:
    routes, problems = wanted(NATIVE, UNDERLAY, 0, 1500, [NODE])

    assert [(one.route.gateway, one.ifindex) for one in routes] == [
        (ip_address("192.0.2.6"), 2),
        (ip_address("2001:db8::6"), 2),
    ]
    assert problems == []


def test_a_range_without_a_way_is_told() -> None:
    bare = RemoteNode("n3", ip_address("192.0.2.7"), (SIX,))
    routes, problems = wanted(NATIVE, UNDERLAY, 0, 1500, [bare, RemoteNode("n4", bare.address, NATIVE.pod_cidrs)])

    assert routes == []
    assert problems == [
        "node n3: fd00:45::/112 can't be routed to: none of the node's addresses (192.0.2.7) is an IPv6 address",
        "node n4: 10.44.0.0/24 overlaps this node's own pod ranges",
    ]


def test_nodes_are_read_as_they_were_written(tmp_path: Path) -> None:
    bare = RemoteNode("n3", ip_address("2001:db8::7"), ())

    assert record.read_nodes(record.write_nodes([NODE, bare]), tmp_path) == (NODE, bare)
    assert record.read_nodes(record.write_nodes([]), tmp_path) == ()
    with pytest.raises(CorruptState, match="is damaged"):
        record.read_nodes('{"format": 2, "nodes": [{"name": "n2"}]}', tmp_path)


def test_a_configuration_is_read_as_it_was_written_and_an_older_one_is_of_a_node_that_is_alone(tmp_path: Path) -> None:
    config = NodeConfig((FOUR,), GATEWAYS, True, 1400, Routing.NATIVE, "eth1", 6, 4789, (SIX,))
    older = '{"format": 2, "pod_cidrs": [], "gateways": ["10.44.0.1"], "masquerade": true, "mtu": 0}'

    assert record.read_node(record.write_node(config), tmp_path) == config
    assert record.read_node(older, tmp_path) == NodeConfig((), GATEWAYS[:1], masquerade=True)


def test_other_nodes_are_defines_of_their_own() -> None:
    """A node that is alone has the header that it always had: nothing is compiled anew."""
    alone = headers.of_node(NodeConfig((), GATEWAYS))
    assert alone == headers.of_node(None) == headers.node_config()

    added = [
        set(headers.of_node(one).splitlines()) - set(alone.splitlines())
        for one in (NATIVE, OVERLAY, NodeConfig((), (), routing=Routing.OVERLAY, underlay_family=6, tunnel_port=4789))
    ]
    assert added == [
        {"#define ENABLE_CLUSTER"},
        {"#define ENABLE_CLUSTER", "#define ENABLE_OVERLAY", "#define TUNNEL_PORT 8472"},
        {
            "#define ENABLE_CLUSTER",
            "#define ENABLE_OVERLAY",
            "#define TUNNEL_PORT 4789",
            "#define ENABLE_UNDERLAY_IPV6",
        },
    ]
