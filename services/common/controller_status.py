"""What a controller remembers of its runs. Pure.

Counters grow for as long as the controller lives; of single runs only the last sixteen are kept. Hundreds of endpoints
have several controllers each, so those sixteen are packed: 0.5 KiB, where objects would be 2 KiB and 16 more things for
the garbage collector to look at.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

HISTORY = 16
# An error may quote a compiler; what is kept of it is for a table.
_LONGEST_ERROR = 500
# finished, duration, result
_ENTRY = struct.Struct("<ddB")
_OLDEST = (HISTORY - 1) * _ENTRY.size


class Result(StrEnum):
    """How one run ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    """By an update or the controller's removal; neither a success nor a failure."""


_RESULTS = tuple(Result)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished run."""

    result: Result
    finished: float
    """Seconds since the epoch."""
    duration: float
    """Seconds."""
    error: str = ""


class History:
    """The last sixteen outcomes, oldest first."""

    __slots__ = ("_errors", "_packed")

    def __init__(self) -> None:
        """Start empty."""
        self._packed = b""
        self._errors: tuple[str, ...] = ()

    def add(self, outcome: Outcome) -> None:
        """Take an outcome in; a seventeenth pushes the oldest out."""
        entry = _ENTRY.pack(outcome.finished, outcome.duration, _RESULTS.index(outcome.result))
        self._packed = self._packed[-_OLDEST:] + entry
        self._errors = (*self._errors[1 - HISTORY :], outcome.error)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._errors)

    def __iter__(self) -> Iterator[Outcome]:
        """Go through them."""
        for (finished, duration, result), error in zip(_ENTRY.iter_unpack(self._packed), self._errors, strict=True):
            yield Outcome(_RESULTS[result], finished, duration, error)


@dataclass(slots=True)
class Status:
    """What happened so far. Times are seconds since the epoch, 0 for never; durations are seconds."""

    successes: int = 0
    failures: int = 0
    consecutive_failures: int = 0
    """Since the last success."""
    failing_since: float = 0.0
    """When the first of those ended."""
    last_success: float = 0.0
    last_failure: float = 0.0
    last_error: str = ""
    """The last failure's; a success leaves it."""
    last_duration: float = 0.0
    coalesced: int = 0
    """Triggers and updates that were folded into a run that was to come anyway."""
    history: History = field(default_factory=History)

    def record(self, result: Result, finished: float, duration: float, error: str = "") -> Outcome:
        """Count a finished run and return it as it is kept."""
        error = error if len(error) <= _LONGEST_ERROR else error[: _LONGEST_ERROR - 1] + "…"
        # What fails for hours mostly says the same: one string for all of it.
        outcome = Outcome(result, finished, duration, self.last_error if error == self.last_error else error)
        self.history.add(outcome)
        self.last_duration = duration
        if result is Result.SUCCESS:
            self.successes += 1
            self.consecutive_failures = 0
            self.last_success = finished
        elif result is Result.FAILURE:
            self.failures += 1
            self.failing_since = self.failing_since if self.consecutive_failures else finished
            self.consecutive_failures += 1
            self.last_failure = finished
            self.last_error = outcome.error
        return outcome
