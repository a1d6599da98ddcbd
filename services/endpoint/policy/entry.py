"""What an endpoint's policy map holds: the numbers that the datapath looks up. Pure."""

from enum import IntEnum
from typing import NamedTuple

ANY_IDENTITY = 0
ANY_PROTOCOL = 0
TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
"""Those that NetworkPolicy knows, by their IP protocol numbers."""

_NAMES = {number: name for name, number in PROTOCOLS.items()} | {1: "ICMP", 58: "ICMPv6"}


class Direction(IntEnum):
    """Seen from the pod; the numbers are the API's."""

    INGRESS = 1
    EGRESS = 2

    def __str__(self) -> str:
        """Return the word as NetworkPolicy's fields have it."""
        return self.name.lower()


class PolicyEntry(NamedTuple):
    """One entry: identity, protocol and `port_prefix_length` 0 stand for any.

    A tuple, because a node may have a hundred thousand of them, and tuples are made, compared and hashed in C.
    """

    direction: Direction
    identity: int = ANY_IDENTITY
    protocol: int = ANY_PROTOCOL
    port: int = 0
    port_prefix_length: int = 0
    deny: bool = False

    def __str__(self) -> str:
        """Return it as explanations have it: `ingress from identity 300, 8080/TCP`."""
        way = "from" if self.direction is Direction.INGRESS else "to"
        whom = f"identity {self.identity}" if self.identity else "any"
        ports = port_words(self.protocol, self.port, self.port + (1 << (16 - self.port_prefix_length)) - 1)
        return f"{'deny ' if self.deny else ''}{self.direction} {way} {whom}, {ports}"


def allow_all() -> tuple[PolicyEntry, ...]:
    """Return the policy map of an endpoint that no policy selects."""
    return (PolicyEntry(Direction.INGRESS), PolicyEntry(Direction.EGRESS))


def protocol_name(protocol: int) -> str:
    """Return `TCP` for 6, and the bare number of one that has no name here."""
    return _NAMES.get(protocol, str(protocol))


def port_words(protocol: int, first: int, last: int) -> str:
    """Return a protocol's range of ports in words: `443/TCP`, `8000-8080/UDP`, `any port/TCP`, `any protocol`."""
    if protocol == ANY_PROTOCOL:
        return "any protocol"
    if (first, last) == (0, 65535):
        return f"any port/{protocol_name(protocol)}"
    return f"{first if first == last else f'{first}-{last}'}/{protocol_name(protocol)}"
