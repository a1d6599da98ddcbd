"""The real process: crashes under load, restarts, files it must not trust, and what an operator types."""

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from podlane.ipam.v1 import ipam_pb2 as pb

from services.common import errors
from services.ipam.store import MIGRATIONS
from tests.ipam_support import Ipam, database_path, refusal, texts, write_settings

GRPCURL = str(Path(sys.executable).with_name("grpcurl"))


async def run(*argv: str) -> tuple[int, str]:
    """Run a command; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL
    )
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode()


async def test_kill_9_under_load_loses_no_answered_allocation_and_doubles_none(tmp_path: Path):
    answered: dict[str, list[str]] = {}
    released: set[str] = set()
    async with Ipam.running(tmp_path, ranges=("10.244.0.0/22", "fd00:10:244::/112")) as ipam:
        numbers = iter(range(100_000))

        async def caller() -> None:
            for number in numbers:
                answered[f"c{number}"] = texts((await ipam.allocate(f"c{number}")).allocation)
                if number % 3 == 0:
                    released.add(f"c{number}")
                    await ipam.release(f"c{number}")
                    del answered[f"c{number}"]

        callers = [asyncio.create_task(caller()) for _ in range(64)]
        while len(answered) < 300:
            await asyncio.sleep(0)
        await ipam.kill()
        await asyncio.gather(*callers, return_exceptions=True)

    async with Ipam.running(tmp_path, ranges=("10.244.0.0/22", "fd00:10:244::/112")) as ipam:
        there = {name: texts(held) for name, held in (await ipam.everything()).items()}
        counts = Counter(address for addresses in there.values() for address in addresses)
        asked_back = {name for name in released if name in answered}
        assert {name: there.get(name) for name in answered if name not in asked_back} == {
            name: addresses for name, addresses in answered.items() if name not in asked_back
        }
        assert not (released - answered.keys()) & there.keys()
        assert max(counts.values()) == 1
        assert [one.used for one in (await ipam.pools())[0].ranges] == [len(there), len(there)]
        # The next ones are none of those, nor of each other.
        more = await asyncio.gather(*(ipam.allocate(f"d{number}") for number in range(64)))
        counts.update(address for reply in more for address in texts(reply.allocation))
        assert max(counts.values()) == 1


async def test_an_expiry_outlives_a_kill(tmp_path: Path):
    async with Ipam.running(tmp_path, reservation=3.0) as ipam:
        await ipam.allocate("kept")
        await ipam.confirm("kept", 7)
        await ipam.allocate("lost")
        await ipam.kill()

    async with Ipam.running(tmp_path, reservation=3.0) as ipam:
        while "lost" in await ipam.everything():
            await asyncio.sleep(0.02)

        assert list(await ipam.everything()) == ["kept"]
        assert (await ipam.pools())[0].ranges[0].cooling == 1


async def test_64_clients_calls_at_once_get_64_addresses(tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        replies = await asyncio.gather(*(ipam.allocate(f"c{number}") for number in range(64)))

        assert len({texts(reply.allocation)[0] for reply in replies}) == 64
        with pytest.raises(errors.Exhausted):
            await asyncio.gather(*(ipam.allocate(f"d{number}") for number in range(200)))


async def test_allocations_outside_a_changed_configuration_are_logged_and_releasable(tmp_path: Path):
    async with Ipam.running(tmp_path, ranges=("10.9.0.0/24",)) as ipam:
        await ipam.allocate("c1")

    async with Ipam.running(tmp_path) as ipam:
        (held,) = (await ipam.everything()).values()
        assert texts(held) == ["10.9.0.2"]
        assert (await ipam.pools())[0].ranges[0].used == 0
        assert (await ipam.release("c1")).released == held
    assert "net/c1/eth0: 10.9.0.2 (pool default)" in (tmp_path / "log").read_text()


async def test_a_damaged_database_is_refused_and_kept(tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        await ipam.allocate("c1")
    database = database_path(tmp_path)
    damaged = bytearray(database.read_bytes())
    damaged[4096:8192] = os.urandom(4096)
    database.write_bytes(damaged)
    (tmp_path / "log").unlink()

    code, said = await refusal(tmp_path, tmp_path / "podlane.toml")

    assert code == 1
    assert f"podlane-ipam: {database} is damaged" in said
    assert "restore it from a backup, or move it away" in said
    assert "Traceback" not in said
    assert database.read_bytes() == damaged


async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path):
    settings = write_settings(tmp_path)
    database_path(tmp_path).parent.mkdir()
    database_path(tmp_path).write_text("my shopping list\n" * 100)

    code, said = await refusal(tmp_path, settings)

    assert code == 1
    assert "is damaged (file is not a database)" in said
    assert database_path(tmp_path).read_text() == "my shopping list\n" * 100


async def test_a_database_of_a_newer_podlane_is_refused_and_kept(tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        await ipam.allocate("c1")
    with contextlib.closing(sqlite3.connect(database_path(tmp_path))) as connection:
        connection.execute("PRAGMA user_version=99")

    code, said = await refusal(tmp_path, tmp_path / "podlane.toml")

    assert code == 1
    assert f"has schema 99 and this program knows schemas up to {len(MIGRATIONS)}: a newer podlane wrote it" in said
    with contextlib.closing(sqlite3.connect(database_path(tmp_path))) as connection:
        assert connection.execute("SELECT count(*) FROM allocations").fetchone() == (1,)


async def test_a_second_process_does_not_take_the_first_ones_socket_or_state(tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        code, said = await refusal(tmp_path, tmp_path / "podlane.toml")

        assert code == 1
        assert "podlane-ipam: another process uses" in said
        assert (await ipam.allocate("c1")).created


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[[ipam.pools]]\nname = "b"\nranges = ["10.244.0.128/25"]\n', "10.244.0.0/24 of pool 'default' overlaps"),
        ('[[ipam.pools]]\nname = "b"\nranges = ["10.1.0.0/240"]\n', "[[ipam.pools]] 'b' ranges[0]"),
        ('[[ipam.pools]]\nname = "b"\nrange = ["10.1.0.0/24"]\n', "range: unknown key"),
    ],
)
async def test_a_bad_configuration_is_one_line(tmp_path: Path, more: str, words: str):
    code, said = await refusal(tmp_path, write_settings(tmp_path, more=more))

    assert code == 1
    assert words in said
    assert said.count("\n") == 1
    assert not database_path(tmp_path).exists()


@pytest.mark.parametrize("times", [{"cooldown": float("nan")}, {"reservation": 0.0}, {"reservation": float("inf")}])
async def test_times_that_make_no_sense_are_refused(tmp_path: Path, times: dict[str, Any]):
    code, said = await refusal(tmp_path, write_settings(tmp_path, **times))

    assert code == 1
    assert f"[ipam] {next(iter(times))}_seconds" in said


async def test_the_real_grpcurl_lists_describes_and_calls(tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        await ipam.allocate("c1")
        socket = ["-plaintext", "-unix", str(ipam.socket)]

        _, listed = await run(GRPCURL, *socket, "list")
        _, described = await run(GRPCURL, *socket, "describe", "podlane.ipam.v1.IpamService")
        owner = json.dumps({"owner": {"network": "net", "container_id": "c9", "ifname": "eth0"}})
        allocate = "podlane.ipam.v1.IpamService/AllocateAddresses"
        _, allocated = await run(GRPCURL, "-d", owner, *socket, allocate)
        code, refused = await run(GRPCURL, "-d", '{"owner": {"network": "net"}}', *socket, allocate)

    assert {"podlane.ipam.v1.IpamService", "grpc.health.v1.Health"} <= set(listed.split())
    assert "rpc AllocateAddresses ( .podlane.ipam.v1.AllocateAddressesRequest )" in described
    assert json.loads(allocated)["allocation"]["owner"]["container_id"] == "c9"
    assert code != 0
    assert "InvalidArgument" in refused
    assert "owner.container_id: a value is needed" in refused


@pytest.mark.parametrize("service", ["", "podlane.ipam.v1.IpamService"])
async def test_health_says_serving(tmp_path: Path, service: str):
    async with Ipam.running(tmp_path) as ipam:
        await ipam.pools()
        asked = json.dumps({"service": service})
        socket = ["-plaintext", "-unix", str(ipam.socket)]

        code, printed = await run(GRPCURL, "-d", asked, *socket, "grpc.health.v1.Health/Check")

    assert code == 0, printed
    assert json.loads(printed) == {"status": "SERVING"}


async def test_the_log_has_one_line_per_call_with_the_attachment_and_the_addresses(tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        await ipam.allocate("c1")
        await ipam.pools()
    calls = [line for line in map(json.loads, (tmp_path / "log").read_text().splitlines()) if line["event"] == "rpc"]

    (line,) = calls
    assert line["method"] == "AllocateAddresses"
    assert line["attachment"] == "net/c1/eth0"
    assert line["addresses"] == "10.244.0.2, fd00:10:244::2"
    assert line["code"] == "OK"


async def test_state_of_a_clean_stop_is_served_after_the_start(tmp_path: Path):
    async with Ipam.running(tmp_path) as ipam:
        held = await ipam.allocate("c1")

    async with Ipam.running(tmp_path) as ipam:
        again = await ipam.allocate("c1")

    assert not again.created
    assert again.allocation == held.allocation
    assert again.allocation.state == pb.ALLOCATION_STATE_RESERVED
