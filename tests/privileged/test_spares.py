"""Spare programs: whoever takes one has it alone, only what fits is taken, and nothing of them is left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP

from services.loader import libbpf, maps
from services.loader.blocking import Blocking
from services.loader.image import Images
from services.loader.libbpf import BpfError
from services.loader.objects import VARIABLES, Programs
from services.loader.policymaps import Policy
from services.loader.spares import Shape, Spares
from tests.bpf_support import ETHER, PEER_V4, POD_ID, POD_V4, REDIRECT, SHOT, Datapath, compiled, constants

pytestmark = pytest.mark.privileged
OTHER = constants(addresses=[ip_address(POD_V4)])


class Bench:
    """Two spares at most, on the maps of a datapath."""

    def __init__(self, images: Images, datapath: Datapath) -> None:
        self.datapath = datapath
        self.shared = {name: fd for name, fd in datapath.fds.items() if name != maps.POLICY}
        self.missed = 0
        self.spares = Spares(images, 2, missing=self._miss)

    def _miss(self) -> None:
        self.missed += 1

    def shape(self, values: Any = None, **changes: Any) -> Shape:
        return Shape("t", compiled(), values or constants(**changes), self.shared)

    async def filled(self) -> Spares:
        self.spares.prepare(self.shape())
        await self.spares.fill()
        return self.spares


def descriptors() -> int:
    """Return how many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def described(programs: Programs) -> dict[str, tuple[bytes, int]]:
    """Return tag and instructions of each program."""
    infos = {name: libbpf.program_info(fd) for name, fd in programs.fds.items()}
    return {name: (info.tag, info.instructions) for name, info in infos.items()}


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    with Datapath() as datapath:
        yield datapath


@pytest.fixture
async def bench(datapath: Datapath) -> AsyncIterator[Bench]:
    blocking = Blocking()
    bench = Bench(Images(blocking), datapath)
    yield bench
    await bench.spares.stop()
    await blocking.stop()


async def test_a_spare_is_the_endpoints_that_takes_it(bench: Bench):
    spares = await bench.filled()

    one, two = spares.take(bench.shape(endpoint_id=8)), spares.take(bench.shape())

    assert one is not None
    assert two is not None
    with closing(one), closing(two):
        Policy(two.policy).sync(bench.datapath.allow_all().policy.entries())
        packet = ETHER / IP(src=POD_V4, dst=PEER_V4) / TCP(dport=80)
        verdicts = []
        bench.datapath.programs.close()
        for spare in (one, two):
            bench.datapath.programs = spare.programs
            bench.datapath.call_policy.set(8, spare.programs["policy"])
            verdicts.append(bench.datapath.send(packet).verdict)
        # The first has an empty policy map of its own, and the packet that it drops is counted as its own endpoint's.
        assert verdicts == [SHOT, REDIRECT]
        assert {one.endpoint_id for one in bench.datapath.metrics.dump()} == {8}
        forged = ETHER / IP(src="192.0.2.1", dst=PEER_V4) / TCP(dport=80)
        assert bench.datapath.send(forged).verdict == SHOT
        assert {one.endpoint_id for one in bench.datapath.metrics.dump()} == {8, POD_ID}


async def test_they_are_the_programs_that_a_load_gives(bench: Bench):
    spares = await bench.filled()
    spare = spares.take(bench.shape())
    assert spare is not None
    with closing(spare):
        infos = [
            {
                name: (info.tag, info.instructions)
                for name, info in ((n, libbpf.program_info(fd)) for n, fd in of.items())
            }
            for of in (spare.programs.fds, bench.datapath.programs.fds)
        ]
    assert infos[0] == infos[1]


async def test_programs_cant_write_whose_they_are(bench: Bench):
    spares = await bench.filled()
    spare = spares.take(bench.shape())
    assert spare is not None
    with closing(spare):
        assert libbpf.map_info(spare.variables).flags & libbpf.RDONLY_PROG


@pytest.mark.parametrize(
    "unlike",
    [
        lambda bench: bench.shape(OTHER),
        lambda bench: bench.shape(chained=True),
        lambda bench: bench.shape(gateways=[ip_address("10.9.9.1")]),
        lambda bench: Shape("another", compiled(), constants(), bench.shared),
        lambda bench: Shape("t", compiled(), constants(), {**bench.shared, maps.METRICS: bench.shared[maps.PACKET]}),
    ],
    ids=["families", "chained", "gateways", "template", "maps"],
)
async def test_what_doesnt_fit_is_not_taken_and_twice_in_a_row_is_the_new_habit(
    bench: Bench, unlike: Callable[[Bench], Shape]
):
    spares = await bench.filled()

    assert spares.take(unlike(bench)) is None
    assert len(spares) == 2
    fitting = spares.take(bench.shape())
    assert fitting is not None
    fitting.close()
    assert spares.take(unlike(bench)) is None
    assert len(spares) == 1
    assert spares.take(unlike(bench)) is None
    assert len(spares) == 0
    assert (spares.tally.taken, spares.tally.missed) == (1, 3)


async def test_who_takes_one_has_another_made(bench: Bench):
    spares = await bench.filled()
    before = bench.missed

    for _ in range(2):
        spare = spares.take(bench.shape())
        assert spare is not None
        spare.close()

    assert spares.take(bench.shape()) is None
    assert bench.missed > before
    await spares.fill()
    assert len(spares) == 2


async def test_none_is_made_while_endpoints_are_regenerated(bench: Bench):
    bench.spares.prepare(bench.shape())
    with bench.spares.wait():
        filling = asyncio.create_task(bench.spares.fill())
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(bench.spares) == 0
        assert not filling.done()

    await filling

    assert len(bench.spares) == 2


async def test_one_that_is_of_another_shape_when_it_is_ready_is_closed(bench: Bench):
    spares = await bench.filled()
    before = descriptors()
    spares.prepare(bench.shape(OTHER))
    filling = asyncio.create_task(spares.fill())
    await asyncio.sleep(0)

    spares.prepare(bench.shape())
    await filling

    assert len(spares) == 2
    assert descriptors() == before


async def test_those_that_nobody_took_are_closed(bench: Bench):
    before = descriptors()
    await bench.filled()
    assert descriptors() > before

    await bench.spares.stop()

    assert descriptors() == before
    assert bench.spares.take(bench.shape()) is None


async def test_a_load_that_fails_leaves_no_descriptor(bench: Bench):
    bench.shared[maps.METRICS] = bench.datapath.fds[maps.PACKET]
    bench.spares.prepare(bench.shape())
    before = descriptors()

    with pytest.raises(Exception, match="refused"):
        await bench.spares.fill()

    assert descriptors() == before


async def test_variables_that_the_kernel_refuses_are_an_error_and_close_the_spare(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    spares = await bench.filled()
    before = descriptors()

    def refused(*_: object) -> None:
        raise BpfError(12, "bpf_map_update_elem", VARIABLES)

    with monkeypatch.context() as patched:
        patched.setattr(libbpf, "map_update", refused)
        with pytest.raises(BpfError):
            spares.take(bench.shape())

    assert len(spares) == 1
    assert descriptors() < before
