"""Cluster pools in the real service: killed before each of its effects, without a kvstore, misconfigured."""

import asyncio
import contextlib
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from podlane.ipam.v1 import ipam_pb2 as pb

from services.common.client import Peer
from services.common.errors import Exhausted, FailedPrecondition, Unavailable
from tests.etcd_support import Etcd
from tests.ipam_support import (
    Calls,
    Ipam,
    database_path,
    network,
    refusal,
    socket_path,
    texts,
    write_cluster_settings,
    write_settings,
)

RANGES = ("10.0.0.0/24", "fd00::/120")
POOL = "node_prefix_v4 = 29\nnode_prefix_v6 = 125\nspare = 2\nrelease_after_seconds = 0.0\n"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """One member for all tests of this module; each has a root of its own."""
    with Etcd() as running:
        yield running


class Mortal:
    """ipam under `tests.killed`: one process after the other, each with the settings that are there when it starts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        argv = [sys.executable, "-m", "tests.killed", "services.ipam", str(directory)]
        with (directory / "log").open("ab") as log:
            self._launcher = subprocess.Popen(
                [*argv, "--config", str(directory / "podlane.toml")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
            )

    def _read(self) -> int:
        assert self._launcher.stdout is not None
        return int(self._launcher.stdout.readline())

    def start(self) -> None:
        assert self._launcher.stdin is not None
        self._launcher.stdin.write(b"\n")
        self._launcher.stdin.flush()
        self.handle = os.pidfd_open(self._read())

    def ended(self) -> bool:
        return bool(select.select([self.handle], [], [], 0)[0])

    async def ends(self) -> bool:
        """Whether the process ends within ten seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while not self.ended():
                    await asyncio.sleep(0.005)
        return self.ended()

    def end(self) -> None:
        """End the process by SIGKILL, if it hasn't ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        self._read()
        os.close(self.handle)

    def close(self) -> None:
        self._launcher.kill()
        self._launcher.communicate()

    @contextlib.asynccontextmanager
    async def calls(self) -> AsyncIterator[Calls]:
        peer = Peer("ipam", socket_path(self.directory), 30.0)
        await peer.start()
        try:
            yield Calls(peer)
        finally:
            await peer.stop()


async def allocated(calls: Calls, name: str) -> list[str]:
    """Addresses for `name`, asked for again while a claim is still on its way, as a runtime would."""
    while True:
        with contextlib.suppress(Exhausted, Unavailable):
            return texts((await calls.allocate(name)).allocation)
        await asyncio.sleep(0.02)


async def life(calls: Calls, answered: dict[str, list[str]], released: set[str]) -> None:
    """Allocate until two claims of each family are there, release all but one, until they are given back.

    Notes what was answered, and what was asked to be released.
    """
    for number in range(6):
        answered[f"c{number}"] = await allocated(calls, f"c{number}")
    for number in range(1, 6):
        released.add(f"c{number}")
        await calls.release(f"c{number}")
    while len((await calls.pools())[0].ranges) > 2:
        await asyncio.sleep(0.01)


async def settled(calls: Calls, etcd: Etcd, root: str, database: Path) -> None:
    """Wait until kvstore, disk and memory say the same, and no intent is left."""
    async with asyncio.timeout(30):
        while True:
            keys = etcd.ctl("get", "--prefix", f"{root}/state/pools/", "--keys-only").stdout.split()
            told = {key.rpartition("/")[2].replace("-", "/") for key in keys}
            with contextlib.closing(sqlite3.connect(database)) as connection:
                rows = dict(connection.execute("SELECT range, state FROM claims"))
            ranges = {network(one.prefix) for one in (await calls.pools())[0].ranges}
            if told == rows.keys() == ranges and set(rows.values()) == {"held"} and len(ranges) == 2:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("half", [0, 1])
async def test_a_kill_before_any_effect_leaves_nothing_for_good(tmp_path: Path, etcd: Etcd, half: int):
    service = Mortal(tmp_path)
    try:
        number = 1 + half
        survived = 0
        while survived < 2:
            root = f"t{uuid.uuid4().hex}"
            write_cluster_settings(tmp_path, etcd.endpoints, RANGES, root=root, pool=POOL)
            for file in (tmp_path / "lib").glob("ipam.sqlite*"):
                file.unlink()
            (tmp_path / "ipam.armed").write_text(f"{number} *")
            service.start()
            async with service.calls() as calls:
                answered: dict[str, list[str]] = {}
                released: set[str] = set()
                living = asyncio.create_task(life(calls, answered, released))
                while not (living.done() or service.ended()):
                    await asyncio.sleep(0.005)
                # A process that dies hangs up before it has ended: a life that failed waits for that end.
                died = service.ended() or (living.exception() is not None and await service.ends())
                if not died:
                    living.result()
                living.cancel()
                await asyncio.wait((living,))
            service.end()
            (tmp_path / "ipam.armed").unlink(missing_ok=True)

            service.start()
            async with service.calls() as calls:
                there = {name: texts(held) for name, held in (await calls.everything()).items()}
                kept = {name: addresses for name, addresses in answered.items() if name not in released}
                assert kept.items() <= there.items(), f"kill {number}"
                for name in there.keys() - {"c0"}:
                    await calls.release(name)
                await calls.allocate("c0")
                await settled(calls, etcd, root, database_path(tmp_path))
            service.end()
            survived += not died
            number += 2
        assert number >= 20, "the scenario has more effects than that"
    finally:
        service.close()


async def test_a_node_without_a_kvstore_goes_on_with_what_it_has_and_says_what_it_lacks(tmp_path: Path):
    with Etcd() as etcd:
        file = write_cluster_settings(tmp_path, etcd.endpoints, RANGES, pool=POOL)
        async with Ipam.running(tmp_path, file=file) as ipam:
            before = (await ipam.allocate("c1")).allocation
            await ipam.kill()
        etcd.kill()

        async with Ipam.running(tmp_path, file=file) as ipam:
            after = (await ipam.allocate("c2")).allocation
            assert after.addresses[0].gateway == before.addresses[0].gateway
            for number in range(3, 6):
                await ipam.allocate(f"c{number}")
            with pytest.raises(Exhausted, match="no further range could be claimed"):
                await ipam.allocate("c6")
            (pool,) = await ipam.pools()
            assert any("etcd" in problem for problem in pool.problems)
            reply = await ipam.peer.call(ipam.stub.ListClaims, pb.ListClaimsRequest(), timeout=30)
            assert len(reply.claims) == 2
            assert "etcd" in reply.error


async def test_the_first_start_without_a_kvstore_is_unavailable_and_is_over_when_it_comes(tmp_path: Path):
    with Etcd() as etcd:
        etcd.kill()
        file = write_cluster_settings(tmp_path, etcd.endpoints, RANGES, pool=POOL)
        async with Ipam.running(tmp_path, file=file) as ipam:
            with pytest.raises(Unavailable, match="has no IPv4 range on node 'a' yet: it waits for a pod CIDR"):
                await ipam.allocate("c1")
            (pool,) = await ipam.pools()
            assert list(pool.ranges) == []
            assert any("no IPv6 range is claimed yet" in problem for problem in pool.problems)
            assert pool.cluster

            etcd.start()
            while True:
                with contextlib.suppress(Unavailable):
                    assert texts((await ipam.allocate("c1")).allocation)
                    break


async def test_watchers_hear_of_ranges_and_do_not_hold_up_the_stop(tmp_path: Path, etcd: Etcd):
    file = write_cluster_settings(tmp_path, etcd.endpoints, RANGES, root=f"t{uuid.uuid4().hex}", pool=POOL)
    async with Ipam.running(tmp_path, file=file) as ipam:
        await ipam.allocate("c0")
        heard: asyncio.Queue[int] = asyncio.Queue()

        async def listen() -> None:
            async for reply in ipam.peer.stream(ipam.stub.WatchPools, pb.WatchPoolsRequest()):
                heard.put_nowait(len(reply.pools[0].ranges))

        listening = asyncio.create_task(listen())
        assert await heard.get() == 2
        for number in range(1, 6):
            await ipam.allocate(f"c{number}")
        while await heard.get() != 4:
            pass
        ipam.process.send_signal(signal.SIGTERM)
        await listening
        assert await ipam.process.wait() == 0


async def test_two_services_of_one_name_and_a_takeover_by_rpc(tmp_path: Path, etcd: Etcd):
    root = f"t{uuid.uuid4().hex}"
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    kept = POOL.replace("0.0", "3600.0")
    files = [
        write_cluster_settings(tmp_path / name, etcd.endpoints, ("10.0.0.0/28",), root=root, pool=kept)
        for name in ("1", "2")
    ]
    async with (
        Ipam.running(tmp_path / "1", file=files[0]) as one,
        Ipam.running(tmp_path / "2", file=files[1]) as two,
    ):
        await one.allocate("c1")
        await two.allocate("c1")
        mine, theirs = [
            {text for text, claim in (await ipam.claims()).items() if claim.state == pb.CLAIM_STATE_HELD}
            for ipam in (one, two)
        ]
        assert len(mine | theirs) == 2
        assert all(claim.state != pb.CLAIM_STATE_OTHER for claim in (await one.claims()).values())
        (other,) = theirs
        etcd.ctl("put", f"{root}/state/nodes/v1/a", "{}")
        claim = (await one.claims())[other]
        request = pb.TakeOverClaimRequest(range=claim.range, from_node="a")
        with pytest.raises(FailedPrecondition, match="is registered in the kvstore"):
            await one.peer.call(one.stub.TakeOverClaim, request, timeout=30)
        request.force = True
        await one.peer.call(one.stub.TakeOverClaim, request, timeout=30)

        async with asyncio.timeout(30):
            while not any("belongs to another node now" in problem for problem in (await two.pools())[0].problems):
                await asyncio.sleep(0.01)
        assert (await two.claims())[other].state == pb.CLAIM_STATE_LOST


@pytest.mark.parametrize(
    ("pool", "kvstore", "words"),
    [
        ("", "", "[kvstore] endpoints is not set"),
        ("node_prefix_v4 = 16\n", "x", "node_prefix_v4: a claim of /16 is larger than 10.0.0.0/24"),
        ("node_prefix_v4 = 31\n", "x", "node_prefix_v4: /31 is not between /1 and /30"),
        ("spare = 0\n", "x", "spare: 0 is not at least 1"),
        ("release_after_seconds = nan\n", "x", "release_after_seconds: nan is not at least 0"),
        ('ranges = ["10.1.0.0/24"]\n', "x", "cluster_ranges: it has ranges, too"),
        ('exclude = ["10.9.0.0/24"]\n', "x", "exclude[0]: 10.9.0.0/24 lies in none"),
    ],
)
async def test_settings_that_can_not_work_are_refused(tmp_path: Path, pool: str, kvstore: str, words: str):
    endpoints = ["http://127.0.0.1:1"] if kvstore else []
    file = write_cluster_settings(tmp_path, endpoints, ("10.0.0.0/24",), pool=pool)

    code, said = await refusal(tmp_path, file)

    assert code == 1
    assert words in said
    assert "Traceback" not in said


async def test_a_node_by_itself_loads_no_kvstore_client(tmp_path: Path):
    """Its memory is what a node by itself pays."""
    file = write_settings(tmp_path)
    code = (
        "import sys, json; from pathlib import Path; from services.common import configfile; "
        "from services.ipam.main import build; "
        f"build(configfile.load(Path({str(file)!r}), {{}})); print(json.dumps([n for n in sys.modules if 'etcd' in n]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    printed, _ = await process.communicate()
    assert json.loads(printed) == []
