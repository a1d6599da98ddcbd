"""kill -9 where one kill is not all: several services, in any order; during the recovery; with calls in flight."""

import contextlib
import functools
import itertools
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.agreement import until
from tests.crash_site import Site
from tests.examples import examples
from tests.node_support import SERVICES, Pod, run

pytestmark = [pytest.mark.privileged, pytest.mark.long]

IN_AN_ADD = [
    ("endpoint", "commit Store.insert"),
    ("endpoint", "call loader RegenerateEndpoint"),
    ("endpoint", "answer CreateEndpoint"),
    ("loader", "netlink newlink setlink"),
    ("loader", "map_update podlane_call_policy"),
    ("loader", "rename state/<id>_next"),
]
IN_A_DEL = [
    ("endpoint", "call loader RemoveEndpoint"),
    ("endpoint", "commit Store.delete"),
    ("endpoint", "answer DeleteEndpoint"),
    ("loader", "netlink setlink"),
    ("loader", "remove state/<id>/endpoint.json"),
    ("loader", "netlink dellink"),
]
ORDERS = list(itertools.permutations(SERVICES))


@pytest.mark.parametrize(
    ("verb", "service", "effect", "order"),
    [
        pytest.param(verb, *point, order, id=f"{verb}, {', '.join(point)}, {'-'.join(order)}")
        for verb, at in (("ADD", IN_AN_ADD), ("DEL", IN_A_DEL))
        for point, order in zip(at, ORDERS, strict=True)
    ],
)
def test_all_services_killed_in_the_middle_and_started_in_any_order(
    site: Site, verb: str, service: str, effect: str, order: tuple[str, ...]
):
    pod = site.node.pod()
    if verb == "DEL":
        site.node.add(pod)
    calling = site.node.begin(verb, pod)
    site.node.arm(service, effect, together=[calling.pid, *(site.node.pid(one) for one in SERVICES if one != service)])
    site.node.go(calling)
    for one in SERVICES:
        site.node.dies(one)
    site.node.end(calling)
    for one in order:
        site.node.launch(one)
        until(functools.partial(site.agreement.answers, one), site.node.logs)

    site.agreement.reached(deleting=pod if verb == "DEL" else None)
    if verb == "ADD":
        site.add_works(pod)
    site.del_works(pod)


@pytest.mark.parametrize("seed", range(examples(1)))
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_killed_again_and_again_also_while_it_recovers(site: Site, service: str, seed: int):
    """Each of its processes dies before one of its next effects, whatever it is doing then."""
    pod, chance = site.node.pod(), random.Random(f"{service} {seed}")
    verbs = itertools.cycle(["ADD", "DEL"])
    for _ in range(6):
        site.node.arm(service, "*", chance.randint(1, 25))
        while site.node.lives(service):
            if site.agreement.answers(service):
                site.node.cni(next(verbs), pod)
            else:
                site.node.ends(service, 0.02)
        site.node.launch(service)

    until(lambda: all(map(site.agreement.serving, SERVICES)), site.node.logs)
    site.agreement.reached(deleting=pod)
    site.add_works(pod)
    site.del_works(pod)


# Six ADDs and six DELs are some 240 effects of the loader, 64 of the endpoint service, 36 of ipam.
@pytest.mark.parametrize(
    ("service", "number"),
    [
        ("loader", 30),
        ("loader", 150),
        ("endpoint", 8),
        ("endpoint", 48),
        ("ipam", 15),
        *((("loader", 90), ("loader", 200), ("endpoint", 24), ("ipam", 5), ("ipam", 28)) if examples(1) > 1 else ()),
    ],
)
def test_a_service_that_is_killed_while_many_pods_come_and_go(site: Site, service: str, number: int):
    """Commits and deletions of links are shared then; `number` effects happen before the kill."""
    coming, going = [site.node.pod() for _ in range(6)], [site.node.pod() for _ in range(6)]
    for pod in going:
        site.node.add(pod)
    calls = [site.node.begin(verb, pod) for verb, pods in (("ADD", coming), ("DEL", going)) for pod in pods]
    site.node.arm(service, "*", number)
    for call in calls:
        site.node.go(call)
    site.node.dies(service)
    site.node.revive(service)
    for call in calls:
        site.node.end(call)

    for pod in going:
        site.node.delete(pod)
    given = [address for pod in coming for address in site.node.add(pod).addresses]
    site.agreement.reached()
    assert len({*given, *site.addresses}) == len(given) + len(site.addresses)
    assert all(site.one.ping(address) for address in given)
    for pod in coming:
        site.node.delete(pod)
    site.nothing_left()


def create(site: Site, pod: Pod) -> Callable[[], Any]:
    """The third step of an ADD."""
    reserved = site.by_hand.reserve(pod)
    link = site.by_hand.link(pod, reserved)
    return lambda: site.by_hand.create(pod, reserved, link)


def delete(site: Site, pod: Pod) -> Callable[[], Any]:
    """The first step of a DEL."""
    site.node.add(pod)
    return lambda: site.by_hand.delete(pod)


@pytest.mark.parametrize("peer", ["loader", "ipam"])
@pytest.mark.parametrize("operation", [create, delete])
def test_a_call_whose_caller_was_killed_is_carried_out_while_the_next_process_compares(
    site: Site, operation: Callable[[Site, Pod], Callable[[], Any]], peer: str
):
    """The peer stands still when it is asked, and goes on when another endpoint service is there."""
    pod = site.node.pod()
    call = operation(site, pod)
    site.node.signal(peer, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as executor, site.node.traced("endpoint") as effects:
        calling = executor.submit(call)
        if (operation, peer) != (delete, "ipam"):
            until(lambda: any(one.startswith(f"call {peer}") for one in effects()), site.node.logs)
        else:
            calling.result()  # deleting an endpoint doesn't need ipam
        site.node.kill("endpoint")
        with contextlib.suppress(grpc.RpcError):
            calling.result()
    site.node.launch("endpoint")
    site.node.signal(peer, signal.SIGCONT)

    site.agreement.reached(deleting=pod if operation is delete else None)
    site.add_works(pod)
    site.del_works(pod)


@pytest.mark.parametrize(
    ("service", "effect"), [*IN_AN_ADD, ("loader", "answer CreateLink"), ("ipam", "answer AllocateAddresses")]
)
def test_of_a_pod_that_is_gone_before_the_service_is_back_nothing_stays_but_a_reservation(
    site: Site, service: str, effect: str
):
    """Nobody repeats anything: the runtime has given up, the namespace is gone. The reservation expires."""
    pod = site.node.pod()
    adding = site.node.begin("ADD", pod)
    site.node.arm(service, effect, together=[adding.pid])
    site.node.go(adding)
    site.node.dies(service)
    site.node.end(adding)
    run("ip", "netns", "del", pod.netns)
    site.node.revive(service)

    site.agreement.reached(deleting=pod)
    assert [one for one in site.agreement.left_beside(site.one, site.two) if "endpoint" in one] == []
    site.del_works(pod)


TCX = [
    ("ADD", "mkdir bpf/podlane/links/<id>", 1),
    ("ADD", "link_create", 1),
    ("ADD", "pin ingress", 1),
    ("ADD", "link_create", 2),
    ("ADD", "pin egress", 1),
    ("DEL", "link_detach", 1),
    ("DEL", "link_detach", 2),
    ("DEL", "rmdir bpf/podlane/links/<id>", 1),
]


@pytest.mark.parametrize("site", ["tcx"], indirect=True)
@pytest.mark.parametrize(("verb", "effect", "number"), TCX)
def test_with_links_instead_of_filters_the_same(site: Site, verb: str, effect: str, number: int):
    pod = site.node.pod()
    if verb == "DEL":
        site.node.add(pod)
    site.interrupt("loader", effect, number, lambda: site.node.cni(verb, pod))

    site.agreement.reached(deleting=pod if verb == "DEL" else None)
    if verb == "ADD":
        site.add_works(pod)
    site.del_works(pod)
    assert not any((site.node.dir / "bpf" / "podlane" / "links").glob("[3-9]*"))


@pytest.mark.parametrize("site", ["tcx"], indirect=True)
@pytest.mark.parametrize("number", [1, 2])
def test_a_regeneration_of_links_that_is_interrupted(site: Site, number: int):
    site.interrupt("loader", "link_update", number, lambda: site.do("regeneration"))

    site.agreement.reached()
    site.do("regeneration")
    site.nothing_left()
