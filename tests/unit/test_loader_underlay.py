"""Where other nodes find this one, and how large pods' packets may be."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from services.common.errors import FailedPrecondition
from services.common.model import Route
from services.loader.model import NodeConfig, Routing, Underlay
from services.loader.rtnl import LinkInfo
from services.loader.rtnl_ip import RouteInfo
from services.loader.underlay import find, pod_mtu

GATEWAY = ip_address("10.44.0.1")
CONFIG = NodeConfig((ip_network("10.44.0.0/24"),), (GATEWAY,), routing=Routing.OVERLAY)


def link(index: int, name: str, mtu: int = 1500) -> LinkInfo:
    return LinkInfo(index, name, bytes(6), mtu, 0, 0, "", 0, None, running=True)


LINKS = {one.ifname: one for one in (link(1, "lo"), link(2, "eth0"), link(3, "eth1", 9000), link(4, "podlane_host"))}
ADDRESSES = [
    (index, ip_interface(text))
    for index, text in (
        (1, "127.0.0.1/8"),
        (2, "fe80::1/64"),
        (2, "2001:db8::5/64"),
        (2, "192.0.2.5/24"),
        (3, "2001:db8:1::5/64"),
        (4, "10.44.0.1/32"),
    )
]


def default(ifindex: int, metric: int, version: int = 4) -> RouteInfo:
    anywhere = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return RouteInfo(Route(anywhere, None), ifindex, 254, metric, 1)


def found(*routes: RouteInfo, **changes: object) -> Underlay:
    return find(LINKS, ADDRESSES, routes, NodeConfig(**{**_fields(CONFIG), **changes}))  # type: ignore[arg-type]


def _fields(config: NodeConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in NodeConfig.__slots__}


def test_the_default_route_leads_to_the_others() -> None:
    seen = found(default(3, 100), default(2, 50))

    assert seen == Underlay(
        "eth0",
        2,
        ip_address("192.0.2.5"),
        tuple(map(ip_address, ("192.0.2.5", "2001:db8::5", "2001:db8:1::5"))),
        1500,
    )


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({"underlay_family": 6}, "2001:db8::5"),
        ({"underlay_family": 4}, "192.0.2.5"),
        ({"underlay_device": "eth1"}, "2001:db8:1::5"),
    ],
)
def test_a_family_or_a_device_can_be_chosen(changes: dict[str, object], address: str) -> None:
    assert found(default(2, 0), **changes).address == ip_address(address)


@pytest.mark.parametrize(
    ("routes", "changes", "words"),
    [
        ((), {}, "there is no default route"),
        ((default(9, 0),), {}, "there is no default route"),
        ((default(2, 0),), {"underlay_device": "eth7"}, "underlay device eth7"),
        (
            (default(2, 0),),
            {"underlay_device": "eth1", "underlay_family": 4},
            "eth1 has no IPv4 address that other nodes could send to; it has 2001:db8:1::5",
        ),
        ((default(4, 0),), {}, "podlane_host has no address .* it has none"),
    ],
)
def test_what_is_missing_is_said(routes: tuple[RouteInfo, ...], changes: dict[str, object], words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        found(*routes, **changes)


@pytest.mark.parametrize(
    ("routing", "family", "largest"),
    [(Routing.OVERLAY, 4, 1450), (Routing.OVERLAY, 6, 1430), (Routing.NATIVE, 4, 1500), (Routing.NATIVE, 6, 1500)],
)
def test_outer_headers_have_their_room(routing: Routing, family: int, largest: int) -> None:
    seen = found(default(2, 0), underlay_family=family)

    assert pod_mtu(NodeConfig((), (), routing=routing), seen) == largest
    assert pod_mtu(NodeConfig((), (), mtu=largest, routing=routing), seen) == largest
    with pytest.raises(FailedPrecondition, match=rf"mtu: {largest + 1} bytes don't fit .* leaves {largest}"):
        pod_mtu(NodeConfig((), (), mtu=largest + 1, routing=routing), seen)
