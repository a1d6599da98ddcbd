"""The messages and methods of protos/ that the shim uses, as tables for `wire`.

A field that isn't here is not lost, it is not read; RAW fields travel from one service to the next as they came.
"""

from cni.wire import BYTES, FLAG, MESSAGE, MESSAGES, NUMBER, RAW, RAWS, TEXT, TEXT_MAP, TEXTS, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.wire import Values

# podlane.ipam.v1.AllocationState
RESERVED, CONFIRMED = 1, 2
# grpc.health.v1.HealthCheckResponse.ServingStatus
SERVING = 1
# The largest page that the services give.
PAGE_SIZE = 10_000

ATTACHMENT = Message("Attachment", (1, "network", TEXT), (2, "container_id", TEXT), (3, "ifname", TEXT))
POD = Message("Pod", (1, "namespace", TEXT), (2, "name", TEXT), (3, "uid", TEXT))
IP_ADDRESS = Message("IpAddress", (1, "packed", BYTES))
MAC_ADDRESS = Message("MacAddress", (1, "packed", BYTES))
IP_PREFIX = Message("IpPrefix", (1, "address", MESSAGE, IP_ADDRESS), (2, "length", NUMBER))
ROUTE = Message(
    "Route",
    (1, "destination", MESSAGE, IP_PREFIX),
    (2, "gateway", MESSAGE, IP_ADDRESS),
    (3, "mtu", NUMBER),
    (4, "table", NUMBER),
)
ASSIGNED_ADDRESS = Message("AssignedAddress", (1, "address", MESSAGE, IP_PREFIX), (2, "gateway", MESSAGE, IP_ADDRESS))

ALLOCATION = Message(
    "Allocation",
    (1, "owner", MESSAGE, ATTACHMENT),
    (4, "addresses", RAWS),
    (5, "state", NUMBER),
)
ALLOCATE_REQUEST = Message(
    "AllocateAddressesRequest",
    (1, "owner", MESSAGE, ATTACHMENT),
    (2, "pod", MESSAGE, POD),
    (4, "pool", TEXT),
    (5, "requested", MESSAGES, IP_ADDRESS),
)
ALLOCATE_RESPONSE = Message(
    "AllocateAddressesResponse",
    (1, "allocation", MESSAGE, ALLOCATION),
    (2, "routes", RAWS),
    (3, "mtu", NUMBER),
    (4, "created", FLAG),
    (5, "phases", RAWS),
)
RELEASE_REQUEST = Message("ReleaseAddressesRequest", (1, "owner", MESSAGE, ATTACHMENT))
RELEASE_RESPONSE = Message("ReleaseAddressesResponse", (1, "released", RAW))
LIST_ALLOCATIONS_REQUEST = Message(
    "ListAllocationsRequest",
    (2, "owner", MESSAGE, ATTACHMENT),
    (3, "page_size", NUMBER),
    (4, "page_token", TEXT),
)
LIST_ALLOCATIONS_RESPONSE = Message(
    "ListAllocationsResponse", (1, "allocations", MESSAGES, ALLOCATION), (2, "next_page_token", TEXT)
)

OFFLOAD_SIZES = Message(
    "OffloadSizes",
    (1, "gso_max_size", NUMBER),
    (2, "gro_max_size", NUMBER),
    (3, "gso_ipv4_max_size", NUMBER),
    (4, "gro_ipv4_max_size", NUMBER),
)
LINK = Message(
    "Link",
    (1, "attachment", MESSAGE, ATTACHMENT),
    (2, "host_ifname", TEXT),
    (4, "host_mac", MESSAGE, MAC_ADDRESS),
    (5, "pod_mac", MESSAGE, MAC_ADDRESS),
    (6, "netns_path", TEXT),
    (7, "mtu", NUMBER),
)
CREATE_LINK_REQUEST = Message(
    "CreateLinkRequest",
    (1, "attachment", MESSAGE, ATTACHMENT),
    (2, "netns_path", TEXT),
    (3, "addresses", RAWS),
    (4, "routes", RAWS),
    (5, "mtu", NUMBER),
    (6, "route_mtu", NUMBER),
    (7, "offload", MESSAGE, OFFLOAD_SIZES),
    (8, "pod_mac", MESSAGE, MAC_ADDRESS),
    (9, "chained", FLAG),
)
CREATE_LINK_RESPONSE = Message(
    "CreateLinkResponse", (1, "link", RAW), (2, "created", FLAG), (3, "phases", RAWS), (4, "routes", RAWS)
)
DELETE_LINK_REQUEST = Message("DeleteLinkRequest", (1, "attachment", MESSAGE, ATTACHMENT))
DELETE_LINK_RESPONSE = Message("DeleteLinkResponse", (1, "deleted", FLAG))
LIST_LINKS_REQUEST = Message("ListLinksRequest", (1, "attachment", MESSAGE, ATTACHMENT), (2, "verify", FLAG))
LINK_STATUS = Message("LinkStatus", (1, "link", MESSAGE, LINK), (2, "problems", TEXTS))
LIST_LINKS_RESPONSE = Message("ListLinksResponse", (1, "links", MESSAGES, LINK_STATUS))

ENDPOINT = Message(
    "Endpoint",
    (1, "id", NUMBER),
    (3, "attachment", MESSAGE, ATTACHMENT),
    (6, "addresses", RAWS),
)
OPTION_SETTING = Message("OptionSetting", (1, "name", TEXT), (2, "enabled", FLAG))
ADDITION = Message(
    "Addition",
    (1, "began_us", NUMBER),
    (2, "started_us", NUMBER),
    (3, "addresses_at_us", NUMBER),
    (4, "addresses_us", NUMBER),
    (5, "link_at_us", NUMBER),
    (6, "link_us", NUMBER),
    (7, "ipam", RAWS),
    (8, "link", RAWS),
    (9, "traceparent", TEXT),
)
CREATE_ENDPOINT_REQUEST = Message(
    "CreateEndpointRequest",
    (1, "attachment", MESSAGE, ATTACHMENT),
    (2, "pod", MESSAGE, POD),
    (3, "link", RAW),
    (4, "addresses", RAWS),
    (5, "labels", TEXT_MAP),
    (6, "options", MESSAGES, OPTION_SETTING),
    (7, "addition", MESSAGE, ADDITION),
)
CREATE_ENDPOINT_RESPONSE = Message("CreateEndpointResponse", (1, "endpoint", RAW), (2, "created", FLAG))
ENDPOINT_SELECTOR = Message("EndpointSelector", (2, "attachment", MESSAGE, ATTACHMENT))
DELETE_ENDPOINT_REQUEST = Message("DeleteEndpointRequest", (1, "selector", MESSAGE, ENDPOINT_SELECTOR))
DELETE_ENDPOINT_RESPONSE = Message("DeleteEndpointResponse", (1, "deleted", FLAG))
CHECK_ENDPOINT_REQUEST = Message("CheckEndpointRequest", (1, "selector", MESSAGE, ENDPOINT_SELECTOR))
CHECK_ENDPOINT_RESPONSE = Message("CheckEndpointResponse", (1, "endpoint", MESSAGE, ENDPOINT), (2, "problems", TEXTS))
LIST_ENDPOINTS_REQUEST = Message("ListEndpointsRequest", (1, "page_size", NUMBER), (2, "page_token", TEXT))
LIST_ENDPOINTS_RESPONSE = Message(
    "ListEndpointsResponse", (1, "endpoints", MESSAGES, ENDPOINT), (2, "next_page_token", TEXT)
)

HEALTH_REQUEST = Message("HealthCheckRequest", (1, "service", TEXT))
HEALTH_RESPONSE = Message("HealthCheckResponse", (1, "status", NUMBER))


class Method:
    """One RPC: which service answers it, its path in HTTP/2, and its two messages."""

    __slots__ = ("name", "path", "request", "response", "service")

    def __init__(self, service: str, path: str, request: Message, response: Message) -> None:
        """Keep all of it; `service` is `ipam`, `loader` or `endpoint`."""
        self.service = service
        self.path = path
        self.name = path.rpartition("/")[2]
        self.request = request
        self.response = response


_IPAM, _LOADER, _ENDPOINT = (
    "/podlane.ipam.v1.IpamService/",
    "/podlane.loader.v1.LoaderService/",
    "/podlane.endpoint.v1.EndpointService/",
)

ALLOCATE_ADDRESSES = Method("ipam", _IPAM + "AllocateAddresses", ALLOCATE_REQUEST, ALLOCATE_RESPONSE)
RELEASE_ADDRESSES = Method("ipam", _IPAM + "ReleaseAddresses", RELEASE_REQUEST, RELEASE_RESPONSE)
LIST_ALLOCATIONS = Method("ipam", _IPAM + "ListAllocations", LIST_ALLOCATIONS_REQUEST, LIST_ALLOCATIONS_RESPONSE)
CREATE_LINK = Method("loader", _LOADER + "CreateLink", CREATE_LINK_REQUEST, CREATE_LINK_RESPONSE)
DELETE_LINK = Method("loader", _LOADER + "DeleteLink", DELETE_LINK_REQUEST, DELETE_LINK_RESPONSE)
LIST_LINKS = Method("loader", _LOADER + "ListLinks", LIST_LINKS_REQUEST, LIST_LINKS_RESPONSE)
CREATE_ENDPOINT = Method("endpoint", _ENDPOINT + "CreateEndpoint", CREATE_ENDPOINT_REQUEST, CREATE_ENDPOINT_RESPONSE)
DELETE_ENDPOINT = Method("endpoint", _ENDPOINT + "DeleteEndpoint", DELETE_ENDPOINT_REQUEST, DELETE_ENDPOINT_RESPONSE)
CHECK_ENDPOINT = Method("endpoint", _ENDPOINT + "CheckEndpoint", CHECK_ENDPOINT_REQUEST, CHECK_ENDPOINT_RESPONSE)
LIST_ENDPOINTS = Method("endpoint", _ENDPOINT + "ListEndpoints", LIST_ENDPOINTS_REQUEST, LIST_ENDPOINTS_RESPONSE)


def health_check(service: str) -> Method:
    """Return grpc.health.v1's Check on the socket of a service."""
    return Method(service, "/grpc.health.v1.Health/Check", HEALTH_REQUEST, HEALTH_RESPONSE)


def selector(attachment: "Values") -> "Values":
    """Return an EndpointSelector of an attachment."""
    return {"selector": {"attachment": attachment}}
