"""The plugin's installation: what is written where, how it runs, how it goes."""

import asyncio
import json
import shutil
import subprocess
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

    plugin, ipam_plugin, conflist = written
    assert [plugin.name, ipam_plugin.name] == ["podlane", "podlane-ipam"]
    assert {one.stat().st_mode & 0o777 for one in (plugin, ipam_plugin)} == {0o755}
    assert json.loads(conflist.read_text()) == {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "podlane",
        "plugins": [
            {
                "type": "podlane",
                "ipamSocket": "/x/ipam.sock",
                "capabilities": {"mac": True, "ips": True, "bandwidth": True},
            }
        ],
    }
    assert files(tmp_path, ".podlane.*") == []


def test_a_repeated_installation_replaces_and_a_repeated_removal_succeeds(tmp_path: Path):
    first = install.install(tmp_path / "bin", tmp_path / "net.d")
    assert install.install(tmp_path / "bin", tmp_path / "net.d") == first

    removed = install.uninstall(tmp_path / "bin", tmp_path / "net.d")

    assert set(first) <= set(removed)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert install.uninstall(tmp_path / "bin", tmp_path / "net.d") == []


def test_removal_leaves_what_others_put_there(tmp_path: Path):
    install.install(tmp_path / "bin", tmp_path / "net.d")
    (tmp_path / "bin" / "bridge").write_text("another plugin")
    (tmp_path / "net.d" / "20-other.conflist").write_text("{}")

    install.uninstall(tmp_path / "bin", tmp_path / "net.d")

    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"bridge", "20-other.conflist"}


def test_an_interpreter_by_a_relative_path_is_refused(tmp_path: Path):
    with pytest.raises(install.InstallError, match="absolute path"):
        install.install(tmp_path / "bin", tmp_path / "net.d", python=Path("python3"))
    assert not (tmp_path / "net.d").exists()


@pytest.mark.parametrize("name", ["a directory", "x" * 240])
def test_a_directory_that_no_script_can_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(install.InstallError, match="path without blanks"):
        install.install(tmp_path / name, tmp_path / "net.d")
    assert files(tmp_path) == []


def test_an_interpreter_that_would_not_start_is_refused_before_a_runtime_meets_it(tmp_path: Path):
    """One that runs scripts and knows nothing of python._pth: the way of a wrapper in a shell."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec /usr/bin/python3 "$@"\n')
    wrapper.chmod(0o755)

    with pytest.raises(install.InstallError, match="launch"):
        install.install(tmp_path / "bin", tmp_path / "net.d", python=wrapper)

    assert not (tmp_path / "bin" / "podlane").exists()


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
    assert files(bundle.parent / "cni", "__pycache__") == []


def test_a_lib_dir_of_its_own_and_another_interpreter_are_used(tmp_path: Path):
    python = Path(sys.executable).resolve()
    plugin, *_ = install.install(tmp_path / "bin", tmp_path / "net.d", lib_dir=tmp_path / "lib", python=python)

    assert plugin.read_text().startswith(f"#!{tmp_path / 'lib' / 'python'} -IBSXutf8\n")
    assert (tmp_path / "lib" / "python").readlink() == python
    assert sorted(path.name for path in (tmp_path / "bin").iterdir() if path.is_file()) == ["podlane", "podlane-ipam"]


async def test_an_environment_that_is_gone_leaves_the_quick_way_working(tmp_path: Path):
    """The plugin needs the environment that it was installed from only for what goes through grpcio."""
    plugin = Plugin.installed(tmp_path)
    library = tmp_path / "bin" / ".podlane"
    shutil.rmtree(library / "cni")
    async with Services(tmp_path) as services:
        assert (await plugin.cni("ADD", services.conf())).result


@pytest.mark.parametrize("name", [install.PLUGIN, install.IPAM_PLUGIN])
async def test_no_module_of_the_fast_path_imports_what_is_slow(tmp_path: Path, name: str):
    """Which modules an ADD has loaded at its end, beyond those of the bare interpreter."""
    plugin = Plugin.installed(tmp_path, name)
    interpreter = plugin.executable.parent / ".podlane" / "python"
    script = plugin.executable.read_text()
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
            interpreter,
            "-IBSXutf8",
            probe,
            env={"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        conf = services.conf() if name == install.PLUGIN else services.ipam_conf()
        stdout, told = await process.communicate(json.dumps(conf).encode())

    assert json.loads(stdout)["ips"]
    loaded = {name for name in told.decode().split() if not name.startswith("cni")}
    assert loaded == {"_json", "_socket", "errno", "gc", "launch"}


async def test_another_version_of_the_interpreter_in_the_same_place_runs_the_sources(tmp_path: Path):
    """What was compiled is of no use to it: neither the bundle nor what the interpreter imports at its start."""
    plugin = Plugin.installed(tmp_path)
    library = plugin.executable.parent / ".podlane"
    for compiled in [library / "podlane.bundle", *files(library / "start", "*.pyc")]:
        compiled.write_bytes(b"\0\0\0\0" + compiled.read_bytes()[4:])
    async with Services(tmp_path) as services:
        assert (await plugin.cni("ADD", services.conf())).result


def interpreter_says(plugin: Plugin, code: str) -> str:
    """Run code in the plugin's interpreter, as the plugin is run."""
    interpreter = plugin.executable.parent / ".podlane" / "python"
    argv = [str(interpreter), install.OPTIONS, "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, encoding="utf-8").stdout


def test_the_interpreter_has_utf_8_and_nothing_of_the_standard_librarys_codecs(tmp_path: Path):
    code = "import sys; print('ä€𝄞', *sorted(sys.modules)); assert sys.getfilesystemencoding() == 'utf-8'"
    told = interpreter_says(Plugin.installed(tmp_path), code)

    assert told.startswith("ä€𝄞 ")
    assert not {"codecs", "encodings.utf_8", "encodings.aliases"} & set(told.split())


def test_text_that_arrives_in_pieces_is_decoded_as_the_standard_library_does(tmp_path: Path):
    code = """
import encodings
first = encodings.UTF_8.incrementaldecoder("replace")
from encodings import utf_8
second = utf_8.IncrementalDecoder("replace")
text = "aä€𝄞".encode() + bytes([0xff, 0xe2, 0x82])
for at in range(len(text)):
    piece = text[at:at + 1]
    assert first.decode(piece) == second.decode(piece), at
    assert first.getstate() == second.getstate(), at
assert first.decode(b"", True) == second.decode(b"", True)
print("same")
"""
    assert interpreter_says(Plugin.installed(tmp_path), code) == "same\n"


@pytest.mark.parametrize(
    "wish",
    [
        "print('ä'.encode('latin-1') == b'\\xe4' and 'ä'.encode('cp1252') == b'\\xe4')",
        "import encodings.idna; print('bücher.example'.encode('idna') == b'xn--bcher-kva.example')",
        "import encodings; print(encodings.normalize_encoding('a-b') == 'a_b')",
        "import asyncio, logging, ssl, json; print(json.loads(b'true'))",
    ],
)
def test_whoever_wants_other_codecs_gets_the_standard_librarys(tmp_path: Path, wish: str):
    assert interpreter_says(Plugin.installed(tmp_path), wish) == "True\n"


def test_a_codec_that_nobody_has_is_an_ordinary_error(tmp_path: Path):
    code = "try: ''.encode('no-such-codec')\nexcept LookupError as error: print(error)"
    assert interpreter_says(Plugin.installed(tmp_path), code) == "unknown encoding: no-such-codec\n"
