"""The result of an ADD in each version of the specification."""

from typing import Any

import pytest
from podlane.common.v1 import types_pb2 as common
from podlane.loader.v1 import loader_pb2

from cni import result
from tests import shim_support


def build(version: str, route_mtu: int = 0, link: loader_pb2.Link | None = None) -> dict[str, Any]:
    return result.build(
        version,
        (link or shim_support.link()).SerializeToString(),
        [one.SerializeToString() for one in shim_support.assigned()],
        [one.SerializeToString() for one in shim_support.routes()],
        netns="/run/netns/pod-1",
        ifname="eth0",
        route_mtu=route_mtu,
    )


def test_the_newest_version_tells_everything():
    assert build("1.1.0", route_mtu=1400) == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "lxc0123456789ab", "mac": "02:00:00:00:00:aa", "mtu": 1500},
            {"name": "eth0", "mac": "02:00:00:00:00:bb", "sandbox": "/run/netns/pod-1", "mtu": 1500},
        ],
        "ips": [
            {"interface": 1, "address": "10.1.0.5/32", "gateway": "10.1.0.1"},
            {"interface": 1, "address": "fd00:1::5/128", "gateway": "fd00:1::1"},
        ],
        "routes": [
            {"dst": "10.1.0.1/32", "mtu": 1400},
            {"dst": "fd00:1::1/128", "mtu": 1400},
            {"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400},
            {"dst": "::/0", "gw": "fd00:1::1", "mtu": 1400},
        ],
    }


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
def test_old_versions_tell_the_family_of_each_address(version: str):
    assert [ip["version"] for ip in build(version)["ips"]] == ["4", "6"]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_mtu_is_told_only_since_the_newest_version(version: str):
    built = build(version, route_mtu=1400)

    assert not any("mtu" in one for one in built["interfaces"] + built["routes"])
    assert ("version" in built["ips"][0]) == version.startswith("0.")


def test_a_route_with_its_own_mtu_keeps_it():
    route = common.Route(destination=shim_support.prefix("0.0.0.0/0"), mtu=1300)

    built = result.build("1.1.0", b"", [], [route.SerializeToString()], netns="/n", ifname="eth0", route_mtu=1400)

    assert built["routes"] == [{"dst": "0.0.0.0/0", "mtu": 1300}]


def test_a_service_that_leaves_fields_out_fails_no_result():
    built = result.build("1.1.0", b"", [b""], [b""], netns="/n", ifname="eth0", route_mtu=0)

    assert built["interfaces"][1] == {"name": "eth0", "mac": "", "sandbox": "/n"}
    assert built["ips"] == [{"interface": 1, "address": "/0"}]
