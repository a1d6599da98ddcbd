"""CNI CHECK and `podlane endpoint check --repair` on a pod that runs: each damage is named, and mended.

The services run all the while: nothing here is found by a start. One pod suffers all of it, one damage after the other,
so each must be mended wholly.
"""

from collections.abc import Callable, Iterator

import pytest
from podlane.ipam.v1 import ipam_pb2

from tests.by_hand import attachment
from tests.crash_site import Site
from tests.privileged import test_restore as damages
from tests.privileged.test_restore import GATEWAYS, Victim

pytestmark = [pytest.mark.privileged, pytest.mark.long, pytest.mark.xdist_group("check")]

Damage = Callable[[Victim], None]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """The pod."""
    site = Site(tmp_path_factory.mktemp("site"), "tc")
    yield Victim(site)
    site.node.close()


def another_mtu(victim: Victim) -> None:
    victim.pod.exec("ip", "link", "set", "eth0", "mtu", "9000")


def another_mtu_on_the_node(victim: Victim) -> None:
    victim.ip("link", "set", victim.link, "mtu", "1400")


def another_mac(victim: Victim) -> None:
    victim.pod.exec("ip", "link", "set", "eth0", "address", "02:00:00:00:00:77")


def another_mac_on_the_node(victim: Victim) -> None:
    victim.ip("link", "set", victim.link, "address", "02:00:00:00:00:78")


def no_address(victim: Victim) -> None:
    victim.pod.exec("ip", "address", "del", f"{victim.addresses[0]}/32", "dev", "eth0")


def no_ipv6_address(victim: Victim) -> None:
    victim.pod.exec("ip", "address", "del", f"{victim.addresses[1]}/128", "dev", "eth0")


def no_default_route(victim: Victim) -> None:
    victim.pod.exec("ip", "route", "del", "default")


def an_end_that_is_down(victim: Victim) -> None:
    victim.pod.exec("ip", "link", "set", "eth0", "down")


def no_allocation(victim: Victim) -> None:
    request = ipam_pb2.ReleaseAddressesRequest(owner=attachment(victim.pod))
    victim.site.agreement.call("ipam", "ReleaseAddresses", request)


INSIDE = (
    *(another_mtu, another_mtu_on_the_node, another_mac, another_mac_on_the_node),
    *(no_address, no_ipv6_address, no_default_route, an_end_that_is_down),
)
KERNEL = (
    *(damages.another_program, damages.no_egress_filter, damages.no_qdisc, damages.another_slot, damages.no_slot),
    *(damages.no_policy_pin, damages.one_policy_entry_less, damages.one_policy_entry_more),
    *(damages.no_endpoint_entry, damages.an_endpoint_entry_that_leads_elsewhere),
    *(damages.a_node_end_that_is_down, damages.no_route, damages.no_ipv6_route),
    *(damages.a_neighbour_with_another_mac, damages.no_neighbour, damages.no_record),
)


@pytest.mark.cni("CHECK-3", "CHECK-4")
@pytest.mark.parametrize("damage", [*INSIDE, *KERNEL, no_allocation])
def test_each_damage_is_named_by_check_and_mended_on_request(victim: Victim, damage: Damage):
    node, id_ = victim.node, str(victim.id)
    conf = node.conf(prevResult=node.add(victim.pod).json)
    assert node.cni("CHECK", victim.pod, conf).code == 0
    damage(victim)

    outcome = node.cni("CHECK", victim.pod, conf)
    shown = node.podlane("endpoint", "check", id_, check=False)
    mended = node.podlane("endpoint", "check", id_, "--repair", check=False)

    assert outcome.json["code"] == 101
    assert shown.returncode == 1
    assert shown.stdout.startswith("wrong: ")
    assert "--repair` mends" in shown.stderr
    assert mended.returncode == 0, mended
    assert mended.stdout.startswith("repaired: ")
    assert mended.stdout.endswith(f"endpoint {id_} is as it should be\n")
    assert node.cni("CHECK", victim.pod, conf).code == 0
    assert all(victim.pod.ping(address) for address in (*victim.site.addresses, *GATEWAYS))
    assert all(victim.site.one.ping(address) for address in victim.addresses)


def test_repairing_what_is_whole_touches_nothing(victim: Victim):
    before = victim.snapshot()
    assert victim.node.podlane("endpoint", "check", str(victim.id), "--repair").stdout == (
        f"endpoint {victim.id} is as it should be\n"
    )
    assert victim.snapshot() == before


def test_what_is_published_is_looked_at_and_put_again(victim: Victim):
    """A store that loses what it was given is no fault of the endpoint: asking is enough."""
    damages.no_published_record(victim)
    assert victim.node.show("endpoint", "check", str(victim.id)) == {
        "endpoint": victim.id,
        "repaired": [],
        "problems": [],
    }
    assert victim.snapshot()["published"]


def test_an_endpoint_that_is_not_there_is_an_error_and_no_finding(victim: Victim):
    told = victim.node.podlane("endpoint", "check", "4711", "--repair", check=False)
    assert told.returncode == 3
    assert "there is no endpoint with id 4711" in told.stderr
    assert told.stdout == ""
