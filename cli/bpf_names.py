"""Names for the numbers in maps: whose endpoint it is, and what an identity stands for.

The kernel has numbers only and the loader no more; names are the endpoint service's. While it is away, numbers are all
there is, and that is said once on stderr: maps are looked at when something is broken.
"""

from collections.abc import Callable
from typing import Any

import click
from podlane.endpoint.v1 import endpoint_pb2, policy_pb2
from podlane.loader.v1 import loader_pb2

from cli import connect
from cli.endpoint import selector
from cli.present import labels, plain, pod_name
from services.common.config import Settings
from services.common.errors import FailedPrecondition, Unavailable

# Of whoever is asked beside the loader: numbers now are better than names later.
_WAIT = 0.2
_RESERVED = {1: "reserved:host", 2: "reserved:world", 5: "reserved:init"}


class Names:
    """What the endpoint service says; `refresh` asks it."""

    def __init__(self, settings: Settings) -> None:
        """Know nothing yet."""
        self._settings = settings
        self._pods: dict[int, str] = {}
        self._identities: dict[int, Any] = {}
        self._complained = False

    def refresh(self) -> None:
        """Ask; without an answer keep what is known."""
        request = policy_pb2.ListIdentitiesRequest()
        try:
            found = connect.ask(connect.policy(self._settings), "ListIdentities", request, wait=_WAIT).identities
            everybody = endpoint_pb2.ListEndpointsRequest(page_size=10_000)
            endpoints = connect.ask_all(connect.endpoint(self._settings), "ListEndpoints", everybody, "endpoints")
        except (Unavailable, FailedPrecondition) as error:
            self.complain(error)
            return
        self._identities = {one.id: one for one in found}
        self._pods = {one.id: pod_name(one.pod) for one in endpoints}

    def complain(self, error: Exception) -> None:
        """Say once why there are no names."""
        if not self._complained:
            click.echo(f"podlane: without names: {error}", err=True)
        self._complained = True

    def pod(self, endpoint: int) -> str:
        """Return an endpoint's pod."""
        return self._pods.get(endpoint, "-")

    def identity(self, number: int) -> str:
        """Return what an identity stands for: labels, a prefix, or `-`."""
        one = self._identities.get(number)
        if one is None:
            return _RESERVED.get(number, "-")
        return str(plain(one.prefix)) if one.HasField("prefix") else ",".join(labels(one.labels)) or "-"

    def policies(self, number: int) -> list[str]:
        """Return the policies that see an identity."""
        one = self._identities.get(number)
        return list(one.policies) if one is not None else []

    def endpoint_id(self, text: str) -> int:
        """Return the id of what a person names an endpoint by; only a number needs nobody to tell."""
        if text.isdigit():
            return int(text)
        request = endpoint_pb2.GetEndpointRequest(selector=selector(text))
        found = connect.ask(connect.endpoint(self._settings), "GetEndpoint", request)
        return int(found.endpoint.id)


def dump(settings: Settings, name: str, field: str, endpoint: int = 0, *, long: bool = False) -> list[Any]:
    """Return the entries of a map, which are in `field` of MapEntry; `long`: there may be very many."""
    request = loader_pb2.DumpMapRequest(map=name, endpoint_id=endpoint)
    reply = connect.ask(connect.loader(settings), "DumpMap", request, long=long)
    return [getattr(one, field) for one in reply.entries]


def fetching(names: Names, read: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """Return what asks for a map and for the names in it."""

    def both() -> list[Any]:
        found = read()
        if found:
            names.refresh()
        return found

    return both
