"""When an endpoint's policy has more entries than its map holds: said before anything is written, with what exploded.

Pure. A map that is too small has no good half: leaving entries out would close what policy opens, and nobody could say
what. So such a policy isn't written at all, and the endpoint keeps the entries it has, which never opens what was
closed. An endpoint that has none yet is not made.
"""

from services.common.errors import Exhausted
from services.endpoint.policy.desired import EndpointPolicy, Grant
from services.endpoint.policy.entry import Direction

_SHOWN = 3
_MANY_PORTS = 8


def check(policy: EndpointPolicy, size: int, whose: str) -> None:
    """Raise Exhausted when a map of `size` entries is too small for a policy; `whose` is the endpoint in words."""
    if policy.cost() <= size:
        return
    needed = policy.size()
    if needed > size:
        raise Exhausted(
            f"the policies of {whose} need {needed:,} map entries and its map holds {size:,}: what is in force stays. "
            f"{_explosion(policy)}",
            size=size,
            needed=needed,
        )


def _explosion(policy: EndpointPolicy) -> str:
    """Say which grants take most, and what to do."""
    grants = sorted(
        (grant for way in Direction for grant in policy.side(way).grants), key=lambda one: one.cost, reverse=True
    )
    worst = "; ".join(_words(grant) for grant in grants[:_SHOWN])
    rest = grants[_SHOWN:]
    more = f"; {len(rest)} more: {sum(grant.cost for grant in rest):,}" if rest else ""
    return f"{worst}{more}. {_advice(grants[0])}"


def _words(grant: Grant) -> str:
    peers, prefixes = len(grant.peers), len(grant.ports.prefixes)
    return (
        f"{grant.origin}: {peers:,} {'identity' if peers == 1 else 'identities'} × {prefixes} "
        f"{'port prefix' if prefixes == 1 else 'port prefixes'} = {grant.cost:,}"
    )


def _advice(grant: Grant) -> str:
    if len(grant.ports.prefixes) >= _MANY_PORTS:
        return "Begin and end port ranges at multiples of powers of two, or allow all ports of the protocol"
    return "Select fewer identities, leave labels out of identities that differ from pod to pod, or allow everybody"


def check_transition(new: EndpointPolicy, old: EndpointPolicy, size: int, whose: str) -> None:
    """Raise Exhausted when a map of `size` entries can't hold both policies at once, as it must while it changes."""
    if new.cost() + old.cost() <= size:
        return
    both = new.size() + len(new.difference(old).removed)
    if both > size:
        raise Exhausted(
            f"while its policy changes the map of {whose} must hold {both:,} entries, those before and those after, "
            f"and it holds {size:,}: change it in two steps, of which each adds or removes less. {_explosion(new)}",
            size=size,
            needed=both,
        )
