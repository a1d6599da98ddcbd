"""Real maps and programs under a link that is only pretended: what happens when any step of a build fails.

The fake stands for links.py's and tc.py's part; that the real one behaves so is shown by test_loader_service.py.
"""

import dataclasses
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import FailedPrecondition, NotFound, Unavailable
from services.loader import adopt, libbpf
from services.loader.attach import Attachers
from services.loader.datapath import Datapath, entries_of
from services.loader.model import Direction, Level, PolicyEntry, policy_content
from services.loader.pins import Pins
from services.loader.template import Templates
from tests.bpf_sources import CLANG_REFUSES, CLANG_SAYS, VERIFIER_REFUSES, refusing
from tests.loader_bench import ALLOW, SPEC, V4, V6, Bench, FakeLink

pytestmark = pytest.mark.privileged

DENY = (PolicyEntry(Direction.INGRESS, deny=True),)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, with a switch that makes the verifier refuse and one that makes clang refuse."""
    return refusing(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "bpf"
    mount.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.fixture
async def bench(bpffs: Path, sources: Path, compiled: Path) -> AsyncIterator[Bench]:
    templates = Templates(compiled, sources)
    await templates.open()
    bench = Bench(bpffs.parent, templates)
    try:
        await bench.datapath.start()
        yield bench
    finally:
        bench.link.hold({})
        await bench.spares.stop()
        await bench.datapath.stop()
        await bench.blocking.stop()
        await templates.close()


async def test_a_first_build_puts_everything_in_force_and_publishes_last(bench: Bench) -> None:
    seen: list[tuple[str, int, bool, bool]] = []

    def look() -> None:
        slot = bench.datapath.call_policy.get(7) is not None
        published = bench.datapath.endpoints.get(V4) is not None
        seen.append((bench.link.calls[-1], len(bench.policy()), slot, published))

    bench.link.look = look
    outcome = await bench.build()

    assert seen == [("attach", 2, True, False), ("connect", 2, True, False)]
    assert (outcome.level, outcome.reason) == (Level.REWRITE_LOAD, "the endpoint has no programs yet")
    record, directories, slot, hooks, entries, _ = bench.snapshot()
    assert record == outcome.status.record
    assert directories == ["7"]
    assert {program.name: program.id for program in record.programs} == {**hooks, "policy": slot}
    assert entries == entries_of(SPEC)
    assert await bench.inventory.statuses() == [outcome.status]


@pytest.mark.parametrize("step", ["attach", "connect", "publish", "commit"])
async def test_a_first_build_that_fails_leaves_nothing(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = bench.snapshot()
    with fail(bench, step, monkeypatch), pytest.raises(Unavailable, match="was told to fail"):
        await bench.build()

    assert bench.snapshot() == nothing
    assert bench.link.connected is False


@pytest.mark.parametrize("step", ["attach", "connect", "publish", "commit"])
async def test_a_rebuild_that_fails_leaves_what_was_live(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the policy, which is what is wanted whatever becomes of the programs."""
    await bench.build()
    before = bench.snapshot()
    with fail(bench, step, monkeypatch), pytest.raises(Unavailable, match="was told to fail"):
        await bench.build(policy=DENY, identity=4712)

    assert bench.snapshot() == (*before[:-1], list(DENY))
    assert await bench.inventory.statuses() == [dataclasses.replace((await bench.inventory.statuses())[0], problems=())]


def fail(bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a step fail once."""
    if step == "publish":

        def put(_entry: object) -> None:
            monkeypatch.undo()
            raise Unavailable("publish was told to fail")

        monkeypatch.setattr(bench.datapath.endpoints, "put", put)
    elif step == "commit":

        def commit(_build: object) -> None:
            monkeypatch.undo()
            raise Unavailable("commit was told to fail")

        monkeypatch.setattr("services.loader.statedir.Build.commit", commit)
    else:
        bench.link.fail_at = step
    return monkeypatch.context()


@pytest.mark.parametrize("step", ["attach", "connect", "publish", "commit"])
async def test_a_first_build_with_spare_programs_that_fails_leaves_nothing(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # the second of a shape in a row has spares made
        await bench.build()
        await bench.regenerator.remove(7, 0)
    await bench.spares.fill()
    before = bench.snapshot()

    with fail(bench, step, monkeypatch), pytest.raises(Unavailable, match="was told to fail"):
        await bench.build()

    assert bench.spares.tally.taken == 1
    assert bench.snapshot() == before
    await bench.spares.fill()
    outcome = await bench.build()
    assert bench.spares.tally.taken == 2
    assert (await bench.inventory.statuses())[0].problems == ()
    assert "verify" not in {phase.name for phase in outcome.phases}


@pytest.mark.parametrize(("option", "says"), [(VERIFIER_REFUSES, "the kernel refused"), (CLANG_REFUSES, CLANG_SAYS)])
async def test_a_refused_program_leaves_what_was_live_and_its_log(bench: Bench, option: str, says: str) -> None:
    await bench.build()
    before = bench.snapshot()

    with pytest.raises(FailedPrecondition, match=says) as failure:
        await bench.build(options={option: True})

    log = bench.state.root / "7_next_fail" / "verifier.log"
    assert str(log) in failure.value.message
    assert log.stat().st_size
    assert (log.parent / "ep_config.h").exists()
    assert bench.snapshot() == (before[0], ["7", "7_next_fail"], *before[2:])
    assert (await bench.build(level=Level.NO_REBUILD)).level is Level.NO_REBUILD


async def test_level_1_changes_the_policy_and_no_program(bench: Bench) -> None:
    before = (await bench.build()).status.record

    outcome = await bench.build(level=Level.NO_REBUILD, policy=DENY)

    assert outcome.level is Level.NO_REBUILD
    assert outcome.status.record.programs == before.programs
    assert [one.entry for one in bench.policy()] == list(DENY)
    assert (await bench.inventory.statuses())[0].problems == ()
    assert bench.state.record(7) == outcome.status.record


async def test_a_failed_level_1_leaves_the_policy_that_is_wanted(bench: Bench) -> None:
    await bench.build()
    before = bench.snapshot()
    bench.link.fail_at = "connect"
    with pytest.raises(Unavailable, match="was told to fail"):
        await bench.build(level=Level.NO_REBUILD, policy=DENY)

    assert bench.snapshot() == (*before[:-1], list(DENY))


async def test_a_policy_is_no_part_of_the_record(bench: Bench) -> None:
    """So that a change of it touches nothing but the map."""
    await bench.build()
    inode = (bench.state.root / "7").stat().st_ino

    outcome = await bench.build(level=Level.NO_REBUILD, policy=DENY)

    assert outcome.changes == ("policy map policy_7: 1 entries written, 2 removed",)
    assert (bench.state.root / "7").stat().st_ino == inode
    assert outcome.status.policy == policy_content(DENY)
    assert await bench.inventory.statuses() == [outcome.status]


async def test_a_lost_header_is_written_again(bench: Bench) -> None:
    await bench.build()
    (bench.state.root / "7" / "ep_config.h").unlink()

    assert (await bench.build(level=Level.NO_REBUILD)).level is Level.NO_REBUILD

    assert bench.state.header(7) is not None
    assert bench.snapshot()[1] == ["7"]


async def test_level_1_becomes_2_when_the_configuration_has_changed(bench: Bench) -> None:
    before = (await bench.build()).status.record

    outcome = await bench.build(level=Level.NO_REBUILD, identity=4712)

    assert (outcome.level, outcome.reason) == (Level.REWRITE_LOAD, "the configuration has changed")
    assert {one.id for one in outcome.status.record.programs}.isdisjoint(one.id for one in before.programs)


async def test_an_identical_repeat_at_level_1_loads_and_writes_nothing(bench: Bench) -> None:
    await bench.build()
    before, inode = bench.snapshot(), (bench.state.root / "7").stat().st_ino

    outcome = await bench.build(level=Level.NO_REBUILD)

    assert (outcome.level, outcome.reason, outcome.changes) == (Level.NO_REBUILD, None, ())
    assert bench.snapshot() == before
    assert (bench.state.root / "7").stat().st_ino == inode
    assert bench.link.calls == ["attach", "connect", "connect"]


async def test_a_lost_program_is_reported_and_loaded_again(bench: Bench) -> None:
    await bench.build()
    bench.datapath.call_policy.clear(7)
    assert "call_policy[7] is empty: policy" in (await bench.inventory.statuses())[0].problems[0]

    outcome = await bench.build(level=Level.NO_REBUILD)

    assert outcome.level is Level.REWRITE_LOAD
    assert (await bench.inventory.statuses())[0].problems == ()


async def test_lost_map_entries_are_reported_and_mended_without_a_load(bench: Bench) -> None:
    await bench.build()
    bench.datapath.endpoints.delete(V6)
    with bench.datapath.policy(7) as policy:
        policy.sync(ALLOW[:1])
    (lost,) = await bench.inventory.statuses()
    assert lost.problems == ("the endpoint map does not lead fd00::9 to endpoint 7",)
    assert lost.policy == policy_content(ALLOW[:1])

    outcome = await bench.build(level=Level.NO_REBUILD)

    assert outcome.level is Level.NO_REBUILD
    (mended,) = await bench.inventory.statuses()
    assert (mended.problems, mended.policy) == ((), policy_content(ALLOW))


async def test_a_lost_policy_pin_is_reported_and_mended_with_new_programs(bench: Bench) -> None:
    """Programs go on using the map that lost its name: a new map needs new programs."""
    await bench.build()
    bench.datapath.unpin_policy(7)
    assert "the pin of policy map policy_7 is missing" in (await bench.inventory.statuses())[0].problems[0]

    outcome = await bench.build(level=Level.NO_REBUILD)

    assert outcome.level is Level.REWRITE_LOAD
    assert (await bench.inventory.statuses())[0].problems == ()


async def test_an_address_that_was_given_up_leads_nowhere(bench: Bench) -> None:
    await bench.build()

    await bench.build(addresses=(V4,))

    assert bench.datapath.endpoints.get(V6) is None
    assert (await bench.inventory.statuses())[0].problems == ()


async def test_a_newer_generation_takes_the_older_one_down_and_an_older_one_is_refused(bench: Bench) -> None:
    await bench.build(addresses=(V6,))

    await bench.build(generation=2, addresses=(V4,))

    assert bench.datapath.endpoints.get(V6) is None
    with pytest.raises(FailedPrecondition, match="belongs to generation 2"):
        await bench.build()
    with pytest.raises(FailedPrecondition, match="belongs to generation 2"):
        await bench.regenerator.remove(7, 1)


async def test_removing_leaves_nothing_and_can_be_repeated(bench: Bench) -> None:
    nothing = bench.snapshot()
    await bench.build()

    assert await bench.regenerator.remove(7, 1) is True

    assert bench.snapshot() == nothing
    assert bench.link.connected is False
    assert await bench.regenerator.remove(7, 1) is False


async def test_a_removal_that_fails_in_part_does_the_rest_and_can_be_repeated(bench: Bench) -> None:
    await bench.build()
    bench.link.fail_at = "disconnect"

    with pytest.raises(Unavailable, match="endpoint 7 is not wholly gone: disconnect was told to fail"):
        await bench.regenerator.remove(7, 0)

    assert bench.datapath.endpoints.get(V4) is None
    assert bench.datapath.call_policy.get(7) is None
    assert await bench.regenerator.remove(7, 0) is True
    assert bench.snapshot()[:2] == (None, [])


async def test_a_link_that_is_gone_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound, match="no link lxcgone with index 1"):
        await bench.build(host_ifname="lxcgone")


async def test_a_killed_first_build_is_taken_back(bench: Bench) -> None:
    """The kill comes after the attachment; the next loader finds `_next` and the kernel half done."""
    nothing = bench.snapshot()
    await bench.build()
    (bench.state.root / "7").rename(bench.state.root / "7_next")
    for address in (V4, V6):
        bench.datapath.endpoints.delete(address)

    assert await adopt.adopt(bench.state, bench.kernel) == 0

    assert bench.snapshot() == nothing
    assert bench.link.connected is False


async def test_a_first_build_killed_before_its_commit_is_committed(bench: Bench) -> None:
    await bench.build()
    before = bench.snapshot()
    (bench.state.root / "7").rename(bench.state.root / "7_next")

    assert await adopt.adopt(bench.state, bench.kernel) == 1

    assert bench.snapshot() == before


async def test_a_kill_between_exchange_and_removal_leaves_the_new_one_in_force(bench: Bench) -> None:
    await bench.build()
    shutil.copytree(bench.state.root / "7", bench.state.root / "7_next")
    await bench.build(identity=4712)
    await bench.build(identity=4713)
    before = bench.snapshot()
    shutil.copytree(bench.state.root / "7", bench.state.root / "8")
    (bench.state.root / "8").rename(bench.state.root / "7_next")

    assert await adopt.adopt(bench.state, bench.kernel) == 1

    assert bench.snapshot() == before


async def test_policy_maps_and_slots_of_nobody_are_swept_and_reachable_ones_are_not(bench: Bench) -> None:
    await bench.build()
    await bench.build(id=8, addresses=(V6,))
    for id_ in (7, 8):
        shutil.rmtree(bench.state.root / str(id_))
    bench.datapath.endpoints.delete(V4)
    bench.datapath.endpoints.delete(V6)
    await bench.build(id=8, addresses=(V6,))
    shutil.rmtree(bench.state.root / "8")

    assert await adopt.adopt(bench.state, bench.kernel) == 0

    assert not bench.datapath.has_policy(7)
    assert bench.datapath.call_policy.dump([7, 8]).keys() == {8}
    (stranger,) = await bench.inventory.statuses()
    assert (stranger.id, stranger.reachable) == (8, True)
    assert stranger.problems[0].endswith("regenerate or remove it")


async def test_a_pinned_map_that_does_not_fit_is_named(bpffs: Path) -> None:
    pins = Pins(bpffs)
    pins.maps.mkdir(parents=True)
    with libbpf.map_create(libbpf.MapType.HASH, "podlane_endpoints", 4, 4, 10) as stranger:
        libbpf.object_pin(stranger, pins.map("podlane_endpoints"))

    with pytest.raises(FailedPrecondition, match=str(pins.map("podlane_endpoints"))):
        await Datapath(pins, Attachers({}, "tc"), FakeLink()).start()


@pytest.fixture(autouse=True)
def own_namespace() -> Iterator[None]:
    from tests.netns_support import Netns

    with Netns() as namespace, namespace.enter():
        yield
