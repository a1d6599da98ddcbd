"""What `podlane gc` and `podlane ipam audit` share: asking for the garbage, and showing it."""

from collections.abc import Sequence
from typing import Any

from cli import connect
from cli.present import enum_name, plain, show_json, show_table
from services.common.config import Settings

# Hundreds of pods' remains, one after the other.
_TIMEOUT = 300.0
_COLUMNS = ("KIND", "OBJECT", "ATTACHMENT", "ACTION", "OUTCOME", "EVIDENCE")


def collect(settings: Settings, kinds: Sequence[str], *, dry_run: bool) -> list[Any]:
    """Return the findings of these kinds, all without any, and have them dealt with unless it is a dry run."""
    from podlane.endpoint.v1 import endpoint_pb2

    numbers = [endpoint_pb2.GarbageKind.Value(f"GARBAGE_KIND_{kind.upper()}") for kind in kinds]
    request = endpoint_pb2.CollectGarbageRequest(kinds=numbers, dry_run=dry_run)
    return list(connect.ask(connect.endpoint(settings), "CollectGarbage", request, _TIMEOUT).findings)


def outcome(finding: Any) -> str:
    """Return what became of a finding, in a word; empty when nothing was tried."""
    word = enum_name(finding.DESCRIPTOR.fields_by_name["outcome"].enum_type, finding.outcome)
    return "" if word == "unspecified" else word


def is_open(finding: Any) -> bool:
    """Return whether a finding is still there."""
    return outcome(finding) not in {"removed", "claimed", "gone"}


def show(findings: Sequence[Any], output: str, empty: str) -> None:
    """Print findings; `empty` when there are none."""
    if output == "json":
        show_json([plain(finding) for finding in findings])
    else:
        show_table(_COLUMNS, [_row(finding) for finding in findings], empty)


def _row(finding: Any) -> tuple[str, ...]:
    told, owner = plain(finding), finding.attachment
    evidence = [*finding.evidence, *([finding.detail] if finding.detail else [])]
    attachment = f"{owner.network}/{owner.container_id[:12]}/{owner.ifname}" if owner.container_id else "-"
    return told["kind"], finding.object, attachment, told["action"], outcome(finding) or "-", "; ".join(evidence)
