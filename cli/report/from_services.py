"""What the services answer: nothing but questions, on one channel per service.

    services/…      health and processes; each one's controllers and metrics page
    endpoint/…      endpoints in full, what CHECK says of each, what regenerating would change, garbage, options,
                    identities, documents, the cluster, this node's entries of the kvstore, the deletion journal
    ipam/…          allocations, pools, claims
    loader/…        node, links (looked at in their namespaces), datapaths, all maps

A service that doesn't answer costs a second, and all that it would have told fails with the same sentence.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from podlane.common.v1 import controllers_pb2
from podlane.endpoint.v1 import cluster_pb2, endpoint_pb2, policy_pb2
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from cli import connect, node
from cli.present import plain
from cli.report import gathering
from cli.report.gathering import Collector, Member
from services.common.client import Peer
from services.common.config import Settings
from services.common.errors import FailedPrecondition, NotFound, Unavailable

_WAIT, _TIMEOUT = 1.0, 45.0
_PAGE = 5000
_MAPS = ("endpoints", "call_policy", "prefixes", "metrics", "conntrack", "ipcache")
# Flows come and go; more than these say nothing new, and a full map would be 100 MB.
_MOST_FLOWS = 5000


class Questions:
    """The services' channels, open for as long as the report is made."""

    def __init__(self, settings: Settings) -> None:
        """Remember which; `start` opens."""
        self.settings = settings
        self._peers: dict[Path, Peer] = {}

    async def __aenter__(self) -> Self:
        """Open a channel to each."""
        for service in (connect.ipam, connect.loader, connect.endpoint):
            found = service(self.settings)
            self._peers[found.socket] = Peer(found.name, found.socket, _WAIT)
            await self._peers[found.socket].start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        for peer in self._peers.values():
            await peer.stop()

    def _peer(self, service: connect.Service) -> Peer:
        if not service.socket.exists():
            raise Unavailable(f"podlane-{service.name} is down: there is no {service.socket}")
        return self._peers[service.socket]

    async def ask(self, service: connect.Service, method: str, request: Any) -> Any:
        """Call a method. Raises the service's PodlaneError."""
        peer = self._peer(service)
        return await peer.call(getattr(service.stub(peer.channel), method), request, timeout=_TIMEOUT)

    async def items(self, service: connect.Service, method: str, request: Any, field: str) -> list[Any]:
        """Call a paged method and return the items of all pages, plain."""
        found: list[Any] = []
        while True:
            reply = await self.ask(service, method, request)
            found += map(plain, getattr(reply, field))
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    async def stream(self, service: connect.Service, method: str, request: Any) -> AsyncIterator[Any]:
        """Yield the messages of a stream that ends."""
        peer = self._peer(service)
        async for message in peer.stream(getattr(service.stub(peer.channel), method), request):
            yield message


def first(questions: Questions) -> list[Collector]:
    """Return what is asked before all else: who is there."""

    async def gather() -> AsyncIterator[Member]:
        found = []
        for brief in await _brief(questions):
            with contextlib.suppress(NotFound):  # it has gone meanwhile
                found.append(await _whole(questions, brief["id"]))
        yield Member("endpoint/endpoints.json", found)

    return [Collector("endpoint/endpoints", gather, 60.0)]


def last(questions: Questions) -> list[Collector]:
    """Return what is asked after all else: who is still there, and the same."""
    return [gathering.one("endpoint/after.json", lambda: _brief(questions))]


async def _brief(questions: Questions) -> list[Any]:
    request = endpoint_pb2.ListEndpointsRequest(page_size=_PAGE)
    return await questions.items(connect.endpoint(questions.settings), "ListEndpoints", request, "endpoints")


async def _whole(questions: Questions, id_: int) -> Any:
    request = endpoint_pb2.GetEndpointRequest(selector=endpoint_pb2.EndpointSelector(id=id_))
    return plain((await questions.ask(connect.endpoint(questions.settings), "GetEndpoint", request)).endpoint)


def collectors(questions: Questions) -> list[Collector]:
    """Return all that is asked in between."""
    settings = questions.settings
    endpoint, policy, cluster = connect.endpoint(settings), connect.policy(settings), connect.cluster(settings)
    ipam, loader = connect.ipam(settings), connect.loader(settings)

    def asked(service: connect.Service, method: str, request: Any, field: str = "") -> Callable[[], Awaitable[Any]]:
        async def get() -> Any:
            reply = plain(await questions.ask(service, method, request))
            return reply[field] if field else reply

        return get

    async def allocations() -> Any:
        request = ipam_pb2.ListAllocationsRequest(page_size=_PAGE)
        return await questions.items(ipam, "ListAllocations", request, "allocations")

    async def claims() -> Any:
        try:
            return plain(await questions.ask(ipam, "ListClaims", ipam_pb2.ListClaimsRequest()))
        except FailedPrecondition as error:  # no pool is a cluster's
            return {"claims": [], "error": error.message}

    one = gathering.one
    garbage = endpoint_pb2.CollectGarbageRequest(dry_run=True)
    again = endpoint_pb2.RegenerateEndpointsRequest(level=loader_pb2.REGENERATION_LEVEL_NO_REBUILD, dry_run=True)
    datapaths = loader_pb2.ListEndpointDatapathsRequest(slots=True)
    parts = [
        one("services/health.json", lambda: asyncio.to_thread(node.states, settings)),
        one("endpoint/regeneration.json", asked(endpoint, "RegenerateEndpoints", again, "results"), 60.0),
        one("endpoint/garbage.json", asked(endpoint, "CollectGarbage", garbage, "findings"), 60.0),
        one("endpoint/options.json", asked(endpoint, "ListOptions", endpoint_pb2.ListOptionsRequest(), "options")),
        one(
            "endpoint/deletions.json",
            asked(endpoint, "ListDeletions", endpoint_pb2.ListDeletionsRequest(), "deletions"),
        ),
        one(
            "endpoint/identities.json",
            asked(policy, "ListIdentities", policy_pb2.ListIdentitiesRequest(), "identities"),
        ),
        one("endpoint/cluster.json", asked(cluster, "GetCluster", cluster_pb2.GetClusterRequest())),
        one("ipam/allocations.json", allocations),
        one("ipam/pools.json", asked(ipam, "ListPools", ipam_pb2.ListPoolsRequest(), "pools")),
        one("ipam/claims.json", claims),
        one("loader/node.json", asked(loader, "GetNode", loader_pb2.GetNodeRequest())),
        one("loader/links.json", asked(loader, "ListLinks", loader_pb2.ListLinksRequest(verify=True), "links"), 60.0),
        one("loader/datapaths.json", asked(loader, "ListEndpointDatapaths", datapaths, "datapaths"), 60.0),
        Collector("endpoint/checks", lambda: _checks(questions), 60.0),
        Collector("endpoint/documents", lambda: _documents(questions)),
        Collector("endpoint/kvstore", lambda: _kvstore(questions)),
        Collector("loader/maps/policy", lambda: _policy_maps(questions), 60.0),
    ]
    parts += [Collector(f"loader/maps/{name}", lambda name=name: _map(questions, name)) for name in _MAPS]  # type: ignore[misc] # mypy can't type a lambda's default
    every = controllers_pb2.ListControllersRequest(outcomes=True)
    for service in connect.controllers(settings):
        where = f"services/{service.name}"
        parts.append(one(f"{where}-controllers.json", asked(service, "ListControllers", every, "controllers")))
        listen = getattr(settings, service.name).metrics_listen
        parts.append(one(f"{where}-metrics.txt", lambda listen=listen: metrics_page(listen)))  # type: ignore[misc]
    return parts


async def _checks(questions: Questions) -> AsyncIterator[Member]:
    found = {}
    for brief in await _brief(questions):
        request = endpoint_pb2.CheckEndpointRequest(selector=endpoint_pb2.EndpointSelector(id=brief["id"]))
        with contextlib.suppress(NotFound):
            reply = await questions.ask(connect.endpoint(questions.settings), "CheckEndpoint", request)
            found[str(brief["id"])] = list(reply.problems)
    yield Member("endpoint/checks.json", found)


async def _documents(questions: Questions) -> AsyncIterator[Member]:
    policy = connect.policy(questions.settings)
    found = []
    for one in (await questions.ask(policy, "ListPolicies", policy_pb2.ListPoliciesRequest())).documents:
        with contextlib.suppress(NotFound):
            reply = await questions.ask(policy, "GetPolicy", policy_pb2.GetPolicyRequest(name=one.name))
            found.append(plain(reply.document))
    yield Member("endpoint/documents.json", found)


async def _kvstore(questions: Questions) -> AsyncIterator[Member]:
    """Yield this node's own entries, and those that all nodes share but addresses: others' are others' to report."""
    cluster, name = connect.cluster(questions.settings), questions.settings.node.name
    found: list[Any] = []
    for prefix in ("state/nodes/v1/", f"state/endpoints/v1/{name}/", "state/identities/v1/id/", "state/pools/v1/"):
        request = cluster_pb2.ListEntriesRequest(prefix=prefix)
        async for part in questions.stream(cluster, "ListEntries", request):
            found += map(plain, part.entries)
    own = f'"node": "{name}"'
    async for part in questions.stream(cluster, "ListEntries", cluster_pb2.ListEntriesRequest(prefix="state/ip/v1/")):
        found += [plain(one) for one in part.entries if own in one.value]
    yield Member("endpoint/kvstore.json", found)


async def _map(questions: Questions, name: str) -> AsyncIterator[Member]:
    reply = await questions.ask(connect.loader(questions.settings), "DumpMap", loader_pb2.DumpMapRequest(map=name))
    entries = reply.entries[:_MOST_FLOWS] if name == "conntrack" else reply.entries
    left = len(reply.entries) - len(entries)
    yield Member(f"loader/maps/{name}.json", _entries(entries), f"{left} more are left out" if left else "")


def _entries(entries: Any) -> list[Any]:
    return [plain(getattr(one, one.WhichOneof("entry"))) for one in entries]


async def _policy_maps(questions: Questions) -> AsyncIterator[Member]:
    loader = connect.loader(questions.settings)
    found: dict[str, Any] = {}
    reply = await questions.ask(loader, "ListEndpointDatapaths", loader_pb2.ListEndpointDatapathsRequest())
    for one in reply.datapaths:
        with contextlib.suppress(NotFound):
            dump = await questions.ask(loader, "DumpMap", loader_pb2.DumpMapRequest(map="policy", endpoint_id=one.id))
            found[str(one.id)] = _entries(dump.entries)
    yield Member("loader/maps/policy.json", found)


async def metrics_page(listen: str) -> str:
    """Return what Prometheus would get from a service (services/common/exporter.py). Raises Unavailable."""
    if not listen:
        return "# nothing: metrics_listen is empty\n"
    try:
        if "/" in listen:
            reader, writer = await asyncio.open_unix_connection(listen)
        else:
            host, _, port = listen.rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError as error:
        raise Unavailable(f"nobody serves metrics on {listen}: {error.strerror or error}") from None
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: podlane\r\n\r\n")
        await writer.drain()
        _, _, page = (await reader.read()).partition(b"\r\n\r\n")
        return page.decode("utf-8", "replace")
    finally:
        writer.close()
