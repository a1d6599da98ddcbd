"""DEL while services are away, on a whole node: it succeeds at once, and nothing is left when they are back."""

import concurrent.futures
import contextlib
import json
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from podlane.common.v1 import controllers_pb2, controllers_pb2_grpc

from services.common.deletions import file_name
from services.common.model import Attachment
from tests.agreement import until
from tests.journal_support import files, journalled
from tests.node_support import SERVICES, Node, Pod, run
from tests.traffic_support import Pings

TRIGGER = controllers_pb2.TriggerControllerRequest(resource="endpoint-manager", name="deletion-journal")
pytestmark = [pytest.mark.privileged, pytest.mark.long]


@pytest.fixture(scope="module")
def resident(shared_node: Node) -> tuple[Pod, Pod]:
    """Two pods that stay, whatever becomes of others."""
    pods = shared_node.pod(), shared_node.pod()
    for pod in pods:
        shared_node.add(pod)
    return pods


@pytest.fixture
def node(shared_node: Node, resident: tuple[Pod, Pod]) -> Iterator[Node]:
    """The node with its two pods, which lose no packet; afterwards there is nothing but them."""
    one, two = resident
    addresses = shared_node.add(two).addresses
    with Pings(one, *addresses, every=0.02) as pings:
        yield shared_node
        nothing_left(shared_node, resident)
    assert pings.lost == []


def directory(node: Node) -> Path:
    return node.loaded.endpoint.journal_dir


def attachment(pod: Pod) -> Attachment:
    return Attachment("podlane", pod.container_id, pod.ifname)


def start(node: Node, *services: str) -> None:
    """Start services and wait until all serve."""
    for service in services:
        node.launch(service)
    until(lambda: all(map(node._serves, SERVICES)), lambda: "not all serve")


def emptied(node: Node) -> None:
    until(lambda: not files(directory(node)), lambda: f"{files(directory(node))} {log(node)}")


def log(node: Node) -> str:
    return (node.dir / "run" / "log" / "endpoint.log").read_text()[-2000:]


def nothing_left(node: Node, resident: tuple[Pod, Pod]) -> None:
    """There is one link, pin and directory for each of the resident pods, and nothing journalled."""
    assert files(directory(node)) == []
    kept = {pod.container_id for pod in resident}
    assert {one["attachment"]["container_id"] for one in node.show("endpoint", "list")} == kept
    assert {one["owner"]["container_id"] for one in node.show("ipam", "list")} == kept
    counts = [one.split()[0] for one in node.leftovers()]
    assert {what: counts.count(what) for what in ("link", "pin", "state", "address", "endpoint")} == {
        "link": 4,  # and a record of each
        "pin": 2,
        "state": 2,
        "address": 2,
        "endpoint": 2,
    }


def test_with_all_services_killed_twenty_dels_succeed_and_nothing_is_left_when_they_are_back(node: Node):
    pods = [node.pod() for _ in range(20)]
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        list(executor.map(node.add, pods))
    for service in SERVICES:
        node.kill(service)

    random.shuffle(pods)
    for pod in pods:
        outcome = node.cni("DEL", pod)
        assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
        run("ip", "netns", "del", pod.netns)
    assert [path.name for path in files(directory(node))] == sorted(file_name(attachment(pod)) for pod in pods)

    services = list(SERVICES)
    random.shuffle(services)
    start(node, *services)
    emptied(node)


@pytest.mark.parametrize("service", SERVICES)
def test_with_one_service_killed_dels_succeed_and_are_finished_when_it_is_back(node: Node, service: str):
    """The endpoint service may run all the time: the journal is not only read at its start."""
    pods = [node.pod(), node.pod()]
    for pod in pods:
        node.add(pod)
    node.kill(service)

    node.delete(pods[0])
    node.delete(pods[1])
    # What an endpoint service that is there has not been able to finish, it still has.
    assert len(files(directory(node))) == 2

    start(node, service)
    emptied(node)


def test_a_del_that_meets_a_service_which_only_restarts_waits_for_it(node: Node):
    pod = node.pod()
    node.add(pod)
    node.kill("loader")

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        deleting = executor.submit(node.cni, "DEL", pod)
        start(node, "loader")
        assert deleting.result().code == 0

    emptied(node)


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_that_comes_again_is_never_taken_for_the_one_that_went(node: Node, service: str):
    """The same container and interface: the ADD begins while the endpoint service finds the entry, too."""
    pod = node.pod()
    for _ in range(2):
        node.add(pod)
        node.kill(service)
        node.delete(pod)
        assert len(files(directory(node))) == 1
        node.launch(service)

        # As a runtime does: again until it succeeds.
        added = until(lambda: one if (one := node.cni("ADD", pod)).code == 0 else None, lambda: log(node))

        until(lambda: all(map(node._serves, SERVICES)), lambda: "not all serve")
        looked_again(node)
        assert files(directory(node)) == []
        assert node.cni("CHECK", pod, node.conf(prevResult=added.json)).code == 0
        assert all(pod.ping(address) for address in ("10.44.0.1", "fd00:44::1"))
        node.delete(pod)


def looked_again(node: Node) -> None:
    """Wait until the endpoint service has looked at the journal once more, from the beginning to the end."""
    with grpc.insecure_channel(f"unix:{node.loaded.endpoint.socket}") as channel:
        stub: Any = controllers_pb2_grpc.ControllerServiceStub(channel)

        def looks() -> int:
            request = controllers_pb2.ListControllersRequest(name="deletion-journal")
            return int(stub.ListControllers(request, timeout=5).controllers[0].status.success_count)

        before = looks()

        def enough() -> bool:
            # One that runs already may have looked before.
            stub.TriggerController(TRIGGER, timeout=5)
            return looks() >= before + 2

        until(enough, lambda: log(node))


def test_an_add_waits_while_the_endpoint_service_is_in_the_middle_of_its_entry(node: Node):
    """It has the lock and is held up by the loader: what it takes away then must not be what the ADD makes."""
    pod = node.pod()
    node.add(pod)
    node.signal("loader", signal.SIGSTOP)
    try:
        entry = journalled(directory(node), attachment(pod))
        until(lambda: _is_locked(entry), lambda: log(node))
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            adding = executor.submit(node.cni, "ADD", pod)
            until(lambda: _open_count(entry) == 2, lambda: log(node))
            assert not adding.done()
            node.signal("loader", signal.SIGCONT)
            added = adding.result()
    finally:
        node.signal("loader", signal.SIGCONT)

    assert added.code == 0, added
    looked_again(node)
    assert files(directory(node)) == []
    assert node.cni("CHECK", pod, node.conf(prevResult=added.json)).code == 0
    assert pod.ping("10.44.0.1")
    node.delete(pod)


def test_an_add_and_the_endpoint_service_that_race_for_an_entry_leave_a_pod_that_works(node: Node):
    """Whoever has the lock first: the pod that was there goes, and the one that comes stays."""
    pod = node.pod()
    node.add(pod)
    with grpc.insecure_channel(f"unix:{node.loaded.endpoint.socket}") as channel:
        stub: Any = controllers_pb2_grpc.ControllerServiceStub(channel)
        for number in range(8):
            adding = subprocess.Popen(
                node.argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=node.environment("ADD", pod), text=True
            )
            journalled(directory(node), attachment(pod))
            if number % 4:
                stub.TriggerController(TRIGGER, timeout=5)
            stdout, _ = adding.communicate(json.dumps(node.conf()), timeout=60)
            assert adding.returncode == 0, stdout

            looked_again(node)
            assert files(directory(node)) == []
            assert node.cni("CHECK", pod, node.conf(prevResult=json.loads(stdout))).code == 0
            assert pod.ping("10.44.0.1")
    node.delete(pod)


def _is_locked(entry: Path) -> bool:
    inode = str(entry.stat().st_ino)
    return any(line.split()[5].endswith(f":{inode}") for line in Path("/proc/locks").read_text().splitlines())


def _open_count(entry: Path) -> int:
    """Return how many processes have a file open."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            count += any(one.readlink() == entry for one in (process / "fd").iterdir())
    return count


def test_after_a_reboot_what_was_journalled_is_carried_out():
    """Links, maps, sockets and the state directory are gone; databases and the journal are not."""
    with Node() as node:
        pods = [node.pod() for _ in range(3)]
        for pod in pods:
            node.add(pod)
        for service in SERVICES:
            node.kill(service)
        for pod in pods:
            node.delete(pod)
        for link in node.links():
            if link["ifname"].startswith("lxc"):
                node.exec("ip", "link", "del", link["ifname"])
        shutil.rmtree(node.dir / "bpf" / "podlane")
        for path in (node.dir / "run").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert len(files(directory(node))) == 3

        node.up()

        assert files(directory(node)) == []
        assert node.leftovers() == []
        # All of their addresses can be had again.
        added = node.add(node.pod())
        assert added.addresses


@pytest.mark.parametrize(
    ("options", "why"),
    [("size=4k", "No space left on device"), ("ro", "Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_journal_on_a_disk_that_takes_nothing_is_an_error_that_names_both_problems(
    node: Node, tmp_path: Path, options: str, why: str
):
    """And no part of an entry stays."""
    pod = node.pod()
    node.add(pod)
    place = tmp_path / "journal"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        if options != "ro":
            with contextlib.suppress(OSError):
                (place / "filler").write_bytes(bytes(1 << 16))
        node.kill("ipam")
        outcome = node.cni("DEL", pod, node.conf(journalDir=str(place)))
        error = outcome.json
        left = [path.name for path in files(place)]
    finally:
        run("umount", str(place))
        start(node, "ipam")

    assert (outcome.code, error["code"]) == (1, 11)
    assert "ipam.sock" in error["msg"]
    assert f"{place}: the deletion can't be journalled: {why}" in error["msg"]
    assert left == ([] if options == "ro" else ["filler"])
    node.delete(pod)


def test_the_command_shows_the_journal_whether_the_service_runs_or_not(node: Node):
    pod = node.pod()
    node.add(pod)
    for service in SERVICES:
        node.kill(service)
    node.delete(pod)

    away = node.podlane("cni", "journal", "-o", "json")
    status = node.podlane("status", "-o", "json", check=False)

    (deletion,) = json.loads(away.stdout)
    assert deletion["attachment"] == {"network": "podlane", "container_id": pod.container_id, "ifname": "eth0"}
    assert (deletion["netns_path"], deletion["failures"], deletion["last_error"]) == (pod.path, 0, "")
    assert "podlane-endpoint does not answer" in away.stderr
    told: dict[str, Any] = json.loads(status.stdout)["deletion_journal"]
    assert (told["waiting"], told["unreadable"]) == (1, 0)
    assert told["oldest_seconds"] > 0

    # The loader stays away: now it is the service that tells, and why.
    for service in ("ipam", "endpoint"):
        node.launch(service)

    def failing() -> Any:
        done = node.podlane("cni", "journal", "-o", "json", check=False)
        found = json.loads(done.stdout)
        return found if done.returncode == 1 and found and found[0]["failures"] else None

    (deletion,) = until(failing, lambda: log(node))
    assert "podlane-loader does not answer" in deletion["last_error"]
    table = node.podlane("cni", "journal", check=False).stdout.splitlines()
    assert table[1].split()[:3] == ["podlane", pod.container_id[:12], "eth0"]
    status = node.podlane("status", check=False)
    assert "deletions         1 wait, the oldest for" in status.stdout
    assert "! deletion podlane~" in status.stdout

    start(node, "loader")
    emptied(node)
    assert node.podlane("cni", "journal").stdout == "no deletions wait\n"
    assert json.loads(node.podlane("status", "-o", "json").stdout)["deletion_journal"]["waiting"] == 0


def test_the_installed_configuration_names_the_services_journal(node: Node, tmp_path: Path):
    where = ("--bin-dir", str(tmp_path / "b"), "--conf-dir", str(tmp_path / "c"))
    node.podlane("cni", "install", *where)

    (plugin,) = json.loads((tmp_path / "c" / "10-podlane.conflist").read_text())["plugins"]
    assert plugin["journalDir"] == str(directory(node))
