"""Behind another plugin: what is read of prevResult, what is refused by name, what the result is."""

from typing import Any

import pytest
from podlane.common.v1 import types_pb2 as types

from cni.chain import ChainConfig, Previous
from cni.config import chains
from cni.spec import CniError, Environment

# As bridge with host-local answers, both families.
RESULT: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "br0", "mac": "02:00:00:00:00:01"},
        {"name": "veth1", "mac": "02:00:00:00:00:02"},
        {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/n"},
    ],
    "ips": [
        {"interface": 2, "address": "10.1.2.3/16", "gateway": "10.1.0.1"},
        {"interface": 2, "address": "fd00::7/64"},
    ],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {"nameservers": ["10.0.0.53"]},
    "somebody's": "own",
}
LINK = {"host_ifname": "veth1", "host_mac": {"packed": bytes([2, 0, 0, 0, 0, 9])}, "pod_mac": {"packed": bytes(6)}}


def environment(**variables: str) -> Environment:
    known = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0", **variables}
    return Environment({name.encode(): value.encode() for name, value in known.items()})


def read(**changes: Any) -> list[types.AssignedAddress]:
    addresses = Previous({**RESULT, **changes}, "eth0", "/n").addresses
    return [types.AssignedAddress.FromString(one) for one in addresses]


def refusal(work: Any) -> CniError:
    with pytest.raises(CniError) as raised:
        work()
    assert raised.value.code == 7
    return raised.value


def test_the_addresses_are_those_of_the_interface_with_its_router_or_themselves():
    four, six = read()

    assert (four.address.address.packed, four.address.length) == (bytes([10, 1, 2, 3]), 16)
    assert four.gateway.packed == bytes([10, 1, 0, 1])
    assert (four.range.address.packed, four.range.length) == (bytes([10, 1, 0, 0]), 16)
    assert six.gateway == six.address.address
    assert six.range.length == 64


def test_one_address_of_each_family_and_none_of_other_interfaces():
    ips = [
        {"interface": 1, "address": "10.9.9.9/24"},
        {"address": "10.1.2.3/16"},
        {"interface": 2, "address": "10.1.2.4/16"},
    ]

    (only,) = read(ips=ips)

    assert only.address.address.packed == bytes([10, 1, 2, 3])


def test_a_result_without_interfaces_has_addresses_of_the_only_one():
    ips = [{"address": "10.1.2.3/16"}]
    assert len(read(interfaces=[], ips=ips)) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ips": []}, "no address of eth0"),
        ({"ips": {}}, "no address of eth0"),
        ({"ips": "10.1.2.3"}, "prevResult.ips must be a list"),
        ({"ips": [1]}, "prevResult.ips must be a list"),
        ({"interfaces": [[]]}, "prevResult.interfaces must be a list"),
        ({"ips": [{"interface": 2}]}, "prevResult.ips[0].address"),
        ({"ips": [{"interface": 2, "address": "10.1.2.3"}]}, "needs a prefix length up to 32"),
        ({"ips": [{"interface": 2, "address": "10.1.2.3/33"}]}, "needs a prefix length up to 32"),
        ({"ips": [{"interface": 2, "address": "10.1.2/24"}]}, "is not an IP address"),
        ({"ips": [{"interface": 2, "address": "fd00::1/64", "gateway": "10.0.0.1"}]}, "not of the address's family"),
        ({"ips": [{"interface": 2, "address": "10.1.2.3/16", "gateway": 5}]}, "prevResult.ips[0].gateway"),
    ],
)
def test_what_cannot_be_read_is_named(changes: dict[str, Any], says: str):
    assert says in refusal(lambda: read(**changes)).message


@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_previous_result_is_an_object(value: Any):
    assert "prevResult must be an object" in refusal(lambda: Previous(value, "eth0", "/n")).message


@pytest.mark.cni("ADD-3")
def test_the_result_is_passed_on_with_what_it_lacked():
    told = Previous(RESULT, "eth0", "/n").amended("1.1.0", LINK)

    assert told == {
        **RESULT,
        "cniVersion": "1.1.0",
        "interfaces": [
            RESULT["interfaces"][0],
            {"name": "veth1", "mac": "02:00:00:00:00:09"},
            {"name": "eth0", "mac": "00:00:00:00:00:00", "sandbox": "/n"},
        ],
    }
    bare = Previous({"ips": [{"address": "10.1.2.3/16"}]}, "eth0", "/n").amended("1.0.0", LINK)
    assert [one["name"] for one in bare["interfaces"]] == ["veth1", "eth0"]
    assert bare["interfaces"][1]["sandbox"] == "/n"


@pytest.mark.parametrize("key", ["mtu", "routeMtu", "pool", "gsoMaxSize"])
def test_what_would_change_somebody_elses_interface_is_refused_by_name(key: str):
    error = refusal(lambda: ChainConfig({"prevResult": RESULT, key: 1}, environment()))
    assert error.message.startswith(f"{key} can't be set behind another plugin")


def test_pod_and_labels_are_read_as_anywhere():
    asked = ChainConfig(
        {"prevResult": RESULT, "labels": {"tier": "b"}},
        environment(CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;IP=1.2.3.4"),
    )
    assert (asked.pod["namespace"], asked.pod["name"], asked.labels) == ("shop", "web", {"tier": "b"})


@pytest.mark.parametrize(
    ("mode", "behind", "outcome"),
    [
        ("", False, False),
        ("", True, True),
        ("none", False, False),
        ("portmap", False, False),
        ("generic-veth", True, True),
        ("aws-cni", True, True),
        ("azure", True, True),
        ("flannel", True, True),
        ("none", True, "first plugin of the list"),
        ("portmap", True, "first plugin of the list"),
        ("generic-veth", False, "needs prevResult"),
        ("calico", False, "'calico' is not one of none, portmap, generic-veth"),
    ],
)
def test_mode_and_place_in_the_list_must_fit(mode: str, behind: bool, outcome: bool | str):
    document: dict[str, Any] = {"chaining-mode": mode} if mode else {}
    if behind:
        document["prevResult"] = RESULT
    if isinstance(outcome, str):
        assert outcome in refusal(lambda: chains(document)).message
    else:
        assert chains(document) is outcome
