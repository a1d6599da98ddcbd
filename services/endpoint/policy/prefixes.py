"""CIDR identities: numbers that stand for address prefixes, so that an ipBlock is a few entries of a policy map. Pure.

A block is `cidr` without its `excepts`, and pods differ in the blocks that their policies name. The datapath has one
longest-prefix-match map for the node, with every CIDR and every except of every policy in it: prefix → number. An
address belongs to the longest prefix that it lies in, so each number stands for a *set* of addresses: those within its
prefix and in no longer one that is known. A block is then exactly the numbers of the known prefixes that lie within its
cidr (itself one of them) and in none of its excepts (known, too):

    address in block  ⇔  its longest known prefix lies within cidr, and in no except

A prefix that somebody else's policy brings splits a set in two, and every block around it gets one number more. Numbers
of other prefixes never change by that. A prefix that goes and comes back gets the number that it had, and so does one
that `remembered` has, after a restart: what is in the kernel's maps stays right.

Order for whoever writes: entries with new numbers before new prefixes, removed prefixes before removed entries
(`resolve.py`). No address is without its entries in between.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import NamedTuple

from services.common.errors import Exhausted
from services.common.model import Address, Network
from services.endpoint.policy.clone import Cloneable
from services.endpoint.policy.identity import CIDR_SCOPE
from services.endpoint.policy.networkpolicy import IPBlock

_BITS = {4: 32, 6: 128}
_LARGEST = CIDR_SCOPE - 1
_REMEMBERED = 4096


class _Prefix(NamedTuple):
    """A prefix as numbers, sorted so that those within another one follow it."""

    version: int
    first: int
    length: int

    @property
    def last(self) -> int:
        """The last address."""
        return self.first | (1 << (_BITS[self.version] - self.length)) - 1

    def network(self) -> Network:
        """Return it as the standard library's type; family and number don't fit in one argument of it."""
        return ip_network((self.first.to_bytes(_BITS[self.version] // 8), self.length))


class PrefixChanges(NamedTuple):
    """What the longest-prefix-match map gains and loses."""

    added: Mapping[Network, int]
    removed: Mapping[Network, int]


class PrefixTable(Cloneable):
    """The prefixes that policies name, each with how often it is named. `size` is that of the datapath's map."""

    def __init__(self, size: int, remembered: Mapping[Network, int] | None = None) -> None:
        """Start empty; `remembered` has numbers of an earlier run, which only these prefixes get."""
        self._size = size
        self._numbers: dict[_Prefix, int] = {}
        self._order: list[_Prefix] = []
        self._named: Counter[_Prefix] = Counter()
        self._remembered = {_prefix(network): number for network, number in (remembered or {}).items()}
        self._taken = set(self._remembered.values())
        self._last = max(self._taken, default=CIDR_SCOPE)
        self._added: dict[_Prefix, int] = {}
        self._removed: dict[_Prefix, int] = {}

    def __len__(self) -> int:
        """Return how many prefixes there are."""
        return len(self._numbers)

    def numbers(self) -> dict[Network, int]:
        """Return the whole table."""
        return {prefix.network(): number for prefix, number in self._numbers.items()}

    def name(self, blocks: Iterable[IPBlock]) -> None:
        """Take in the prefixes of blocks, once more each. Raises Exhausted, and then has taken in none."""
        prefixes = [prefix for block in blocks for prefix in _prefixes(block)]
        wanted = len(self._numbers.keys() | set(prefixes))
        if wanted > self._size:
            raise Exhausted(
                f"the policies' ipBlocks name {wanted:,} different prefixes (cidr and except), and the map of prefixes "
                f"holds {self._size:,}: join blocks that are neighbours, or name fewer exceptions",
                size=self._size,
                needed=wanted,
            )
        for prefix in prefixes:
            self._named[prefix] += 1
            if prefix not in self._numbers:
                self._add(prefix)

    def forget(self, blocks: Iterable[IPBlock]) -> None:
        """Take back what `name` took in."""
        for prefix in (prefix for block in blocks for prefix in _prefixes(block)):
            self._named[prefix] -= 1
            if not self._named[prefix]:
                self._remove(prefix)

    def within(self, block: IPBlock) -> frozenset[int]:
        """Return the numbers of which a block consists."""
        inside = self._inside(_prefix(block.cidr))
        for one in block.excepts:
            inside -= self._inside(_prefix(one))
        return frozenset(self._numbers[prefix] for prefix in inside)

    def lookup(self, address: Address) -> int:
        """Return the number of the longest prefix that an address lies in, 0: it lies in none."""
        bits = _BITS[address.version]
        for length in range(bits, -1, -1):
            host = bits - length
            number = self._numbers.get(_Prefix(address.version, int(address) >> host << host, length))
            if number is not None:
                return number
        return 0

    def changes(self) -> PrefixChanges:
        """Return what was added and removed since the last call; what came and went is in neither."""
        added, self._added = self._added, {}
        removed, self._removed = self._removed, {}
        return PrefixChanges(
            {prefix.network(): number for prefix, number in added.items()},
            {prefix.network(): number for prefix, number in removed.items()},
        )

    def _inside(self, outer: _Prefix) -> set[_Prefix]:
        begin = bisect_left(self._order, outer)
        end = bisect_right(self._order, _Prefix(outer.version, outer.last, _BITS[outer.version]))
        return set(self._order[begin:end])

    def _add(self, prefix: _Prefix) -> None:
        number = self._remembered.pop(prefix, None) or self._next()
        self._numbers[prefix] = number
        insort(self._order, prefix)
        if self._removed.pop(prefix, None) is None:
            self._added[prefix] = number

    def _remove(self, prefix: _Prefix) -> None:
        del self._named[prefix]
        number = self._numbers.pop(prefix)
        del self._order[bisect_left(self._order, prefix)]
        # The oldest memories go first, but none of those that the datapath's map still has.
        self._remembered[prefix] = number
        if self._added.pop(prefix, None) is None:
            self._removed[prefix] = number
        while len(self._remembered) > _REMEMBERED + len(self._removed):
            oldest = next(one for one in self._remembered if one not in self._removed)
            self._taken.discard(self._remembered.pop(oldest))

    def _next(self) -> int:
        while True:
            self._last = self._last + 1 if self._last < CIDR_SCOPE + _LARGEST else CIDR_SCOPE + 1
            if self._last not in self._taken:
                self._taken.add(self._last)
                return self._last


def _prefixes(block: IPBlock) -> Iterable[_Prefix]:
    return map(_prefix, (block.cidr, *block.excepts))


def _prefix(network: Network) -> _Prefix:
    return _Prefix(network.version, int(network.network_address), network.prefixlen)
