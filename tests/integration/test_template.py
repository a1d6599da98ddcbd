"""Templates with a real clang, and with a script that stands for one where the compiler's manners matter."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.errors import Unavailable
from services.loader import headers
from services.loader.compile import CompileError
from services.loader.template import Templates, prebuild

BPF = Path(__file__).resolve().parents[2] / "bpf"
NODE, PLAIN, DEBUG = headers.node_config(), headers.ep_config({}), headers.ep_config({"debug": True})

# A clang that notes each run, waits for a file named `go` beside it, and then compiles.
SLOW = """#!/bin/sh
[ "$1" = --version ] && exec clang --version
echo run >> "$0.runs"
until [ -e "$0.go" ]; do sleep 0.01; done
[ -e "$0.fail" ] && { echo "x.c:1:1: error: told to fail" >&2; exit 1; }
exec clang "$@"
"""


class Slow:
    """The script and its files."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "slow-clang"
        self.path.write_text(SLOW)
        self.path.chmod(0o755)

    def let(self, what: str) -> None:
        Path(f"{self.path}.{what}").touch()

    def forget(self, what: str) -> None:
        Path(f"{self.path}.{what}").unlink()

    def runs(self) -> int:
        path = Path(f"{self.path}.runs")
        return len(path.read_text().splitlines()) if path.exists() else 0

    async def started(self) -> None:
        while not self.runs():
            await asyncio.sleep(0.005)


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


@pytest.fixture
async def templates(tmp_path: Path, slow: Slow) -> AsyncIterator[Templates]:
    templates = Templates(tmp_path / "templates", BPF, clang=str(slow.path))
    await templates.open()
    yield templates
    await templates.close()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name != "compiler.json"}


async def real(directory: Path) -> Templates:
    templates = Templates(directory, BPF)
    await templates.open()
    return templates


async def test_a_template_is_compiled_once_and_kept_in_memory_and_on_disk(tmp_path: Path) -> None:
    templates = await real(tmp_path)
    first = await templates.get(NODE, PLAIN)

    assert await templates.get(NODE, PLAIN) is first
    assert first.compile_us > 0
    assert first.code.programs == ("from_container", "policy", "to_container")
    assert names(tmp_path / first.hash) == {"bpf_lxc.o", "ep_config.h", "node_config.h", "template.json"}
    assert (tmp_path / first.hash / "ep_config.h").read_text() == PLAIN

    found = await (await real(tmp_path)).get(NODE, PLAIN)
    assert (found.hash, found.code, found.built, found.compile_us) == (first.hash, first.code, first.built, 0)


async def test_other_switches_are_another_template(tmp_path: Path) -> None:
    templates = await real(tmp_path)
    made = [await templates.get(NODE, header) for header in (PLAIN, DEBUG)]

    assert len({one.hash for one in made}) == 2
    assert templates.list() == made
    assert names(tmp_path) == {one.hash for one in made}


async def test_one_shape_gives_the_same_object_wherever_it_is_compiled(tmp_path: Path) -> None:
    made = [await (await real(tmp_path / name)).get(NODE, PLAIN) for name in ("one", "other")]

    assert made[0].code.content == made[1].code.content


async def test_however_many_wait_one_clang_runs(templates: Templates, slow: Slow) -> None:
    waiting = [asyncio.create_task(templates.get(NODE, PLAIN)) for _ in range(20)]
    await slow.started()
    slow.let("go")

    assert len({id(one) for one in await asyncio.gather(*waiting)}) == 1
    assert slow.runs() == 1


async def test_a_waiter_that_is_cancelled_leaves_the_others_alone(templates: Templates, slow: Slow) -> None:
    first, second = (asyncio.create_task(templates.get(NODE, PLAIN)) for _ in range(2))
    await slow.started()
    first.cancel()
    slow.let("go")

    assert (await second).compile_us > 0
    with pytest.raises(asyncio.CancelledError):
        await first
    assert slow.runs() == 1


async def test_a_failure_goes_to_all_who_wait_and_is_forgotten(templates: Templates, slow: Slow) -> None:
    slow.let("fail")
    waiting = [asyncio.create_task(templates.get(NODE, PLAIN)) for _ in range(3)]
    await slow.started()
    slow.let("go")
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert [str(one) for one in outcomes] == ["clang failed with exit code 1: x.c:1:1: error: told to fail"] * 3
    slow.forget("fail")
    assert (await templates.get(NODE, PLAIN)).compile_us > 0
    assert slow.runs() == 2


async def test_a_failure_that_nobody_waits_for_any_more_is_no_trouble(templates: Templates, slow: Slow) -> None:
    slow.let("fail")
    alone = asyncio.create_task(templates.get(NODE, PLAIN))
    await slow.started()
    alone.cancel()
    slow.let("go")
    with pytest.raises(CompileError):
        await templates.get(NODE, PLAIN)


async def test_closing_ends_the_running_compile(tmp_path: Path, slow: Slow) -> None:
    templates = Templates(tmp_path / "templates", BPF, clang=str(slow.path))
    await templates.open()
    waiting = asyncio.create_task(templates.get(NODE, PLAIN))
    await slow.started()
    await templates.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert names(tmp_path) == {"slow-clang", "slow-clang.runs"}


@pytest.mark.parametrize("damage", ["object", "meta", "header"])
async def test_a_damaged_template_is_compiled_anew(tmp_path: Path, damage: str) -> None:
    first = await (await real(tmp_path)).get(NODE, PLAIN)
    directory = tmp_path / first.hash
    match damage:
        case "object":
            content = bytearray((directory / "bpf_lxc.o").read_bytes())
            content[1000] ^= 1
            (directory / "bpf_lxc.o").write_bytes(content)
        case "meta":
            (directory / "template.json").write_text("{")
        case "header":
            (directory / "ep_config.h").unlink()

    again = await (await real(tmp_path)).get(NODE, PLAIN)

    assert (again.hash, again.code) == (first.hash, first.code)
    assert again.compile_us > 0


async def test_what_a_killed_compile_left_is_removed_at_the_start(tmp_path: Path) -> None:
    left = tmp_path / ".0123abcd.999"
    left.mkdir()
    (left / "bpf_lxc.o").write_bytes(b"half")
    await real(tmp_path)

    assert names(tmp_path) == set()


async def test_prebuilt_objects_need_no_compiler(tmp_path: Path) -> None:
    directory = await prebuild(tmp_path / "prebuilt", BPF, NODE, PLAIN)
    templates = Templates(tmp_path / "templates", BPF, prebuilt=tmp_path / "prebuilt", clang="/nowhere/clang")
    await templates.open()
    template = await templates.get(NODE, PLAIN)

    assert templates.compiler == ""
    assert template.compile_us == 0
    assert template.code.content == (directory / "bpf_lxc.o").read_bytes()
    assert json.loads((tmp_path / "templates" / template.hash / "template.json").read_text())["compiler"]


async def test_prebuilding_twice_compiles_once(tmp_path: Path) -> None:
    first = await prebuild(tmp_path, BPF, NODE, PLAIN)
    told = json.loads((first / "template.json").read_text())

    again = await prebuild(tmp_path, BPF, NODE, PLAIN)
    assert (again, json.loads((again / "template.json").read_text())) == (first, told)


async def test_without_compiler_and_prebuilt_object_the_error_says_what_to_do(tmp_path: Path) -> None:
    templates = Templates(tmp_path / "templates", BPF, clang="/nowhere/clang")
    await templates.open()
    with pytest.raises(Unavailable, match=r"no compiler .* install clang or set the endpoint's options back"):
        await templates.get(NODE, PLAIN)


async def test_a_compiler_that_is_installed_later_is_found(tmp_path: Path, slow: Slow) -> None:
    slow.path.rename(tmp_path / "elsewhere")
    templates = Templates(tmp_path / "templates", BPF, clang=str(slow.path))
    await templates.open()
    with pytest.raises(Unavailable, match="no compiler"):
        await templates.get(NODE, PLAIN)

    (tmp_path / "elsewhere").rename(slow.path)
    slow.let("go")

    assert (await templates.get(NODE, PLAIN)).compile_us > 0
    assert templates.compiler


async def test_a_broken_header_is_a_compile_error_with_clangs_words(tmp_path: Path) -> None:
    templates = await real(tmp_path)
    with pytest.raises(CompileError, match=r"clang failed with exit code 1: .*error:") as caught:
        await templates.get(NODE, "#error broken on purpose\n")

    assert "broken on purpose" in caught.value.log
    assert "-target bpf" in caught.value.log
