"""What the endpoint service reads of ipam's pools."""

from ipaddress import ip_address, ip_network
from typing import Any

from podlane.common.v1 import types_pb2 as common
from podlane.ipam.v1 import ipam_pb2 as pb

from services.common import wire
from services.endpoint.peer_messages import missing_ranges, read_allocation, read_ranges


def pool(name: str, *ranges: str, **fields: Any) -> pb.Pool:
    """Return a pool that is to have both families."""
    parts = [
        pb.PoolRange(prefix=wire.write_network(ip_network(one)), gateway=wire.write_address(ip_network(one)[1]))
        for one in ranges
    ]
    return pb.Pool(name=name, ranges=parts, families=[common.IP_FAMILY_IPV4, common.IP_FAMILY_IPV6], **fields)


def test_the_node_is_configured_without_delegated_pools() -> None:
    """Its datapath has nothing to do with other plugins' interfaces."""
    pools = [pool("bridge", "10.9.0.0/24", "fd09::/112", delegated=True), pool("default", "10.7.0.0/16", "fd07::/112")]

    assert [str(one.prefix) for one in read_ranges(pools)] == ["10.7.0.0/16", "fd07::/112"]


def test_a_delegated_pool_stands_in_for_no_range_that_pods_wait_for() -> None:
    """And is waited for by nobody."""
    bridge, waiting = pool("bridge", "10.9.0.0/24", "fd09::/112", delegated=True), pool("default", "10.7.0.0/16")

    assert "pool 'default'" in missing_ranges([bridge, waiting])
    assert missing_ranges([pool("bridge", "10.9.0.0/24", delegated=True)]) == ""


def test_only_what_is_confirmed_without_an_endpoint_is_ipam_only() -> None:
    """A reservation has no endpoint either."""
    owner = common.Attachment(network="n", container_id="c", ifname="eth0")
    address = common.AssignedAddress(address=common.IpPrefix(address=wire.write_address(ip_address("10.9.0.2"))))
    reserved, confirmed = pb.ALLOCATION_STATE_RESERVED, pb.ALLOCATION_STATE_CONFIRMED

    told = [
        read_allocation(pb.Allocation(owner=owner, addresses=[address], state=state, endpoint_id=id_)).ipam_only
        for state, id_ in ((reserved, 0), (confirmed, 0), (confirmed, 7))
    ]

    assert told == [False, True, False]
