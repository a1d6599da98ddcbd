"""What a check has found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`object` contradicts something by `problem`, one sentence without an end; `advice` says what to do."""

    object: str
    problem: str
    advice: str = ""
    check: str = ""
    """Its check's name, set by who runs it."""
