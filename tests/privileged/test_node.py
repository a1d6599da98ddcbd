"""The node's own network: what configuring makes, what it leaves alone, and what is taken back."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition
from services.loader.masquerade import Masquerade
from services.loader.model import NodeConfig
from services.loader.netlink_worker import NetlinkWorker
from services.loader.node import NodeSide
from tests import link_support, netns_support
from tests.link_support import GATEWAY4, GATEWAY6, RANGE4, RANGE6
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, outside, worker = netns_support.node, netns_support.outside, link_support.worker

CONFIG = NodeConfig((RANGE4, RANGE6), (GATEWAY4, GATEWAY6), masquerade=True)


@pytest.fixture
def side(worker: NetlinkWorker) -> NodeSide:
    """What is tested."""
    return NodeSide(worker)


def shown(node: Netns) -> Sequence[str]:
    """Everything that configuring may change, with the numbers that tell whether something was made anew."""
    return [
        node.command(*argv).stdout
        for argv in (
            ("ip", "-d", "address"),
            ("ip", "route", "show", "table", "all"),
            ("ip", "-6", "route", "show", "table", "all"),
            ("nft", "-a", "list", "ruleset"),
            ("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
        )
    ]


def uplink(node: Netns, outside: Netns, ifname: str = "up0", mtu: int = 1500) -> None:
    """Connect the node with the world: 192.0.2.0/24 and 2001:db8::/64."""
    node.command(
        "ip", "link", "add", ifname, "mtu", str(mtu), "type", "veth", "peer", "name", ifname, "netns", outside.path
    )
    for netns, last in ((node, 1), (outside, 2)):
        netns.command("ip", "address", "add", f"192.0.2.{last}/24", "dev", ifname)
        netns.command("ip", "address", "add", f"2001:db8::{last}/64", "dev", ifname, "nodad")
        netns.command("ip", "link", "set", ifname, "mtu", str(mtu), "up")


async def test_the_node_gets_its_router_device_routes_and_forwarding(side: NodeSide, node: Netns):
    assert await side.configure(CONFIG) == 1500

    address, route, route6, ruleset, sysctls = shown(node)
    assert "inet 10.0.0.1/32 scope global podlane_host" in address
    assert "inet6 fd00::1/128 scope global nodad" in address
    assert "fe80:" not in address
    assert "unreachable 10.0.0.0/24" in route
    assert "unreachable fd00::/112" in route6
    assert "masquerade" in ruleset
    assert sysctls == "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n"
    for gateway in (GATEWAY4, GATEWAY6):
        assert await asyncio.to_thread(node.ping, str(gateway))


async def test_configuring_twice_changes_nothing(side: NodeSide, node: Netns):
    await side.configure(CONFIG)
    before = shown(node)

    await side.configure(CONFIG)

    assert shown(node) == before


async def test_another_loader_takes_over_what_is_there(side: NodeSide, node: Netns, worker: NetlinkWorker):
    await side.configure(CONFIG)
    address, route, route6, _, sysctls = shown(node)

    await NodeSide(worker).configure(CONFIG)

    assert [*shown(node)[:3], shown(node)[4]] == [address, route, route6, sysctls]


async def test_a_change_removes_what_is_no_longer_wanted(side: NodeSide, node: Netns):
    await side.configure(CONFIG)

    await side.configure(NodeConfig((ip_network("10.1.0.0/24"),), (ip_address("10.1.0.1"),), mtu=1400))

    address, route, route6, ruleset, _ = shown(node)
    assert "10.1.0.1/32" in address
    assert "mtu 1400" in address
    for old in ("10.0.0.1", "fd00::1"):
        assert old not in address
    assert "unreachable 10.1.0.0/24" in route
    assert "10.0.0.0/24" not in route
    assert "fd00::/112" not in route6
    assert "podlane" not in ruleset


async def test_what_somebody_took_away_comes_back(side: NodeSide, node: Netns):
    await side.configure(CONFIG)
    before = [part.count("\n") for part in shown(node)]
    node.command("ip", "link", "set", "podlane_host", "down")
    node.command("ip", "address", "flush", "dev", "podlane_host")
    node.command("ip", "route", "flush", "type", "unreachable")
    node.command("nft", "flush", "chain", "inet", "podlane", "postrouting")

    await side.configure(CONFIG)

    assert [part.count("\n") for part in shown(node)] == before


@pytest.mark.parametrize("family", ["-4", "-6"])
async def test_the_mtu_is_that_of_the_default_routes_device(side: NodeSide, node: Netns, outside: Netns, family: str):
    uplink(node, outside, mtu=9000)
    node.command("ip", family, "route", "add", "default", "via", {"-4": "192.0.2.2", "-6": "2001:db8::2"}[family])

    assert await side.configure(CONFIG) == 9000


async def test_of_two_default_routes_the_preferred_one_counts(side: NodeSide, node: Netns, outside: Netns):
    uplink(node, outside, mtu=9000)
    node.command("ip", "link", "add", "up1", "mtu", "1400", "type", "veth", "peer", "name", "up1p")
    node.command("ip", "link", "set", "up1", "up")
    node.command("ip", "route", "add", "default", "via", "192.0.2.2", "metric", "600")
    node.command("ip", "route", "add", "default", "dev", "up1", "metric", "100")

    assert await side.configure(CONFIG) == 1400


async def test_an_uplink_that_listens_to_router_advertisements_keeps_listening(
    side: NodeSide, node: Netns, outside: Netns
):
    uplink(node, outside)
    node.command("ip", "-6", "route", "add", "default", "via", "2001:db8::2")
    node.command("ip", "link", "add", "other", "type", "veth", "peer", "name", "other-p")

    await side.configure(CONFIG)

    conf = Path("/proc/sys/net/ipv6/conf")
    assert (conf / "up0" / "accept_ra").read_text() == "2\n"
    assert (conf / "other" / "accept_ra").read_text() == "1\n"


async def test_what_is_sent_to_a_pod_that_is_gone_does_not_leave_the_node(side: NodeSide, node: Netns, outside: Netns):
    uplink(node, outside)
    node.command("ip", "route", "add", "default", "via", "192.0.2.2")
    node.command("ip", "-6", "route", "add", "default", "via", "2001:db8::2")

    await side.configure(CONFIG)

    for address in ("10.0.0.99", "fd00::99"):
        refused = node.command("ip", "route", "get", address, check=False)
        assert refused.returncode != 0
        assert "up0" not in refused.stdout
    assert "up0" in node.command("ip", "route", "get", "198.51.100.1").stdout


async def test_a_pods_own_route_wins_over_the_unreachable_one_even_of_the_same_length(side: NodeSide, node: Netns):
    await side.configure(NodeConfig((ip_network("10.0.0.7/32"), ip_network("fd00::7/128")), (GATEWAY4, GATEWAY6)))
    node.command("ip", "link", "add", "lxc0", "type", "veth", "peer", "name", "lxc0p")
    node.command("ip", "link", "set", "lxc0", "up")
    for family, address in (("-4", "10.0.0.7"), ("-6", "fd00::7")):
        node.command("ip", family, "route", "add", address, "dev", "lxc0")

        assert "dev lxc0" in node.command("ip", "route", "get", address).stdout


async def test_teardown_leaves_no_trace_but_forwarding_and_can_be_repeated(side: NodeSide, node: Netns):
    before = shown(node)[:4]
    await side.configure(CONFIG)

    await side.teardown()
    await side.teardown()

    assert shown(node)[:4] == before
    assert shown(node)[4] == "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n"


async def test_other_tables_are_never_touched(side: NodeSide, node: Netns):
    node.command("nft", "add", "table", "inet", "firewall")
    node.command("nft", "add", "chain", "inet", "firewall", "own")

    await side.configure(CONFIG)
    await side.teardown()

    assert "table inet firewall" in shown(node)[3]


async def test_masquerading_without_nft_says_what_to_install(worker: NetlinkWorker):
    side = NodeSide(worker, Masquerade("/nowhere/nft"))

    with pytest.raises(FailedPrecondition, match=r"install nftables or set loader\.masquerade = false"):
        await side.configure(CONFIG)

    assert await side.configure(NodeConfig(CONFIG.pod_cidrs, CONFIG.gateways)) == 1500


async def test_a_sysctl_that_cannot_be_set_is_named(side: NodeSide, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("services.loader.node._SYSCTL", tmp_path)

    with pytest.raises(FailedPrecondition, match="sysctl net/ipv4/ip_forward can't be read"):
        await side.configure(CONFIG)
