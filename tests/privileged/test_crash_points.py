"""kill -9 of any service right before each of its effects, on a whole node: everything converges.

An effect is what a service does to the world (`tests/killed.py`), so between two of these kills there is none that
could leave anything else. The lists below are all effects of an operation; a test holds each against a trace of the
real services, so that a step that is added without a crash point fails.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.crash_support import CrashNode
from tests.node_support import SERVICES, Pod
from tests.traffic_support import Pings, TcpStream

pytestmark = pytest.mark.privileged

RECORD = [f"{verb} state/links/<link>.json.new" for verb in ("open", "write", "rename")]
INTENT = [f"{verb} state/<id>_next/{name}" for name in ("template.txt", "endpoint.json") for verb in ("open", "write")]
BEGIN = ["mkdir state/<id>_next", *(f"{verb} state/<id>_next/ep_config.h" for verb in ("open", "write"))]

ADD: Mapping[str, Sequence[str]] = {
    "ipam": [
        "commit Store.add",
        "answer AllocateAddresses",
        "commit Store.update",
        "answer ConfirmAllocation",
    ],
    "loader": [
        *RECORD,
        "netlink newlink setlink",
        "netlink setlink newaddr newroute",
        *RECORD,
        "answer CreateLink",
        *BEGIN,
        "pin policy_<id>",
        *INTENT,
        "map_update_batch podlane_policy",
        "map_update podlane_call_policy",
        "netlink newqdisc newfilter",
        "netlink setlink newneigh newroute",
        "map_update podlane_endpoints",
        "map_update podlane_endpoints",
        "rename state/<id>_next",
        "answer RegenerateEndpoint",
    ],
    "endpoint": [
        "commit Store.insert",
        "call loader RegenerateEndpoint",
        "call ipam ConfirmAllocation",
        "answer CreateEndpoint",
        "commit Store.update",
    ],
}
DEL: Mapping[str, Sequence[str]] = {
    "endpoint": [
        "commit Store.update",
        "call loader RemoveEndpoint",
        "commit Store.delete",
        "answer DeleteEndpoint",
    ],
    "loader": [
        "map_delete podlane_endpoints",
        "map_delete podlane_endpoints",
        "netlink setlink",
        "map_delete podlane_call_policy",
        "netlink delfilter",
        "remove bpf/podlane/maps/policy_<id>",
        "map_delete_batch podlane_metrics",
        "remove state/<id>/endpoint.json",
        "remove state/<id>/template.txt",
        "remove state/<id>/ep_config.h",
        "rmdir state/<id>",
        "answer RemoveEndpoint",
        "netlink dellink",
        "remove state/links/<link>.json",
        "answer DeleteLink",
    ],
    "ipam": ["commit Store.remove", "answer ReleaseAddresses"],
}


def points(operation: Mapping[str, Sequence[str]]) -> list[Any]:
    """Return service, effect and its number as pytest's parameters."""
    found = []
    for service, effects in operation.items():
        seen = Counter[str]()
        for effect in effects:
            seen[effect] += 1
            found.append(pytest.param(service, effect, seen[effect], id=f"{service}-{effect}-{seen[effect]}"))
    return found


class Site:
    """A node with two pods that talk all the time."""

    def __init__(self, node: CrashNode) -> None:
        """Add the two."""
        self.node = node
        self.one, self.two = node.pod(), node.pod()
        self.addresses = [node.add(pod).addresses for pod in (self.one, self.two)][1]


@pytest.fixture(scope="module")
def sites() -> Iterator[list[Site]]:
    """The site that tests share; one that a test leaves in disorder is replaced."""
    with contextlib.ExitStack() as stack:
        sites: list[Site] = []

        class Sites(list[Site]):
            pass

        yield sites
        for site in sites:
            site.node.close()


@pytest.fixture
def site(sites: list[Site]) -> Iterator[Site]:
    """A site where nothing is wrong, and nobody loses a packet whatever happens to the services."""
    if not sites:
        node = CrashNode()
        node.__enter__()
        sites.append(Site(node))
    site = sites[0]
    with Pings(site.one, *site.addresses) as pings:
        yield site
    healthy = not site.node.agreement.differences() and not site.node.agreement.left_beside(site.one, site.two)
    if not healthy:
        sites.pop().node.close()
    assert pings.lost == []
    assert healthy


@pytest.mark.parametrize("together", [False, True], ids=["alone", "with the shim"])
@pytest.mark.parametrize(("service", "effect", "number"), points(ADD))
def test_an_add_that_a_killed_service_interrupts_leaves_nothing_half_done(
    site: Site, service: str, effect: str, number: int, together: bool
):
    node, pod = site.node, site.node.pod()
    adding = node.begin("ADD", pod)
    node.arm(service, effect, number, together=[adding.pid] if together else [])
    node.go(adding)
    node.dies(service)
    node.revive(service)
    node.end(adding)

    node.agreement.reached()
    first, second = node.add(pod), node.add(pod)
    assert first.json == second.json
    assert node.cni("CHECK", pod, node.conf(prevResult=first.json)).code == 0
    assert all(pod.ping(address) for address in site.addresses)
    assert all(site.one.ping(address) for address in first.addresses)
    for _ in range(2):
        node.delete(pod)
    node.agreement.reached()
    assert node.agreement.left_beside(site.one, site.two) == []
