"""docs/cni-config.schema.json: it knows the keys that the plugins read, and takes and refuses what they do."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cni import install
from cni.config import Config, LinkConfig, chains
from cni.ipamconfig import AddressConfig, IpamConfig
from cni.spec import CniError, Environment

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "cni-config.schema.json").read_text())
OURS, IPAM = SCHEMA["$defs"]["podlane"], SCHEMA["$defs"]["podlane-ipam"]
BASE = {"cniVersion": "1.1.0", "name": "podlane", "type": "podlane"}
ENVIRONMENT = Environment(
    {b"CNI_COMMAND": b"ADD", b"CNI_CONTAINERID": b"c", b"CNI_NETNS": b"/n", b"CNI_IFNAME": b"eth0"}
)
# Of every kind that JSON has, at the borders; not 1e3, which JSON schema takes for a whole number.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1500, 3600, 3601, (1 << 32) - 1, 1 << 32, 1.5),
    *("", "x", "/x", "relative/x", "/" + "x" * 106, "/" + "x" * 107, "/a\0b"),
    *("info", "debug", "error", "none", "portmap", "generic-veth"),
    *([], ["10.0.0.1"], [1], [{}], [{"key": "a"}], [{"key": "a", "value": "b"}], [{"key": ""}], [{"key": 1}]),
    *([{"dst": "10.0.0.0/8"}], [{"dst": "10.0.0.0/8", "gw": "10.0.0.1", "mtu": 1400}], [{"gw": "10.0.0.1"}]),
    *(
        {},
        {"a": "b"},
        {"a": 1},
        {"a": True},
        {"bandwidth": {"x": 1}},
        {"bandwidth": 1},
        {"mac": "02:00:00:00:00:01"},
        {"mac": "02:00"},
        {"ips": ["10.0.0.1"]},
        {"ips": "x"},
    ),
    *({"cni": {"labels": [{"key": "a", "value": "b"}]}}, {"cni": []}, {"cni": {"labels": {}}}),
)


class Read(dict[str, Any]):
    """A configuration that knows which keys were read."""

    def __init__(self, *values: Any, **more: Any) -> None:
        """Begin with none."""
        super().__init__(*values, **more)
        self.keys_read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Note the key."""
        self.keys_read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        """Note the key."""
        self.keys_read.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        """Note the key."""
        self.keys_read.add(key)
        return super().__getitem__(key)


def add(document: dict[str, Any]) -> None:
    """Read all that an ADD of podlane reads. Raises CniError."""
    Config(document, "ADD")
    try:
        chains(document)
    except CniError as error:
        if "needs prevResult" not in error.message:
            raise
    LinkConfig(document, ENVIRONMENT)


def add_ipam(table: dict[str, Any]) -> None:
    """Read all that an ADD of podlane-ipam reads. Raises CniError."""
    document = {**BASE, "ipam": table}
    IpamConfig(document, "ADD")
    AddressConfig(document, ENVIRONMENT, "1.1.0")


def is_valid(schema: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether the schema takes it."""
    return bool(jsonschema.Draft202012Validator(schema).is_valid(document))


def accepts(work: Any, document: dict[str, Any]) -> bool:
    """Whether the plugin takes it."""
    try:
        work(document)
    except CniError as error:
        if error.code != 7:
            raise
        return False
    return True


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_it_has_the_keys_that_the_plugins_read():
    document, table = Read(BASE), Read(type="podlane-ipam")
    add(document)
    add_ipam(table)

    others = {"cniVersion", "name", "prevResult"}
    assert document.keys_read - others == OURS["properties"].keys() - {"type", "capabilities"}
    assert table.keys_read - {"type"} == IPAM["properties"].keys() - {"type"}


@pytest.mark.parametrize("key", sorted(OURS["properties"].keys() - {"type", "capabilities"}))
def test_podlane_takes_what_the_schema_takes(key: str):
    for value in VALUES:
        document = {**BASE, key: value}
        assert accepts(add, document) == is_valid(OURS, document), (key, value)


@pytest.mark.parametrize("key", sorted(IPAM["properties"].keys() - {"type"}))
def test_podlane_ipam_takes_what_the_schema_takes(key: str):
    for value in VALUES:
        table = {"type": "podlane-ipam", key: value}
        assert accepts(add_ipam, table) == is_valid(IPAM, table), (key, value)


def test_what_is_installed_is_valid():
    sockets = {one: Path(f"/run/{one}.sock") for one in ("ipam", "loader", "endpoint")}
    jsonschema.validate(json.loads(install.conflist(sockets, {"mtu": 1450})), SCHEMA)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_what_the_documentation_shows_is_valid(page: Path):
    for block in re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL):
        document = json.loads(block)
        if "plugins" in document:
            jsonschema.validate(document, SCHEMA)


def test_a_mistake_in_a_list_is_found():
    plugins = [{"type": "bridge", "ipam": {"type": "podlane-ipam", "pool": 5}}, {"type": "podlane", "mtu": "1500"}]
    document = {"cniVersion": "1.0.0", "name": "a", "plugins": plugins}
    found = {error.json_path for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)}
    assert found == {"$.plugins[0].ipam.pool", "$.plugins[1].mtu"}
