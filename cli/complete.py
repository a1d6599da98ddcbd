"""What a shell is offered while a word is being typed: endpoints of this node, quickly or not at all.

The shell waits, and whatever is written to the terminal spoils its line: a service that is away, slow or unwilling
means that nothing is offered.
"""

from typing import Any

import click

_SECONDS = 0.5


def endpoints(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Offer ids, with their pods beside them, and pods."""
    from click.shell_completion import CompletionItem

    found = []
    for endpoint in _listed(context):
        pod = f"{endpoint.pod.namespace}/{endpoint.pod.name}" if endpoint.pod.name else ""
        found.append(CompletionItem(str(endpoint.id), help=pod or None))
        if pod:
            found.append(CompletionItem(pod, help=f"endpoint {endpoint.id}"))
    return [one for one in found if one.value.startswith(incomplete)]


def _listed(context: click.Context) -> list[Any]:
    from podlane.endpoint.v1 import endpoint_pb2

    from cli import connect
    from services.common import configfile
    from services.common.errors import PodlaneError

    try:
        settings = configfile.load_from_process(context.find_root().params.get("file"))
        request = endpoint_pb2.ListEndpointsRequest()
        reply = connect.ask(connect.endpoint(settings), "ListEndpoints", request, _SECONDS, wait=0.0)
        return list(reply.endpoints)
    except PodlaneError:
        return []


endpoint_argument = click.argument("endpoint", shell_complete=endpoints)
