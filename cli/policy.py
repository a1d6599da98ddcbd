"""`podlane policy`: documents that say who may talk to whom. What would follow, and why, is in policy_questions.py."""

import json
import time
from typing import Any

import click
from podlane.endpoint.v1 import policy_pb2

from cli import documents
from cli.connect import ask, policy
from cli.documents import files_option
from cli.listing import How, Listing, listing_options, show
from cli.policy_questions import diff, explain
from cli.present import age, enum_name, plain, show_json
from services.common.config import Settings


@click.group("policy", help="NetworkPolicies, Namespaces and Pods as documents, and what follows from them.")
def group() -> None:
    """Hold the verbs."""


group.add_command(diff)
group.add_command(explain)


cluster_option = click.option(
    "--cluster", is_flag=True, help="On all nodes, by the kvstore, and not on this one alone."
)


@group.command("apply")
@files_option
@cluster_option
@click.pass_obj
def apply_documents(settings: Settings, files: tuple[str, ...], cluster: bool) -> None:
    """Take documents in, in place of those of the same kind and name: all or none.

    Returns when the kernel enforces what follows. Exit code 1 when it does not yet for some endpoint.

    \b
    Examples:
      podlane policy apply -f web.yaml -f namespaces/
      kubectl get networkpolicy -n shop -o yaml | podlane policy apply -f -
    """
    text = documents.checked(settings, files)
    request = policy_pb2.ApplyPoliciesRequest(text=text.text, source=text.source, cluster=cluster)
    reply = ask(policy(settings), "ApplyPolicies", request)
    for warning in reply.warnings:
        click.echo(documents.warning_line(warning, text), err=True)
    _show_applied(reply)


@group.command("delete")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@files_option
@cluster_option
@click.pass_obj
def delete_documents(settings: Settings, names: tuple[str, ...], files: tuple[str, ...], cluster: bool) -> None:
    """Forget documents: all or none. NAME is networkpolicy/NAMESPACE/NAME, namespace/NAME or pod/NAMESPACE/NAME.

    \b
    Examples:
      podlane policy delete netpol/shop/web
      podlane policy delete -f web.yaml
    """
    if not names and not files:
        raise click.UsageError("name documents, or the file that has them: -f FILE")
    request = policy_pb2.DeletePoliciesRequest(names=map(documents.parse_name, names), cluster=cluster)
    if files:
        text = documents.checked(settings, files)
        request.text, request.source = text.text, text.source
    _show_applied(ask(policy(settings), "DeletePolicies", request))


def _show_applied(reply: Any) -> None:
    for line in documents.changes(reply.documents):
        click.echo(line)
    documents.show_effect(reply.effect)


@group.command("list")
@listing_options
@click.pass_obj
def list_policies(settings: Settings, how: How) -> None:
    """List the documents in force, how many endpoints of this node each selects, and where it is from.

    \b
    Examples:
      podlane policy list --watch
      podlane policy list -o json | jq -r '.[] | select(.endpoints == []) | .name.name'
    """
    request = policy_pb2.ListPoliciesRequest()
    show(_LISTING, lambda: ask(policy(settings), "ListPolicies", request).documents, how)


def _row(document: Any) -> tuple[str, ...]:
    return (
        document.name.namespace or "-",
        document.name.name,
        documents.kind_word(document.name),
        str(len(document.endpoints)),
        ",".join(_directions(document)) or "-",
        document.source or "applied",
        age(time.time() - document.applied.seconds),
        ",".join(map(str, document.endpoints)) or "-",
    )


_LISTING = Listing(
    titles=("NAMESPACE", "NAME", "KIND", "SELECTS", "ISOLATES", "SOURCE", "AGE"),
    wide=("ENDPOINTS",),
    rows=lambda document: [_row(document)],
    empty="no policies",
    name=lambda document: documents.full_name(document.name).replace(" ", "/"),
    flexible="SOURCE",
)


def _directions(document: Any) -> list[str]:
    kind = document.DESCRIPTOR.fields_by_name["directions"].enum_type
    return [enum_name(kind, one) for one in document.directions]


@group.command("get")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json", "table"]),
    default="yaml",
    show_default=True,
    help="yaml, json: the document as Kubernetes has it. table: whom it concerns.",
)
@click.pass_obj
def get_policy(settings: Settings, name: str, output: str) -> None:
    """Show one document, with the defaults that count.

    \b
    Examples:
      podlane policy get netpol/shop/web
      podlane policy get ns/shop -o json
      podlane policy get netpol/shop/web -o table
    """
    request = policy_pb2.GetPolicyRequest(name=documents.parse_name(name))
    found = ask(policy(settings), "GetPolicy", request).document
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(json.loads(found.json), allow_unicode=True), nl=False)
    elif output == "json":
        show_json(json.loads(found.json))
    else:
        for line in _describe(found):
            click.echo(line)


def _describe(document: Any) -> list[str]:
    return [
        f"document    {documents.full_name(document.name)}",
        f"source      {document.source or 'applied'}",
        f"applied     {plain(document.applied)}",
        f"isolates    {', '.join(_directions(document)) or '-'}",
        f"endpoints   {', '.join(map(str, document.endpoints)) or '-'}",
    ]


@group.command("validate")
@files_option
@click.pass_obj
def validate(settings: Settings, files: tuple[str, ...]) -> None:
    """Check files and touch nothing: a line for each problem and each warning. Exit code 1 when there is a problem.

    \b
    Examples:
      podlane policy validate -f policies/ && podlane policy apply -f policies/
    """
    text = documents.read(files)
    problems, warnings = documents.check(settings, text)
    for line in (*problems, *warnings):
        click.echo(line)
    if problems:
        raise SystemExit(1)
    if not warnings:
        click.echo(f"{text.source}: nothing is wrong")
