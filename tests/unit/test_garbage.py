"""What is garbage, and above all what is not."""

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.model import AssignedAddress, Attachment, Pod
from services.endpoint.findings import Action, Finding, Kind, Seen
from services.endpoint.garbage import find, find_again
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, Link
from services.endpoint.observed import Allocation, Datapath, LinkState, Namespace

GRACE = 120


def attachment(number: int) -> Attachment:
    return Attachment("podnet", f"{number:064x}", "eth0")


def endpoint(number: int, generation: int = 0, **changes: object) -> Endpoint:
    """An endpoint that is ready; its id, its link's index and its addresses come from its number."""
    owner = attachment(number)
    link = Link(owner, owner.host_ifname(), 100 + number, b"\2" * 6, b"\4" * 6, f"/run/netns/p{number}")
    address = AssignedAddress(ip_interface(f"10.7.0.{number}"), ip_address("10.7.0.1"), ip_network("10.7.0.0/16"))
    spec = EndpointSpec(owner, Pod("default", f"web-{number}"), link, (address,))
    made = Endpoint(number, generation or number, spec, 0.0, EndpointState.READY, built=True)
    return replace(made, **changes)  # type: ignore[arg-type]


def link(number: int, **changes: object) -> LinkState:
    """The link of a pod that runs: up, its namespace at its path."""
    owner = attachment(number)
    made = LinkState(
        owner, owner.host_ifname(), 100 + number, f"/run/netns/p{number}", up=True, idle=3600, namespace=Namespace.THERE
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def datapath(number: int, generation: int = 0, **changes: object) -> Datapath:
    owner = attachment(number)
    made = Datapath(
        number,
        generation or number,
        "aa",
        owner.host_ifname(),
        100 + number,
        reachable=True,
        programs=(),
        attachment=owner,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def stranger(id_: int, ifname: str = "", ifindex: int = 0) -> Datapath:
    """A datapath that the loader has no record of."""
    problems = (f"policy map policy_{id_} is pinned",)
    return Datapath(id_, 0, "", ifname, ifindex, reachable=False, programs=(), problems=problems)


def allocation(number: int, endpoint_id: int = -1, **changes: object) -> Allocation:
    made = Allocation(
        attachment(number), (ip_address(f"10.7.0.{number}"),), number if endpoint_id < 0 else endpoint_id, 1000.0
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def seen(
    endpoints: tuple[Endpoint, ...] = (),
    links: tuple[LinkState, ...] = (),
    datapaths: tuple[Datapath, ...] = (),
    allocations: tuple[Allocation, ...] = (),
) -> Seen:
    return Seen(endpoints, links, datapaths, allocations, GRACE)


def told(findings: list[Finding]) -> list[tuple[str, str, str]]:
    """Kind, object and action of findings."""
    return [(finding.kind.value, str(finding), finding.action.value) for finding in findings]


def only(what: Seen) -> Finding:
    (finding,) = find(what)
    return finding


HEALTHY = seen((endpoint(2),), (link(2),), (datapath(2),), (allocation(2),))
ABANDONED = {"namespace": Namespace.GONE, "processes": ()}


def test_a_pod_that_runs_is_no_garbage() -> None:
    """Nothing is found on a healthy node."""
    assert find(HEALTHY) == []


@pytest.mark.parametrize("links", [(), (link(2, host_ifindex=0, up=False),), (link(2, host_ifindex=999),)])
def test_an_endpoint_whose_link_is_gone_or_another_one_goes(links: tuple[LinkState, ...]) -> None:
    """A record of the link is no link, and another index is another link."""
    finding = find(replace(HEALTHY, links=links))[0]

    assert told([finding]) == [("endpoint", "endpoint 2", "remove")]
    assert finding.evidence[0].startswith(f"link {attachment(2).host_ifname()} (ifindex 102) is gone")


@pytest.mark.parametrize("namespace", [Namespace.GONE, Namespace.OTHER])
def test_an_endpoint_whose_namespace_nobody_lives_in_any_more_goes(namespace: Namespace) -> None:
    """Held open by a descriptor or a mount: the link is there, the pod is not."""
    finding = only(replace(HEALTHY, links=(link(2, namespace=namespace),)))

    assert told([finding]) == [("endpoint", "endpoint 2", "remove")]
    assert "no process lives in the namespace" in finding.evidence[1]


def test_an_endpoint_whose_namespace_has_lost_its_name_and_has_processes_is_kept_and_told() -> None:
    """They are named, so that somebody can look."""
    finding = only(replace(HEALTHY, links=(link(2, namespace=Namespace.GONE, processes=("nginx (4711)",)),)))

    assert told([finding]) == [("endpoint", "endpoint 2", "keep")]
    assert "nginx (4711)" in finding.evidence[1]


def test_a_namespace_that_could_not_be_looked_at_is_no_evidence() -> None:
    """Absence must be seen."""
    assert find(replace(HEALTHY, links=(link(2, namespace=Namespace.UNKNOWN),))) == []


def test_a_link_that_is_not_the_loaders_is_not_missed() -> None:
    """The loader lists only links with names as it gives them."""
    foreign = endpoint(2)
    foreign = replace(foreign, spec=replace(foreign.spec, link=replace(foreign.spec.link, host_ifname="veth7")))

    assert find(seen((foreign,), (), (datapath(2, host_ifname="veth7"),), (allocation(2),))) == []
    assert find(seen((), (), (datapath(2, host_ifname="veth7"),))) == []


def test_an_endpoint_whose_removal_stopped_half_way_goes() -> None:
    """Its DEL was answered with an error and never repeated."""
    going = endpoint(2, state=EndpointState.DISCONNECTING, waiting_for="the loader")

    finding = only(replace(HEALTHY, endpoints=(going,)))

    assert told([finding]) == [("endpoint", "endpoint 2", "remove")]
    assert "the loader" in finding.evidence[0]


def test_all_that_a_pod_left_whose_record_was_lost_goes_in_the_order_of_a_teardown() -> None:
    """The addresses last."""
    left = seen((), (link(2, host_ifindex=0, up=False),), (datapath(2),), (allocation(2),))

    assert told(find(left)) == [
        ("datapath", "datapath 2", "remove"),
        ("link", f"record of link {attachment(2).host_ifname()}", "remove"),
        ("address", "addresses 10.7.0.2", "remove"),
    ]


def test_a_pod_that_runs_without_an_endpoint_is_kept_and_told_once() -> None:
    """The endpoint database was lost: link, datapath and addresses are one finding."""
    finding = only(replace(HEALTHY, endpoints=()))

    assert told([finding]) == [("link", f"link {attachment(2).host_ifname()}", "keep")]
    assert "the datapath of endpoint id 2 is on it" in finding.evidence


def test_a_pod_without_an_endpoint_whose_namespace_nobody_lives_in_goes_with_all_that_it_has() -> None:
    """Nothing can be using it, whatever the state of its link."""
    left = replace(HEALTHY, endpoints=(), links=(link(2, namespace=Namespace.GONE),))

    assert [action for _, _, action in told(find(left))] == ["remove"] * 3


def test_a_link_that_no_endpoint_came_to_goes_after_the_grace_time() -> None:
    """An ADD that died between its second and third step; one that is under way is never hit."""
    for idle, expected in ((GRACE - 1, []), (GRACE, ["remove"])):
        left = seen(links=(link(2, up=False, idle=idle),), allocations=(allocation(2, 0),))
        assert [finding.action.value for finding in find(left)] == expected


@pytest.mark.parametrize(
    "made",
    [
        link(2, host_ifindex=0, up=False, idle=GRACE - 1),
        link(2, up=False, idle=GRACE - 1, namespace=Namespace.GONE),
    ],
)
def test_the_grace_time_holds_for_records_and_for_namespaces_that_are_gone(made: LinkState) -> None:
    """A record is written before its link is made."""
    assert find(seen(links=(made,))) == []


def test_a_link_that_is_up_is_kept_even_if_no_datapath_is_known() -> None:
    """The state directory was lost, too; its programs still run."""
    assert told([only(seen(links=(link(2),)))]) == [("link", f"link {attachment(2).host_ifname()}", "keep")]


def test_a_link_without_a_record_is_kept_unless_an_endpoint_stands_on_it() -> None:
    """Whose it is can't be told; an endpoint that stands on it says so."""
    lost = link(2, attachment=None, netns_path="", namespace=Namespace.UNKNOWN)

    assert find(replace(HEALTHY, links=(lost,))) == []
    finding = only(seen(links=(lost,)))
    assert (finding.action, finding.attachment) == (Action.KEEP, None)
    assert "ip link del" in finding.why


def test_addresses_behind_a_link_without_a_record_are_kept() -> None:
    """The pod behind it may use them."""
    lost = link(2, attachment=None, netns_path="", namespace=Namespace.UNKNOWN)

    assert [finding.kind for finding in find(seen((), (lost,), (), (allocation(2),)))] == [Kind.LINK]


def test_an_older_generation_of_an_id_goes_by_its_generation() -> None:
    """The id is another endpoint's by now; its own datapath is left alone."""
    older = replace(datapath(3), id=2, generation=1)

    finding = only(replace(HEALTHY, datapaths=(datapath(2), older)))

    assert (finding.kind, finding.key) == (Kind.DATAPATH, (Kind.DATAPATH, 2, 1, 103))


def test_a_datapath_on_a_link_that_another_endpoint_stands_on_is_kept() -> None:
    """Taking it down would take that endpoint's programs off the link."""
    finding = only(replace(HEALTHY, datapaths=(datapath(2), replace(datapath(2), id=9, generation=1))))

    assert told([finding]) == [("datapath", "datapath 9", "keep")]


def test_what_nobody_has_a_record_of_goes_unless_an_endpoint_has_its_id_or_it_leads_to_a_link() -> None:
    """A bare id proves nothing."""
    name = attachment(2).host_ifname()

    assert told([only(seen(datapaths=(stranger(7),)))]) == [("datapath", "datapath 7", "remove")]
    assert find(seen((endpoint(2),), (link(2),), (stranger(2),), (allocation(2),))) == []
    assert [finding.action for finding in find(seen(datapaths=(stranger(7, "veth9", 9),)))] == [Action.KEEP]
    assert told(find(seen((), (link(2),), (stranger(7, name, 102),)))) == [("link", f"link {name}", "keep")]
    assert told(find(replace(HEALTHY, datapaths=(stranger(7, name, 102),)))) == [("datapath", "datapath 7", "keep")]


def test_reservations_are_left_to_their_expiry() -> None:
    """Nobody has confirmed them."""
    assert find(seen(allocations=(allocation(2, 0),))) == []


def test_addresses_that_are_ipam_only_are_none_of_this_services_business() -> None:
    """Another plugin's interface has them; no link of its owner is known here, and yet its container may run."""
    assert find(seen(allocations=(allocation(2, 0, ipam_only=True),))) == []
    assert find(seen(links=(link(2, up=False),), allocations=(allocation(2, 0, ipam_only=True),)))[0].kind is Kind.LINK


def test_addresses_of_an_endpoint_that_are_ipam_only_are_kept_and_told() -> None:
    """They aren't claimed: the service that has them says whose they are."""
    (finding,) = find(replace(HEALTHY, allocations=(allocation(2, 0, ipam_only=True),)))

    assert told([finding]) == [("address", "addresses 10.7.0.2", "keep")]
    assert "another plugin's interface" in finding.evidence[0]


def test_addresses_that_ipam_holds_for_another_endpoint_than_the_owners_are_kept_and_told() -> None:
    """Nothing is taken from a pod that runs."""
    finding = only(replace(HEALTHY, allocations=(allocation(2, 5),)))

    assert told([finding]) == [("address", "addresses 10.7.0.2", "keep")]
    assert "endpoint 5" in finding.evidence[0]


@pytest.mark.parametrize("held", [(), (allocation(2, 0),)])
def test_addresses_that_ipam_does_not_hold_for_an_endpoint_are_claimed(held: tuple[Allocation, ...]) -> None:
    """Lost, or merely reserved: somebody else could get them."""
    assert told([only(replace(HEALTHY, allocations=held))]) == [("address", "addresses 10.7.0.2", "claim")]


def test_addresses_of_an_endpoint_that_goes_are_not_claimed() -> None:
    """They would leak."""
    left = replace(HEALTHY, links=(link(2, namespace=Namespace.GONE),), allocations=())

    assert told(find(left)) == [("endpoint", "endpoint 2", "remove")]


def test_addresses_of_an_endpoint_that_is_kept_are_claimed() -> None:
    """Its pod runs."""
    kept = replace(HEALTHY, links=(link(2, namespace=Namespace.GONE, processes=("nginx (1)",)),), allocations=())

    assert [finding.action for finding in find(kept)] == [Action.KEEP, Action.CLAIM]


def test_a_second_look_finds_the_same_object_or_none() -> None:
    """An id that was given again, a link that was made anew and an allocation that was made anew are other objects."""
    left = seen((endpoint(2),), (), (datapath(3),), (allocation(4),))
    by_kind = {finding.kind: finding for finding in find(left)}

    for kind in (Kind.ENDPOINT, Kind.DATAPATH, Kind.ADDRESS):
        assert find_again(by_kind[kind], left) == by_kind[kind]
    assert find_again(by_kind[Kind.ENDPOINT], replace(left, endpoints=(endpoint(2, 99),))) is None
    assert find_again(by_kind[Kind.DATAPATH], replace(left, datapaths=(datapath(3, 99),))) is None
    assert find_again(by_kind[Kind.ADDRESS], replace(left, allocations=(allocation(4, created=2.0),))) is None
    (of_link,) = find(seen(links=(link(5, up=False),)))
    assert find_again(of_link, seen(links=(link(5, up=False, host_ifindex=999),))) is None


@dataclass(frozen=True)
class World:
    """A node with pods of all fates, and the numbers of those that may be running."""

    seen: Seen
    running: frozenset[int]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any combination of what can be lost of a pod, next to pods that run."""
    endpoints, links, datapaths, allocations, running = [], [], [], [], set()
    for number in range(2, 2 + draw(st.integers(1, 5))):
        known = draw(st.booleans())
        there = draw(st.sampled_from(("link", "record", "nothing")))
        namespace = draw(st.sampled_from(Namespace))
        lost = namespace in {Namespace.GONE, Namespace.OTHER}
        processes = ("pause (1)",) if lost and draw(st.booleans()) else ()
        up = there == "link" and draw(st.booleans())
        recorded = there == "record" or draw(st.booleans())
        reused = draw(st.booleans())
        state = draw(st.sampled_from((EndpointState.READY, EndpointState.DISCONNECTING)))
        if known:
            endpoints.append(endpoint(number, 50 + number if reused else number, state=state))
        if there != "nothing":
            one = link(number, up=up, idle=draw(st.integers(0, 500)), namespace=namespace, processes=processes)
            if there == "record":
                one = replace(one, host_ifindex=0, namespace=Namespace.UNKNOWN, processes=())
            links.append(one if recorded else replace(one, attachment=None, namespace=Namespace.UNKNOWN, processes=()))
        has_datapath = draw(st.sampled_from(("recorded", "stranger", "nothing")))
        if has_datapath == "recorded":
            datapaths.append(datapath(number, number))
        elif has_datapath == "stranger":
            name = attachment(number).host_ifname()
            datapaths.append(stranger(number, *((name, 100 + number) if there == "link" else ("", 0))))
        if draw(st.booleans()):
            id_ = draw(st.sampled_from((0, number, 60)))
            allocations.append(allocation(number, id_, ipam_only=not id_ and draw(st.booleans())))
        alive = there == "link" and not (lost and not processes and recorded)
        carries = (known and state is not EndpointState.DISCONNECTING) or up or has_datapath != "nothing"
        if alive and carries:
            running.add(number)
    order = st.permutations
    found = Seen(draw(order(endpoints)), draw(order(links)), draw(order(datapaths)), draw(order(allocations)), GRACE)
    return World(found, frozenset(running))


def number_of(finding: Finding) -> int:
    """Which pod of a world a finding is about."""
    match finding.subject:
        case LinkState(host_ifname=ifname):
            return next(number for number in range(2, 8) if attachment(number).host_ifname() == ifname)
        case Allocation(owner=owner):
            return int(owner.container_id, 16)
        case Endpoint(id=id_) | Datapath(id=id_):
            return id_


@given(worlds())
def test_nothing_that_may_belong_to_a_running_pod_is_ever_removed(world: World) -> None:
    """The rule over all of it: an endpoint on a link that is there, a link that may carry traffic, what they use.

    What is left of an endpoint whose removal was begun is its pod's no more.
    """
    for finding in find(world.seen):
        number = number_of(finding)
        going = isinstance(finding.subject, Endpoint) and finding.subject.state is EndpointState.DISCONNECTING
        if finding.action is Action.REMOVE and not going:
            assert number not in world.running, finding


@given(worlds())
def test_nothing_that_is_ipam_only_is_ever_removed(world: World) -> None:
    """Its container is none that this service sees."""
    for finding in find(world.seen):
        if isinstance(finding.subject, Allocation) and finding.subject.ipam_only:
            assert finding.action is Action.KEEP


@given(worlds())
def test_every_finding_is_found_again_in_the_same_world_and_has_evidence(world: World) -> None:
    """Keys are unique, so that a mark names one object."""
    findings = find(world.seen)

    assert len({finding.key for finding in findings}) == len(findings)
    for finding in findings:
        assert find_again(finding, world.seen) == finding
        assert all(finding.evidence)
        assert bool(finding.why) == (finding.action is Action.KEEP)


@given(worlds())
def test_after_everything_that_is_to_go_has_gone_nothing_more_is_to_go(world: World) -> None:
    """Two searches are enough: links first, then what they kept."""
    state = world.seen
    for _ in range(2):
        gone = {finding.key for finding in find(state) if finding.action is Action.REMOVE}
        state = replace(
            state,
            endpoints=[one for one in state.endpoints if (Kind.ENDPOINT, one.id, one.generation) not in gone],
            links=[one for one in state.links if (Kind.LINK, one.host_ifname, one.host_ifindex) not in gone],
            datapaths=[
                one for one in state.datapaths if (Kind.DATAPATH, one.id, one.generation, one.host_ifindex) not in gone
            ],
            allocations=[
                one for one in state.allocations if (Kind.ADDRESS, one.owner, one.endpoint_id, one.created) not in gone
            ],
        )

    assert [finding for finding in find(state) if finding.action is Action.REMOVE] == []
