"""The real loader and the real ipam do what `tests/fakes.py` believes of them: one test per belief."""

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from podlane.common.v1 import types_pb2 as types
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2 as pb

from services.common import policydigest, wire
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.loader.headers import SIZES
from services.loader.policymaps import Policy
from tests import fake_kernel
from tests.ipam_support import Ipam
from tests.loader_support import ALLOW_ALL, LoaderNode, Pod

pytestmark = pytest.mark.privileged


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LoaderNode]:
    """A node with a configured loader."""
    async with LoaderNode(tmp_path) as node:
        await node.configure()
        yield node


async def links(node: LoaderNode, pod: Pod | None = None) -> list[pb.Link]:
    """List links, without looking into the pods."""
    asked = pod.endpoint.attachment if pod is not None else None
    reply = await node.call("ListLinks", pb.ListLinksRequest(attachment=asked))
    return [status.link for status in reply.links]


async def statuses(node: LoaderNode) -> list[pb.LinkStatus]:
    """List links, and look at the pods' namespaces."""
    return list((await node.call("ListLinks", pb.ListLinksRequest(namespaces=True))).links)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a process to get where it is going."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def unplug(pod: Pod) -> None:
    """Delete a pod's interface from inside, as the end of its namespace does."""
    pod.netns.command("ip", "link", "del", "eth0")


async def test_b1_a_regeneration_without_its_link_is_not_found_and_changes_nothing(node: LoaderNode) -> None:
    """Also for a link that came in its place."""
    pod = await node.link()
    unplug(pod)

    with pytest.raises(NotFound):
        await node.regenerate(pod)
    assert await node.datapaths() == []


async def test_b2_a_regeneration_before_the_node_is_configured_is_refused(tmp_path: Path) -> None:
    """FAILED_PRECONDITION, whether or not the link is there."""
    mac = types.MacAddress(packed=b"\2" + bytes(5))
    endpoint = pb.EndpointConfig(
        id=1,
        generation=1,
        attachment=types.Attachment(network="net", container_id="c1", ifname="eth0"),
        host_ifname="lxc1",
        host_ifindex=99,
        host_mac=mac,
        pod_mac=mac,
        addresses=[wire.write_address(ip_address("10.77.0.9"))],
        identity=5,
    )
    async with LoaderNode(tmp_path) as node:
        with pytest.raises(FailedPrecondition, match="not configured"):
            await node.call(
                "RegenerateEndpoint",
                pb.RegenerateEndpointRequest(endpoint=endpoint, level=pb.REGENERATION_LEVEL_REWRITE_LOAD),
            )


async def test_b3_a_repeat_keeps_the_config_hash_and_another_identity_changes_it(node: LoaderNode) -> None:
    """What restoring compares."""
    pod = await node.link()
    first, again = await node.regenerate(pod), await node.regenerate(pod)
    pod.endpoint.identity += 1
    other = await node.regenerate(pod)

    assert first.datapath.config_hash == again.datapath.config_hash != other.datapath.config_hash


async def test_b4_removing_is_idempotent_and_spares_a_newer_generation(node: LoaderNode) -> None:
    """A deletion that comes late must not hit who has the id now."""
    pod = await node.link()
    pod.endpoint.generation = 7
    await node.regenerate(pod)

    with pytest.raises(FailedPrecondition):
        await node.remove(pod, generation=6)
    assert await node.remove(pod, generation=7)
    assert not await node.remove(pod, generation=7)
    assert await node.datapaths() == []


async def test_b5_lost_links_are_listed_without_an_ifindex_and_strangers_without_an_attachment(
    node: LoaderNode,
) -> None:
    """And the removal is streamed."""
    stays, goes = await node.add(), await node.add()
    node.netns.command("ip", "link", "add", "lxc0123456789ab", "type", "veth", "peer", "name", "other0")
    stream = node.peer.stream(node.stub.WatchLinks, pb.WatchLinksRequest())
    first = asyncio.ensure_future(anext(stream))
    # The stream subscribes when its call reaches the loader, which says nothing then.
    await node.call("GetNode", pb.GetNodeRequest())
    unplug(goes)
    removal = await first
    assert (removal.host_ifname, removal.host_ifindex) == (goes.link.host_ifname, goes.link.host_ifindex)

    assert [link.host_ifindex for link in await links(node, stays)] == [stays.link.host_ifindex]
    assert [link.host_ifindex for link in await links(node, goes)] in ([], [0])
    (stranger,) = [link for link in await links(node) if link.host_ifname == "lxc0123456789ab"]
    assert stranger.host_ifindex
    assert not stranger.attachment.container_id
    (node.state / "links" / f"{stays.link.host_ifname}.json").unlink()
    await node.restart()
    for found in (await links(node, stays), [one for one in await links(node) if one.host_ifname.startswith("lxc")]):
        (lost,) = [one for one in found if one.host_ifindex == stays.link.host_ifindex]
        assert not lost.attachment.container_id
        assert (lost.host_mac, lost.pod_mac) == (stays.link.host_mac, stays.link.pod_mac)


async def test_b6_a_datapath_without_its_program_says_so(node: LoaderNode) -> None:
    """In a sentence."""
    pod = await node.add()
    node.netns.command("tc", "qdisc", "del", "dev", pod.link.host_ifname, "clsact")

    assert await node.problems()


async def test_b7_links_and_datapaths_outlive_the_loader(node: LoaderNode) -> None:
    """Its maps are pinned, its links are the kernel's."""
    pod = await node.add()
    before = await node.datapaths()
    await node.restart()

    assert await node.datapaths() == before
    assert [link.host_ifindex for link in await links(node, pod)] == [pod.link.host_ifindex]


async def test_b8_confirming_needs_a_reservation_and_is_one_endpoints(tmp_path: Path) -> None:
    """Idempotent for that one."""
    async with Ipam.running(tmp_path) as ipam:
        with pytest.raises(NotFound):
            await ipam.confirm("c1", 1)
        await ipam.allocate("c1")
        assert (await ipam.confirm("c1", 1)).endpoint_id == 1
        assert (await ipam.confirm("c1", 1)).endpoint_id == 1
        with pytest.raises(AlreadyExists):
            await ipam.confirm("c1", 2)


async def test_b9_released_addresses_can_be_asked_for_by_name_at_once(tmp_path: Path) -> None:
    """They become a reservation again, which another endpoint may confirm."""
    async with Ipam.running(tmp_path) as ipam:
        allocation = (await ipam.allocate("c1")).allocation
        await ipam.confirm("c1", 1)
        await ipam.release("c1")
        words = " ".join(str(ip_address(one.address.address.packed)) for one in allocation.addresses)
        again = (await ipam.allocate("c1", words)).allocation

        assert list(again.addresses) == list(allocation.addresses)
        assert (await ipam.confirm("c1", 2)).endpoint_id == 2


async def test_b11_unconfirming_makes_a_reservation_of_what_that_endpoint_confirmed(tmp_path: Path) -> None:
    """Which another endpoint may confirm; a stranger's call, or none at all to take back, changes nothing."""
    async with Ipam.running(tmp_path) as ipam:
        allocation = (await ipam.allocate("c1")).allocation
        await ipam.confirm("c1", 1)
        assert (await ipam.unconfirm("c1", 2)).allocation.endpoint_id == 1
        reserved = (await ipam.unconfirm("c1", 1)).allocation
        assert (await ipam.unconfirm("c1", 1)).allocation == reserved

        assert (reserved.state, reserved.endpoint_id) == (ipam_pb2.ALLOCATION_STATE_RESERVED, 0)
        assert list(reserved.addresses) == list(allocation.addresses)
        assert (await ipam.confirm("c1", 2)).endpoint_id == 2
        assert not (await ipam.unconfirm("nobody", 1)).HasField("allocation")


async def test_b12_links_tell_how_long_nobody_asked_for_them_and_what_became_of_their_namespaces(
    node: LoaderNode,
) -> None:
    """A process inside is told of, though the namespace has lost its name."""
    pod = await node.link()
    (there,) = await statuses(node)
    pod.netns.hide()
    (lost,) = await statuses(node)
    living = await asyncio.create_subprocess_exec(*pod.netns.argv("sleep", "60"))
    await until(lambda: Path(f"/proc/{living.pid}/ns/net").stat().st_ino == pod.netns.inode)
    (lived_in,) = await statuses(node)
    living.terminate()
    await living.wait()

    assert there.namespace == pb.NAMESPACE_STATE_THERE
    assert there.idle_seconds < 60
    assert lost.namespace in {pb.NAMESPACE_STATE_GONE, pb.NAMESPACE_STATE_OTHER}
    assert list(lost.processes) == []
    assert [one.rpartition(" ")[2] for one in lived_in.processes] == [f"({living.pid})"]


async def test_b13_only_the_link_that_is_meant_is_deleted(node: LoaderNode) -> None:
    """By its index, and by when it was asked for."""
    pod = await node.link()
    index, owner = pod.link.host_ifindex, pod.endpoint.attachment

    for condition in ({"host_ifindex": index + 1}, {"idle_seconds": 3600}):
        with pytest.raises(FailedPrecondition):
            await node.call("DeleteLink", pb.DeleteLinkRequest(attachment=owner, **condition))
    assert (await node.call("DeleteLink", pb.DeleteLinkRequest(attachment=owner, host_ifindex=index))).deleted


async def test_b14_what_nobody_has_a_record_of_is_told_apart_and_removed_as_such(node: LoaderNode) -> None:
    """An id that has a record is refused."""
    pod = await node.add()
    (node.maps / f"policy_{pod.endpoint.id}").rename(node.maps / "policy_4242")

    (known, stranger) = await node.datapaths()

    assert known.attachment == pod.endpoint.attachment
    assert (stranger.id, stranger.generation, stranger.HasField("attachment")) == (4242, 0, False)
    with pytest.raises(FailedPrecondition):
        await node.call("RemoveEndpoint", pb.RemoveEndpointRequest(id=known.id, unrecorded=True))
    assert (await node.call("RemoveEndpoint", pb.RemoveEndpointRequest(id=4242, unrecorded=True))).removed
    assert [one.id for one in await node.datapaths()] == [known.id]


async def test_b15_only_what_the_endpoint_that_is_meant_confirmed_is_released(tmp_path: Path) -> None:
    """A reservation is nobody's, too."""
    async with Ipam.running(tmp_path) as ipam:
        await ipam.allocate("c1")
        with pytest.raises(FailedPrecondition):
            await ipam.release("c1", 1)
        await ipam.confirm("c1", 1)
        with pytest.raises(FailedPrecondition):
            await ipam.release("c1", 2)
        assert (await ipam.release("c1", 1)).HasField("released")


async def test_b16_policies_change_where_generation_and_digest_are_as_they_are_said_to_be(node: LoaderNode) -> None:
    """The others are told, and a repeat is done already. What is added stays, though it is removed, too."""
    pod, other = await node.add(), await node.add()
    deny = pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_INGRESS, deny=True)
    before, after = fake_kernel.policy(ALLOW_ALL), fake_kernel.policy([deny, ALLOW_ALL[1]])
    target = pb.PolicyTarget(
        id=pod.endpoint.id,
        generation=1,
        before=policydigest.digest(before.values()),
        after=policydigest.digest(after.values()),
    )
    others = [
        pb.PolicyTarget(id=other.endpoint.id, generation=2, before=target.before, after=target.after),
        pb.PolicyTarget(id=4242, generation=1, before=target.before, after=target.after),
    ]
    change = pb.PolicyChange(added=[deny], removed=ALLOW_ALL[:1], endpoints=[target, *others])

    for _ in range(2):
        reply = await node.call("UpdatePolicies", pb.UpdatePoliciesRequest(changes=[change]))
        assert [one.id for one in reply.refusals] == [other.endpoint.id, 4242]
        assert all(one.error for one in reply.refusals)
    change.endpoints[0].after = policydigest.EMPTY
    reply = await node.call("UpdatePolicies", pb.UpdatePoliciesRequest(changes=[change]))

    assert reply.refusals[0].id == pod.endpoint.id
    assert [one.policy_digest for one in await node.datapaths()] == [target.after, target.before]


async def test_b17_a_datapath_tells_what_its_policy_map_holds_and_judges_nothing(node: LoaderNode) -> None:
    """A hand's work, too; a regeneration at level 1 makes it what it is told."""
    pod = await node.add()
    with Policy.open(node.maps / f"policy_{pod.endpoint.id}", SIZES) as policy:
        policy.sync([])
    (emptied,) = await node.datapaths()
    dry = await node.regenerate(pod, level=1, dry_run=True)
    mended = await node.regenerate(pod, level=1)

    assert (emptied.policy_digest, emptied.policy_entries) == (policydigest.EMPTY, 0)
    assert (emptied.identity, list(emptied.problems)) == (pod.endpoint.identity, [])
    assert mended.level == 1
    assert list(dry.changes) == list(mended.changes) == ["policy map policy_10: 2 entries written, 0 removed"]
    (whole,) = await node.datapaths()
    whole_digest = policydigest.digest(fake_kernel.policy(ALLOW_ALL).values())
    assert whole.policy_digest == mended.datapath.policy_digest == whole_digest


async def test_b18_the_prefixes_are_what_was_said_last(node: LoaderNode) -> None:
    """By both ways, and over a restart."""
    one, two, three = (
        pb.PrefixIdentity(prefix=wire.write_network(ip_network(text)), identity=1 << 24)
        for text in ("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32")
    )

    async def listed() -> list[pb.PrefixIdentity]:
        reply = await node.call("DumpMap", pb.DumpMapRequest(map="prefixes"))
        return sorted((entry.prefix for entry in reply.entries), key=str)

    reply = await node.call("SyncPrefixes", pb.SyncPrefixesRequest(prefixes=[one, two]))
    assert (reply.written, reply.removed) == (2, 0)
    moved = pb.PrefixIdentity(prefix=one.prefix, identity=1 << 24 | 1)
    await node.call(
        "UpdatePolicies",
        pb.UpdatePoliciesRequest(prefixes_added=[three, moved], prefixes_removed=[two.prefix, one.prefix]),
    )
    await node.restart()
    assert await listed() == sorted([moved, three], key=str)
    reply = await node.call("SyncPrefixes", pb.SyncPrefixesRequest(prefixes=[one, three]))
    assert (reply.written, reply.removed) == (1, 0)
    reply = await node.call("SyncPrefixes", pb.SyncPrefixesRequest())
    assert (reply.written, reply.removed) == (0, 2)


async def test_b19_a_probe_says_whether_a_packet_passes_and_who_has_decided(node: LoaderNode) -> None:
    """Of an endpoint without programs there is nothing to say."""
    pod, other = await node.add(), await node.add()
    request = pb.ProbeEndpointRequest(
        endpoint_id=pod.endpoint.id,
        direction=pb.TRAFFIC_DIRECTION_EGRESS,
        source=pod.endpoint.addresses[0],
        destination=other.endpoint.addresses[0],
        protocol=6,
        port=80,
    )

    passed = await node.call("ProbeEndpoint", request)
    await node.regenerate(other, level=1, policy=[])
    dropped = await node.call("ProbeEndpoint", request)
    await node.remove(pod)
    with pytest.raises(NotFound, match="has no programs"):
        await node.call("ProbeEndpoint", request)

    assert (passed.passed, passed.endpoint_id, passed.direction) == (True, other.endpoint.id, 1)
    assert (dropped.passed, dropped.endpoint_id, dropped.reason) == (False, other.endpoint.id, "policy")
