"""What was changed behind the services' back while some of them were down: found at the next start, and mended.

Each damage is done to a pod that runs, with the endpoint service, the loader or all three killed. Two other pods talk
meanwhile, lose no packet and keep their programs. What no restart is needed for (a link that goes is noticed at once)
is held by test_gc.py and its like.
"""

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from services.loader import headers, libbpf, maps, pathmaps, policymaps
from services.loader.layout import EndpointEntry
from services.loader.model import Direction, PolicyEntry
from tests.agreement import until
from tests.crash_site import Site
from tests.node_support import SERVICES, run

pytestmark = [pytest.mark.privileged, pytest.mark.long]


_PROGRAM = re.compile(r" id (\d+) ")
GATEWAYS = ("10.44.0.1", "fd00:44::1")


class Victim:
    """A pod to which something is done, and all that there is of it and of the node."""

    def __init__(self, site: Site) -> None:
        """Add it."""
        self.site, self.node = site, site.node
        self.pod = site.node.pod()
        self.addresses = site.node.add(self.pod).addresses
        self.endpoint = site.by_hand.get(self.pod)
        self.id, self.link = self.endpoint.id, self.endpoint.link.host_ifname
        self._others = self.programs(1)
        self.state = site.node.dir / "run" / "state"
        self.pins = site.node.dir / "bpf" / "podlane" / "maps"

    def ip(self, *argv: str) -> str:
        """Run iproute2 on the node."""
        return self.node.exec("ip", *argv, check="show" not in argv).stdout

    def endpoints(self) -> pathmaps.Endpoints:
        """Open the map of all endpoints."""
        return pathmaps.Endpoints.open(self.pins / maps.ENDPOINTS, headers.SIZES)

    def slots(self) -> pathmaps.CallPolicy:
        """Open the array of policy programs."""
        return pathmaps.CallPolicy.open(self.pins / maps.CALL_POLICY, headers.SIZES)

    def policy(self) -> policymaps.Policy:
        """Open its policy map."""
        return policymaps.Policy.open(self.pins / f"policy_{self.id}", headers.SIZES)

    def program_of_another(self, hook: str) -> Any:
        """Open a program of the first pod's."""
        (program,) = (one for one in self._others if one.hook.startswith(hook))
        return libbpf.program_by_id(program.id)

    def programs(self, id_: int) -> Any:
        """Return an endpoint's programs as the endpoint service knows them."""
        (found,) = (one for one in self.site.agreement.endpoints() if one.id == id_)
        return found.last_regeneration.programs

    def snapshot(self) -> dict[str, Any]:
        """Return everything that somebody could have changed, without the numbers that a mending may change."""
        return {
            "programs": self._attached(),
            "policy": self._policy(),
            "entries": self._entries(),
            "link": self._json("link", "show", "dev", self.link),
            "routes": [self._json(family, "route", "show", "dev", self.link) for family in ("-4", "-6")],
            "neighbours": [self._neighbours(family) for family in ("-4", "-6")],
            "router": re.findall(r"inet\S* \S+", self.ip("address", "show", "podlane_host")),
            "refused": [self._json(family, "route", "show", "type", "unreachable") for family in ("-4", "-6")],
            "masquerading": self.node.exec("nft", "-s", "list", "table", "inet", "podlane", check=False).stdout,
            "files": self._files(),
            "published": self._published(),
        }

    def _neighbours(self, family: str) -> Any:
        """Return the permanent ones: others come and go."""
        return self._json(family, "neigh", "show", "dev", self.link, "nud", "permanent")

    def _attached(self) -> dict[str, bool]:
        """Return for each hook whether what hangs there is what the state directory says. Tags are everybody's."""
        found = {}
        for way in ("ingress", "egress"):
            shown = self.node.exec("tc", "filter", "show", "dev", self.link, way, check=False).stdout
            found[f"tc {way}"] = [int(id_) for id_ in _PROGRAM.findall(shown)]
        with self.slots() as slots:
            found[f"call_policy[{self.id}]"] = list(slots.dump([self.id]).values())
        record = self.state / str(self.id) / "endpoint.json"
        programs = json.loads(record.read_text())["programs"] if record.exists() else []
        return {hook: [one["id"] for one in programs if one["hook"] == hook] == ids for hook, ids in found.items()}

    def _json(self, *argv: str) -> Any:
        return json.loads(self.ip("-j", *argv) or "[]")

    def _policy(self) -> Any:
        if not (self.pins / f"policy_{self.id}").exists():
            return None
        with self.policy() as policy:
            return sorted(one.entry for one in policy.dump())

    def _entries(self) -> Any:
        with self.endpoints() as endpoints:
            return [endpoints.get(ip_address(address)) for address in (*self.addresses, *GATEWAYS)]

    def _files(self) -> Any:
        directory = self.state / str(self.id)
        header = directory / "ep_config.h"
        return sorted(path.name for path in directory.glob("*")), header.read_text() if header.exists() else ""

    def _published(self) -> Any:
        with contextlib.closing(sqlite3.connect(self.node.dir / "lib" / "endpoint.sqlite")) as connection:
            return list(connection.execute("SELECT key, value FROM kvstore ORDER BY key"))


Damage = Callable[[Victim], None]


def another_program(victim: Victim) -> None:
    """tc: the pod's packets are checked as those of another pod."""
    pin = victim.pins / "by_hand"
    with victim.program_of_another("tc ingress") as program:
        libbpf.object_pin(program, pin)
    replace = f"tc filter replace dev {victim.link} ingress pref 1 handle 1 protocol all bpf da object-pinned {pin}"
    victim.node.exec(*replace.split())
    pin.unlink()


def no_egress_filter(victim: Victim) -> None:
    victim.node.exec("tc", "filter", "del", "dev", victim.link, "egress")


def no_qdisc(victim: Victim) -> None:
    victim.node.exec("tc", "qdisc", "del", "dev", victim.link, "clsact")


def another_slot(victim: Victim) -> None:
    with victim.slots() as slots, victim.program_of_another("call_policy") as program:
        slots.set(victim.id, program)


def no_slot(victim: Victim) -> None:
    with victim.slots() as slots:
        slots.clear(victim.id)


def no_policy_pin(victim: Victim) -> None:
    (victim.pins / f"policy_{victim.id}").unlink()


def one_policy_entry_less(victim: Victim) -> None:
    with victim.policy() as policy:
        policy.sync([one.entry for one in policy.dump()][1:])


def one_policy_entry_more(victim: Victim) -> None:
    with victim.policy() as policy:
        policy.sync([*(one.entry for one in policy.dump()), PolicyEntry(Direction.INGRESS, identity=5, deny=True)])


def no_endpoint_entry(victim: Victim) -> None:
    with victim.endpoints() as endpoints:
        endpoints.delete(ip_address(victim.addresses[1]))


def an_endpoint_entry_that_leads_elsewhere(victim: Victim) -> None:
    with victim.endpoints() as endpoints:
        other = endpoints.get(ip_address(victim.site.addresses[0]))
        assert other is not None
        address = ip_address(victim.addresses[0])
        endpoints.put(
            EndpointEntry(address, other.ifindex, other.endpoint_id, other.identity, other.pod_mac, other.host_mac)
        )


def a_node_end_that_is_down(victim: Victim) -> None:
    victim.ip("link", "set", victim.link, "down")


def no_route(victim: Victim) -> None:
    victim.ip("route", "del", victim.addresses[0])


def no_ipv6_route(victim: Victim) -> None:
    victim.ip("-6", "route", "del", victim.addresses[1])


def a_neighbour_with_another_mac(victim: Victim) -> None:
    victim.ip("neigh", "replace", victim.addresses[0], "lladdr", "02:00:00:00:00:99", "dev", victim.link)


def no_neighbour(victim: Victim) -> None:
    victim.ip("neigh", "del", victim.addresses[1], "dev", victim.link)


def no_gateway_address(victim: Victim) -> None:
    for address in ("10.44.0.1/32", "fd00:44::1/128"):
        victim.ip("address", "del", address, "dev", "podlane_host")


def no_router(victim: Victim) -> None:
    victim.ip("link", "del", "podlane_host")


def no_nft_table(victim: Victim) -> None:
    victim.node.exec("nft", "delete", "table", "inet", "podlane")


def no_unreachable_routes(victim: Victim) -> None:
    victim.ip("route", "flush", "type", "unreachable")
    victim.ip("-6", "route", "flush", "type", "unreachable")


def no_gateway_entry(victim: Victim) -> None:
    with victim.endpoints() as endpoints:
        endpoints.delete(ip_address("10.44.0.1"))


def no_directory(victim: Victim) -> None:
    shutil.rmtree(victim.state / str(victim.id))


def no_record(victim: Victim) -> None:
    (victim.state / str(victim.id) / "endpoint.json").unlink()


def no_header(victim: Victim) -> None:
    (victim.state / str(victim.id) / "ep_config.h").unlink()


def no_published_record(victim: Victim) -> None:
    database = victim.node.dir / "lib" / "endpoint.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM kvstore")
        connection.commit()


DAMAGES: tuple[Damage, ...] = (
    *(another_program, no_egress_filter, no_qdisc, another_slot, no_slot),
    *(no_policy_pin, one_policy_entry_less, one_policy_entry_more),
    *(no_endpoint_entry, an_endpoint_entry_that_leads_elsewhere, no_gateway_entry),
    *(a_node_end_that_is_down, no_route, no_ipv6_route, a_neighbour_with_another_mac, no_neighbour),
    *(no_gateway_address, no_router, no_nft_table, no_unreachable_routes),
    *(no_directory, no_record, no_published_record),
)
DOWN = [("endpoint",), ("loader",), SERVICES]
down_ = pytest.mark.parametrize("down", DOWN, ids="+".join)


@pytest.fixture
def victim(site: Site) -> Victim:
    """A pod that runs."""
    return Victim(site)


@down_
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_found_and_mended(victim: Victim, damage: Damage, down: tuple[str, ...]):
    site, before = victim.site, victim.snapshot()
    others = [victim.programs(id_) for id_ in (1, 2)]
    for service in down:
        site.node.kill(service)
    damage(victim)
    assert victim.snapshot() != before

    site.node.revive(*down)

    site.agreement.reached()
    assert victim.snapshot() == before
    assert [victim.programs(id_) for id_ in (1, 2)] == others
    assert all(victim.pod.ping(address) for address in (*site.addresses, *GATEWAYS))
    assert all(site.one.ping(address) for address in victim.addresses)
    site.add_works(victim.pod)
    site.del_works(victim.pod)


def namespace_gone(victim: Victim) -> None:
    run("ip", "netns", "del", victim.pod.netns)


def link_gone(victim: Victim) -> None:
    victim.ip("link", "del", victim.link)


def link_gone_from_inside(victim: Victim) -> None:
    victim.pod.exec("ip", "link", "del", victim.pod.ifname)


@down_
@pytest.mark.parametrize("end", [namespace_gone, link_gone, link_gone_from_inside])
def test_the_endpoint_of_a_pod_that_went_is_taken_down_and_its_addresses_are_free(
    victim: Victim, end: Damage, down: tuple[str, ...]
):
    site = victim.site
    for service in down:
        site.node.kill(service)
    end(victim)
    site.node.revive(*down)

    site.agreement.reached(deleting=victim.pod)
    left = site.agreement.left_beside(site.one, site.two)
    assert [one for one in left if not one.startswith("link")] == []
    site.del_works(victim.pod)


def test_a_template_that_was_deleted_is_compiled_again_and_no_endpoint_is_touched(victim: Victim):
    site, before = victim.site, [victim.programs(id_) for id_ in (1, 2, victim.id)]
    names = {path.name for path in (victim.state / "templates").iterdir()}
    site.node.kill("loader")
    shutil.rmtree(victim.state / "templates")
    site.node.revive("loader")

    other = site.node.pod()
    site.node.add(other)
    assert {path.name for path in (victim.state / "templates").iterdir()} <= names
    assert [victim.programs(id_) for id_ in (1, 2, victim.id)] == before
    for pod in (other, victim.pod):
        site.node.delete(pod)
    # The shapes that other tests of this site need are gone.
    site.agreement.reached()


def test_without_the_whole_state_directory_pods_go_on_are_known_and_can_be_deleted(victim: Victim):
    """What a link was made of is nowhere else, so it stays a stranger to the loader, which its DEL removes."""
    site, node = victim.site, victim.node
    node.kill("loader")
    shutil.rmtree(victim.state)
    node.revive("loader")

    until(lambda: not list(site.agreement.wrong_endpoints()), lambda: str(list(site.agreement.wrong_endpoints())))
    assert {one.id for one in site.agreement.endpoints()} == {1, 2, victim.id}
    assert all(victim.pod.ping(address) for address in (*site.addresses, *GATEWAYS))
    assert all(site.one.ping(address) for address in victim.addresses)
    other = node.pod()
    site.add_works(other)
    for pod in (other, victim.pod):
        node.delete(pod)
    strangers = {f"link {one.link.host_ifname}" for one in site.agreement.endpoints()}
    assert {*site.agreement.left_beside(site.one, site.two)} == strangers


def test_a_header_that_was_deleted_is_written_by_the_next_regeneration_whatever_its_level(victim: Victim):
    """The periodic one is of level 1. No packet depends on the file."""
    before, attached = victim.snapshot(), victim.programs(victim.id)
    (victim.state / str(victim.id) / "ep_config.h").unlink()

    victim.site.by_hand.renew(victim.pod, 1)

    assert victim.snapshot() == before
    assert victim.programs(victim.id) == attached
    victim.site.del_works(victim.pod)


def delete_database(site: Site, service: str) -> None:
    """Lose a database with what belongs to it."""
    for path in (site.node.dir / "lib").glob(f"{service}.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("order", [("ipam", "endpoint"), ("endpoint", "ipam")], ids="-".join)
def test_addresses_that_ipam_has_forgotten_are_claimed_again(victim: Victim, order: tuple[str, ...]):
    """Its file is gone; nobody else gets the addresses of pods that run."""
    site, before = victim.site, victim.snapshot()
    for service in order:
        site.node.kill(service)
    delete_database(site, "ipam")
    site.node.revive(*order)

    site.agreement.reached()
    assert victim.snapshot() == before
    others = [site.node.pod() for _ in range(4)]
    given = [address for pod in others for address in site.node.add(pod).addresses]
    assert not {*given} & {*victim.addresses, *site.addresses}
    for pod in (*others, victim.pod):
        site.node.delete(pod)
    site.nothing_left()


def test_pods_whose_endpoints_were_forgotten_go_on_and_are_known_again_by_a_repeated_add(victim: Victim):
    """The database is gone: their ids stay theirs, and their addresses pass to the new endpoint."""
    site = victim.site
    site.node.kill("endpoint")
    delete_database(site, "endpoint")
    site.node.revive("endpoint")
    assert site.agreement.endpoints() == []

    result = site.node.add(victim.pod)

    assert result.addresses == victim.addresses
    (known,) = site.agreement.endpoints()
    assert known.id not in {1, 2, victim.id}
    assert known.generation == victim.endpoint.generation + 1
    assert site.node.cni("CHECK", victim.pod, site.node.conf(prevResult=result.json)).code == 0
    assert all(victim.pod.ping(address) for address in site.addresses)
    assert all(site.one.ping(address) for address in victim.addresses)
