"""kill -9 of any service right before each of its effects, on a whole node: everything converges.

An effect is what a service does to the world (`tests/killed.py`), so between two of these kills there is none that
could leave anything else. The lists below are all effects of an operation; a test holds each against a trace of the
real services, so that a step that is added without a crash point fails.
"""

import concurrent.futures
import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from podlane.loader.v1 import loader_pb2

from tests.agreement import until
from tests.bpf_sources import VERIFIER_REFUSES, refusing
from tests.by_hand import ALLOW_ALL, ByHand
from tests.crash_support import CrashNode
from tests.node_support import SERVICES, Pod
from tests.traffic_support import Pings

pytestmark = pytest.mark.privileged

ALLOW_HOST = loader_pb2.PolicyEntry(direction=loader_pb2.TRAFFIC_DIRECTION_INGRESS, identity=1)


def _written(path: str) -> list[str]:
    return [f"open {path}", f"write {path}"]


RECORD = [*_written("state/links/<link>.json.new"), "rename state/links/<link>.json.new"]
BEGIN = ["mkdir state/<id>_next", *_written("state/<id>_next/ep_config.h")]
INTENT = [*_written("state/<id>_next/template.txt"), *_written("state/<id>_next/endpoint.json")]
SWAP = [
    "exchange state/<id>_next state/<id>",
    *(f"remove state/<id>_next/{name}" for name in ("endpoint.json", "template.txt", "ep_config.h")),
    "rmdir state/<id>_next",
    "answer RegenerateEndpoint",
]
TEMPLATE = "state/templates/.<hash>.<pid>"
NODE = [
    effect
    for name in (".node_config.h", ".node.json")
    for effect in (*_written(f"state/globals/{name}"), f"rename state/globals/{name}")
]
GATEWAYS = ["map_update podlane_endpoints"] * 2
ATTACH = ["map_update podlane_call_policy", "netlink newqdisc newfilter", "netlink setlink newneigh newroute"]

EFFECTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "add": {
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
            *ATTACH,
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
            "commit EmbeddedKvstore.put",
        ],
    },
    "del": {
        "endpoint": [
            "commit Store.update",
            "call loader RemoveEndpoint",
            "commit Store.delete",
            "answer DeleteEndpoint",
            "commit EmbeddedKvstore.delete",
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
    },
    "config change": {
        "loader": [*BEGIN, *INTENT, *ATTACH, *SWAP],
        "endpoint": [
            "commit Store.update",
            "call loader RegenerateEndpoint",
            "commit Store.update",
            "answer SetOptions",
        ],
    },
    "regeneration": {
        "loader": [*BEGIN, *INTENT, *ATTACH, *SWAP],
        "endpoint": ["call loader RegenerateEndpoint", "commit Store.update", "answer RegenerateEndpoints"],
    },
    "new shape": {
        "loader": [
            *BEGIN,
            f"mkdir {TEMPLATE}",
            *_written(f"{TEMPLATE}/node_config.h"),
            *_written(f"{TEMPLATE}/ep_config.h"),
            f"open {TEMPLATE}/bpf_lxc.o",
            *_written(f"{TEMPLATE}/template.json"),
            f"rename {TEMPLATE}",
            *INTENT,
            *ATTACH,
            *SWAP,
        ]
    },
    "policy change": {
        "loader": [*BEGIN, *INTENT, "map_update_batch podlane_policy", "netlink setlink newneigh newroute", *SWAP]
    },
    "refused build": {
        "loader": [
            *BEGIN,
            *_written("state/<id>_next/verifier.log"),
            "remove state/<id>_next_fail/verifier.log",
            "remove state/<id>_next_fail/ep_config.h",
            "rmdir state/<id>_next_fail",
            "rename state/<id>_next",
            "answer RegenerateEndpoint",
        ]
    },
    "refused add": {
        "ipam": [
            "commit Store.update",
            "answer ConfirmAllocation",
            "commit Store.update",
            "answer UnconfirmAllocation",
        ],
        "endpoint": [
            "commit Store.insert",
            "call loader RegenerateEndpoint",
            "call ipam ConfirmAllocation",
            "call loader RemoveEndpoint",
            "call ipam UnconfirmAllocation",
            "commit Store.delete",
            "answer CreateEndpoint",
        ],
    },
    "start": {
        "loader": [*GATEWAYS, *NODE, *NODE, *GATEWAYS, "answer ConfigureNode"],
        "endpoint": ["call loader ConfigureNode", *["commit EmbeddedKvstore.put"] * 2],
    },
}


BY_HAND = {"policy change", "refused build"}
"""What no service asks the loader for yet."""


def points(operation: str, *services: str) -> list[Any]:
    """Return service, effect and its number as pytest's parameters."""
    found = []
    for service in services or EFFECTS[operation]:
        seen = Counter[str]()
        for effect in EFFECTS[operation][service]:
            seen[effect] += 1
            number = seen[effect]
            found.append(pytest.param(service, effect, number, id=f"{service}, {effect}, {number}"))
    return found


class Site:
    """A node with two pods that talk all the time, and operations to interrupt."""

    def __init__(self, directory: Path) -> None:
        """Bring it up, and compile the shapes that operations need."""
        self.node = CrashNode(settings={"loader": {"bpf_dir": str(refusing(directory))}})
        self.node.__enter__()
        self.agreement = self.node.agreement
        self.by_hand = ByHand(self.agreement)
        self.one, self.two = self.node.pod(), self.node.pod()
        self.addresses = [self.node.add(pod).addresses for pod in (self.one, self.two)][1]
        self.in_order = False
        """Whether the last test came to its end."""
        for operation in ("config change", "refused build"):
            self.do(operation)
        self.back()

    def do(self, operation: str) -> Any:
        """Do an operation on the second pod; return its answer, or the code of its refusal."""
        work: Mapping[str, Callable[[], Any]] = {
            "config change": lambda: self.by_hand.configure(self.two, source_ip_verification=False),
            "new shape": lambda: self.by_hand.configure(self.two, arp_responder=False),
            "regeneration": lambda: self.by_hand.reload(self.two),
            "policy change": lambda: self.by_hand.regenerate(self.two, [*ALLOW_ALL, ALLOW_HOST]).datapath,
            "refused build": lambda: self.by_hand.regenerate(self.two, None, **{VERIFIER_REFUSES: True}).datapath,
        }
        try:
            return work[operation]()
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code()

    def back(self) -> None:
        """Take a change of the second pod back; a build that works takes the last failure away."""
        if any((self.node.dir / "run" / "state").glob("*_next_fail")):
            self.by_hand.reload(self.two)
        self.by_hand.configure(self.two, source_ip_verification=None, arp_responder=None)
        self.agreement.reached()

    def as_configured(self) -> None:
        """What is in force is what the endpoint service has been told."""
        switches = self.by_hand.get(self.two).options
        header = (self.node.dir / "run" / "state" / "2" / "ep_config.h").read_text()
        for name, define in (
            ("source-ip-verification", "ENABLE_SOURCE_IP_VERIFICATION"),
            ("arp-responder", "ENABLE_ARP_RESPONDER"),
        ):
            assert (f"#define {define}" in header) == switches.get(name, True), (name, header)

    def forget_shape(self) -> None:
        """Let the new shape be new again, to the directory and to the loader."""
        for header in (self.node.dir / "run" / "state" / "templates").glob("*/ep_config.h"):
            if "ENABLE_ARP_RESPONDER is off" in header.read_text():
                shutil.rmtree(header.parent)
        self.node.kill("loader")
        self.node.revive("loader")

    def interrupt(self, service: str, effect: str, number: int, work: Callable[[], Any]) -> None:
        """Do something that its service does not survive, and bring it back."""
        self.node.arm(service, effect, number)
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            working = executor.submit(work)
            self.node.dies(service)
            self.node.revive(service)
            working.exception(60)

    def nothing_left(self) -> None:
        """Everybody agrees, and there is nothing but the two pods."""
        self.agreement.reached()
        assert self.agreement.left_beside(self.one, self.two) == []
        self.in_order = True


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Site]]:
    """Return the site that all tests share; one that a test left in disorder is replaced."""
    sites: list[Site] = []

    def take() -> Site:
        if not sites or not sites[-1].in_order:
            sites.append(Site(tmp_path_factory.mktemp("site")))
        sites[-1].in_order = False
        return sites[-1]

    yield take
    for site in sites:
        site.node.close()


@pytest.fixture
def site(sites: Callable[[], Site]) -> Iterator[Site]:
    """A site whose two pods lose no packet, whatever happens to the services."""
    site = sites()
    with Pings(site.one, *site.addresses) as pings:
        yield site
    assert pings.lost == []


class RefusedAdd:
    """A CreateEndpoint with an address that ipam did not give: refused when all has been built, and undone."""

    def __init__(self, site: Site, pod: Pod) -> None:
        """Do the two steps before it."""
        self._site, self._pod = site, pod
        self._reserved = site.by_hand.reserve(pod)
        self._link = site.by_hand.link(pod, self._reserved)

    def create(self) -> Any:
        """Return the code of the refusal."""
        wrong = type(self._reserved)()
        wrong.CopyFrom(self._reserved)
        wrong.allocation.addresses[0].address.address.packed = bytes([10, 44, 0, 200])
        with pytest.raises(grpc.RpcError) as refusal:
            self._site.by_hand.create(self._pod, wrong, self._link)
        return refusal.value.code()


def be_counted(pod: Pod) -> None:
    """Let a packet of the pod be dropped: it has counters then, which a DEL removes."""
    pod.exec("ip", "address", "add", "192.0.2.9/32", "dev", pod.ifname)
    pod.exec("ping", "-c", "1", "-W", "0.01", "-I", "192.0.2.9", "10.44.0.1", check=False)


def add_works(site: Site, pod: Pod) -> None:
    """An ADD succeeds, its repeat says the same, and the pod reaches and is reached."""
    first, second = site.node.add(pod), site.node.add(pod)
    assert first.json == second.json
    assert site.node.cni("CHECK", pod, site.node.conf(prevResult=first.json)).code == 0
    assert all(pod.ping(address) for address in site.addresses)
    assert all(site.one.ping(address) for address in first.addresses)


def del_works(site: Site, pod: Pod) -> None:
    """A DEL succeeds, its repeat too, and nothing is left."""
    for _ in range(2):
        site.node.delete(pod)
    site.nothing_left()


@pytest.mark.parametrize("operation", EFFECTS)
def test_the_crash_points_of_an_operation_are_all_its_effects(site: Site, operation: str):
    node, pod = site.node, site.node.pod()
    refused = RefusedAdd(site, pod) if operation == "refused add" else None
    if operation == "del":
        node.add(pod)
        be_counted(pod)
    if operation == "refused build":
        site.do(operation)  # an earlier failure is replaced
    if operation == "new shape":
        site.forget_shape()
    expected = {service: Counter(effects) for service, effects in EFFECTS[operation].items()}

    with contextlib.ExitStack() as stack:
        traces = {service: stack.enter_context(node.traced(service)) for service in expected}
        if operation in {"add", "del"}:
            assert node.cni(operation.upper(), pod).code == 0
        elif refused is not None:
            assert refused.create() == grpc.StatusCode.FAILED_PRECONDITION
        elif operation == "start":
            for service in SERVICES:
                node.kill(service)
            node.revive(*SERVICES)
        else:
            site.do(operation)
        # Some of it comes behind the answer.
        until(lambda: all(Counter(traces[one]()) >= expected[one] for one in expected), lambda: "effects are missing")

    assert {service: Counter(trace()) for service, trace in traces.items()} == expected
    node.delete(pod)
    site.back()
    site.nothing_left()


def interrupted_add(site: Site, pod: Pod, service: str, effect: str, number: int, *, together: bool) -> None:
    """Let a service die in an ADD, and with it the plugin or not; whoever is left comes to an end."""
    adding = site.node.begin("ADD", pod)
    site.node.arm(service, effect, number, together=[adding.pid] if together else [])
    site.node.go(adding)
    site.node.dies(service)
    site.node.revive(service)
    site.node.end(adding)


@pytest.mark.parametrize(("service", "effect", "number"), points("add"))
def test_an_add_whose_service_and_plugin_are_killed_is_whole_or_undone(
    site: Site, service: str, effect: str, number: int
):
    """What the plugin would have undone is there when the runtime tries again."""
    pod = site.node.pod()
    interrupted_add(site, pod, service, effect, number, together=True)

    site.agreement.reached()
    add_works(site, pod)
    del_works(site, pod)


@pytest.mark.parametrize(("service", "effect", "number"), [*points("add", "ipam"), *points("add", "endpoint")])
def test_an_add_whose_service_is_killed_is_undone_by_the_plugin_or_later(
    site: Site, service: str, effect: str, number: int
):
    pod = site.node.pod()
    interrupted_add(site, pod, service, effect, number, together=False)

    site.agreement.reached()
    add_works(site, pod)
    del_works(site, pod)


@pytest.mark.parametrize(("service", "effect", "number"), points("del"))
def test_a_del_that_is_interrupted_is_finished(site: Site, service: str, effect: str, number: int):
    pod = site.node.pod()
    site.node.add(pod)
    be_counted(pod)
    site.interrupt(service, effect, number, lambda: site.node.cni("DEL", pod))

    site.agreement.reached(deleting=pod)
    del_works(site, pod)


@pytest.mark.parametrize(
    ("operation", "service", "effect", "number"),
    [
        pytest.param(operation, *point.values, id=f"{operation}, {point.id}")
        for operation in ("config change", "regeneration", "new shape", "policy change", "refused build")
        for point in points(operation)
        # Of a new shape only what is about it: the rest is a change of the configuration like any other.
        if operation != "new shape" or TEMPLATE in point.values[1]
    ],
)
def test_a_change_that_is_interrupted_leaves_the_endpoint_whole_and_can_be_repeated(
    site: Site, operation: str, service: str, effect: str, number: int
):
    if operation == "new shape":
        site.forget_shape()
    if operation == "refused build":
        site.do(operation)  # an earlier failure is replaced
    site.interrupt(service, effect, number, lambda: site.do(operation))

    site.agreement.reached()
    site.as_configured()
    site.do(operation)
    site.as_configured()
    if operation in BY_HAND:
        assert site.do(operation) == site.do(operation)
    else:
        assert [(one.id, one.error) for one in site.do(operation)] == [(2, "")]
    site.back()
    site.nothing_left()


@pytest.mark.parametrize(("service", "effect", "number"), points("refused add"))
def test_the_undoing_of_a_refused_add_that_is_interrupted_is_finished(
    site: Site, service: str, effect: str, number: int
):
    pod = site.node.pod()
    refused = RefusedAdd(site, pod)
    site.interrupt(service, effect, number, refused.create)

    site.agreement.reached()
    assert refused.create() == grpc.StatusCode.FAILED_PRECONDITION
    add_works(site, pod)
    del_works(site, pod)


@pytest.mark.parametrize(("service", "effect", "number"), points("start"))
def test_a_start_that_is_interrupted_is_repeated(site: Site, service: str, effect: str, number: int):
    site.node.kill(service)
    site.node.arm(service, effect, number)
    site.node.launch(service)
    site.node.dies(service)
    site.node.revive(service)

    pod = site.node.pod()
    add_works(site, pod)
    del_works(site, pod)
