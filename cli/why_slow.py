"""Where the time of a creation went, in words and numbers. Pure: no service is asked here.

The phase that is to blame is found from the top down: the one that took most beyond what is usual, then the part of it
that makes up at least half of that, and so on. Where nothing is known to be usual, what took longest is to blame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.present import duration

TOTAL = "total"
ENOUGH = 5
"""Creations that make something usual."""
# What runs beside the others or after them is no part of the sum.
_BESIDE = ("confirm", "publish")
# Up to this much above the usual total nothing was slow.
_TOLERANCE = 1.2

HINTS = {
    "start": "Python's start: the CPUs are busy, or the disk that the plugin is on is slow",
    "configuration": "reading stdin, which the runtime writes, or finishing a DEL from the journal",
    "addresses/lock": "another call for the same pod was under way",
    "addresses/choose": "the pool had nothing left and waited for a release or a range: `podlane ipam pools`",
    "addresses/store": "ipam's disk: its database waits for fsync",
    "addresses": "podlane-ipam was busy: its log has the call",
    "link/wait": "other links were being made: the kernel does one at a time (RTNL)",
    "link/netns": "opening the pod's namespace",
    "link": "the kernel's links and routes, or a busy podlane-loader",
    "handover": "podlane-endpoint was busy, or is being started",
    "node": "the node wasn't ready, or another call for the same pod was under way: `podlane node status`",
    "identity": "a new identity: the kvstore had to give it a number, `podlane status`",
    "turn": "others were being created: `[endpoint] create_permits`",
    "record": "the endpoint service's disk: its database waits for fsync",
    "peers": "policy maps of all endpoints that select this pod",
    "datapath/resolve": "policy was being written for others",
    "datapath/template/compile": "clang compiled a shape that was new: `[loader] objects_dir` has prebuilt ones",
    "datapath/load": "the kernel's verifier",
    "datapath/policy": "the policy map: many entries",
    "datapath": "podlane-loader was busy: its log has the call",
    "agreement": "ipam's disk: the confirmation took longer than everything else",
}


@dataclass(frozen=True, slots=True)
class Usual:
    """What a phase takes, in microseconds, of `count` creations."""

    count: int
    median: int
    p99: int


@dataclass(frozen=True, slots=True)
class Blamed:
    """A phase, how long it took and how much beyond what is usual, in microseconds."""

    name: str
    took: int
    beyond: int


def durations(timeline: Any) -> dict[str, int]:
    """Return what each phase took, in the order in which they began."""
    found: dict[str, int] = {}
    for phase in timeline.phases:
        found[phase.name] = found.get(phase.name, 0) + phase.duration_us
    return found


def usual_of(messages: Sequence[Any]) -> dict[str, Usual]:
    """Return what is usual, of phases that were seen often enough."""
    return {one.name: Usual(one.count, one.median_us, one.p99_us) for one in messages if one.count >= ENOUGH}


def between(total: int, took: Mapping[str, int]) -> int:
    """Return the microseconds that no phase accounts for."""
    return max(0, total - sum(us for name, us in took.items() if "/" not in name and name not in _BESIDE))


def is_slow(total: int, usual: Mapping[str, Usual]) -> bool:
    """Return whether a creation took longer than usual, as far as that is known."""
    return TOTAL in usual and total > usual[TOTAL].median * _TOLERANCE


def blame(total: int, took: Mapping[str, int], usual: Mapping[str, Usual]) -> Blamed | None:
    """Return the phase that is to blame for a creation's time; None: there are no phases.

    Of one that wasn't slow that is what took longest: what is usual doesn't count then.
    """
    counted = usual if is_slow(total, usual) else {}

    def beyond(name: str) -> int:
        return took[name] - (counted[name].median if name in counted else 0)

    worst = ""
    while True:
        within = _parts(worst, took)
        part = max(within, key=beyond, default="")
        if not part or (worst and 2 * beyond(part) < beyond(worst)):
            return Blamed(worst, took[worst], beyond(worst)) if worst else None
        worst = part


def sentence(total: int, took: Mapping[str, int], usual: Mapping[str, Usual]) -> str:
    """Say where the time went."""
    blamed = blame(total, took, usual)
    if blamed is None:
        return "Nothing is known of its parts."
    what = f"{_spelled(blamed.name)}: {_us(blamed.took)}, {100 * blamed.took / max(total, 1):.0f} % of all"
    if TOTAL not in usual:
        return f"What is usual isn't known yet. What took longest was {what}.{_hint(blamed.name)}"
    if not is_slow(total, usual):
        return f"It was about as fast as usual. What took longest was {what}."
    longer = f"It took {_us(total - usual[TOTAL].median)} longer than usual"
    return f"{longer}, {_us(blamed.beyond)} of that in {_spelled(blamed.name)}.{_hint(blamed.name)}"


def table(total: int, took: Mapping[str, int], usual: Mapping[str, Usual]) -> list[tuple[str, ...]]:
    """Return a row for each phase, its parts below it: took, usual, p99, how many times the usual, `<` at the one to
    blame. What follows `total` ran beside it or after it.
    """
    blamed = blame(total, took, usual)
    worst = blamed.name if blamed is not None else ""
    rows = [_row(name, took[name], usual, "<" if name == worst else "") for name in _tree("", took)]
    rows += [("(between)", _us(between(total, took)), "", "", "", ""), _row(TOTAL, total, usual, "")]
    return [*rows, *(_row(name, took[name], usual, "") for name in _BESIDE if name in took)]


def _parts(of: str, took: Mapping[str, int]) -> list[str]:
    """Return the phases that are part of one, or of the whole when that is empty."""
    return [name for name in took if name.rpartition("/")[0] == of and name not in _BESIDE]


def _tree(of: str, took: Mapping[str, int]) -> list[str]:
    return [name for part in _parts(of, took) for name in (part, *_tree(part, took))]


def times(took: int, usual: Usual | None) -> str:
    """Return how many times the usual something took: `2.4`."""
    return f"{took / usual.median:.1f}" if usual is not None and usual.median else "-"


def _row(name: str, took: int, usual: Mapping[str, Usual], mark: str) -> tuple[str, ...]:
    known = usual.get(name)
    indented = "  " * name.count("/") + name.rpartition("/")[2]
    shown = (_us(known.median), _us(known.p99)) if known is not None else ("-", "-")
    return (indented, _us(took), *shown, times(took, known), mark)


def _us(us: int) -> str:
    return duration(us / 1e6)


def _spelled(name: str) -> str:
    """Return `verify, in load, in datapath` for `datapath/load/verify`."""
    return ", in ".join(reversed(name.split("/")))


def _hint(name: str) -> str:
    while name:
        if name in HINTS:
            return f" Look at: {HINTS[name]}."
        name = name.rpartition("/")[0]
    return ""
