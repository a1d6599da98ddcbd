"""What a controller (controller.py) is told: what to run and when, and what all of a process share."""

import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.common.controller_status import Outcome


class ControllerDone(Exception):
    """Raised by a controller's function: it has nothing left to do, and that is a success."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What to run and when. All times are seconds."""

    run: Callable[[], Awaitable[None]]
    interval: float = 0.0
    """From the end of a successful run to the next; 0: only after an update or a trigger."""
    interval_jitter: float = 0.0
    """Up to this share of `interval` is added at random: what began together must not run together for ever."""
    retry_base: float = 1.0
    """Back-off after the first error of a row; doubles with each further one."""
    retry_cap: float = 60.0
    """The longest back-off."""
    retry: bool = True
    """False: an error waits for `interval`, an update or a trigger like a success."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Run once when the controller is removed, after its last run; not when the process stops."""
    cancel_on_update: bool = False
    """Whether the update that brings these parameters cancels a run in progress rather than waiting for its end."""
    alarm: float = 30.0
    """A run that takes longer shows as hanging; math.inf: none does."""
    group: str = ""
    """What metrics call it; empty: its name. One of few: never an endpoint's id."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the controllers of a process have in common."""

    context: contextvars.Context
    """Each run gets a copy."""
    observe: Callable[[str, Outcome], None]
    """Told of each run's group and outcome."""
    news: list[Callable[[str, str, Outcome, int], None]] = field(default_factory=list)
    """Told of a controller's resource and name and of the outcome when it begins to fail, and when it works again; then
    after how many failures in a row."""


def backoff(consecutive: int, base: float, cap: float, jitter: float) -> float:
    """Return the seconds to wait after the `consecutive`-th error in a row; `jitter` in [0, 1) takes off up to half.

    >>> [backoff(n, 1, 60, 0) for n in (1, 2, 3, 7, 8)]
    [1.0, 2.0, 4.0, 60.0, 60.0]
    """
    # Past 2^16 the cap has long decided, and 2**consecutive would overflow a float.
    full = min(cap, base * 2.0 ** min(consecutive - 1, 16))
    return full * (1 - jitter / 2)
