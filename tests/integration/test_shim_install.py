"""The plugin's installation: what is written where, how it runs, how it goes."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest

from cni import install
from tests.shim_support import Plugin, Services


def files(directory: Path, pattern: str = "*") -> list[Path]:
    """Return what is below a directory."""
    return sorted(directory.rglob(pattern))


def test_plugin_and_configuration_are_written_where_they_are_asked_for(tmp_path: Path):
    written = install.install(tmp_path / "bin", tmp_path / "net.d", sockets={"ipam": Path("/x/ipam.sock")})

    plugin, conflist = written
    assert plugin.stat().st_mode & 0o777 == 0o755
    assert json.loads(conflist.read_text()) == {
        "cniVersion": "1.1.0",
        "name": "podlane",
        "plugins": [{"type": "podlane", "ipamSocket": "/x/ipam.sock", "capabilities": {"mac": True, "ips": True}}],
    }
    assert files(tmp_path, ".podlane.*") == []


def test_a_repeated_installation_replaces_and_a_repeated_removal_succeeds(tmp_path: Path):
    first = install.install(tmp_path / "bin", tmp_path / "net.d")
    assert install.install(tmp_path / "bin", tmp_path / "net.d") == first

    removed = install.uninstall(tmp_path / "bin", tmp_path / "net.d")

    assert set(first) <= set(removed)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert install.uninstall(tmp_path / "bin", tmp_path / "net.d") == []


def test_removal_leaves_what_others_put_there(tmp_path: Path):
    install.install(tmp_path / "bin", tmp_path / "net.d")
    (tmp_path / "bin" / "bridge").write_text("another plugin")
    (tmp_path / "net.d" / "20-other.conflist").write_text("{}")

    install.uninstall(tmp_path / "bin", tmp_path / "net.d")

    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"bridge", "20-other.conflist"}


@pytest.mark.parametrize("python", [Path("python3"), Path("/a path/python3"), Path("/" + "x" * 300)])
def test_an_interpreter_that_no_script_can_name_is_refused(tmp_path: Path, python: Path):
    with pytest.raises(install.InstallError, match="absolute path"):
        install.install(tmp_path / "bin", tmp_path / "net.d", python=python)
    assert not (tmp_path / "net.d").exists()


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(install.InstallError, match="/nowhere/python3"):
        install.install(tmp_path / "bin", tmp_path / "net.d", python=Path("/nowhere/python3"))
    assert not (tmp_path / "bin" / "podlane").exists()


async def test_the_plugin_writes_nothing_and_needs_neither_home_nor_working_directory(tmp_path: Path):
    plugin = Plugin.installed(tmp_path)
    before = files(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        f"rmdir {gone} && exec {plugin.executable}",
        env={"CNI_COMMAND": "VERSION"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        cwd=gone,
    )

    stdout, _ = await process.communicate()

    assert json.loads(stdout)["cniVersion"] == "1.1.0"
    assert files(tmp_path) == before


async def test_the_sources_do_the_work_when_the_interpreter_is_another_one(tmp_path: Path):
    plugin = Plugin.installed(tmp_path)
    bundle = plugin.executable.parent / ".podlane" / "podlane.bundle"
    bundle.write_bytes(b"\0\0\0\0" + bundle.read_bytes()[4:])
    async with Services(tmp_path) as services:
        outcome = await plugin.cni("ADD", services.conf())

    assert outcome.result
    assert files(tmp_path, "__pycache__") == []


def test_a_lib_dir_of_its_own_and_another_interpreter_are_used(tmp_path: Path):
    python = Path(sys.executable).resolve()
    plugin, _ = install.install(tmp_path / "bin", tmp_path / "net.d", lib_dir=tmp_path / "lib", python=python)

    assert plugin.read_text().startswith(f"#!{python} -IBS\n")
    assert (tmp_path / "lib" / "podlane.bundle").exists()
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["podlane"]


async def test_an_environment_that_is_gone_leaves_the_quick_way_working(tmp_path: Path):
    """The plugin needs the environment that it was installed from only for what goes through grpcio."""
    plugin = Plugin.installed(tmp_path)
    library = tmp_path / "bin" / ".podlane"
    shutil.rmtree(library / "cni")
    async with Services(tmp_path) as services:
        assert (await plugin.cni("ADD", services.conf())).result


async def test_no_module_of_the_fast_path_imports_what_is_slow(tmp_path: Path):
    """Which modules an ADD has loaded at its end, beyond those of the bare interpreter."""
    plugin = Plugin.installed(tmp_path)
    script = plugin.executable.read_text().replace("#!/usr/bin/python3 -IBS", "")
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import posix, sys\n"
        "before = set(sys.modules)\n"
        "leave = posix._exit\n"
        "def tell(code):\n"
        "    posix.write(2, ' '.join(sorted(set(sys.modules) - before)).encode())\n"
        "    leave(code)\n"
        "posix._exit = tell\n" + script
    )
    async with Services(tmp_path) as services:
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/python3",
            "-IBS",
            probe,
            env={"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, told = await process.communicate(json.dumps(services.conf()).encode())

    assert json.loads(stdout)["ips"]
    loaded = {name for name in told.decode().split() if not name.startswith("cni")}
    assert loaded == {"_json", "_socket", "errno", "gc"}
