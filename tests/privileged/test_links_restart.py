"""What a loader that was killed leaves, state by state, and what the next one makes of it."""

import dataclasses
import json
from pathlib import Path

import pytest

from services.common.errors import CorruptState
from services.loader.linkrecord import LinkRecords
from services.loader.linkspec import LinkRecord
from services.loader.netlink_worker import NetlinkWorker
from tests import link_support, netns_support
from tests.link_support import attachment, link_spec, namespaces, running_links
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, worker = netns_support.node, netns_support.pod, link_support.worker

IFNAME = attachment().host_ifname()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the records are."""
    return tmp_path / "links"


async def made(worker: NetlinkWorker, directory: Path, netns: Netns) -> LinkRecord:
    """A finished link by a loader that is gone, and its record."""
    async with running_links(worker, directory) as links:
        await links.create(link_spec(netns.path))
    records = LinkRecords(directory)
    records.open()
    record = records.get(IFNAME)
    assert record is not None
    return record


def rewrite(directory: Path, record: LinkRecord) -> None:
    """Write a record as a killed loader would have left it."""
    records = LinkRecords(directory)
    records.open()
    records.put(record)


def recorded(directory: Path) -> list[str]:
    """The files of the records."""
    return [path.name for path in directory.iterdir()]


def leave(directory: Path, name: str, content: str) -> None:
    """Leave a file in the directory."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(content)


def forget(directory: Path) -> None:
    """Lose the record."""
    (directory / f"{IFNAME}.json").unlink()


def exists(netns: Netns, ifname: str) -> bool:
    """Whether a namespace has a device of that name."""
    return netns.command("ip", "link", "show", "dev", ifname, check=False).returncode == 0


async def test_a_finished_link_is_known_after_a_restart(worker, directory: Path, pod: Netns):
    record = await made(worker, directory, pod)

    async with running_links(worker, directory) as links:
        (status,) = await links.list(verify=True)
        again = await links.create(link_spec(pod.path))

    assert status.problems == ()
    assert status.link.attachment == attachment()
    assert (again.created, again.link.host_ifindex) == (False, record.host_ifindex)


async def test_a_record_without_a_link_is_forgotten_at_the_start(worker, directory: Path, pod: Netns):
    """Killed after the intent was written, before the kernel was told."""
    record = await made(worker, directory, pod)
    pod.command("ip", "link", "del", "eth0")
    rewrite(directory, dataclasses.replace(record, done=False, host_ifindex=0, pod_ifindex=0))

    async with running_links(worker, directory) as links:
        assert await links.list() == []
        assert (await links.create(link_spec(pod.path))).created


async def test_half_a_link_is_removed_at_the_start(worker, directory: Path, node: Netns, pod: Netns):
    """Killed after the pair was made, before the record said so."""
    record = await made(worker, directory, pod)
    pod.command("ip", "address", "flush", "dev", "eth0")
    rewrite(directory, dataclasses.replace(record, done=False, host_ifindex=0, pod_ifindex=0))

    async with running_links(worker, directory) as links:
        assert not exists(node, IFNAME)
        assert not exists(pod, "eth0")
        assert recorded(directory) == []
        assert (await links.create(link_spec(pod.path))).created


async def test_half_a_link_is_replaced_by_a_repeat(worker, directory: Path, pod: Netns):
    async with running_links(worker, directory) as links:
        first = await links.create(link_spec(pod.path))
        record = links._records.get(IFNAME)
        assert record is not None
        links._records.put(dataclasses.replace(record, done=False))

        again = await links.create(link_spec(pod.path, mtu=1400))

    assert again.created
    assert again.link.host_ifindex != first.link.host_ifindex
    assert again.link.mtu == 1400


async def test_half_a_link_into_another_namespace_is_replaced(worker, directory: Path, pod: Netns):
    with namespaces(1) as (other,):
        async with running_links(worker, directory) as links:
            await links.create(link_spec(other.path))
            record = links._records.get(IFNAME)
            assert record is not None
            links._records.put(dataclasses.replace(record, done=False))

            again = await links.create(link_spec(pod.path))

        assert again.created
        assert not exists(other, "eth0")
        assert exists(pod, "eth0")


async def test_a_link_whose_record_is_lost_is_shown_and_replaced(worker, directory: Path, pod: Netns):
    """The link's name says whose it is."""
    await made(worker, directory, pod)
    forget(directory)

    async with running_links(worker, directory) as links:
        (status,) = await links.list()
        again = await links.create(link_spec(pod.path))

    assert status.link.host_ifname == IFNAME
    assert "no record" in status.problems[0]
    assert again.created


async def test_a_node_end_whose_pod_end_was_moved_away_is_replaced(worker, directory: Path, pod: Netns):
    with namespaces(1) as (other,):
        async with running_links(worker, directory) as links:
            await links.create(link_spec(pod.path))
            pod.command("ip", "link", "set", "eth0", "netns", other.path)

            again = await links.create(link_spec(pod.path))

        assert again.created
        assert exists(pod, "eth0")
        assert not exists(other, "eth0")


async def test_a_finished_link_that_went_meanwhile_is_listed_as_gone(worker, directory: Path, pod: Netns):
    await made(worker, directory, pod)
    pod.command("ip", "link", "del", "eth0")

    async with running_links(worker, directory) as links:
        (status,) = await links.list(verify=True)
        deleted = await links.delete(attachment())

    assert status.problems == (f"{IFNAME} is gone",)
    assert not deleted
    assert recorded(directory) == []


async def test_a_record_that_was_being_written_is_ignored(worker, directory: Path, pod: Netns):
    await made(worker, directory, pod)
    leave(directory, f"{IFNAME}.json.new", '{"format": 1, "do')

    async with running_links(worker, directory) as links:
        (status,) = await links.list()

    assert status.problems == ()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is damaged"), ("[]", "is damaged"), (json.dumps({"format": 99}), "a newer podlane wrote it")],
)
async def test_a_record_that_cannot_be_read_stops_the_start_and_is_kept(worker, directory: Path, content, sentence):
    leave(directory, f"{IFNAME}.json", content)

    with pytest.raises(CorruptState, match=sentence):
        async with running_links(worker, directory):
            pass

    assert recorded(directory) == [f"{IFNAME}.json"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["address", "del", "10.0.0.2/32", "dev", "eth0"], "eth0 has lost its address 10.0.0.2/32"),
        (["route", "del", "default"], "the pod has lost its route to 0.0.0.0/0 via 10.0.0.1"),
        (["-6", "route", "del", "default"], "the pod has lost its route to ::/0 via fd00::1"),
        (["link", "set", "eth0", "mtu", "1600"], "eth0's MTU is 1600, the node's end can only carry 1500"),
        (["link", "set", "eth0", "address", "02:00:00:00:00:01"], "eth0's MAC is 02:00:00:00:00:01, it was made with"),
        (["link", "set", "eth0", "down"], "eth0 is down in the pod"),
        (["link", "set", "eth0", "name", "eth7"], "eth0 is missing in the pod"),
    ],
)
async def test_what_a_pod_has_changed_is_told_in_a_sentence(worker, directory: Path, pod: Netns, change, sentence):
    async with running_links(worker, directory) as links:
        await links.create(link_spec(pod.path))
        if "name" in change:
            pod.command("ip", "link", "set", "eth0", "down")
        pod.command("ip", *change)

        (status,) = await links.list(verify=True)
        (unverified,) = await links.list()

    assert any(problem.startswith(sentence) for problem in status.problems)
    assert unverified.problems == ()


async def test_what_was_changed_on_the_node_is_told_in_a_sentence(worker, directory: Path, node: Netns, pod: Netns):
    async with running_links(worker, directory) as links:
        await links.create(link_spec(pod.path))
        node.command("ip", "link", "set", IFNAME, "mtu", "1400", "address", "02:00:00:00:00:01")

        (status,) = await links.list()

    assert [problem.partition(",")[0] for problem in status.problems] == [
        f"{IFNAME}'s MAC is 02:00:00:00:00:01",
        f"{IFNAME}'s MTU is 1400",
    ]


async def test_a_namespace_that_was_replaced_under_its_path_is_told(
    worker, directory: Path, pod: Netns, tmp_path: Path
):
    """The link lives on: somebody still holds the old namespace."""
    path = tmp_path / "netns"
    async with running_links(worker, directory) as links:
        with pod.bound(path) as name:
            await links.create(link_spec(name))
        (gone,) = await links.list(verify=True)
        with namespaces(1) as (other,), other.bound(path):
            (replaced,) = await links.list(verify=True)

    assert "there is no network namespace" in gone.problems[0]
    assert "is another namespace now" in replaced.problems[0]
    assert gone.link.netns_inode == replaced.link.netns_inode == 0
