"""Between the messages of the garbage collection and their values."""

from collections.abc import Iterable

from podlane.endpoint.v1 import endpoint_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.endpoint.findings import Action, Kind
from services.endpoint.sweep import Outcome, Settled

_KINDS = {pb.GarbageKind.Value(f"GARBAGE_KIND_{kind.name}"): kind for kind in Kind}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_ACTIONS = {action: pb.GarbageAction.Value(f"GARBAGE_ACTION_{action.name}") for action in Action}
_OUTCOMES = {
    Outcome.NONE: pb.GARBAGE_OUTCOME_UNSPECIFIED,
    Outcome.REMOVED: pb.GARBAGE_OUTCOME_REMOVED,
    Outcome.CLAIMED: pb.GARBAGE_OUTCOME_CLAIMED,
    Outcome.FAILED: pb.GARBAGE_OUTCOME_FAILED,
    Outcome.GONE: pb.GARBAGE_OUTCOME_GONE,
    Outcome.BUSY: pb.GARBAGE_OUTCOME_BUSY,
}


def read_kinds(numbers: Iterable[int]) -> frozenset[Kind]:
    """Return the kinds that are asked for, or all."""
    kinds = []
    for number in numbers:
        if number not in _KINDS:
            known = ", ".join(f"{value} ({kind})" for value, kind in _KINDS.items())
            raise InvalidArgument(f"kinds: {number} is not a kind of garbage; there are {known}", field="kinds")
        kinds.append(_KINDS[pb.GarbageKind.ValueType(number)])
    return frozenset(kinds or Kind)


def write_settled(settled: Settled) -> pb.GarbageFinding:
    """Return the message of what became of a finding."""
    finding = settled.finding
    return pb.GarbageFinding(
        kind=_NUMBERS[finding.kind],
        object=str(finding),
        attachment=wire.write_attachment(finding.attachment) if finding.attachment is not None else None,
        evidence=finding.evidence,
        action=_ACTIONS[finding.action],
        outcome=_OUTCOMES[settled.outcome],
        detail=settled.detail,
    )
