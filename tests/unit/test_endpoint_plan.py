"""What is decided from what was recorded and what was seen."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from services.common.model import AssignedAddress, Attachment, Pod
from services.endpoint import plan, policy
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, Level, Link, Program, Regeneration
from services.endpoint.observed import Allocation, Datapath, NodeConfig, Observed, PoolRange
from services.endpoint.plan import Action, Claim, Repeat, Wanted

ATTACHMENT = Attachment("podnet", "c0ffee", "eth0")
OTHER = Attachment("podnet", "decaf", "eth0")
LINK = Link(ATTACHMENT, "lxc1", 7, b"\2" * 6, b"\4" * 6)
V4, V6 = ip_address("10.7.0.2"), ip_address("fd07::2")
PROGRAM = Program("from_container", 9, bytes(8), 500, 900, "tc ingress")
SPEC = EndpointSpec(
    ATTACHMENT,
    Pod("default", "web"),
    LINK,
    tuple(
        AssignedAddress(ip_interface(f"{ip}"), ip_address(gateway), ip_network(range_))
        for ip, gateway, range_ in ((V4, "10.7.0.1", "10.7.0.0/16"), (V6, "fd07::1", "fd07::/112"))
    ),
)
BUILT = Regeneration(Level.REWRITE_LOAD, ("x",), 0.0, config_hash="aa")
ENDPOINT = Endpoint(4, 9, SPEC, 0.0, EndpointState.RESTORING, built=True, last_regeneration=BUILT)
POLICY = bytes(16)
DATAPATH = Datapath(
    4, 9, "aa", "lxc1", 7, reachable=True, programs=(PROGRAM,), policy_digest=POLICY, identity=ENDPOINT.identity
)
WANTED = Wanted({}, POLICY)
HELD = Allocation(ATTACHMENT, (V4, V6), 4)
SEEN = Observed(LINK, DATAPATH, HELD)


def test_an_endpoint_that_is_as_it_was_put_in_force_is_kept() -> None:
    """Nothing is touched after a restart that changed nothing."""
    assert plan.verdict(ENDPOINT, SEEN, WANTED).action is Action.KEEP


@pytest.mark.parametrize(
    ("datapath", "says"),
    [
        (None, "the loader has no datapath"),
        (replace(DATAPATH, generation=8), "generation 8"),
        (replace(DATAPATH, host_ifindex=6), "ifindex 6"),
        (replace(DATAPATH, programs=()), "no program"),
        (replace(DATAPATH, reachable=False), "endpoint map"),
        (replace(DATAPATH, config_hash="bb"), "config bb"),
        (replace(DATAPATH, problems=("tc ingress is empty",)), "tc ingress is empty"),
    ],
)
def test_each_thing_that_is_wrong_with_the_datapath_asks_for_a_regeneration(
    datapath: Datapath | None, says: str
) -> None:
    """The reason tells what was wrong."""
    verdict = plan.verdict(ENDPOINT, replace(SEEN, datapath=datapath), WANTED)

    assert verdict.action is Action.REGENERATE
    assert says in " ".join(verdict.reasons)


def test_switches_that_were_set_and_never_put_in_force_ask_for_a_regeneration() -> None:
    """Whoever set them was killed in between; CHECK tells the same."""
    seen = replace(SEEN, datapath=replace(DATAPATH, options={"trace": True}))

    verdict = plan.verdict(ENDPOINT, seen, replace(WANTED, options={"debug": True, "trace": True}))

    assert verdict.action is Action.REGENERATE
    assert verdict.reasons == ("its switches are trace on, set is debug on, trace on",)
    assert plan.problems(replace(ENDPOINT, state=EndpointState.READY), seen.datapath, HELD, WANTED) == (
        "its switches are trace on, set is none",
    )


def test_an_endpoint_that_a_kill_left_without_a_known_hash_is_judged_by_the_rest() -> None:
    """No hash of ours is no difference."""
    unknown = replace(ENDPOINT, last_regeneration=None)

    assert plan.verdict(unknown, SEEN, WANTED).action is Action.KEEP


@pytest.mark.parametrize("link", [None, replace(LINK, host_ifindex=8)])
def test_an_endpoint_whose_link_is_gone_or_another_one_is_removed(link: Link | None) -> None:
    """A new link of the same name is another ADD's."""
    assert plan.verdict(ENDPOINT, replace(SEEN, link=link), WANTED).action is Action.REMOVE


def test_a_creation_whose_datapath_is_whole_and_whose_addresses_are_confirmed_has_finished() -> None:
    """Its last write comes behind the answer: a pod may be using it."""
    assert plan.verdict(replace(ENDPOINT, built=False, last_regeneration=None), SEEN, WANTED).action is Action.KEEP


@pytest.mark.parametrize(
    "seen",
    [
        replace(SEEN, datapath=None),
        replace(SEEN, datapath=replace(DATAPATH, reachable=False)),
        replace(SEEN, link=replace(LINK, host_ifindex=8)),
        replace(SEEN, allocation=None),
        replace(SEEN, allocation=replace(HELD, endpoint_id=0)),
        replace(SEEN, allocation=replace(HELD, addresses=(V4,))),
    ],
)
def test_a_creation_that_lacks_anything_is_undone(seen: Observed) -> None:
    """Nobody was told that it is there."""
    assert plan.verdict(replace(ENDPOINT, built=False), seen, WANTED).action is Action.UNDO


def test_of_a_creation_whose_link_is_gone_not_even_a_reservation_stays() -> None:
    """The pod is gone, or whoever added it has undone that: nobody goes on."""
    assert plan.verdict(replace(ENDPOINT, built=False), replace(SEEN, link=None), WANTED).action is Action.REMOVE


def test_a_creation_whose_undoing_had_begun_is_undone() -> None:
    """Its caller was told that it failed."""
    failed = replace(ENDPOINT, built=False, state=EndpointState.DISCONNECTING)

    assert plan.verdict(failed, SEEN, WANTED).action is Action.UNDO


def test_a_deletion_that_never_finished_is_finished_and_frees_addresses_only_without_a_link() -> None:
    """With a link the CNI shim comes back for the rest."""
    going = replace(ENDPOINT, state=EndpointState.DISCONNECTING)

    assert plan.verdict(going, SEEN, WANTED).action is Action.FINISH
    assert plan.verdict(going, replace(SEEN, link=None), WANTED).action is Action.REMOVE


@pytest.mark.parametrize(
    ("allocation", "claim"),
    [
        (HELD, Claim.HELD),
        (replace(HELD, addresses=(V6, V4)), Claim.HELD),
        (replace(HELD, endpoint_id=0), Claim.CONFIRM),
        (None, Claim.ALLOCATE),
        (replace(HELD, addresses=(V4,)), Claim.LOST),
        (replace(HELD, endpoint_id=5), Claim.LOST),
        (replace(HELD, owner=OTHER), Claim.LOST),
    ],
)
def test_addresses_are_claimed_as_far_as_ipam_lets(allocation: Allocation | None, claim: Claim) -> None:
    """What somebody else has by now is not taken away from it."""
    assert plan.claim(ENDPOINT, allocation) is claim


def test_check_finds_nothing_wrong_with_a_whole_endpoint() -> None:
    """CNI CHECK succeeds."""
    assert plan.problems(replace(ENDPOINT, state=EndpointState.READY), DATAPATH, HELD, WANTED) == ()


def test_check_tells_everything_that_is_wrong_at_once() -> None:
    """State, datapath and addresses, one sentence each."""
    found = plan.problems(replace(ENDPOINT, waiting_for="its turn"), None, None, WANTED)

    assert [sentence.split()[0] for sentence in found] == ["it", "the", "ipam"]


@pytest.mark.parametrize("allocation", [replace(HELD, endpoint_id=0), replace(HELD, endpoint_id=5)])
def test_check_tells_of_addresses_that_are_not_the_endpoints(allocation: Allocation) -> None:
    """Unconfirmed or another endpoint's."""
    assert len(plan.allocation_problems(ENDPOINT, allocation)) == 1


def test_a_repeat_with_the_same_link_and_addresses_is_the_same_endpoint() -> None:
    """Pod and labels don't make another one, nor does the order of the addresses."""
    again = replace(SPEC, labels={"app": "web"}, addresses=SPEC.addresses[::-1], link=replace(LINK, up=True))

    assert plan.repeat(ENDPOINT, again) is Repeat.SAME


@pytest.mark.parametrize(
    ("endpoint", "spec"),
    [
        (ENDPOINT, replace(SPEC, link=replace(LINK, host_ifindex=8))),
        (ENDPOINT, replace(SPEC, addresses=SPEC.addresses[:1])),
        (replace(ENDPOINT, built=False), SPEC),
        (replace(ENDPOINT, state=EndpointState.DISCONNECTING), SPEC),
    ],
)
def test_a_repeat_that_finds_a_remainder_or_asks_for_another_link_rebuilds(
    endpoint: Endpoint, spec: EndpointSpec
) -> None:
    """Half an endpoint is nobody's endpoint."""
    assert plan.repeat(endpoint, spec) is Repeat.REBUILD


def test_the_node_gets_all_ranges_and_one_router_per_family() -> None:
    """The first range's, in the order of the configuration."""
    ranges = [
        PoolRange(ip_network(prefix), ip_address(gateway))
        for prefix, gateway in (
            ("10.7.0.0/24", "10.7.0.1"),
            ("fd07::/112", "fd07::1"),
            ("10.8.0.0/24", "10.8.0.1"),
        )
    ]

    config = plan.node_config(ranges, NodeConfig((), (), masquerade=True, mtu=1400))

    assert [str(one) for one in config.pod_cidrs] == ["10.7.0.0/24", "fd07::/112", "10.8.0.0/24"]
    assert [str(one) for one in config.gateways] == ["10.7.0.1", "fd07::1"]
    assert (config.masquerade, config.mtu) == (True, 1400)


def test_an_endpoint_that_no_policy_selects_is_open_in_both_directions() -> None:
    """As in Kubernetes."""
    entries = policy.allow_all()

    assert {entry.direction for entry in entries} == set(policy.Direction)
    assert not any(entry.deny or entry.identity or entry.protocol or entry.port_prefix_length for entry in entries)
