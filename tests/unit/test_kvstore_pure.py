"""What the kvstore decides without a store: differences, what failures mean, whose store it is, settings, limits."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.config import ClusterSettings, KvstoreSettings
from services.common.controllers import Registry
from services.common.errors import InvalidArgument
from services.common.kvstore import Entry
from services.common.kvstore.answer import Verdict, judge
from services.common.kvstore.choose import check, choose
from services.common.kvstore.differences import ELSEWHERE, differences, remember
from services.common.kvstore.etcd import EtcdKvstore
from services.common.kvstore.limits import Limits
from services.common.kvstore.ownership import claim, objection

_WORLD = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5))


def _entries(world: dict[str, int]) -> list[Entry]:
    return [Entry(key, f"{key}{revision}", revision) for key, revision in sorted(world.items())]


@given(_WORLD, _WORLD)
def test_whoever_is_told_the_differences_knows_what_is_there(known: dict[str, int], there: dict[str, int]) -> None:
    """And is told nothing that it knew."""
    changes = differences(known, _entries(there))

    assert all(known.get(key) != (entry.revision if entry else None) for key, entry in changes.items())
    remember(known, changes)
    assert known == there
    assert differences(known, _entries(there)) == {}


@given(_WORLD, _WORLD)
def test_after_another_store_took_its_place_all_of_it_is_told(known: dict[str, int], there: dict[str, int]) -> None:
    """Equal revisions of two stores mean nothing; what the new one doesn't have is gone."""
    changes = differences(dict.fromkeys(known, ELSEWHERE), _entries(there))

    assert {key for key, entry in changes.items() if entry is not None} == set(there)
    assert {key for key, entry in changes.items() if entry is None} == set(known) - set(there)


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        ("UNAVAILABLE", "etcdserver: no leader", Verdict.UNREACHED),
        ("UNAVAILABLE", "etcdserver: request timed out", Verdict.LOST),
        ("UNAVAILABLE", "etcdserver: request timed out, possibly due to connection lost", Verdict.LOST),
        ("UNAVAILABLE", "etcdserver: leader changed", Verdict.LOST),
        ("UNAVAILABLE", "Socket closed", Verdict.LOST),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNKNOWN: Connection refused",
            Verdict.UNREACHED,
        ),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: Socket closed", Verdict.UNREACHED),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Verdict.LOST),
        ("UNKNOWN", "context deadline exceeded", Verdict.LOST),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", Verdict.TOKEN),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", Verdict.TOKEN),
        ("PERMISSION_DENIED", "etcdserver: permission denied", Verdict.STORE_REFUSES),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", Verdict.STORE_REFUSES),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Verdict.UNREACHED),
        ("NOT_FOUND", "etcdserver: requested lease not found", Verdict.LEASE_GONE),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", Verdict.COMPACTED),
        ("INVALID_ARGUMENT", "etcdserver: whatever comes", Verdict.INVALID),
        ("UNIMPLEMENTED", "unknown service", Verdict.MEMBER_REFUSES),
        ("SOMETHING", "new", Verdict.LOST),
    ],
)
def test_what_a_failure_means_is_in_its_details(code: str, details: str, verdict: Verdict) -> None:
    """A request that may have been carried out is never taken for one that wasn't."""
    assert judge(code, details).verdict is verdict


def test_a_store_belongs_to_the_cluster_that_it_names() -> None:
    """And to no other, nor to a newer podlane, nor to whoever has written nonsense there."""
    assert objection("p/cluster", "one", claim("one")) == ""
    assert objection("p/cluster", "one", '{"layout": 1, "name": "one", "added": "later"}') == ""
    assert "'two'" in objection("p/cluster", "one", claim("two"))
    assert "layout 2" in objection("p/cluster", "one", '{"layout": 2, "name": "one"}')
    for nonsense in ("", "[]", "1", '{"name": "one"}', '{"name": "one", "layout": null}'):
        assert "no record" in objection("p/cluster", "one", nonsense)


_GOOD = KvstoreSettings(endpoints=("http://127.0.0.1:2379",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoints": ("10.0.0.1:2379",)}, "must be like https://10.0.0.1:2379"),
        ({"endpoints": ("http://10.0.0.1",)}, "must be like"),
        ({"endpoints": ("http://10.0.0.1:70000",)}, "must be like"),
        ({"endpoints": ("http://[fd00::1:2379",)}, "must be like"),
        ({"endpoints": ("http://a:1/x",)}, "must be like"),
        ({"endpoints": ("http://a:1", "https://b:1"), "ca": Path("ca")}, "all must be https"),
        ({"endpoints": ("https://b:1",)}, "ca: must be set"),
        ({"certificate": Path("c")}, "both, or none"),
        ({"username": "podlane"}, "both, or none"),
        ({"root": "/podlane"}, "without /"),
        ({"root": ""}, "without /"),
        ({"lease_seconds": 24}, "25-86400"),
        ({"timeout_seconds": 0.0}, "more than 0"),
        ({"requests_per_second": -1.0}, "negative"),
        ({"requests_in_flight": 0}, "at least 1"),
    ],
)
def test_settings_that_can_not_work_are_named(change: dict[str, Any], words: str) -> None:
    """At the start, and not when the first pod comes."""
    with pytest.raises(InvalidArgument, match=words):
        check(dataclasses.replace(_GOOD, **change))
    check(_GOOD)
    check(dataclasses.replace(_GOOD, endpoints=("https://[fd00::1]:2379", "https://b:1"), ca=Path("ca")))


async def test_without_endpoints_the_embedded_store_serves() -> None:
    """And where there is none, a sentence says what is missing."""
    with pytest.raises(InvalidArgument, match="must name etcd's members"):
        choose(KvstoreSettings(), ClusterSettings(), Registry())
    store, component = choose(_GOOD, ClusterSettings(), Registry())
    assert isinstance(component, EtcdKvstore)
    assert (await component.status()).kind == "etcd"
    again, _ = choose(KvstoreSettings(), ClusterSettings(), Registry(), store)
    assert again is store


async def test_no_more_than_so_many_at_a_time_and_a_second() -> None:
    """Turns are given in order; those that gave up don't take one."""
    limits = Limits(per_second=50, in_flight=4)
    there, most, order = 0, 0, []

    async def request(number: int) -> None:
        nonlocal there, most
        async with limits:
            there += 1
            most = max(most, there)
            order.append(number)
            await asyncio.sleep(0.001)
            there -= 1

    begun = asyncio.get_running_loop().time()
    tasks = [asyncio.create_task(request(number)) for number in range(24)]
    await asyncio.sleep(0)
    assert limits.waiting == 24
    tasks[20].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert limits.waiting == 0
    assert most <= 4
    assert order == [number for number in range(24) if number != 20]
    # The burst, and then one each 20 ms: less time can't have passed.
    assert asyncio.get_running_loop().time() - begun >= (23 - 4 - 1) / 50
