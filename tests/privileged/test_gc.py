"""Garbage on a real node, made as accidents make it: found with its evidence, removed, and never a pod that runs."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from services.loader import libbpf, maps, pathmaps
from services.loader.layout import EndpointEntry
from tests.accidents import (
    Neighbours,
    attachment,
    call,
    endpoint_of,
    endpoints,
    everything,
    forget_endpoint,
    held,
    known,
    living_in,
    nameless,
    stopped,
    until,
)
from tests.node_support import Node, run

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("gc")]

LOST = 4242


@pytest.fixture(scope="module")
def impatient() -> Iterator[Node]:
    """A node that gives an ADD no time between its steps, so that what is found can be removed at once; with
    neighbours that lose nothing through all of it.
    """
    with Node(settings={"endpoint": {"gc_grace_seconds": 0.0, "gc_interval_seconds": 0.0}}) as node:
        neighbours = Neighbours(node)
        yield node
        lost = neighbours.lost()
        assert lost == [0, 0]
        for pod in (neighbours.one, neighbours.other):
            added = node.add(pod).json  # a repeat: the result of the first one
            assert node.cni("CHECK", pod, node.conf(prevResult=added)).code == 0
            node.delete(pod)
        assert node.leftovers() == []


@pytest.fixture
def node(impatient: Node) -> Iterator[Node]:
    """The node; a test leaves nothing but the neighbours."""
    before = impatient.leftovers()
    yield impatient
    assert impatient.leftovers() == before


def gc(node: Node, *argv: str) -> list[tuple[str, str, str]]:
    """Collect, and return kind, action and outcome of each finding."""
    return [(one["kind"], one["action"], one["outcome"]) for one in node.show("gc", *argv)]


REMOVED = [("endpoint", "remove", "removed")]


def test_a_healthy_node_has_nothing_to_collect(node: Node):
    before = everything(node)

    told = node.podlane("gc")
    audit = node.podlane("ipam", "audit")

    assert told.stdout == "nothing is left behind\n"
    assert audit.stdout == "ipam's books are right\n"
    assert everything(node) == before


def test_a_pod_whose_namespace_is_only_held_open_by_a_descriptor_goes_with_all_it_has(node: Node):
    pod = node.pod()
    addresses = node.add(pod).addresses

    with nameless(pod):
        before = everything(node)
        assert gc(node, "--dry-run") == [("endpoint", "remove", "unspecified")]
        assert everything(node) == before
        (finding,) = node.show("gc")

    assert finding["object"].startswith("endpoint ")
    assert finding["attachment"]["container_id"] == pod.container_id
    assert finding["evidence"][0] == f"nothing is at {pod.path} any more"
    assert "no process lives in the namespace" in finding["evidence"][1]
    assert finding["outcome"] == "removed"
    assert all(address in finding["detail"] for address in addresses)
    assert not known(node, pod)


def test_a_pod_whose_namespace_is_only_held_by_a_mount_goes_too(node: Node, tmp_path: Path):
    pod = node.pod()
    node.add(pod)
    (tmp_path / "forgotten").touch()
    run("mount", "--bind", pod.path, str(tmp_path / "forgotten"))
    try:
        with nameless(pod):
            pass
        assert gc(node) == REMOVED
    finally:
        run("umount", str(tmp_path / "forgotten"))


def test_another_namespace_under_the_same_name_does_not_save_the_old_pod_and_is_left_alone(node: Node):
    pod = node.pod()
    node.add(pod)

    with nameless(pod):
        run("ip", "netns", "add", pod.netns)
        try:
            (finding,) = node.show("gc")
            links = run("ip", "-n", pod.netns, "-j", "link").stdout
        finally:
            run("ip", "netns", "del", pod.netns)

    assert finding["evidence"][0] == f"{pod.path} is something else now"
    assert finding["outcome"] == "removed"
    assert [one["ifname"] for one in json.loads(links)] == ["lo"]


def test_a_pod_with_processes_is_kept_though_its_namespace_has_lost_its_name(node: Node):
    """It talks on; when its last process ends the kernel says so, and it is gone without being collected."""
    pod, friend = node.pod(), node.pod()
    address = node.add(pod).addresses[0]
    node.add(friend)

    with living_in(pod) as pid:
        with nameless(pod):
            pass
        (finding,) = node.show("gc")
        assert finding["action"] == "keep"
        assert f"({pid})" in finding["evidence"][1]
        assert friend.ping(address)

    until(lambda: not known(node, pod), "the endpoint outlives its pod")
    assert gc(node) == [("link", "remove", "removed")]  # the record: no DEL came
    node.delete(friend)


def test_a_link_that_is_deleted_behind_podlanes_back_is_missed_at_once(node: Node):
    """Endpoint, datapath and addresses go without anybody asking; the link's record is found by the collector."""
    pod = node.pod()
    node.add(pod)
    endpoint = endpoint_of(node, pod)
    id_, link = endpoint.id, endpoint.link.host_ifname

    node.exec("ip", "link", "del", link)

    until(lambda: not known(node, pod) and not held(node, pod), "endpoint or addresses are still there")
    state = node.dir / "run" / "state"
    assert not (state / str(id_)).exists()
    assert not (node.dir / "bpf" / "podlane" / "maps" / f"policy_{id_}").exists()
    (finding,) = node.show("gc")
    assert finding["object"] == f"record of link {link}"
    assert finding["outcome"] == "removed"


def test_an_add_that_was_killed_between_its_link_and_its_endpoint_leaves_a_link_that_goes(node: Node):
    """SIGKILL of the plugin while the endpoint service doesn't answer, and of that before it could read."""
    pod = node.pod()
    links = {one["ifname"] for one in node.links()}
    node.signal("endpoint", signal.SIGSTOP)
    with subprocess.Popen(node.argv(), stdin=subprocess.PIPE, env=node.environment("ADD", pod), text=True) as shim:
        assert shim.stdin is not None
        shim.stdin.write(json.dumps(node.conf()))
        shim.stdin.close()
        until(lambda: {one["ifname"] for one in node.links()} > links, "no link was made")
        (link,) = {one["ifname"] for one in node.links()} - links
        record = node.dir / "run" / "state" / "links" / f"{link}.json"
        until(lambda: record.exists() and json.loads(record.read_text())["done"], "the link was not finished")
        shim.kill()
    with stopped(node, "endpoint"):
        pass

    before = everything(node)
    assert gc(node, "--dry-run") == [("link", "remove", "unspecified")]
    assert everything(node) == before
    (finding,) = node.show("gc")

    assert finding["object"] == f"link {link}"
    assert "its node's end is down: nothing passes" in finding["evidence"]
    assert link not in {one["ifname"] for one in node.links()}
    assert not record.exists()
    # The reservation is left to its expiry, or to the DEL that the runtime owes.
    node.delete(pod)


def test_a_running_pod_whose_record_was_lost_keeps_its_network_and_is_collected_when_it_is_gone(node: Node):
    pod, friend = node.pod(), node.pod()
    address = node.add(pod).addresses[0]
    node.add(friend)
    link = endpoint_of(node, pod).link.host_ifname
    with stopped(node, "endpoint"):
        forget_endpoint(node, pod)

    (kept,) = node.show("gc")
    assert (kept["object"], kept["action"]) == (f"link {link}", "keep")
    assert "the record of its endpoint was lost" in kept["detail"]
    assert node.podlane("ipam", "audit").returncode == 0
    assert friend.ping(address)

    run("ip", "netns", "del", pod.netns)
    until(lambda: link not in {one["ifname"] for one in node.links()}, "the link outlives its pod")
    assert gc(node, "--dry-run") == [(kind, "remove", "unspecified") for kind in ("datapath", "link", "address")]
    assert gc(node) == [(kind, "remove", "removed") for kind in ("datapath", "link", "address")]
    node.delete(friend)


def test_a_pod_without_a_record_whose_namespace_nobody_lives_in_goes_by_one_call(node: Node):
    pod = node.pod()
    node.add(pod)
    with stopped(node, "endpoint"):
        forget_endpoint(node, pod)

    with nameless(pod):
        assert gc(node) == [(kind, "remove", "removed") for kind in ("datapath", "link", "address")]


def test_a_running_pod_whose_link_record_and_directory_were_lost_is_no_garbage(node: Node):
    """What a pod runs on is in the kernel; DEL takes it away all the same."""
    pod, friend = node.pod(), node.pod()
    address = node.add(pod).addresses[0]
    node.add(friend)
    endpoint = endpoint_of(node, pod)
    state = node.dir / "run" / "state"
    with stopped(node, "endpoint"):  # else a comparison mends it before it is looked at
        node.kill("loader")
        (state / "links" / f"{endpoint.link.host_ifname}.json").unlink()
        run("rm", "-r", str(state / str(endpoint.id)))

    assert gc(node) == []
    assert friend.ping(address)
    node.delete(pod)
    node.delete(friend)


def leave_entry(node: Node, pinned: Path) -> None:
    opened = libbpf.object_get(pinned / maps.ENDPOINTS)
    assert opened is not None
    with pathmaps.Endpoints(opened) as endpoints:
        endpoints.put(EndpointEntry(ip_address("10.44.0.250"), 9999, LOST, 5, bytes(6), bytes(6)))
    assert node


def leave_pin(node: Node, pinned: Path) -> None:
    id_ = endpoints(node)[0].id
    opened = libbpf.object_get(pinned / f"policy_{id_}")
    assert opened is not None
    with opened:
        libbpf.object_pin(opened, pinned / f"policy_{LOST}")


def leave_slot(node: Node, pinned: Path) -> None:
    id_ = endpoints(node)[0].id
    opened = libbpf.object_get(pinned / maps.CALL_POLICY)
    assert opened is not None
    with pathmaps.CallPolicy(opened) as slots:
        program = libbpf.program_by_id(slots.get(id_) or 0)
        assert program is not None
        with program:
            slots.set(LOST, program)


def leave_directory(node: Node, _pinned: Path) -> None:
    (node.dir / "run" / "state" / str(LOST)).mkdir()


@pytest.mark.parametrize("leave", [leave_entry, leave_pin, leave_slot, leave_directory])
def test_what_is_left_of_a_datapath_goes(node: Node, leave: Callable[[Node, Path], None]):
    """Each by itself: an entry of the endpoint map, a pin, a slot, a directory."""
    leave(node, node.dir / "bpf" / "podlane" / "maps")

    (shown,) = node.show("gc", "--dry-run")
    (finding,) = node.show("gc")

    assert shown["object"] == finding["object"] == f"datapath {LOST}"
    assert finding["evidence"][0] == f"no endpoint has id {LOST}"
    assert finding["evidence"][-1] == "none of it leads to a link"
    assert finding["outcome"] == "removed"
    assert gc(node) == []


def test_a_link_that_nobody_knows_is_told_and_left_alone(node: Node):
    node.exec("ip", "link", "add", "lxc0123456789ab", "type", "veth", "peer", "name", "other0")
    try:
        (finding,) = node.show("gc")
    finally:
        left = node.exec("ip", "link", "del", "lxc0123456789ab", check=False)

    assert (finding["object"], finding["action"]) == ("link lxc0123456789ab", "keep")
    assert "ip link del lxc0123456789ab" in finding["detail"]
    assert left.returncode == 0


def test_leaked_addresses_are_audited_and_released(node: Node):
    """Confirmed for an endpoint that never was, as after a restore of a backup."""
    owner = types.Attachment(network="podlane", container_id="c0ffee", ifname="eth0")
    call(node, "ipam", "AllocateAddresses", ipam_pb2.AllocateAddressesRequest(owner=owner))
    call(node, "ipam", "ConfirmAllocation", ipam_pb2.ConfirmAllocationRequest(owner=owner, endpoint_id=LOST))

    audit = node.podlane("ipam", "audit", check=False)
    repaired = node.podlane("ipam", "audit", "--repair")
    again = node.podlane("ipam", "audit")

    assert audit.returncode == 1
    assert f"ipam holds them for endpoint {LOST} of podlane/c0ffee/eth0" in audit.stdout
    assert "removed" in repaired.stdout
    assert (repaired.returncode, again.returncode) == (0, 0)


def test_addresses_that_ipam_has_lost_are_claimed_for_the_pod_that_uses_them(node: Node):
    """Released by hand, by mistake: the next pod would get them."""
    pod = node.pod()
    addresses = node.add(pod).addresses
    call(node, "ipam", "ReleaseAddresses", ipam_pb2.ReleaseAddressesRequest(owner=attachment(pod)))

    audit = node.podlane("ipam", "audit", check=False)
    (repaired,) = node.show("ipam", "audit", "--repair")

    assert audit.returncode == 1
    assert "claim" in audit.stdout
    assert (repaired["action"], repaired["outcome"]) == ("claim", "claimed")
    assert all(address in repaired["object"] for address in addresses)
    assert node.podlane("ipam", "audit").returncode == 0
    node.delete(pod)


def test_addresses_held_for_another_endpoint_are_told_and_nothing_is_taken(node: Node):
    pod = node.pod()
    node.add(pod)
    owner = attachment(pod)
    call(node, "ipam", "ReleaseAddresses", ipam_pb2.ReleaseAddressesRequest(owner=owner))
    call(node, "ipam", "AllocateAddresses", ipam_pb2.AllocateAddressesRequest(owner=owner))
    call(node, "ipam", "ConfirmAllocation", ipam_pb2.ConfirmAllocationRequest(owner=owner, endpoint_id=LOST))

    repair = node.podlane("ipam", "audit", "--repair", check=False)

    assert repair.returncode == 1
    assert "keep" in repair.stdout
    assert "nothing may be taken from a running pod" in repair.stdout
    node.delete(pod)


def test_without_the_loader_the_collector_says_so_in_one_line():
    with Node() as node:
        node.kill("loader")

        outcome = node.podlane("gc", check=False)

    assert outcome.returncode == 4
    assert len(outcome.stderr.splitlines()) == 1
    assert "loader" in outcome.stderr


def test_an_add_that_takes_its_time_is_not_hit_and_rounds_come_by_themselves():
    """With the usual grace time: a link that waits for its endpoint stays, whatever is collected meanwhile."""
    with Node(settings={"endpoint": {"gc_interval_seconds": 0.1}}) as node:
        pod = node.pod()
        owner = attachment(pod)
        reserved = call(node, "ipam", "AllocateAddresses", ipam_pb2.AllocateAddressesRequest(owner=owner))
        link = call(
            node,
            "loader",
            "CreateLink",
            loader_pb2.CreateLinkRequest(
                attachment=owner,
                netns_path=pod.path,
                addresses=reserved.allocation.addresses,
                routes=reserved.routes,
            ),
        ).link
        state = node.dir / "run" / "state"
        for _ in range(2):  # each takes two rounds to go
            (state / str(LOST)).mkdir()
            until(lambda: not (state / str(LOST)).exists(), "no round came")

        assert gc(node) == []
        request = endpoint_pb2.CreateEndpointRequest(
            attachment=owner, link=link, addresses=reserved.allocation.addresses
        )
        assert call(node, "endpoint", "CreateEndpoint", request).created
        assert node.podlane("gc").stdout == "nothing is left behind\n"
        node.delete(pod)
        assert node.leftovers() == []
