"""What has become of the namespaces behind links, and who lives in them."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.loader import inhabitants
from services.loader.links import Links
from services.loader.linkspec import LinkStatus, Namespace
from tests import link_support, netns_support
from tests.link_support import attachment, link_spec, namespaces
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, worker, links = netns_support.node, netns_support.pod, link_support.worker, link_support.links


async def only(links: Links) -> LinkStatus:
    """The one link there is, looked into."""
    (status,) = await links.list(namespaces=True)
    (verified,) = await links.list(verify=True)
    assert (verified.namespace, verified.processes) == (status.namespace, status.processes)
    return status


@contextlib.contextmanager
def living_in(netns: Netns) -> Iterator[int]:
    """A process inside, for the block; yields its pid once it is there."""
    with subprocess.Popen(netns.argv("sh", "-c", "echo in; exec sleep 60"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


async def test_a_namespace_that_is_at_its_path_is_there_whether_or_not_anybody_lives_in_it(links: Links, pod: Netns):
    await links.create(link_spec(pod.path))

    status = await only(links)

    assert (status.namespace, status.processes, status.problems) == (Namespace.THERE, (), ())


async def test_only_a_look_at_the_pods_interface_says_what_is_wrong_with_it(links: Links, pod: Netns):
    await links.create(link_spec(pod.path))
    pod.command("ip", "link", "set", "eth0", "down")

    assert (await links.list(namespaces=True))[0].problems == ()
    assert "eth0 is down in the pod" in (await links.list(verify=True))[0].problems


async def test_a_list_without_a_look_inside_says_nothing_of_namespaces(links: Links, pod: Netns):
    await links.create(link_spec(pod.path))
    pod.hide()

    (status,) = await links.list()

    assert status.namespace is Namespace.UNKNOWN


async def test_a_name_that_was_taken_away_is_gone(links: Links, pod: Netns, tmp_path: Path):
    """The kernel keeps the namespace for whoever holds it, and with it the link."""
    path = tmp_path / "netns"
    with pod.bound(path):
        await links.create(link_spec(str(path)))

    status = await only(links)

    assert (status.namespace, status.processes) == (Namespace.GONE, ())
    assert status.link.host_ifindex
    assert str(path) in status.problems[0]


async def test_a_name_whose_directory_cannot_be_seen_tells_nothing(links: Links, pod: Netns, tmp_path: Path):
    """As for a loader in another mount namespace: it sees none of the pods' names."""
    directory = tmp_path / "run"
    directory.mkdir()
    with pod.bound(directory / "netns"):
        await links.create(link_spec(str(directory / "netns")))
    directory.rmdir()

    assert (await only(links)).namespace is Namespace.UNKNOWN


async def test_another_namespace_or_a_file_at_the_path_is_something_else(links: Links, pod: Netns, tmp_path: Path):
    path = tmp_path / "netns"
    with pod.bound(path):
        await links.create(link_spec(str(path)))

    with namespaces(1) as (other,), other.bound(path):
        assert (await only(links)).namespace is Namespace.OTHER
    path.touch()  # as an interrupted `ip netns del` leaves it
    assert (await only(links)).namespace is Namespace.OTHER


async def test_the_nodes_own_namespace_at_the_path_is_something_else(
    links: Links, node: Netns, pod: Netns, tmp_path: Path
):
    path = tmp_path / "netns"
    with pod.bound(path):
        await links.create(link_spec(str(path)))

    with node.bound(path):
        assert (await only(links)).namespace is Namespace.OTHER


async def test_processes_are_found_in_the_namespace_of_their_link_and_of_no_other(links: Links, pod: Netns):
    with namespaces(1) as (other,):
        for number, netns in enumerate((pod, other), 2):
            await links.create(link_spec(netns.path, number))
            netns.hide()
        with living_in(pod) as pid:
            lived_in = {one.link.attachment: one.processes for one in await links.list(namespaces=True)}

    assert [name.rpartition(" ")[2] for name in lived_in[attachment(2)]] == [f"({pid})"]
    assert lived_in[attachment(3)] == ()


async def test_a_process_lives_where_any_of_its_threads_is(links: Links, pod: Netns):
    """Each thread may be in a namespace of its own; this process's main thread isn't in the pod's."""
    await links.create(link_spec(pod.path))
    pod.hide()
    inside, leave = threading.Event(), threading.Event()

    def live() -> None:
        with pod.enter():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=live)
    thread.start()
    inside.wait()
    try:
        status = await only(links)
    finally:
        leave.set()
        thread.join()

    assert len(status.processes) == 1
    assert (await only(links)).processes == ()


async def test_the_pod_s_end_is_looked_for_where_it_is_now(links: Links, pod: Netns):
    """Somebody has moved it: the link carries the traffic of those who live there."""
    await links.create(link_spec(pod.path))
    with namespaces(1) as (other,), living_in(other) as pid:
        pod.command("ip", "link", "set", "eth0", "netns", str(pid))
        pod.hide()

        assert len((await only(links)).processes) == 1


async def test_a_pods_end_in_the_nodes_own_namespace_tells_nothing(links: Links, node: Netns, pod: Netns):
    await links.create(link_spec(pod.path))
    with living_in(node) as pid:
        pod.command("ip", "link", "set", "eth0", "netns", str(pid))
    pod.hide()

    assert (await only(links)).namespace is Namespace.UNKNOWN


async def test_processes_that_cannot_be_looked_at_tell_nothing(
    links: Links, pod: Netns, monkeypatch: pytest.MonkeyPatch
):
    """Nobody seen is not nobody there."""

    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/proc")

    await links.create(link_spec(pod.path))
    pod.hide()
    monkeypatch.setattr(inhabitants, "by_namespace", refuse)

    assert (await only(links)).namespace is Namespace.UNKNOWN


async def test_a_proc_that_hides_processes_tells_nothing(
    links: Links, pod: Netns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As it does for whoever may not trace them, when it is mounted with `hidepid`."""
    await links.create(link_spec(pod.path))
    pod.hide()
    (tmp_path / "proc" / "4711" / "task" / "4711").mkdir(parents=True)
    monkeypatch.setattr(inhabitants, "_PROC", str(tmp_path / "proc"))

    assert (await only(links)).namespace is Namespace.UNKNOWN


@pytest.mark.usefixtures("node")
def test_of_many_processes_the_first_few_are_named(pod: Netns):
    with living_in(pod) as pid, contextlib.ExitStack() as crowd:
        # A namespace has a number here once a link's peer is in it.
        subprocess.run(
            ["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", str(pid)], check=True
        )
        for _ in range(inhabitants.SHOWN):
            crowd.enter_context(living_in(pod))

        (processes,) = inhabitants.by_namespace().values()

    assert len(processes) == inhabitants.SHOWN
