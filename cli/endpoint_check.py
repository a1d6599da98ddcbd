"""`podlane endpoint check`: what CNI CHECK asks, for people, and mending it.

The endpoint service compares datapath, ipam's books and what is published; the loader looks into the pod.
"""

from collections.abc import Sequence
from typing import Any

import click

from cli import connect
from cli.present import show_json
from services.common.config import Settings


def run(settings: Settings, selector: Any, *, repair: bool, output: str) -> int:
    """Check an endpoint, mended first if that is asked for; show what was wrong and what is; return the exit code."""
    from podlane.endpoint.v1 import endpoint_pb2

    request = endpoint_pb2.CheckEndpointRequest(selector=selector, repair=repair)
    answer = connect.ask(connect.endpoint(settings), "CheckEndpoint", request)
    problems = list(dict.fromkeys([*answer.problems, *_inside(settings, answer.endpoint.attachment)]))
    if output == "json":
        show_json({"endpoint": answer.endpoint.id, "repaired": list(answer.repaired), "problems": problems})
    else:
        _show(answer.endpoint.id, answer.repaired, problems)
    return 1 if problems else 0


def _inside(settings: Settings, attachment: Any) -> list[str]:
    """Return what is wrong with the endpoint's link, in the pod, too."""
    from podlane.loader.v1 import loader_pb2

    request = loader_pb2.ListLinksRequest(attachment=attachment, verify=True)
    links = connect.ask(connect.loader(settings), "ListLinks", request).links
    if not links:
        return ["the loader knows no link of its attachment"]
    return [problem for status in links for problem in status.problems]


def _show(id_: int, repaired: Sequence[str], problems: Sequence[str]) -> None:
    for one in repaired:
        click.echo(f"repaired: {one}")
    for one in problems:
        click.echo(f"wrong: {one}")
    if not problems:
        click.echo(f"endpoint {id_} is as it should be")
    elif not repaired:
        click.echo(f"`podlane endpoint check {id_} --repair` mends what can be mended", err=True)
