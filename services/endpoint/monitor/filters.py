"""Which events and flows somebody wants. Pure.

All that a filter names must hold. What hasn't got what a filter asks about doesn't fit: an event of a controller has no
port. What was lost always fits: whoever filters must know, too, that something may be missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from services.common.model import Address, Network

_SOURCE = "k8s:"


class Kind(IntEnum):
    """What an event is about; the numbers are the API's."""

    DROP = 1
    TRACE = 2
    VERDICT = 3
    CONNECTION = 4
    ENDPOINT = 5
    CONTROLLER = 6
    LOST = 7


OF_PACKETS = frozenset({Kind.DROP, Kind.TRACE, Kind.VERDICT, Kind.CONNECTION})
"""What the loader tells of."""


class Verdict(IntEnum):
    """What became of traffic; the numbers are the API's. NONE: nothing was decided, or anything will do."""

    NONE = 0
    ALLOWED = 1
    DENIED = 2
    DROPPED = 3


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a packet, or the endpoint that an event is about. What isn't known is 0, empty or None."""

    endpoint_id: int = 0
    addresses: tuple[Address, ...] = ()
    namespace: str = ""
    pod: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    identity: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a filter looks at. `about` is the endpoint of an event that is no packet's."""

    kind: Kind
    source: Party | None = None
    destination: Party | None = None
    about: Party | None = None
    ports: tuple[int, ...] = ()
    protocol: int = 0
    reason: str = ""
    verdict: Verdict = Verdict.NONE


@dataclass(frozen=True, slots=True)
class PeerFilter:
    """What an end must be. Labels by keys with or without a source; an empty value stands for any."""

    endpoint_id: int = 0
    network: Network | None = None
    namespace: str = ""
    pod: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    identity: int = 0

    def fits(self, party: Party | None) -> bool:
        """Return whether it is."""
        return (
            party is not None
            and self.endpoint_id in {0, party.endpoint_id}
            and (self.network is None or any(address in self.network for address in party.addresses))
            and self.namespace in {"", party.namespace}
            and self.pod in {"", party.pod}
            and self.identity in {0, party.identity}
            and all(_has(party.labels, key, value) for key, value in self.labels.items())
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted; `kinds` empty: all of them. `either`: one of the two ends, or whom an event is about."""

    kinds: frozenset[Kind] = frozenset()
    either: PeerFilter | None = None
    source: PeerFilter | None = None
    destination: PeerFilter | None = None
    port: int = 0
    protocol: int = 0
    reason: str = ""
    verdict: Verdict = Verdict.NONE

    def of_packets(self) -> frozenset[Kind]:
        """Return which kinds of what the loader tells can fit."""
        return OF_PACKETS & self.kinds if self.kinds else OF_PACKETS

    def fits(self, facts: Facts) -> bool:
        """Return whether an event is wanted."""
        return facts.kind is Kind.LOST or ((not self.kinds or facts.kind in self.kinds) and self.fits_traffic(facts))

    def fits_traffic(self, facts: Facts) -> bool:
        """Return whether it is wanted, whatever its kind."""
        either = self.either
        return (
            (either is None or any(map(either.fits, (facts.source, facts.destination, facts.about))))
            and (self.source is None or self.source.fits(facts.source))
            and (self.destination is None or self.destination.fits(facts.destination))
            and (not self.port or self.port in facts.ports)
            and self.protocol in {0, facts.protocol}
            and self.reason in {"", facts.reason}
            and self.verdict in {Verdict.NONE, facts.verdict}
        )


def _has(labels: Mapping[str, str], key: str, value: str) -> bool:
    found = labels.get(key, labels.get(_SOURCE + key))
    return found is not None and value in {"", found}
