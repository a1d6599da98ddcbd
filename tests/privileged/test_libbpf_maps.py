"""The typed maps on the real kernel."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from services.common.errors import Exhausted
from services.loader import libbpf, maps, pathmaps, policymaps
from services.loader.headers import SIZES
from services.loader.model import Direction, PolicyEntry
from services.loader.policymaps import PolicyChange
from tests.bpf_support import ALLOW_ALL, ETHER, PEER_ID, PEER_V4, PEER_V6, POD_ID, Datapath, peer

pytestmark = pytest.mark.privileged

IN, OUT = Direction.INGRESS, Direction.EGRESS


@pytest.fixture
def policy() -> Iterator[policymaps.Policy]:
    with policymaps.Policy(maps.DEFINITIONS[maps.POLICY].create(SIZES)) as policy:
        yield policy


@pytest.fixture
def endpoints() -> Iterator[pathmaps.Endpoints]:
    with pathmaps.Endpoints(maps.DEFINITIONS[maps.ENDPOINTS].create({"ENDPOINTS_MAP_SIZE": 3})) as endpoints:
        yield endpoints


def test_addresses_of_both_families_lead_to_their_endpoint(endpoints: pathmaps.Endpoints) -> None:
    entries = [peer(PEER_V4), peer(PEER_V6)]
    for entry in entries:
        endpoints.put(entry)

    assert sorted(endpoints.dump(), key=lambda one: one.address.version) == entries
    assert [endpoints.get(entry.address) for entry in entries] == entries
    assert endpoints.get(ip_address("10.9.9.9")) is None


def test_an_ipv4_address_is_not_the_ipv6_address_with_the_same_bytes(endpoints: pathmaps.Endpoints) -> None:
    endpoints.put(peer(PEER_V4))

    assert endpoints.get(ip_address(ip_address(PEER_V4).packed + bytes(12))) is None


def test_an_address_is_removed_once(endpoints: pathmaps.Endpoints) -> None:
    endpoints.put(peer(PEER_V4))

    assert [endpoints.delete(ip_address(PEER_V4)) for _ in range(2)] == [True, False]


def test_a_host_address_has_the_hosts_identity(endpoints: pathmaps.Endpoints) -> None:
    endpoints.put_host(ip_address(PEER_V4))
    (entry,) = endpoints.dump()

    assert (entry.host, entry.identity, entry.endpoint_id) == (True, 1, 0)


def test_a_full_endpoint_map_says_how_large_it_is(endpoints: pathmaps.Endpoints) -> None:
    for last in range(3):
        endpoints.put(peer(f"10.0.0.{last}"))
    with pytest.raises(Exhausted, match="podlane_endpoints is full: 3 addresses"):
        endpoints.put(peer("10.0.0.9"))


def test_the_slots_of_call_policy_hold_program_ids() -> None:
    with Datapath() as datapath:
        ident = libbpf.program_info(datapath.programs["policy"]).id

        assert datapath.call_policy.dump() == {POD_ID: ident, PEER_ID: ident}
        assert datapath.call_policy.dump([PEER_ID, 9]) == {PEER_ID: ident}
        assert (datapath.call_policy.get(PEER_ID), datapath.call_policy.get(9)) == (ident, None)
        assert [datapath.call_policy.clear(PEER_ID) for _ in range(2)] == [True, False]
        assert datapath.call_policy.dump() == {POD_ID: ident}


def test_a_sync_writes_what_is_missing_and_removes_what_is_too_much(policy: policymaps.Policy) -> None:
    web, dns = PolicyEntry(OUT, 300, 6, 80, 16), PolicyEntry(OUT, 0, 17, 53, 16)

    assert policy.sync([*ALLOW_ALL, web]) == PolicyChange(3, 0)
    assert policy.sync([*ALLOW_ALL, web]) == PolicyChange(0, 0)
    assert policy.sync([web, dns]) == PolicyChange(1, 2)
    assert {one.entry for one in policy.dump()} == {web, dns}
    assert policy.sync([]) == PolicyChange(0, 2)


def test_an_entry_that_turns_into_a_deny_is_rewritten(policy: policymaps.Policy) -> None:
    policy.sync([PolicyEntry(IN, 300)])

    assert policy.sync([PolicyEntry(IN, 300, deny=True)]) == PolicyChange(1, 0)
    assert [one.entry for one in policy.dump()] == [PolicyEntry(IN, 300, deny=True)]


def test_ten_thousand_entries_are_synced_and_dumped(policy: policymaps.Policy) -> None:
    wanted = {PolicyEntry(OUT, 256 + number % 100, 6, number, 16) for number in range(10_000)}

    assert policy.sync(wanted) == PolicyChange(10_000, 0)
    assert {one.entry for one in policy.dump()} == wanted


def test_what_can_not_fit_is_refused_before_anything_is_written() -> None:
    with policymaps.Policy(maps.DEFINITIONS[maps.POLICY].create({"POLICY_MAP_SIZE": 4})) as policy:
        policy.sync(ALLOW_ALL)
        with pytest.raises(Exhausted, match="has room for 4 entries and 7 are needed"):
            policy.sync([PolicyEntry(OUT, identity) for identity in range(1, 6)])
        assert {one.entry for one in policy.dump()} == set(ALLOW_ALL)


def test_metrics_are_filtered_and_forgotten_by_endpoint() -> None:
    with Datapath() as datapath, Datapath(endpoint_id=9) as other:
        for each in (datapath, other):
            each.send(ETHER / b"what")
        # One map for both, as on a node.
        for key, value in libbpf.map_entries(other.metrics.fd, 4, 16 * libbpf.possible_cpus()):
            libbpf.map_update(datapath.metrics.fd, key, value)

        assert {metric.endpoint_id for metric in datapath.metrics.dump()} == {7, 9}
        assert [metric.reason for metric in datapath.metrics.dump(9)] == ["unknown l3"]
        datapath.metrics.forget(9)
        assert {metric.endpoint_id for metric in datapath.metrics.dump()} == {7}
