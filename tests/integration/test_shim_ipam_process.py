"""podlane-ipam, the installed plugin, with the real ipam service: kills, expiry, and whose addresses they are."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from podlane.ipam.v1 import ipam_pb2 as pb

from tests.ipam_support import Ipam, texts, write_settings
from tests.shim_support import Outcome, Plugin

OWN = '[[ipam.pools]]\nname = "bridge"\ndelegated = true\nranges = ["10.9.0.0/29", "10.9.1.0/29"]\n'
BLUE = '[[ipam.pools]]\nname = "blue"\nranges = ["10.8.0.0/29"]\n'


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"), "podlane-ipam")


def conf(ipam: Ipam, **keys: Any) -> dict[str, Any]:
    """Return the configuration of the network that `Calls` means; `pool` is ipam's."""
    pool = keys.pop("pool", "default")
    own = {"type": "podlane-ipam", "ipamSocket": str(ipam.socket), "pool": pool, "timeoutSeconds": 30}
    return {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": own, **keys}


async def add(plugin: Plugin, ipam: Ipam, name: str, **keys: Any) -> Outcome:
    return await plugin.cni("ADD", conf(ipam, **keys), CNI_CONTAINERID=name)


def addresses(outcome: Outcome) -> list[str]:
    return [one["address"].partition("/")[0] for one in outcome.result["ips"]]


async def test_an_add_that_was_killed_between_its_steps_is_taken_to_its_end_by_the_next(plugin: Plugin, tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        reserved = (await ipam.allocate("c1", delegated=True)).allocation
        await ipam.kill()
    async with Ipam.running(tmp_path) as ipam:
        outcome = await add(plugin, ipam, "c1")
        again = await add(plugin, ipam, "c1")

        assert addresses(outcome) == addresses(again) == texts(reserved)
        (held,) = (await ipam.everything()).values()
        assert (held.state, held.endpoint_id) == (pb.ALLOCATION_STATE_CONFIRMED, 0)


async def test_kill_9_keeps_the_addresses_and_nobody_else_gets_them(plugin: Plugin, tmp_path: Path):
    settings = write_settings(tmp_path, more=OWN)
    async with Ipam.running(tmp_path, file=settings) as ipam:
        first = addresses(await add(plugin, ipam, "c1", pool="bridge"))
        await ipam.kill()
        down = await plugin.cni("DEL", conf(ipam), CNI_CONTAINERID="c1")
    assert down.error["code"] == 11
    async with Ipam.running(tmp_path, file=settings) as ipam:
        assert addresses(await add(plugin, ipam, "c2", pool="bridge")) != first
        assert addresses(await add(plugin, ipam, "c1", pool="bridge")) == first


async def test_what_was_added_never_expires_and_what_was_merely_reserved_does(plugin: Plugin, tmp_path: Path):
    async with Ipam.running(tmp_path, reservation=0.2) as ipam:
        await add(plugin, ipam, "added")
        await ipam.allocate("reserved", delegated=True)

        async with asyncio.timeout(30):
            while "reserved" in await ipam.everything():
                await asyncio.sleep(0.02)

        assert set(await ipam.everything()) == {"added"}


async def test_adds_at_a_time_get_an_address_each_until_the_pool_has_none(plugin: Plugin, tmp_path: Path):
    async with Ipam.running(tmp_path, file=write_settings(tmp_path, more=OWN)) as ipam:
        outcomes = await asyncio.gather(*(add(plugin, ipam, f"c{number}", pool="bridge") for number in range(11)))
        status = await plugin.cni("STATUS", conf(ipam, pool="bridge"))

        given = [one for one in outcomes if one.code == 0]
        (refused,) = (one for one in outcomes if one.code)
        assert len({address for one in given for address in addresses(one)}) == 10
        # Each range with its own gateway in it.
        told = {(ip["address"].rpartition(".")[0], ip["gateway"]) for one in given for ip in one.result["ips"]}
        assert told == {("10.9.0", "10.9.0.1"), ("10.9.1", "10.9.1.1")}
        assert refused.error["code"] == 11
        assert "10 of 10 used" in refused.error["msg"]
        assert status.error["code"] == 50
        assert "pool bridge: 0 of 10 IPv4 addresses free" in status.error["msg"]
        assert len(await ipam.everything()) == 10


async def test_what_an_endpoint_has_is_never_taken(plugin: Plugin, tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        await ipam.allocate("c1")
        held = await ipam.confirm("c1", 7)

        refused = await add(plugin, ipam, "c1")
        deleted = await plugin.cni("DEL", conf(ipam), CNI_CONTAINERID="c1")
        collected = await plugin.cni("GC", conf(ipam, **{"cni.dev/valid-attachments": []}))
        checked = await plugin.cni("CHECK", conf(ipam, prevResult={"ips": []}), CNI_CONTAINERID="c1")

        assert refused.error["code"] == 103
        assert "for endpoint 7, not for another plugin" in refused.error["msg"]
        assert (deleted.code, collected.code) == (0, 0)
        assert "for endpoint 7 of podlane's own plugin" in checked.error["details"]
        assert await ipam.everything() == {"c1": held}


async def test_a_result_that_nobody_reads_leaves_nothing_held(plugin: Plugin, tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        reader, writer = os.pipe()
        os.close(reader)
        process = await plugin.start("ADD", {"CNI_CONTAINERID": "c1"}, stdout=writer)
        os.close(writer)

        assert (await plugin.started(process, conf(ipam))).code == 1

        assert await ipam.everything() == {}


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"pool": "red"}, 7, "no pool 'red'"),
        ({"pool": "no/pool"}, 7, "pool: 'no/pool'"),
        ({"pool": "blue"}, 7, "10.8.0.0/29 of 'blue' has the node's gateway 10.244.0.1, which isn't in it"),
        ({"runtimeConfig": {"ips": ["10.244.0.2"]}}, 103, "10.244.0.2 is held by net/other/eth0"),
        ({"runtimeConfig": {"ips": ["192.0.2.1"]}}, 7, "192.0.2.1 is in no range"),
        ({"runtimeConfig": {"ips": ["10.244.0.1"]}}, 7, "it is the gateway"),
        ({"pool": "bridge", "runtimeConfig": {"ips": ["fd00::1"]}}, 7, "pool 'bridge' has no IPv6 range"),
    ],
    ids=["no pool", "odd name", "no gateway", "taken", "elsewhere", "the gateway", "no such family"],
)
async def test_what_cannot_be_had_is_refused_with_the_reason(
    plugin: Plugin, tmp_path: Path, keys: dict[str, Any], code: int, says: str
):
    async with Ipam.running(tmp_path, file=write_settings(tmp_path, more=OWN + BLUE)) as ipam:
        await ipam.allocate("other")

        error = (await add(plugin, ipam, "c1", **keys)).error

        assert error["code"] == code
        assert says in error["msg"]
        assert set(await ipam.everything()) == {"other"}


async def test_an_add_for_other_addresses_than_it_has_is_refused_and_keeps_them(plugin: Plugin, tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        await add(plugin, ipam, "c1")
        before = await ipam.everything()

        error = (await add(plugin, ipam, "c1", runtimeConfig={"ips": ["10.244.0.9"]})).error

        assert error["code"] == 102
        assert "not the requested 10.244.0.9" in error["msg"]
        assert await ipam.everything() == before


async def test_gc_del_and_check_go_through_to_the_books(plugin: Plugin, tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        results = {name: (await add(plugin, ipam, name)).result for name in ("keep", "lost", "gone")}
        valid = [{"containerID": "keep", "ifname": "eth0"}, {"containerID": "gone", "ifname": "eth0"}]

        collected = await plugin.cni("GC", conf(ipam, **{"cni.dev/valid-attachments": valid}))
        deleted = [await plugin.cni("DEL", conf(ipam), CNI_CONTAINERID="gone") for _ in range(2)]

        assert [one.code for one in (collected, *deleted)] == [0, 0, 0]
        assert set(await ipam.everything()) == {"keep"}
        kept = await plugin.cni("CHECK", conf(ipam, prevResult=results["keep"]), CNI_CONTAINERID="keep")
        lost = await plugin.cni("CHECK", conf(ipam, prevResult=results["lost"]), CNI_CONTAINERID="lost")
        assert (kept.code, kept.stdout) == (0, "")
        assert lost.error["code"] == 101
