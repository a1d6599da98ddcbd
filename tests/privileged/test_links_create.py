"""Making links: what the pod gets, what a repeat does, and what is refused."""

import asyncio
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.common.model import format_mac
from services.loader import rtnl
from services.loader.links import Links
from services.loader.linkspec import OffloadSizes
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import attributes, number
from tests import link_support, netns_support
from tests.link_support import attachment, link_spec, namespaces
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, worker, links = netns_support.node, netns_support.pod, link_support.worker, link_support.links

MAC = bytes.fromhex("0200c0ffee01")


def inside(netns: Netns, *argv: str) -> list[dict[str, Any]]:
    """What iproute2 says inside."""
    found: list[dict[str, Any]] = json.loads(netns.command("ip", "-j", *argv).stdout)
    return found


def addresses(netns: Netns, ifname: str = "eth0") -> set[str]:
    """The addresses of an interface, without the kernel's own link-local one."""
    shown = json.loads(netns.command("ip", "-j", "address", "show", "dev", ifname).stdout)[0]["addr_info"]
    return {f"{one['local']}/{one['prefixlen']}" for one in shown if one["scope"] == "global"}


def ipv4_sizes(ifname: str) -> tuple[int, int]:
    """IFLA_GSO_IPV4_MAX_SIZE and IFLA_GRO_IPV4_MAX_SIZE, which older iproute2 doesn't show."""
    with Rtnl() as own:
        found = attributes(own.batch([rtnl.get_link(ifname=ifname)])[0].bodies[0], 16)
        return number(found[63]), number(found[64])


async def test_a_pod_gets_its_interface_with_addresses_and_routes(links: Links, node: Netns, pod: Netns):
    made = await links.create(link_spec(pod.path, route_mtu=1450))

    assert made.created
    assert addresses(pod) == {"10.0.0.2/32", "fd00::2/128"}
    (eth0,) = inside(pod, "link", "show", "dev", "eth0")
    assert eth0["address"] == format_mac(made.link.pod_mac)
    assert (eth0["ifindex"], eth0["mtu"], eth0["txqlen"]) == (made.link.pod_ifindex, 1500, 1000)
    assert "UP" in eth0["flags"]
    routes = pod.command("ip", "route").stdout + pod.command("ip", "-6", "route").stdout
    assert "10.0.0.1 dev eth0 proto static scope link" in routes
    assert "default via 10.0.0.1 dev eth0 proto static linkdown mtu 1450" in routes
    assert "default via fd00::1 dev eth0" in routes
    (host,) = inside(node, "link", "show", "dev", made.link.host_ifname)
    assert host["address"] == format_mac(made.link.host_mac)
    assert made.link.netns_inode == pod.inode


async def test_the_nodes_end_stays_down_and_without_an_address_of_its_own(links: Links, node: Netns, pod: Netns):
    """Nothing must pass before the programs are attached."""
    made = await links.create(link_spec(pod.path))

    assert not made.link.up
    (host,) = inside(node, "address", "show", "dev", made.link.host_ifname)
    assert "UP" not in host["flags"]
    assert host["addr_info"] == []
    conf = Path("/proc/sys/net/ipv4/conf") / made.link.host_ifname
    assert (conf / "rp_filter").read_text() == "0\n"
    assert (conf / "forwarding").read_text() == "1\n"


async def test_both_macs_are_unicast_and_locally_administered(links: Links, pod: Netns):
    made = await links.create(link_spec(pod.path))

    for mac in (made.link.host_mac, made.link.pod_mac):
        assert mac[0] & 0b11 == 0b10
    assert made.link.host_mac != made.link.pod_mac


async def test_mac_mtu_and_offload_sizes_are_as_asked_for(links: Links, node: Netns, pod: Netns):
    sizes = OffloadSizes(
        gso_max_size=180_000, gro_max_size=190_000, gso_ipv4_max_size=170_000, gro_ipv4_max_size=160_000
    )

    made = await links.create(link_spec(pod.path, mtu=9000, pod_mac=MAC, offload=sizes))

    assert made.link.pod_mac == MAC
    for netns, ifname in ((pod, "eth0"), (node, made.link.host_ifname)):
        (shown,) = inside(netns, "-d", "link", "show", "dev", ifname)
        assert shown["mtu"] == 9000
        assert (shown["gso_max_size"], shown["gro_max_size"]) == (180_000, 190_000)
        assert netns.run(functools.partial(ipv4_sizes, ifname)) == (170_000, 160_000)


async def test_a_pod_with_one_family_gets_only_that(links: Links, pod: Netns):
    await links.create(link_spec(pod.path, versions=(4,)))

    assert addresses(pod) == {"10.0.0.2/32"}
    assert "fd00" not in pod.command("ip", "-6", "route").stdout


async def test_ipv6_works_where_the_runtime_has_switched_it_off(links: Links, pod: Netns):
    """Docker's sandboxes have disable_ipv6=1 for every new interface."""
    pod.command("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")

    await links.create(link_spec(pod.path))

    assert addresses(pod) == {"10.0.0.2/32", "fd00::2/128"}
    assert pod.command("sysctl", "-n", "net.ipv6.conf.lo.disable_ipv6").stdout == "1\n"


async def test_the_answer_says_how_long_each_part_took(links: Links, pod: Netns):
    made = await links.create(link_spec(pod.path))

    assert [phase.name for phase in made.phases] == ["wait", "netns", "record", "link", "pod", "done"]


async def test_a_repeated_request_returns_the_same_link(links: Links, pod: Netns):
    first = await links.create(link_spec(pod.path))

    again = await links.create(link_spec(pod.path))

    assert not again.created
    assert again.link == first.link


async def test_a_repeat_under_another_name_of_the_namespace_is_the_same_request(
    links: Links, pod: Netns, tmp_path: Path
):
    first = await links.create(link_spec(pod.path))

    with pod.bound(tmp_path / "netns") as path:
        again = await links.create(link_spec(path))

    assert not again.created
    assert again.link.host_ifindex == first.link.host_ifindex
    assert again.link.netns_path == path


async def test_a_repeat_restores_what_the_pod_has_lost(links: Links, pod: Netns):
    first = await links.create(link_spec(pod.path))
    pod.command("ip", "address", "flush", "dev", "eth0")
    pod.command("ip", "link", "set", "eth0", "mtu", "1300", "address", "02:00:00:00:00:09", "down")

    again = await links.create(link_spec(pod.path))

    assert (again.created, again.link.host_ifindex) == (False, first.link.host_ifindex)
    (status,) = await links.list(attachment(), verify=True)
    assert status.problems == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mtu": 1400}, "its MTU is 1500, not 1400"),
        ({"pod_mac": MAC}, "not 02:00:c0:ff:ee:01"),
        ({"versions": (4,)}, "not 10.0.0.2/32"),
        ({"route_mtu": 1300}, "mtu 1300"),
        ({"offload": OffloadSizes(gso_max_size=70_000)}, "gso_max_size=70000"),
    ],
)
async def test_a_request_that_differs_from_the_link_is_refused(links: Links, pod: Netns, change, named):
    first = await links.create(link_spec(pod.path))

    with pytest.raises(AlreadyExists, match=named):
        await links.create(link_spec(pod.path, **change))

    assert (await links.create(link_spec(pod.path))).link == first.link


async def test_a_request_for_another_namespace_leaves_the_running_pod_alone(links: Links, pod: Netns):
    first = await links.create(link_spec(pod.path))
    with namespaces(1) as (other,):
        with pytest.raises(AlreadyExists, match="another namespace"):
            await links.create(link_spec(other.path))

        assert "eth0" not in other.command("ip", "link").stdout
    assert (await links.create(link_spec(pod.path))).link == first.link


async def test_a_link_whose_namespace_is_gone_is_made_anew(links: Links):
    with namespaces(2) as (gone, new):
        removals = links.watch()
        event = asyncio.ensure_future(anext(removals))
        first = await links.create(link_spec(gone.path))
        gone.close()
        await event
        await removals.aclose()

        again = await links.create(link_spec(new.path))

        assert again.created
        assert again.link.host_ifindex != first.link.host_ifindex
        assert addresses(new) == {"10.0.0.2/32", "fd00::2/128"}


async def test_an_interface_that_is_somebody_elses_is_refused_with_its_kind_and_mac(
    links: Links, node: Netns, pod: Netns, tmp_path: Path
):
    pod.command("ip", "link", "add", "eth0", "address", "02:00:00:00:00:77", "type", "bridge")

    with pytest.raises(AlreadyExists, match=r"eth0 exists .* bridge .* 02:00:00:00:00:77"):
        await links.create(link_spec(pod.path))

    assert "lxc" not in node.command("ip", "link").stdout
    assert list((tmp_path / "links").iterdir()) == []
    assert await links.list() == []


@pytest.mark.parametrize("path", ["/run/netns/there-is-none", "/proc/1/comm/x"])
async def test_a_namespace_that_is_not_there_is_not_found(links: Links, path: str):
    with pytest.raises(NotFound, match=path):
        await links.create(link_spec(path))


@pytest.mark.parametrize("path", ["/etc/hostname", "/", "/dev/null", "/proc/self/ns/mnt"])
async def test_what_is_not_a_network_namespace_is_refused(links: Links, path: str):
    with pytest.raises(InvalidArgument, match=f"netns_path: {path} is not a network namespace"):
        await links.create(link_spec(path))


async def test_a_fifo_in_place_of_a_namespace_does_not_block(links: Links, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(InvalidArgument, match="is not a network namespace"):
        await links.create(link_spec(str(tmp_path / "fifo")))


async def test_the_nodes_own_namespace_is_refused(links: Links, node: Netns):
    with pytest.raises(InvalidArgument, match="the node's own"):
        await links.create(link_spec(node.path))


async def test_a_route_that_makes_no_sense_is_refused_and_nothing_is_left(
    links: Links, node: Netns, pod: Netns, tmp_path: Path
):
    """The route by the gateway comes before the one to it: the kernel's own sentence says what is wrong."""
    spec = link_spec(pod.path)
    backwards = type(spec)(spec.attachment, spec.netns_path, spec.addresses, tuple(reversed(spec.routes)))

    with pytest.raises(InvalidArgument, match=r"Nexthop has invalid gateway|No route to host"):
        await links.create(backwards)

    assert "lxc" not in node.command("ip", "link").stdout
    assert "eth0" not in pod.command("ip", "link").stdout
    assert list((tmp_path / "links").iterdir()) == []


async def test_an_mtu_that_no_device_has_is_refused_by_name(links: Links, pod: Netns):
    with pytest.raises(InvalidArgument, match="mtu: 70000 is not between"):
        await links.create(link_spec(pod.path, mtu=70_000))


async def test_ipv6_that_cannot_be_switched_on_says_so(links: Links, pod: Netns, monkeypatch, tmp_path: Path):
    pod.command("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    conf = tmp_path / "conf"
    (conf / "default").mkdir(parents=True)
    (conf / "default" / "disable_ipv6").write_text("1\n")
    monkeypatch.setattr("services.loader.linkmaker.IPV6_CONF", conf)

    with pytest.raises(FailedPrecondition, match="eth0 can't have an IPv6 address"):
        await links.create(link_spec(pod.path))

    assert await links.list() == []


async def test_sixteen_pods_at_once_get_sixteen_links_and_lose_them_again(links: Links, node: Netns, tmp_path: Path):
    with namespaces(16) as pods:
        made = await asyncio.gather(*(links.create(link_spec(one.path, n)) for n, one in enumerate(pods, 2)))

        assert len({one.link.host_ifname for one in made}) == 16
        for number, one in enumerate(pods, 2):
            assert addresses(one) == {f"10.0.0.{number}/32", f"fd00::{number:x}/128"}
        assert [one.problems for one in await links.list(verify=True)] == [()] * 16

        gone = await asyncio.gather(*(links.delete(attachment(number)) for number in range(2, 18)))

        assert gone == [True] * 16
        assert "lxc" not in node.command("ip", "link").stdout
        assert list((tmp_path / "links").iterdir()) == []


async def test_the_same_request_many_times_at_once_makes_one_link(links: Links, pod: Netns):
    made = await asyncio.gather(*(links.create(link_spec(pod.path)) for _ in range(8)))

    assert [one.created for one in made].count(True) == 1
    assert len({one.link.host_ifindex for one in made}) == 1


async def test_a_link_that_nobody_waits_for_any_more_is_not_begun(links: Links, pod: Netns, tmp_path: Path):
    with pytest.raises(Unavailable, match="its caller hung up before its turn came"):
        await links.create(link_spec(pod.path), lambda: True)

    assert list((tmp_path / "links").iterdir()) == []
    assert "eth0" not in pod.command("ip", "link").stdout
    assert (await links.create(link_spec(pod.path), lambda: False)).created
