"""podlane-ipam, the installed IPAM plugin: what it refuses of configurations and arguments, and what it passes over."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.shim_ipam_support import IPS
from tests.shim_support import Plugin, Services


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"), "podlane-ipam")


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("ipam", "named"),
    [
        ("podlane-ipam", "ipam"),
        ([], "ipam"),
        ({"pool": 5}, "ipam.pool"),
        ({"ipamSocket": "relative.sock"}, "ipam.ipamSocket"),
        ({"ipamSocket": 5}, "ipam.ipamSocket"),
        ({"ipamSocket": "/" + "x" * 200}, "ipam.ipamSocket"),
        ({"timeoutSeconds": "5"}, "ipam.timeoutSeconds"),
        ({"timeoutSeconds": 0}, "ipam.timeoutSeconds"),
        ({"logFile": "log"}, "ipam.logFile"),
        ({"logLevel": "loud"}, "ipam.logLevel"),
        ({"dns": []}, "ipam.dns"),
        ({"routes": {}}, "ipam.routes"),
        ({"routes": None}, "ipam.routes"),
        ({"routes": [5]}, "ipam.routes[0]"),
        ({"routes": [{"dst": "10.0.0.0/8"}, {}]}, "ipam.routes[1].dst"),
        ({"routes": [{"dst": 5}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.0"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.0/33"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.1/8"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "default/0"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]}, "ipam.routes[0].gw"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "10.0.0.1/8"}]}, "ipam.routes[0].gw"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": 5}]}, "ipam.routes[0].gw"),
        ({"routes": [{"dst": "10.0.0.0/8", "mtu": "1400"}]}, "ipam.routes[0].mtu"),
        ({"routes": [{"dst": "10.0.0.0/8", "mtu": -1}]}, "ipam.routes[0].mtu"),
    ],
)
async def test_an_ill_typed_key_is_code_7_and_named(plugin: Plugin, services: Services, ipam: Any, named: str):
    error = (await plugin.cni("ADD", services.ipam_conf(ipam=ipam))).error

    assert error["code"] == 7
    assert error["msg"].startswith(named)
    assert services.calls == []


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"runtimeConfig": {"ips": "10.1.0.5"}}, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ips": ["10.1.0.5", "10.1.0.6"]}}, "runtimeConfig.ips"),
        ({"runtimeConfig": []}, "runtimeConfig"),
        ({"args": {"cni": {"ips": [5]}}}, "args.cni.ips"),
        ({"args": {"cni": {"ips": ["x"]}}}, "args.cni.ips"),
        ({"args": {"cni": 5}}, "args.cni"),
        ({"args": 5}, "args"),
    ],
)
async def test_ill_typed_wishes_for_addresses_are_code_7_and_named(
    plugin: Plugin, services: Services, keys: dict[str, Any], named: str
):
    error = (await plugin.cni("ADD", services.ipam_conf(**keys))).error

    assert error["code"] == 7
    assert error["msg"].startswith(named)


@pytest.mark.parametrize("arguments", ["IP=x", "IP=10.1.0.5,10.1.0.6", "SURPRISE=1", "IP"])
async def test_odd_arguments_are_code_4(plugin: Plugin, services: Services, arguments: str):
    error = (await plugin.cni("ADD", services.ipam_conf(), arguments=arguments)).error

    assert error["code"] == 4
    assert "CNI_ARGS" in error["msg"]


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "STATUS", "GC"])
async def test_a_configuration_without_ipam_says_what_the_plugin_is_for(plugin: Plugin, services: Services, verb: str):
    error = (await plugin.cni(verb, services.conf())).error

    assert error["code"] == 7
    assert "ipam.type" in error["msg"]


@pytest.mark.cni("CONF-4")
async def test_unknown_keys_are_ignored(plugin: Plugin, services: Services):
    conf = services.ipam_conf(ipam={"ranges": [[{"subnet": 5}]], "dataDir": []}, bridge="cni0", mtu="many")

    assert (await plugin.cni("ADD", conf)).result["ips"] == IPS


@pytest.mark.parametrize(("verb", "version"), [("STATUS", "1.0.0"), ("GC", "1.0.0"), ("CHECK", "0.3.1")])
async def test_a_verb_of_a_later_version_is_code_1(plugin: Plugin, services: Services, verb: str, version: str):
    assert (await plugin.cni(verb, services.ipam_conf(cniVersion=version))).error["code"] == 1
