"""The messages and methods of protos/ that podlane-ipam and STATUS use beyond those of messages.py.

Apart from those, because an ADD of the plugin needs none of them.
"""

from cni.messages import (
    ATTACHMENT,
    IP_ADDRESS,
    IP_PREFIX,
    POD,
    RELEASE_RESPONSE,
    Method,
)
from cni.wire import BYTES, FLAG, MESSAGE, MESSAGES, NUMBER, TEXT, TEXTS, Message

ASSIGNED_ADDRESS = Message(
    "AssignedAddress",
    (1, "address", MESSAGE, IP_PREFIX),
    (2, "gateway", MESSAGE, IP_ADDRESS),
    (3, "range", MESSAGE, IP_PREFIX),
)
ALLOCATION = Message(
    "Allocation",
    (1, "owner", MESSAGE, ATTACHMENT),
    (4, "addresses", MESSAGES, ASSIGNED_ADDRESS),
    (5, "state", NUMBER),
    (9, "endpoint_id", NUMBER),
)
ALLOCATE_REQUEST = Message(
    "AllocateAddressesRequest",
    (1, "owner", MESSAGE, ATTACHMENT),
    (2, "pod", MESSAGE, POD),
    (4, "pool", TEXT),
    (5, "requested", MESSAGES, IP_ADDRESS),
    (6, "delegated", FLAG),
)
ALLOCATE_RESPONSE = Message("AllocateAddressesResponse", (1, "allocation", MESSAGE, ALLOCATION), (4, "created", FLAG))
CONFIRM_REQUEST = Message("ConfirmAllocationRequest", (1, "owner", MESSAGE, ATTACHMENT), (2, "endpoint_id", NUMBER))
CONFIRM_RESPONSE = Message("ConfirmAllocationResponse", (1, "allocation", MESSAGE, ALLOCATION))
RELEASE_REQUEST = Message("ReleaseAddressesRequest", (1, "owner", MESSAGE, ATTACHMENT), (3, "without_endpoint", FLAG))
LIST_ALLOCATIONS_REQUEST = Message(
    "ListAllocationsRequest",
    (2, "owner", MESSAGE, ATTACHMENT),
    (3, "page_size", NUMBER),
    (4, "page_token", TEXT),
)
LIST_ALLOCATIONS_RESPONSE = Message(
    "ListAllocationsResponse", (1, "allocations", MESSAGES, ALLOCATION), (2, "next_page_token", TEXT)
)
POOL_RANGE = Message("PoolRange", (1, "prefix", MESSAGE, IP_PREFIX), (3, "size", NUMBER), (4, "used", NUMBER))
# `families` are numbers below 128, packed: one byte each.
POOL = Message(
    "Pool",
    (1, "name", TEXT),
    (2, "ranges", MESSAGES, POOL_RANGE),
    (5, "problems", TEXTS),
    (6, "cluster", FLAG),
    (7, "families", BYTES),
    (8, "delegated", FLAG),
)
LIST_POOLS_REQUEST = Message("ListPoolsRequest")
LIST_POOLS_RESPONSE = Message("ListPoolsResponse", (1, "pools", MESSAGES, POOL))

_IPAM = "/podlane.ipam.v1.IpamService/"

ALLOCATE_ADDRESSES = Method("ipam", _IPAM + "AllocateAddresses", ALLOCATE_REQUEST, ALLOCATE_RESPONSE)
CONFIRM_ALLOCATION = Method("ipam", _IPAM + "ConfirmAllocation", CONFIRM_REQUEST, CONFIRM_RESPONSE)
RELEASE_ADDRESSES = Method("ipam", _IPAM + "ReleaseAddresses", RELEASE_REQUEST, RELEASE_RESPONSE)
LIST_ALLOCATIONS = Method("ipam", _IPAM + "ListAllocations", LIST_ALLOCATIONS_REQUEST, LIST_ALLOCATIONS_RESPONSE)
LIST_POOLS = Method("ipam", _IPAM + "ListPools", LIST_POOLS_REQUEST, LIST_POOLS_RESPONSE)
