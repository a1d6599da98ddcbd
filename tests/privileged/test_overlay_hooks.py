"""The overlay's programs hang on its device by tcx links or by filters, and no packet finds it without."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from podlane.loader.v1 import loader_pb2 as pb

from services.loader import libbpf, libbpf_programs
from services.loader.libbpf_programs import AttachType
from tests.cluster_support import ClusterLoader, LoaderCluster
from tests.loader_support import Pod, pinging

DEVICE = "podlane_vxlan"
TYPES = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
OVERLAY = pb.ROUTING_OVERLAY

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Town:
    """Two nodes with a pod on each; what is done is done to the second."""

    cluster: LoaderCluster
    one: Pod
    two: Pod

    @property
    def node(self) -> ClusterLoader:
        """The one that it is about."""
        return self.cluster.nodes[1]

    @property
    def links(self) -> Path:
        """Where its links are pinned."""
        return self.node.bpffs / "podlane" / "links" / "overlay"

    async def settle(self) -> None:
        """Have its loader compare what there is with what should be."""
        await self.node.configure(routing=OVERLAY, underlay_family=4, masquerade=True)

    def unreached(self) -> list[str]:
        """Return who doesn't answer whom."""
        return self.one.pings(self.two.v4, self.two.v6) + self.two.pings(self.one.v4, self.one.v6)

    def ifindex(self) -> int:
        """Return the device's index."""
        return self.node.netns.run(lambda: socket.if_nametoindex(DEVICE))

    def running(self) -> dict[str, list[int]]:
        """Return the ids of the programs that run by links on each of the device's hooks."""
        ifindex = self.ifindex()
        return {
            hook: self.node.netns.run(lambda kind=kind: libbpf_programs.attached_programs(ifindex, kind))  # type: ignore[misc]
            for hook, kind in TYPES.items()
        }

    def pinned(self) -> dict[str, tuple[int, int]]:
        """Return device and program of each pinned link, by the pin's name."""
        found = {}
        for pin in self.links.glob("*"):
            link = libbpf.object_get(pin)
            assert link is not None
            with link:
                info = libbpf.link_info(link)
            found[pin.name] = info.ifindex, info.program_id
        return found

    def filters(self) -> list[str]:
        """Return the names of the device's filters."""
        shown = [self.node.netns.command("tc", "filter", "show", "dev", DEVICE, hook).stdout for hook in TYPES]
        return [word for one in shown for word in one.split() if "_overlay:" in word]

    def assert_linked(self) -> None:
        """Each hook runs the program of a link that is pinned with a digest, the same on both, and nothing else."""
        pinned, running = self.pinned(), self.running()
        hooks, digests = zip(*(name.split(":") for name in pinned), strict=True)
        assert sorted(hooks) == sorted(TYPES)
        assert len(set(digests)) == 1
        ifindex = self.ifindex()
        by_hook = {name.partition(":")[0]: link for name, link in pinned.items()}
        assert by_hook == {hook: (ifindex, ids[0]) for hook, ids in running.items()}
        assert [len(ids) for ids in running.values()] == [1, 1]
        assert self.filters() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with LoaderCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        await cluster.configure(OVERLAY, masquerade=True)
        pods = await cluster.pod(0), await cluster.pod(1)
        await cluster.tell()
        yield Town(cluster, *pods)


@contextlib.asynccontextmanager
async def nothing_lost(town: Town) -> AsyncIterator[None]:
    """Hold pings through the block in both directions."""
    async with pinging(town.one.netns, town.two.v4) as lost, pinging(town.two.netns, town.one.v6) as lost_too:
        yield
    assert (lost, lost_too) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_links_outlive_the_loader_and_are_adopted(town: Town, number: signal.Signals) -> None:
    town.assert_linked()
    before = town.pinned()

    async with nothing_lost(town):
        await town.node.stop(number)
        assert town.unreached() == []
        await town.node.start()
    await town.settle()

    assert town.pinned() == before
    town.assert_linked()


def link(town: Town, hook: str) -> Path:
    (pin,) = town.links.glob(f"{hook}*")
    return pin


def detach(town: Town) -> None:
    for hook in TYPES:
        opened = libbpf.object_get(link(town, hook))
        assert opened is not None
        with opened:
            libbpf_programs.link_detach(opened)


def unpin(town: Town) -> None:
    """Nobody else holds it."""
    link(town, "ingress").unlink()


def unknown(town: Town) -> None:
    """A loader was killed before it wrote down what it had attached."""
    link(town, "egress").rename(town.links / "egress")


def another(town: Town) -> None:
    """What an earlier version would have loaded."""
    for hook in TYPES:
        link(town, hook).rename(town.links / f"{hook}:0123456789abcdef")


def delete_device(town: Town) -> None:
    town.node.netns.command("ip", "link", "del", DEVICE)


@pytest.mark.parametrize("wound", [detach, unpin, delete_device])
async def test_a_link_that_a_hand_has_taken_away_is_mended_by_the_next_comparison(
    town: Town, wound: Callable[[Town], None]
) -> None:
    wound(town)
    assert not all(town.running().values()) if wound is not delete_device else town.pinned()

    await town.settle()

    town.assert_linked()
    assert town.unreached() == []


@pytest.mark.parametrize("wound", [unknown, another])
async def test_a_program_of_which_it_isnt_known_what_it_is_is_replaced_under_way(
    town: Town, wound: Callable[[Town], None]
) -> None:
    before, running = town.pinned(), town.running()
    links = {pin: link_id(town.links / pin) for pin in before}
    wound(town)

    async with nothing_lost(town):
        await town.settle()

    assert town.running() != running
    town.assert_linked()
    assert {pin: link_id(town.links / pin) for pin in before} == links


def link_id(pin: Path) -> int:
    opened = libbpf.object_get(pin)
    assert opened is not None
    with opened:
        return libbpf.link_info(opened).id


async def test_filters_and_links_follow_each_other_without_a_lost_packet(town: Town) -> None:
    """An earlier version's filters are on the device when this one comes. Without tcx there are filters."""
    async with nothing_lost(town):
        await town.node.restart(overlay_attach_mode="tc")
        assert [name.partition(":")[0] for name in town.filters()] == ["from_overlay", "to_overlay"]
        assert (town.running(), town.links.exists()) == ({"ingress": [], "egress": []}, False)
    filters = town.filters()
    async with nothing_lost(town):
        await town.node.restart(signal.SIGKILL)
    assert town.filters() == filters
    assert town.unreached() == []

    async with nothing_lost(town):
        await town.node.restart(overlay_attach_mode="tcx")
        town.assert_linked()
    assert town.unreached() == []


async def test_filters_are_mended(town: Town) -> None:
    await town.node.restart(overlay_attach_mode="tc")
    town.node.netns.command("tc", "qdisc", "del", "dev", DEVICE, "clsact")
    await town.settle()
    assert len(town.filters()) == 2
    assert town.unreached() == []
    await town.node.restart(overlay_attach_mode="tcx")


async def test_filters_beside_links_go(town: Town) -> None:
    """A loader was killed when it had attached the links, and not taken the filters away."""
    program = town.node.bpffs / "filter"
    opened = libbpf.program_by_id(town.running()["ingress"][0])
    assert opened is not None
    with opened:
        libbpf.object_pin(opened, program)
    pinned = ("pref", "1", "handle", "1", "protocol", "all", "bpf", "da", "object-pinned", str(program))
    town.node.netns.command("tc", "qdisc", "replace", "dev", DEVICE, "clsact")
    town.node.netns.command("tc", "filter", "add", "dev", DEVICE, "ingress", *pinned)
    program.unlink()
    assert "bpf" in town.node.netns.command("tc", "filter", "show", "dev", DEVICE, "ingress").stdout

    await town.settle()

    assert "bpf" not in town.node.netns.command("tc", "filter", "show", "dev", DEVICE, "ingress").stdout
    town.assert_linked()


async def test_links_go_with_the_device(town: Town) -> None:
    before = town.ifindex()
    await town.cluster.configure(OVERLAY, masquerade=True, tunnel_port=4789)
    assert town.ifindex() != before
    town.assert_linked()

    await town.cluster.configure(pb.ROUTING_NATIVE, masquerade=True)
    assert not town.links.exists()

    await town.cluster.configure(OVERLAY, masquerade=True)
    delete_device(town)
    assert town.links.exists()
    await town.cluster.configure(pb.ROUTING_UNSPECIFIED, masquerade=True)
    assert not town.links.exists()
    assert await asyncio.to_thread(town.pinned) == {}
