"""Deleting links: what is gone, what is spared, and who is told."""

import asyncio
import dataclasses
import json
import socket
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from services.common.errors import AlreadyExists, FailedPrecondition
from services.loader import linkdelete, rtnl
from services.loader.links import Links
from services.loader.linkspec import LinkRemoval
from services.loader.netlink import Rtnl
from tests import link_support, netns_support
from tests.link_support import attachment, link_spec, namespaces
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, worker, links = netns_support.node, netns_support.pod, link_support.worker, link_support.links


def names(netns: Netns) -> set[str]:
    """The devices of a namespace."""
    return {one["ifname"] for one in json.loads(netns.command("ip", "-j", "link").stdout)}


def veths(netns: Netns, *ifnames: str) -> None:
    """Make pairs that are not podlane's."""
    for ifname in ifnames:
        netns.command("ip", "link", "add", ifname, "type", "veth", "peer", "name", f"{ifname}-p")


def indexes(*ifnames: str) -> list[int]:
    """The devices' indexes in the test's namespace."""
    return [socket.if_nametoindex(ifname) for ifname in ifnames]


async def test_a_deleted_link_is_gone_at_both_ends_with_its_record(
    links: Links, node: Netns, pod: Netns, tmp_path: Path
):
    made = await links.create(link_spec(pod.path))

    assert await links.delete(attachment())

    assert made.link.host_ifname not in names(node)
    assert "eth0" not in names(pod)
    assert list((tmp_path / "links").iterdir()) == []
    assert await links.list() == []


async def test_what_is_gone_already_is_deleted_with_success(links: Links, pod: Netns):
    assert not await links.delete(attachment())

    await links.create(link_spec(pod.path))
    assert await links.delete(attachment())
    assert not await links.delete(attachment())


async def test_only_the_link_that_is_meant_is_deleted(links: Links, pod: Netns):
    """What a collector found may be another link by the time it is deleted."""
    made = await links.create(link_spec(pod.path))
    index = made.link.host_ifindex

    with pytest.raises(FailedPrecondition, match=f"is another link by now: index {index}, not {index + 1}"):
        await links.delete(attachment(), ifindex=index + 1)

    assert await links.delete(attachment(), ifindex=index)


async def test_a_link_that_was_asked_for_lately_is_spared(links: Links, pod: Netns):
    """Made, or asked for again: its pod's ADD may be between its steps."""
    await links.create(link_spec(pod.path))
    record = links._records.get(attachment().host_ifname())
    assert record is not None
    links._records.put(dataclasses.replace(record, asked_at=record.asked_at - 1000))
    (status,) = await links.list()
    assert 1000 <= status.idle < 1100

    assert not (await links.create(link_spec(pod.path))).created
    with pytest.raises(FailedPrecondition, match="was asked for 0 s ago"):
        await links.delete(attachment(), idle=120)

    record = links._records.get(attachment().host_ifname())
    assert record is not None
    links._records.put(dataclasses.replace(record, asked_at=record.asked_at - 1000))
    assert await links.delete(attachment(), idle=120)


async def test_a_link_without_a_record_cannot_be_told_to_be_idle(links: Links, pod: Netns, node: Netns):
    made = await links.create(link_spec(pod.path))
    links._records.remove(made.link.host_ifname)

    with pytest.raises(FailedPrecondition, match="no record of when"):
        await links.delete(attachment(), idle=120)

    assert made.link.host_ifname in names(node)


async def test_another_network_can_neither_take_nor_delete_a_containers_link(links: Links, pod: Netns):
    """The link's name doesn't tell networks apart; its record does."""
    made = await links.create(link_spec(pod.path))
    other = dataclasses.replace(attachment(), network="other")

    with pytest.raises(AlreadyExists, match="belongs to network podlane, not other"):
        await links.create(dataclasses.replace(link_spec(pod.path), attachment=other))
    assert not await links.delete(other)

    (status,) = await links.list(verify=True)
    assert (status.link, status.problems) == (made.link, ())


async def test_a_link_that_went_with_its_namespace_is_forgotten(links: Links, tmp_path: Path):
    async with aclosing(links.watch()) as removals:
        event = asyncio.ensure_future(anext(removals))
        with namespaces(1) as (gone,):
            await links.create(link_spec(gone.path))
        await event

    assert not await links.delete(attachment())
    assert list((tmp_path / "links").iterdir()) == []


async def test_the_same_pod_can_come_back_at_once_and_leave_again(links: Links, pod: Netns):
    """A deletion is answered while the kernel still frees the memory: nothing of that may hit the next link."""
    for _ in range(12):
        made = await links.create(link_spec(pod.path))
        assert made.created
        assert await links.delete(attachment())
    made = await links.create(link_spec(pod.path))
    await links.stop()  # waits until the kernel has finished all twelve

    assert pod.command("ip", "-o", "link", "show", "dev", "eth0").stdout.startswith(f"{made.link.pod_ifindex}:")


async def test_a_late_deletion_does_not_hit_the_next_link_of_that_name(node: Netns):
    """Between the request and the kernel's turn the link may go by itself and its pod come back."""
    veths(node, "lxc-a")
    old = indexes("lxc-a")
    node.command("ip", "link", "del", "lxc-a")
    veths(node, "lxc-a")

    linkdelete.delete_links(old)

    assert "lxc-a" in names(node)


async def test_deletions_under_way_are_finished_before_the_loader_stops(worker, node: Netns, tmp_path: Path):
    with namespaces(20) as pods:
        async with link_support.running_links(worker, tmp_path / "links") as running:
            for number, one in enumerate(pods, 2):
                await running.create(link_spec(one.path, number))
            gone = [asyncio.ensure_future(running.delete(attachment(number))) for number in range(2, 22)]
            assert all(await asyncio.gather(*gone))

        assert not any(name.startswith("lxc") for name in names(node))


def test_a_group_takes_its_links_and_no_others(node: Netns):
    veths(node, "lxc-a", "lxc-b", "lxc-c", "other")
    node.command("ip", "link", "set", "other", "group", "7")

    linkdelete.delete_links([*indexes("lxc-a", "lxc-b"), 99])

    assert names(node) == {"lo", "lxc-c", "lxc-c-p", "other", "other-p"}


def test_a_group_that_somebody_else_uses_is_not_deleted(node: Netns, monkeypatch: pytest.MonkeyPatch):
    """The number is drawn again until nothing else carries it."""
    veths(node, "lxc-a", "lxc-b", "other")
    node.command("ip", "link", "set", "other", "group", "1001")
    drawn = iter([1000, 1000, 2000])
    monkeypatch.setattr("services.loader.linkdelete.secrets.randbelow", lambda _: next(drawn))

    linkdelete.delete_links(indexes("lxc-a", "lxc-b"))

    assert next(drawn, None) is None
    assert names(node) == {"lo", "other", "other-p"}


def test_links_put_into_a_group_and_never_deleted_stay(node: Netns):
    """A loader that is killed between the two leaves a group number, which means nothing."""
    veths(node, "lxc-a", "lxc-b")

    with Rtnl() as own:
        group = linkdelete.gather(own, indexes("lxc-a", "lxc-b"))

        assert {rtnl.read_link(body).group for body in own.dump(rtnl.dump_links())} == {0, group}
    assert {"lxc-a", "lxc-b"} <= names(node)


async def removal_after(links: Links, act: Callable[[], object]) -> LinkRemoval:
    """What the stream says first after something is done."""
    async with aclosing(links.watch()) as removals:
        event = asyncio.ensure_future(anext(removals))
        await asyncio.sleep(0)  # the iteration begins
        done = act()
        if asyncio.iscoroutine(done):
            await done
        return await event


async def test_a_removal_by_the_administrator_is_noticed(links: Links, node: Netns, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link

    event = await removal_after(links, lambda: node.command("ip", "link", "del", link.host_ifname))

    assert event == LinkRemoval(link.host_ifname, link.host_ifindex, attachment())


async def test_a_pod_that_deletes_its_own_interface_is_noticed(links: Links, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link

    event = await removal_after(links, lambda: pod.command("ip", "link", "del", "eth0"))

    assert (event.host_ifindex, event.attachment) == (link.host_ifindex, attachment())


async def test_the_loaders_own_deletion_is_in_the_stream_with_its_attachment(links: Links, pod: Netns):
    link = (await links.create(link_spec(pod.path))).link

    event = await removal_after(links, lambda: links.delete(attachment()))

    assert event == LinkRemoval(link.host_ifname, link.host_ifindex, attachment())


async def test_links_that_are_not_podlanes_and_ports_that_leave_a_bridge_are_not_reported(
    links: Links, node: Netns, pod: Netns
):
    link = (await links.create(link_spec(pod.path))).link
    veths(node, "other")
    node.command("ip", "link", "add", "br0", "type", "bridge")
    node.command("ip", "link", "set", link.host_ifname, "master", "br0")

    def act() -> None:
        node.command("ip", "link", "set", link.host_ifname, "nomaster")
        node.command("ip", "link", "del", "other")
        node.command("ip", "link", "del", link.host_ifname)

    async with aclosing(links.watch()) as removals:
        first = asyncio.ensure_future(anext(removals))
        await asyncio.sleep(0)
        act()
        assert await first == LinkRemoval(link.host_ifname, link.host_ifindex, attachment())
        veths(node, "lxcbr0")
        node.command("ip", "link", "del", "lxcbr0")
        node.command("ip", "link", "add", "lxc0123456789ab", "type", "veth", "peer", "name", "other")
        node.command("ip", "link", "del", "lxc0123456789ab")
        second = await anext(removals)
        assert (second.host_ifname, second.attachment) == ("lxc0123456789ab", None)


async def test_removals_that_overflowed_the_socket_are_found_by_comparing(links: Links, node: Netns, pod: Netns):
    """With the loop busy and a tiny buffer the kernel drops notifications (ENOBUFS)."""
    link = (await links.create(link_spec(pod.path))).link
    monitor = links._monitor
    assert monitor._socket is not None
    monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with Rtnl() as own:
        own.batch(
            [
                rtnl.new_veth(
                    rtnl.EndOfPair(f"x{n}", b"\2\0\0\0\0\1", 1500), rtnl.EndOfPair(f"y{n}", b"\2\0\0\0\0\2", 1500)
                )
                for n in range(8)
            ]
        )

    def act() -> None:
        for number in range(8):
            node.command("ip", "link", "del", f"x{number}")
        node.command("ip", "link", "del", link.host_ifname)

    event = await removal_after(links, act)

    assert event == LinkRemoval(link.host_ifname, link.host_ifindex, attachment())
