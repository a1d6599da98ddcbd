"""Bad input to the installed plugin: one error object on stdout, the spec's code, the field's name, no traceback."""

import json
from pathlib import Path

import pytest

from tests.shim_support import Plugin

CONF = {"cniVersion": "1.1.0", "name": "podlane", "type": "podlane", "ipamSocket": "/nonexistent/ipam.sock"}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module", params=["podlane", "podlane-ipam"])
def either(plugin: Plugin, request: pytest.FixtureRequest) -> Plugin:
    """Each of the two plugins."""
    return Plugin(plugin.executable.with_name(request.param), plugin.conflist)


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "STATUS", "GC"])
@pytest.mark.parametrize(
    ("stdin", "code", "named"),
    [
        (b"", 6, "stdin"),
        (b"not json", 6, "stdin"),
        (b"[1, 2]", 6, "object"),
        (b"x" * (1 << 20), 6, "1048576 bytes"),
        (b" " * (9 << 20), 6, "stdin"),
        (b'{"name": "podlane"}', 1, "cniVersion"),
        (b'{"cniVersion": "3.0.0", "name": "podlane"}', 1, "3.0.0"),
        (b'{"cniVersion": "1.1.0"}', 7, "name"),
        (b'{"cniVersion": "1.1.0", "name": "../../etc"}', 7, "name"),
    ],
    ids=["empty", "text", "list", "1 MiB", "9 MiB", "no version", "odd version", "no name", "odd name"],
)
@pytest.mark.cni("EXEC-1", "EXEC-3")
async def test_odd_stdin_is_refused(either: Plugin, verb: str, stdin: bytes, code: int, named: str):
    outcome = await either.cni(verb, stdin)

    assert outcome.error["code"] == code
    assert named in outcome.error["msg"]
    assert len(outcome.stdout) < 1000


async def test_a_mebibyte_of_configuration_that_is_well_formed_is_read(plugin: Plugin):
    outcome = await plugin.cni("ADD", {**CONF, "comment": "x" * (1 << 20)})

    assert outcome.error["code"] == 11


@pytest.mark.parametrize("name", ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
@pytest.mark.cni("EXEC-7", "RESULT-4")
async def test_a_missing_variable_is_code_4_and_named(either: Plugin, name: str):
    outcome = await either.cni("ADD", CONF, without=name)

    assert outcome.error["code"] == 4
    assert name in outcome.error["msg"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_COMMAND", "INVENT"),
        ("CNI_CONTAINERID", "../x"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "sixteen-bytes-ab"),
        ("CNI_IFNAME", "eth 0"),
        ("CNI_IFNAME", "eth:0"),
        ("CNI_NETNS", "relative"),
        ("CNI_IFNAME", "\udcff"),
    ],
)
@pytest.mark.cni("EXEC-4", "EXEC-5")
async def test_a_malformed_variable_is_code_4_and_named(either: Plugin, name: str, value: str):
    outcome = await either.cni("ADD", CONF, **{name: value})

    assert outcome.error["code"] == 4
    assert name in outcome.error["msg"]


@pytest.mark.cni("EXEC-6")
async def test_malformed_cni_args_are_code_4(plugin: Plugin):
    outcome = await plugin.cni("ADD", CONF, arguments="K8S_POD_NAME")

    assert outcome.error["code"] == 4
    assert "CNI_ARGS" in outcome.error["msg"]


async def test_an_ill_typed_key_is_code_7_and_named(plugin: Plugin):
    outcome = await plugin.cni("ADD", {**CONF, "mtu": "1500"})

    assert outcome.error["code"] == 7
    assert "mtu" in outcome.error["msg"]


async def test_chaining_behind_a_plugin_that_gives_no_address_is_refused(plugin: Plugin):
    outcome = await plugin.cni("ADD", {**CONF, "prevResult": {"ips": []}})

    assert outcome.error["code"] == 7
    assert "prevResult has no address of eth0" in outcome.error["msg"]


@pytest.mark.cni("RESULT-3")
async def test_the_error_has_the_version_of_the_configuration(plugin: Plugin):
    outcome = await plugin.cni("ADD", {**CONF, "cniVersion": "0.4.0", "mtu": []})

    assert outcome.error["cniVersion"] == "0.4.0"


@pytest.mark.cni("RESULT-4")
async def test_a_bug_of_the_plugin_is_code_100_with_its_text(tmp_path: Path):
    broken = Plugin.installed(tmp_path)
    library = broken.executable.parent / ".podlane"
    source = library / "cni" / "config.py"
    source.write_text(
        source.read_text().replace("def parse(", "def parse(*_):\n    raise KeyError('surprise')\n\ndef unused(")
    )
    (library / "podlane.bundle").write_bytes(b"a bundle of another interpreter")

    error = (await broken.cni("ADD", CONF)).error

    assert error["code"] == 100
    assert "surprise" in error["msg"]
    assert "config.py" in error["details"]


@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
@pytest.mark.parametrize("name", ["podlane", "podlane-ipam"])
async def test_a_damaged_installation_says_so(tmp_path: Path, damage: str, name: str):
    damaged = Plugin.installed(tmp_path, name)
    bundle = damaged.executable.parent / ".podlane" / "podlane.bundle"
    if damage == "cut":
        bundle.write_bytes(bundle.read_bytes()[:1000])
    if damage == "gone":
        bundle.unlink()
    if damage == "empty":
        bundle.write_bytes(b"")
        for source in (bundle.parent / "cni").iterdir():
            source.unlink()

    outcome = await damaged.cni("ADD", CONF)

    assert (outcome.code, outcome.stderr) == (1, "")
    assert json.loads(outcome.stdout)["code"] == 100
    assert "installation" in outcome.json["msg"]
