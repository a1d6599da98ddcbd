"""Between messages about policy and values: entries, changes of many maps, prefixes. As messages.py."""

from collections.abc import Iterable

from podlane.loader.v1 import loader_pb2 as pb

from services.common import policydigest, wire
from services.common.errors import InvalidArgument
from services.common.model import Network
from services.loader import model
from services.loader.policyupdate import Change, Refusal, Target, Update

# linux/pkt_cls.h and friends number identities in 32 bits; the protocol and port fields have their RFC's sizes.
_LIMITS = {"identity": 0xFFFFFFFF, "protocol": 0xFF, "port": 0xFFFF, "port_prefix_length": 16}


def read_id(number: int, field: str) -> int:
    """Return an endpoint id, or raise InvalidArgument."""
    if not 0 < number <= model.LARGEST_ID:
        raise InvalidArgument(f"{field}: {number} is not an endpoint id (1–{model.LARGEST_ID})", field=field)
    return number


def read_policy(messages: Iterable[pb.PolicyEntry], field: str) -> tuple[model.PolicyEntry, ...]:
    """Return entries of a policy map; the same key twice is an error."""
    entries: dict[tuple[int, ...], model.PolicyEntry] = {}
    for index, message in enumerate(messages):
        entry = _policy_entry(message, f"{field}[{index}]")
        key = (entry.direction, entry.identity, entry.protocol, entry.port, entry.port_prefix_length)
        if key in entries:
            raise InvalidArgument(
                f"{field}[{index}]: an entry of this peer, protocol and port was given before", field=field
            )
        entries[key] = entry
    return tuple(entries.values())


def _policy_entry(message: pb.PolicyEntry, field: str) -> model.PolicyEntry:
    try:
        direction = model.Direction(message.direction)
    except ValueError:
        raise InvalidArgument(f"{field}.direction: ingress or egress is needed", field=f"{field}.direction") from None
    for name, largest in _LIMITS.items():
        if getattr(message, name) > largest:
            raise InvalidArgument(
                f"{field}.{name}: {getattr(message, name)} is more than {largest}", field=f"{field}.{name}"
            )
    length = message.port_prefix_length
    if message.port & (0xFFFF >> length):
        raise InvalidArgument(
            f"{field}.port: {message.port} has bits set beyond its prefix of {length}", field=f"{field}.port"
        )
    if length and not message.protocol:
        raise InvalidArgument(f"{field}.protocol: a port needs a protocol", field=f"{field}.protocol")
    return model.PolicyEntry(direction, message.identity, message.protocol, message.port, length, message.deny)


def write_policy_entry(entry: model.PolicyEntry) -> pb.PolicyEntry:
    """Return the message of a policy entry."""
    return pb.PolicyEntry(
        direction=pb.TrafficDirection.ValueType(entry.direction),
        identity=entry.identity,
        protocol=entry.protocol,
        port=entry.port,
        port_prefix_length=entry.port_prefix_length,
        deny=entry.deny,
    )


def read_update(message: pb.UpdatePoliciesRequest) -> Update:
    """Return the changes; an endpoint in two places is an error, because only one of them can be the first."""
    changes = tuple(_change(one, f"changes[{index}]") for index, one in enumerate(message.changes))
    seen: set[int] = set()
    for index, change in enumerate(changes):
        for target in change.endpoints:
            if target.id in seen:
                field = f"changes[{index}].endpoints"
                raise InvalidArgument(f"{field}: endpoint {target.id} was given before", field=field)
            seen.add(target.id)
    removed = (
        wire.read_network(one, f"prefixes_removed[{index}]") for index, one in enumerate(message.prefixes_removed)
    )
    return Update(changes, read_prefixes(message.prefixes_added, "prefixes_added"), tuple(removed))


def _change(message: pb.PolicyChange, field: str) -> Change:
    return Change(
        read_policy(message.added, f"{field}.added"),
        read_policy(message.removed, f"{field}.removed"),
        tuple(_target(one, f"{field}.endpoints[{index}]") for index, one in enumerate(message.endpoints)),
    )


def _target(message: pb.PolicyTarget, field: str) -> Target:
    target = Target(read_id(message.id, f"{field}.id"), message.generation, message.before, message.after)
    if len(target.before) != policydigest.SIZE or len(target.after) != policydigest.SIZE:
        name = "before" if len(target.before) != policydigest.SIZE else "after"
        size = len(getattr(target, name))
        raise InvalidArgument(
            f"{field}.{name}: a digest has {policydigest.SIZE} bytes, not {size}", field=f"{field}.{name}"
        )
    return target


def read_prefixes(messages: Iterable[pb.PrefixIdentity], field: str) -> dict[Network, int]:
    """Return prefixes with their identities; the same prefix twice is an error, and so is identity 0, everybody's."""
    found: dict[Network, int] = {}
    for index, message in enumerate(messages):
        network = wire.read_network(message.prefix, f"{field}[{index}].prefix")
        if not message.identity:
            name = f"{field}[{index}].identity"
            raise InvalidArgument(f"{name}: {network} needs an identity other than 0", field=name)
        if network in found:
            raise InvalidArgument(f"{field}[{index}].prefix: {network} was given before", field=field)
        found[network] = message.identity
    return found


def write_prefix(network: Network, identity: int) -> pb.PrefixIdentity:
    """Return the message of a prefix."""
    return pb.PrefixIdentity(prefix=wire.write_network(network), identity=identity)


def write_refusals(refusals: Iterable[Refusal]) -> pb.UpdatePoliciesResponse:
    """Return the answer to a change."""
    return pb.UpdatePoliciesResponse(refusals=[pb.PolicyRefusal(id=one.id, error=one.error) for one in refusals])
