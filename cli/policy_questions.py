"""`podlane policy diff` and `podlane policy explain`: what would follow, and why. Both touch nothing.

Their exit codes are answers, so an error is 2: a script must not take a service that is down for a denial.
"""

import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import click
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import policy_pb2

from cli import documents
from cli.connect import ask, policy
from cli.documents import files_option
from cli.endpoint import selector
from cli.present import output_option, plain, show_json
from services.common.config import Settings
from services.common.errors import InvalidArgument, PodlaneError

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_ICMP = {4: 1, 6: 58}


@contextlib.contextmanager
def errors_are_2() -> Iterator[None]:
    """Exit with 2 on a PodlaneError."""
    try:
        yield
    except PodlaneError as error:
        click.echo(f"podlane: {error.message}", err=True)
        raise SystemExit(2) from None


@click.command("diff")
@files_option
@click.option(
    "--delete", "deleted", multiple=True, metavar="NAME", help="As if this document were gone; several times."
)
@output_option
@click.pass_obj
@errors_are_2()
def diff(settings: Settings, files: tuple[str, ...], deleted: tuple[str, ...], output: str) -> None:
    """Show what applying files, or deleting documents, would change, and touch nothing.

    Entries of policy maps, endpoints that would be isolated or open, and live flows that would be cut.
    Exit code 0: nothing changes; 1: something does; 2: an error.

    \b
    Examples:
      podlane policy diff -f web.yaml
      podlane policy diff --delete netpol/shop/web
    """
    if not files and not deleted:
        raise click.UsageError("name a file, -f FILE, or what would be gone, --delete NAME")
    request = policy_pb2.DiffPoliciesRequest(deleted=map(documents.parse_name, deleted))
    text = documents.checked(settings, files) if files else documents.Joined([])
    request.text, request.source = text.text, text.source
    reply = ask(policy(settings), "DiffPolicies", request)
    if output == "json":
        show_json(plain(reply))
    else:
        _show_diff(reply, text)
    unchanged = policy_pb2.AppliedDocument.CHANGE_UNCHANGED
    if reply.endpoints or any(one.change != unchanged for one in reply.documents):
        raise SystemExit(1)


def _show_diff(reply: Any, text: documents.Joined) -> None:
    for warning in reply.warnings:
        click.echo(documents.warning_line(warning, text), err=True)
    for line in documents.changes(reply.documents):
        click.echo(line)
    for endpoint in reply.endpoints:
        click.echo()
        for line in _endpoint_lines(endpoint):
            click.echo(line)


def _endpoint_lines(diff: Any) -> Iterator[str]:
    yield f"endpoint {diff.id}" + (f" {diff.pod.namespace}/{diff.pod.name}" if diff.pod.name else "")
    for way in ("ingress", "egress"):
        before, after = getattr(diff, f"{way}_before"), getattr(diff, f"{way}_after")
        if before != after:
            yield f"  {way}: {before} → {after}"
    yield from (f"- {line}" for line in diff.removed)
    yield from (f"+ {line}" for line in diff.added)
    yield from (f"  cuts {cut.summary}" for cut in diff.cut)


@click.command("explain")
@click.option("--from", "source", required=True, metavar="END", help="NAMESPACE/POD, endpoint id, address, or node.")
@click.option("--to", "target", required=True, metavar="END", help="Likewise.")
@click.option("--port", required=True, metavar="PORT", help="443/TCP, 53/UDP, 443 (TCP), or icmp.")
@click.option("--family", type=click.Choice(["4", "6"]), help="IP version. Default: what the ends have; 4 if both do.")
@output_option
@click.pass_obj
@errors_are_2()
def explain(settings: Settings, *, source: str, target: str, port: str, family: str | None, output: str) -> None:
    """Say what becomes of a packet that opens a connection, and which rule decides it.

    The answer is compared with what the programs in force do. Exit code 0: allowed; 1: denied; 2: an error.

    \b
    Examples:
      podlane policy explain --from shop/web-0 --to shop/db-0 --port 5432/TCP
      podlane policy explain --from 192.0.2.7 --to shop/web-0 --port 443/TCP
      podlane policy explain --from shop/web-0 --to node --port icmp
    """
    version = int(family) if family else 6 if ":" in source + target else 4
    protocol, number = parse_port(port, version)
    request = policy_pb2.ExplainPolicyRequest(to=_end(target), protocol=protocol, port=number, **{"from": _end(source)})
    if family:
        request.family = types_pb2.IP_FAMILY_IPV6 if version == 6 else types_pb2.IP_FAMILY_IPV4
    reply = ask(policy(settings), "ExplainPolicy", request)
    if output == "json":
        show_json(plain(reply))
    else:
        for line in (*reply.lines, _compared(reply)):
            click.echo(line)
    if not reply.allowed:
        raise SystemExit(1)


def parse_port(text: str, version: int) -> tuple[int, int]:
    """Return protocol number and port for `443/TCP`, `443`, or `icmp` of an IP version. Raises InvalidArgument."""
    if text.lower() == "icmp":
        return _ICMP[version], 0
    number, slash, protocol = text.partition("/")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= 65535:
        raise InvalidArgument(f"--port: {text!r} is not 1-65535 with a protocol, as 443/TCP, nor icmp")
    if slash and protocol.lower() not in _PROTOCOLS:
        raise InvalidArgument(
            f"--port: {protocol!r} is no protocol; there are {', '.join(_PROTOCOLS).upper()}, and icmp"
        )
    return _PROTOCOLS[protocol.lower() or "tcp"], int(number)


def _end(text: str) -> Any:
    if text == "node":
        return policy_pb2.PolicyEnd(node=True)
    try:
        return policy_pb2.PolicyEnd(address=types_pb2.IpAddress(packed=ip_address(text).packed))
    except ValueError:
        return policy_pb2.PolicyEnd(endpoint=selector(text))


def _compared(reply: Any) -> str:
    if not reply.HasField("probe"):
        return f"the programs in force were not asked: {reply.unchecked or 'the service does not say why'}"
    if reply.agrees:
        return "the programs in force agree"
    probe = reply.probe
    did = "let it pass" if probe.passed else f"drop it ({probe.reason} at {probe.source})"
    return (
        f"the programs in force disagree: those of endpoint {probe.endpoint_id} {did}, with identities "
        f"{probe.source_identity} → {probe.destination_identity}; see `podlane endpoint get {probe.endpoint_id}`"
    )
