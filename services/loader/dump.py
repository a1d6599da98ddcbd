"""The content of the maps, by the names that people call them.

endpoints      address → endpoint            call_policy   endpoint id → policy program
policy         rules of one endpoint         prefixes      address prefix → identity
metrics        drops, of one or of all       conntrack     live flows, of one or of all
ipcache        address of others → identity, node
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import InvalidArgument, NotFound
from services.common.model import Network
from services.loader.conntrack import Flow
from services.loader.datapath import Datapath
from services.loader.layout import EndpointEntry, IpcacheEntry, Metric, PolicyCount


@dataclass(frozen=True, slots=True)
class CallPolicyEntry:
    """A filled slot of podlane_call_policy."""

    endpoint_id: int
    program_id: int


@dataclass(frozen=True, slots=True)
class PrefixEntry:
    """A prefix and the identity that stands for it."""

    network: Network
    identity: int


Entry = EndpointEntry | CallPolicyEntry | PolicyCount | PrefixEntry | Metric | Flow | IpcacheEntry


def dump(datapath: Datapath, name: str, endpoint_id: int) -> Sequence[Entry]:
    """Return the entries of a map.

    Raises InvalidArgument for an unknown name or a missing endpoint, NotFound when there is no such policy map.
    """
    readers: Mapping[str, Callable[[], Sequence[Entry]]] = {
        "endpoints": datapath.endpoints.dump,
        "call_policy": lambda: [CallPolicyEntry(*slot) for slot in datapath.call_policy.dump().items()],
        "policy": lambda: _policy(datapath, endpoint_id),
        "prefixes": lambda: [PrefixEntry(*one) for one in datapath.prefixes.dump().items()],
        "metrics": lambda: datapath.metrics.dump(endpoint_id),
        "conntrack": lambda: datapath.flows.dump(endpoint_id) if datapath.flows is not None else [],
        "ipcache": lambda: datapath.ipcache.dump() if datapath.ipcache is not None else [],
    }
    if name not in readers:
        raise InvalidArgument(f"map: {name!r} is no map; there are {', '.join(readers)}", field="map")
    return readers[name]()


def _policy(datapath: Datapath, endpoint_id: int) -> Sequence[Entry]:
    if not endpoint_id:
        raise InvalidArgument("endpoint_id: policy maps are dumped one at a time", field="endpoint_id")
    if not datapath.has_policy(endpoint_id):
        raise NotFound(f"endpoint {endpoint_id} has no policy map", endpoint=endpoint_id)
    with datapath.policy(endpoint_id) as policy:
        return policy.dump()
