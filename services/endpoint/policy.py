"""What an endpoint's policy map holds. Pure, and the one place where it is made.

Every endpoint is open in both directions: nobody can select it yet, and in Kubernetes an endpoint that no policy
selects is open.
"""

from dataclasses import dataclass
from enum import IntEnum


class Direction(IntEnum):
    """Seen from the pod; the numbers are the API's."""

    INGRESS = 1
    EGRESS = 2


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One entry: identity, protocol and `port_prefix_length` 0 stand for any."""

    direction: Direction
    identity: int = 0
    protocol: int = 0
    port: int = 0
    port_prefix_length: int = 0
    deny: bool = False


def allow_all() -> tuple[PolicyEntry, ...]:
    """Return the policy map of an endpoint that no policy selects."""
    return (PolicyEntry(Direction.INGRESS), PolicyEntry(Direction.EGRESS))
