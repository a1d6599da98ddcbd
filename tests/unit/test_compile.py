"""The hash of a shape: everything that decides what clang writes is in it, and nothing else."""

import shutil
from pathlib import Path

import pytest

from services.common.errors import Unavailable
from services.loader.compile import CompileError, find_compiler, shape_hash, shape_key, sources_digest

BPF = Path(__file__).resolve().parents[2] / "bpf"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BPF, tmp_path / "bpf"))


def test_the_same_sources_elsewhere_have_the_same_digest(sources: Path) -> None:
    assert sources_digest(sources) == sources_digest(BPF)


def test_the_samples_and_the_documents_do_not_count(sources: Path) -> None:
    for name in ("ep_config.h", "node_config.h", "README.md"):
        (sources / name).write_text("something else")

    assert sources_digest(sources) == sources_digest(BPF)


@pytest.mark.parametrize("change", ["edit", "rename", "add", "swap"])
def test_any_change_of_the_sources_counts(sources: Path, change: str) -> None:
    lib = sources / "lib"
    match change:
        case "edit":
            (lib / "arp.h").write_text((lib / "arp.h").read_text() + "\n")
        case "rename":
            (lib / "arp.h").rename(lib / "arpx.h")
        case "add":
            (lib / "new.h").write_text("")
        case "swap":
            one, other = (lib / "arp.h").read_text(), (lib / "nd.h").read_text()
            (lib / "arp.h").write_text(other)
            (lib / "nd.h").write_text(one)

    assert sources_digest(sources) != sources_digest(BPF)


async def test_a_compiler_is_asked_once_until_it_is_another_one(tmp_path: Path) -> None:
    clang, remembered, asked = tmp_path / "clang", tmp_path / "compiler.json", tmp_path / "asked"
    script = f"#!/bin/sh\necho once >> {asked}\necho version $(wc -l < {asked})\n"
    clang.write_text(script)
    clang.chmod(0o755)

    found = [await find_compiler(str(clang), remembered) for _ in range(2)]
    assert [one.identity for one in found if one] == ["version 1", "version 1"]

    clang.write_text(f"{script}true\n")
    found = [await find_compiler(str(clang), remembered) for _ in range(2)]
    assert [one.identity for one in found if one] == ["version 2", "version 2"]

    for number, damage in enumerate(("", "{", "[]", '{"program": 1}'), 3):
        remembered.write_text(damage)
        again = await find_compiler(str(clang), remembered)
        assert again is not None
        assert again.identity == f"version {number}"
    clang.unlink()
    assert await find_compiler(str(clang), remembered) is None


def test_missing_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"the BPF source {tmp_path}/bpf_lxc.c can't be read"):
        sources_digest(tmp_path)


def test_headers_sources_and_compiler_are_all_in_the_hash() -> None:
    keys = {
        shape_key("sources", "node", "endpoint"),
        shape_key("other", "node", "endpoint"),
        shape_key("sources", "other", "endpoint"),
        shape_key("sources", "node", "other"),
        shape_key("sources", "endpoint", "node"),
        shape_key("sources", "nodeend", "point"),
    }

    assert len(keys) == 6
    assert len({shape_hash(key, compiler) for key in keys for compiler in ("clang 14", "clang 19")}) == 12


def test_a_compile_error_shows_the_first_error_and_how_to_repeat_it() -> None:
    error = CompileError(["clang", "-c", "a b.c"], 1, "x.c:1:2: warning: hm\nx.c:3:4: error: no such thing\nmore\n")

    assert str(error) == "clang failed with exit code 1: x.c:3:4: error: no such thing"
    assert error.log.startswith("clang -c 'a b.c'\n")
    assert error.fields == {"exit_code": "1"}


def test_a_compiler_that_dies_without_a_word_is_reported_too() -> None:
    assert str(CompileError(["clang"], -9, "")) == "clang failed with exit code -9: no message"
