"""An endpoint's labels as people see and change them: what its pod says, and the operator's word over it."""

from collections.abc import Iterator, Sequence
from typing import Any

import click
from podlane.endpoint.v1 import policy_pb2

from cli import documents
from cli.connect import ask, policy
from cli.present import labels as spelled
from cli.present import plain, show_json, show_table
from services.common.config import Settings
from services.common.errors import InvalidArgument


def show(endpoint: Any, output: str) -> None:
    """Show labels with who says so. JSON: the endpoint's fields that are about labels."""
    if output == "json":
        told = plain(endpoint)
        fields = ("id", "identity", "labels", "operator_labels", "removed_labels", "identity_labels")
        show_json({field: told[field] for field in fields})
        return
    show_table(("LABEL", "VALUE", "SAID BY"), list(_rows(endpoint)), "no labels")


def _rows(endpoint: Any) -> Iterator[tuple[str, str, str]]:
    overridden = {_bare(key) for key in (*endpoint.operator_labels, *endpoint.removed_labels)}
    rows = [(key, value, "operator") for key, value in endpoint.operator_labels.items()]
    rows += [(key, "(removed)", "operator") for key in endpoint.removed_labels]
    for key, value in endpoint.labels.items():
        said = "pod, not in force" if _bare(key) in overridden else "pod"
        rows.append((key, value, said))
    yield from sorted(rows)


def _bare(key: str) -> str:
    """Without Kubernetes as its source, which a key that names none has, too."""
    return key.removeprefix("k8s:")


def change(settings: Settings, selector: Any, changes: tuple[Sequence[str], Sequence[str]], output: str) -> None:
    """Change labels, those to take back second, and show the identity that follows."""
    said, taken_back = changes
    request = policy_pb2.UpdateLabelsRequest(
        selector=selector, changes=[*map(_parse, said), *(policy_pb2.LabelChange(key=key) for key in taken_back)]
    )
    reply = ask(policy(settings), "UpdateLabels", request)
    if output == "json":
        show_json(plain(reply))
        return
    endpoint = reply.endpoint
    click.echo(
        f"endpoint {endpoint.id} has identity {endpoint.identity}: {', '.join(spelled(endpoint.identity_labels))}"
    )
    documents.show_effect(reply.effect)


def _parse(text: str) -> Any:
    key, equals, value = text.partition("=")
    if equals and key:
        return policy_pb2.LabelChange(key=key, value=value)
    if text.endswith("-") and len(text) > 1:
        return policy_pb2.LabelChange(key=text[:-1], remove=True)
    raise InvalidArgument(f"{text!r} is neither KEY=VALUE, which sets a label, nor KEY-, which removes it")
