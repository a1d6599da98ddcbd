"""Messages about policy, from the endpoint service: what is wrong with them has the name of its field."""

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import pytest
from podlane.loader.v1 import loader_pb2 as pb

from services.common import policydigest, wire
from services.common.errors import InvalidArgument
from services.loader import layout, policymessages
from services.loader.model import Direction, PolicyEntry
from services.loader.policyupdate import Change, Refusal, Target, Update, pack

BLOCK = ip_network("192.0.2.0/24")
ALLOW = pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_INGRESS)


def target(id_: int = 7, **changes: Any) -> pb.PolicyTarget:
    fields: dict[str, Any] = {"id": id_, "generation": 3, "before": policydigest.EMPTY, "after": b"\1" * 16}
    return pb.PolicyTarget(**fields | changes)


def prefix(identity: int = 1 << 24) -> pb.PrefixIdentity:
    return pb.PrefixIdentity(prefix=wire.write_network(BLOCK), identity=identity)


def test_a_policy_entry_survives_both_ways() -> None:
    entry = PolicyEntry(Direction.EGRESS, 256, 6, 8080, 16, deny=True)

    assert policymessages.read_policy([policymessages.write_policy_entry(entry)], "policy") == (entry,)


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({}, "direction"),
        ({"direction": 3}, "direction"),
        ({"direction": 1, "protocol": 256}, "protocol"),
        ({"direction": 1, "protocol": 6, "port": 65536, "port_prefix_length": 16}, "port"),
        ({"direction": 1, "protocol": 6, "port": 80, "port_prefix_length": 17}, "port_prefix_length"),
        ({"direction": 1, "protocol": 6, "port": 81, "port_prefix_length": 15}, "port"),
        ({"direction": 1, "port": 80, "port_prefix_length": 16}, "protocol"),
    ],
)
def test_a_bad_policy_entry_is_refused_with_the_name_of_its_field(entry: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^policy\[0\]\.{field}: "):
        policymessages.read_policy([pb.PolicyEntry(**entry)], "policy")  # type: ignore[arg-type] # out of the enum on purpose


def test_the_same_policy_key_twice_is_refused() -> None:
    allow = pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_INGRESS)
    deny = pb.PolicyEntry(direction=pb.TRAFFIC_DIRECTION_INGRESS, deny=True)

    with pytest.raises(InvalidArgument, match=r"^policy\[1\]: "):
        policymessages.read_policy([allow, deny], "policy")


def test_an_update_survives() -> None:
    request = pb.UpdatePoliciesRequest(
        changes=[pb.PolicyChange(added=[ALLOW], removed=[ALLOW], endpoints=[target(7), target(8)])],
        prefixes_added=[prefix()],
        prefixes_removed=[wire.write_network(BLOCK)],
    )
    allow = (PolicyEntry(Direction.INGRESS),)
    both = tuple(Target(id_, 3, policydigest.EMPTY, b"\1" * 16) for id_ in (7, 8))

    update = policymessages.read_update(request)

    assert update == Update((Change(allow, allow, both),), {BLOCK: 1 << 24}, (BLOCK,))
    assert list(update.targets()) == list(both)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"changes": [pb.PolicyChange(endpoints=[target(0)])]}, r"changes\[0\].endpoints\[0\].id"),
        ({"changes": [pb.PolicyChange(endpoints=[target(before=b"1")])]}, r"changes\[0\].endpoints\[0\].before"),
        ({"changes": [pb.PolicyChange(endpoints=[target(after=b"")])]}, r"changes\[0\].endpoints\[0\].after"),
        ({"changes": [pb.PolicyChange(endpoints=[target()])] * 2}, r"changes\[1\].endpoints"),
        ({"changes": [pb.PolicyChange(added=[pb.PolicyEntry()])]}, r"changes\[0\].added\[0\].direction"),
        ({"changes": [pb.PolicyChange(removed=[ALLOW, ALLOW])]}, r"changes\[0\].removed\[1\]"),
        ({"prefixes_added": [prefix(0)]}, r"prefixes_added\[0\].identity"),
        ({"prefixes_added": [prefix(), prefix()]}, r"prefixes_added\[1\].prefix"),
        ({"prefixes_removed": [{"length": 8}]}, r"prefixes_removed\[0\]"),
    ],
)
def test_what_is_wrong_with_an_update_has_the_name_of_its_field(request_: Mapping[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{field}"):
        policymessages.read_update(pb.UpdatePoliciesRequest(**request_))


def test_what_a_change_adds_it_does_not_remove() -> None:
    """An allow that becomes a deny has one key."""
    allow, deny, web = (
        PolicyEntry(Direction.INGRESS),
        PolicyEntry(Direction.INGRESS, deny=True),
        PolicyEntry(Direction.INGRESS, 0, 6, 80, 16),
    )

    packed = pack(Change((deny,), (allow, web), ()), ())

    assert packed.written == {layout.policy_key(deny): layout.policy_value(deny)}
    assert packed.deleted == [layout.policy_key(web)]


def test_entries_of_prefixes_that_stay_are_changed_by_themselves() -> None:
    stays, moves, pod = (PolicyEntry(Direction.INGRESS, identity) for identity in (1 << 24 | 1, 1 << 24 | 2, 256))

    added = pack(Change((stays, moves, pod), (), ()), {moves.identity})
    removed = pack(Change((), (stays, moves, pod), ()), {moves.identity})

    assert set(added.written) == set(removed.deleted) == {layout.policy_key(moves), layout.policy_key(pod)}
    assert set(added.staying_written) == set(removed.staying_deleted) == {layout.policy_key(stays)}


def test_what_an_update_adds_of_prefixes_it_does_not_remove() -> None:
    """A prefix that gets another identity."""
    other = ip_network("2001:db8::/32")

    assert Update((), {BLOCK: 1 << 24}, (BLOCK, other)).prefixes_gone() == [other]


def test_refusals_are_told() -> None:
    reply = policymessages.write_refusals([Refusal(7, "no")])

    assert [(one.id, one.error) for one in reply.refusals] == [(7, "no")]
