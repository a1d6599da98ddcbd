"""A node with two pods that talk while a service of it is killed, and what must hold afterwards.

def test_x(site: Site):
    pod = site.node.pod()
    site.interrupted_add(pod, "loader", "pin policy_<id>", 1, together=True)
    site.agreement.reached()
    site.add_works(pod)
    site.del_works(pod)
"""

import concurrent.futures
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from podlane.endpoint.v1 import policy_pb2
from podlane.loader.v1 import loader_pb2

from tests.bpf_sources import VERIFIER_REFUSES, refusing
from tests.by_hand import ALLOW_ALL, ByHand
from tests.crash_support import CrashNode
from tests.node_support import Pod
from tests.traffic_support import Pings

ALLOW_HOST = loader_pb2.PolicyEntry(direction=loader_pb2.TRAFFIC_DIRECTION_INGRESS, identity=1)


# The second pod's labels, and a policy for it that forbids neither its traffic nor its node's.
LABELLED = """
{apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: two}}}
"""
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: two}
spec:
  podSelector: {matchLabels: {app: two}}
  ingress: [{from: [{ipBlock: {cidr: 10.44.0.0/24, except: [10.44.0.128/25]}}, {ipBlock: {cidr: "::/0"}}]}]
"""


class Site:
    """A node with two pods that talk all the time, and operations to interrupt."""

    def __init__(self, directory: Path, mode: str) -> None:
        """Bring it up, and compile the shapes that operations need."""
        self.mode = mode
        loader = {"bpf_dir": str(refusing(directory)), "attach_mode": mode}
        # Who waits longer than a service takes to start sees nothing of its death.
        self.node = CrashNode(settings={"loader": loader, "endpoint": {"peer_wait_seconds": 0.3}})
        self.node.__enter__()
        self.agreement = self.node.agreement
        self.by_hand = ByHand(self.agreement)
        self.one, self.two = self.node.pod(), self.node.pod()
        self.addresses = [self.node.add(pod).addresses for pod in (self.one, self.two)][1]
        self.in_order = False
        """Whether the last test came to its end."""
        for operation in ("config change", "refused build"):
            self.do(operation)
        self.by_hand.apply(LABELLED)
        self.back()

    def do(self, operation: str) -> Any:
        """Do an operation on the second pod; return its answer, or the code of its refusal."""
        work: Mapping[str, Callable[[], Any]] = {
            "config change": lambda: self.by_hand.configure(self.two, source_ip_verification=False),
            "new shape": lambda: self.by_hand.configure(self.two, arp_responder=False),
            "regeneration": lambda: self.by_hand.renew(self.two, 2),
            "policy change": lambda: self.by_hand.regenerate(self.two, [*ALLOW_ALL, ALLOW_HOST]).datapath,
            "policy apply": lambda: self.by_hand.apply(POLICY),
            "policy delete": lambda: self.by_hand.forget("two"),
            "labels": lambda: self.by_hand.label(self.two, release="next"),
            "refused build": lambda: self.by_hand.regenerate(self.two, None, **{VERIFIER_REFUSES: True}).datapath,
        }
        try:
            return work[operation]()
        except grpc.RpcError as error:
            return error.code()

    def back(self) -> None:
        """Take a change of the second pod back; a build that works takes the last failure away."""
        if any((self.node.dir / "run" / "state").glob("*_next_fail")):
            self.by_hand.renew(self.two, 2)
        self.by_hand.configure(self.two, source_ip_verification=None, arp_responder=None)
        self.by_hand.label(self.two, release=None)
        self.do("policy delete")
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

    def as_asked(self) -> list[str]:
        """Say what is in the kernel that documents and labels don't ask for, or the other way round."""
        found = [f"{pod.name}: {one}" for pod in (self.one, self.two) for one in self.by_hand.check(pod)]
        kernel = self.agreement.call("loader", "DumpMap", loader_pb2.DumpMapRequest(map="prefixes")).entries
        known = self.agreement.call("policy", "ListIdentities", policy_pb2.ListIdentitiesRequest()).identities
        there = sorted(one.prefix.identity for one in kernel)
        wanted = sorted(one.id for one in known if one.HasField("prefix"))
        return found + ([f"prefixes {there}, wanted {wanted}"] if there != wanted else [])

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

    def add_works(self, pod: Pod) -> None:
        """An ADD succeeds, its repeat says the same, and the pod reaches and is reached."""
        first, second = self.node.add(pod), self.node.add(pod)
        assert first.json == second.json
        assert self.node.cni("CHECK", pod, self.node.conf(prevResult=first.json)).code == 0
        assert all(pod.ping(address) for address in self.addresses)
        assert all(self.one.ping(address) for address in first.addresses)

    def del_works(self, pod: Pod) -> None:
        """A DEL succeeds, its repeat too, and nothing is left."""
        for _ in range(2):
            self.node.delete(pod)
        self.nothing_left()

    def interrupted_add(self, pod: Pod, service: str, effect: str, number: int, *, together: bool) -> None:
        """Let a service die in an ADD, and with it the plugin or not; whoever is left comes to an end."""
        adding = self.node.begin("ADD", pod)
        self.node.arm(service, effect, number, together=[adding.pid] if together else [])
        self.node.go(adding)
        self.node.dies(service)
        self.node.revive(service)
        self.node.end(adding)


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
            # Each time somebody new: one that is known already has its identity on disk.
            self._site.by_hand.create(self._pod, wrong, self._link, app=secrets.token_hex(4))
        return refusal.value.code()


def be_counted(pod: Pod) -> None:
    """Let a packet of the pod be dropped: it has counters then, which a DEL removes."""
    pod.exec("ip", "address", "add", "192.0.2.9/32", "dev", pod.ifname)
    pod.exec("ping", "-c", "1", "-W", "0.01", "-I", "192.0.2.9", "10.44.0.1", check=False)


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Site]]:
    """Return the site that all tests with one mode of attaching share; one that was left in disorder is replaced."""
    sites: list[Site] = []

    def take(mode: str) -> Site:
        for site in sites:
            if site.in_order and site.mode == mode:
                site.in_order = False
                return site
        sites.append(Site(tmp_path_factory.mktemp("site"), mode))
        return sites[-1]

    yield take
    for site in sites:
        site.node.close()


@pytest.fixture
def site(sites: Callable[[str], Site], request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site whose two pods lose no packet, whatever happens to the services. Its parameter is loader.attach_mode."""
    site = sites(getattr(request, "param", "tc"))
    with Pings(site.one, *site.addresses, every=0.05) as pings:
        yield site
    assert pings.lost == [], pings.lost
