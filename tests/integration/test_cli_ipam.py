"""Claims of the cluster's ranges as operators see, take and give them."""

import json
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2
from podlane.ipam.v1 import ipam_pb2 as pb

from services.common import wire
from services.common.errors import FailedPrecondition
from tests.cli_support import Services, serving


@pytest.fixture
def services() -> Iterator[Services]:
    """Services that say what a test wants."""
    with serving() as found:
        yield found


def claim(text: str, node: str, state: "pb.ClaimState.ValueType", **more: Any) -> pb.Claim:
    """Return a claim."""
    prefix = wire.write_network(ip_network(text))
    return pb.Claim(pool="default", range=prefix, node=node, instance="i", state=state, **more)


CLAIMS = (
    claim("10.0.1.0/24", "a", pb.CLAIM_STATE_HELD, allocations=3, gateway=True, claimed=Timestamp(seconds=1)),
    claim("10.0.2.0/24", "b", pb.CLAIM_STATE_ABSENT),
    claim("fd00::1:0/112", "", pb.CLAIM_STATE_OTHER),
)


def allocation(number: int, state: "pb.AllocationState.ValueType", endpoint_id: int = 0) -> pb.Allocation:
    """Return an allocation of one address."""
    prefix = wire.write_network(ip_network(f"10.0.1.{number}"))
    return pb.Allocation(
        owner=types.Attachment(network="net", container_id=f"c{number}", ifname="eth0"),
        pool="default",
        addresses=[types.AssignedAddress(address=prefix)],
        state=state,
        endpoint_id=endpoint_id,
    )


def test_what_is_ipam_only_is_shown_as_such(services: Services) -> None:
    """Next to a reservation and what an endpoint has."""
    reserved, confirmed = pb.ALLOCATION_STATE_RESERVED, pb.ALLOCATION_STATE_CONFIRMED
    services.replies["ListAllocations"] = pb.ListAllocationsResponse(
        allocations=[allocation(2, reserved), allocation(3, confirmed), allocation(4, confirmed, 77)]
    )

    rows = [line.split("  ") for line in services.podlane("ipam", "list").stdout.splitlines()]

    cells = [[cell.strip() for cell in row if cell.strip()][2:4] for row in rows]
    assert cells == [["STATE", "ENDPOINT"], ["reserved", "-"], ["confirmed", "ipam only"], ["confirmed", "77"]]


def test_claims_are_a_table_of_who_holds_what(services: Services) -> None:
    services.replies["ListClaims"] = pb.ListClaimsResponse(claims=CLAIMS)

    said = services.podlane("ipam", "claims")

    rows = [line.split() for line in said.stdout.splitlines()]
    assert rows[0] == ["POOL", "RANGE", "NODE", "SINCE", "ALLOCATIONS", "STATE"]
    assert rows[1][:3] == ["default", "10.0.1.0/24", "a"]
    assert rows[1][4:] == ["3", "held", "(gateway)"]
    assert rows[2] == ["default", "10.0.2.0/24", "b", "-", "-", "absent"]
    assert rows[3] == ["default", "fd00::1:0/112", "?", "-", "-", "other"]
    assert (said.code, said.stderr) == (0, "")


def test_claims_without_a_kvstore_say_what_is_missing(services: Services) -> None:
    services.replies["ListClaims"] = pb.ListClaimsResponse(claims=CLAIMS[:1], error="etcd does not answer")

    said = services.podlane("ipam", "claims", "-o", "json")

    assert [one["state"] for one in json.loads(said.stdout)] == ["held"]
    assert said.stderr == "podlane: other nodes' claims are missing: etcd does not answer\n"


def test_a_takeover_without_yes_is_refused_and_says_what_it_would_do(services: Services) -> None:
    said = services.podlane("ipam", "takeover", "10.0.2.0/24", "--from", "b")

    assert said.code == 2
    assert "the addresses of 10.0.2.0/24 will be given out again on this node" in said.stderr
    assert "b must be dead for good; --yes says so" in said.stderr
    assert services.requests == []


def test_a_takeover_names_range_and_node(services: Services) -> None:
    services.replies["TakeOverClaim"] = pb.TakeOverClaimResponse(claim=CLAIMS[0])

    said = services.podlane("ipam", "takeover", "10.0.2.0/24", "--from", "b", "--yes", "--force")

    asked = services.asked("TakeOverClaim")
    assert (wire.read_network(asked.range, "range"), asked.from_node, asked.force) == (
        ip_network("10.0.2.0/24"),
        "b",
        True,
    )
    assert said.stdout == "10.0.2.0/24 is this node's now; b had it\n"


def test_what_ipam_refuses_is_one_line(services: Services) -> None:
    services.replies["ReleaseClaim"] = FailedPrecondition("10.0.1.0/24 has this node's gateway")

    said = services.podlane("ipam", "release-claim", "10.0.1.0/24")

    assert (said.code, said.stderr) == (5, "podlane: 10.0.1.0/24 has this node's gateway\n")


def test_a_range_that_is_none_is_a_usage_error(services: Services) -> None:
    said = services.podlane("ipam", "release-claim", "10.0.1.1/24")

    assert said.code == 2
    assert "has host bits set" in said.stderr


def test_pools_and_audit_say_what_is_wrong_with_ranges(services: Services) -> None:
    pool = pb.Pool(name="default", problems=["10.0.1.0/24 belongs to another node now"], cluster=True)
    services.replies["ListPools"] = pb.ListPoolsResponse(pools=[pool])
    services.replies["CollectGarbage"] = endpoint_pb2.CollectGarbageResponse()

    pools, audit = services.podlane("ipam", "pools"), services.podlane("ipam", "audit")

    words = "podlane: pool 'default': 10.0.1.0/24 belongs to another node now\n"
    assert (pools.code, pools.stdout, pools.stderr) == (0, "no range is there yet\n", words)
    assert (audit.code, audit.stderr) == (1, words)
