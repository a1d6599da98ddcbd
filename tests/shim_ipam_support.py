"""podlane-ipam for tests of the shim: what ADD asks and answers with, and what ipam holds."""

from typing import Any

from podlane.ipam.v1 import ipam_pb2

from tests.shim_support import Services, allocated

ADD = ["AllocateAddresses", "ConfirmAllocation"]
IPS = [
    {"address": "10.1.0.5/24", "gateway": "10.1.0.1"},
    {"address": "fd00:1::5/64", "gateway": "fd00:1::1"},
]


def held(services: Services, *, state: int = 2, endpoint_id: int = 0, owner: Any = None) -> ipam_pb2.Allocation:
    """Let ipam list one allocation, and return it."""
    allocation = allocated(state=state).allocation
    allocation.endpoint_id = endpoint_id
    if owner is not None:
        allocation.owner.CopyFrom(owner)
    services.script["ListAllocations"] = ipam_pb2.ListAllocationsResponse(allocations=[allocation])
    return allocation
