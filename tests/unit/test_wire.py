"""Messages to values and back: what is written is read again, and what is wrong is named."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given, strategies
from podlane.common.v1 import types_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.model import AssignedAddress, Attachment, Phase, Pod, Route

ADDRESSES = strategies.ip_addresses()


@given(ADDRESSES)
def test_addresses_survive(address: IPv4Address | IPv6Address):
    assert wire.read_address(wire.write_address(address), "a") == address


@given(ADDRESSES, strategies.integers(0, 32))
def test_interfaces_and_networks_survive(address: IPv4Address | IPv6Address, length: int):
    interface = ip_interface((address, length))

    assert wire.read_interface(wire.write_interface(interface), "a") == interface
    assert wire.read_network(wire.write_network(interface.network), "a") == interface.network


@given(strategies.binary(min_size=6, max_size=6))
def test_hardware_addresses_survive(mac: bytes):
    assert wire.read_mac(wire.write_mac(mac), "mac") == mac


@given(strategies.floats(0, 4e9))
def test_times_survive_to_a_microsecond(seconds: float):
    assert abs(wire.read_time(wire.write_time(seconds)) - seconds) < 1e-6


def test_composed_values_survive():
    attachment = Attachment("net", "c0ffee", "eth0")
    assigned = AssignedAddress(ip_interface("10.0.0.2/32"), ip_address("10.0.0.1"), ip_network("10.0.0.0/24"))
    routes = [Route(ip_network("10.0.0.1/32")), Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), 1400)]
    phases = (Phase("load", 5), Phase("attach", 7))

    assert wire.read_attachment(wire.write_attachment(attachment), "owner") == attachment
    assert wire.read_pod(wire.write_pod(Pod("ns", "web", "u"))) == Pod("ns", "web", "u")
    assert wire.read_assigned(wire.write_assigned(assigned), "a") == assigned
    assert [wire.read_route(wire.write_route(route), "r") for route in routes] == routes
    assert wire.read_phases(wire.write_phases(phases)) == phases


def address(*packed: int) -> pb.IpAddress:
    return pb.IpAddress(packed=bytes(packed))


def prefix(length: int, *packed: int) -> pb.IpPrefix:
    return pb.IpPrefix(address=address(*packed), length=length)


V6 = [0xFD, *([0] * 15)]


@pytest.mark.parametrize(
    ("read", "message", "words"),
    [
        (wire.read_address, address(), "x: an IP address has 4 or 16 bytes, this one has 0"),
        (wire.read_address, address(1, 2, 3, 4, 5), "this one has 5"),
        (wire.read_interface, prefix(33, 10, 0, 0, 0), "x.length: 33 is longer than an IPv4 address"),
        (wire.read_interface, prefix(129, *V6), "x.length: 129 is longer than an IPv6 address"),
        (wire.read_network, prefix(24, 10, 0, 0, 7), "10.0.0.7/24 has host bits set; did you mean 10.0.0.0/24?"),
        (wire.read_mac, pb.MacAddress(packed=b"12345"), "a hardware address has 6 bytes, this one has 5"),
        (wire.read_attachment, pb.Attachment(), "x.network: a value is needed"),
        (wire.read_attachment, pb.Attachment(network="n", container_id="../etc"), "x.container_id"),
        (wire.read_attachment, pb.Attachment(network="n", container_id="c"), "x.ifname: an interface name is needed"),
        (
            wire.read_assigned,
            pb.AssignedAddress(address=prefix(32, 10, 0, 0, 2), gateway=address(*V6), range=prefix(8, 10, 0, 0, 0)),
            "must be of one family",
        ),
        (
            wire.read_route,
            pb.Route(destination=prefix(0, 0, 0, 0, 0), gateway=address(*V6)),
            "destination and gateway must be of one family",
        ),
    ],
)
def test_what_is_wrong_is_named(read: Any, message: Any, words: str):
    with pytest.raises(InvalidArgument) as refused:
        read(message, "x")

    assert words in refused.value.message


@pytest.mark.parametrize("name", ["a" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb", "a\0b", "é" * 8])
def test_names_that_the_kernel_does_not_take_are_refused(name: str):
    with pytest.raises(InvalidArgument, match="ifname"):
        wire.check_ifname(name, "ifname")


@pytest.mark.parametrize("name", ["eth0", "a" * 15, "net1.100", "é" * 7, "eth0@x"])
def test_names_that_the_kernel_takes_pass(name: str):
    assert wire.check_ifname(name, "ifname") == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "a\n", "ä"])
def test_names_outside_the_cni_alphabet_are_refused(name: str):
    with pytest.raises(InvalidArgument, match="network"):
        wire.check_name(name, "network")


def test_a_list_of_assigned_addresses_has_one_to_two_members_of_different_families():
    one = wire.write_assigned(
        AssignedAddress(ip_interface("10.0.0.2/32"), ip_address("10.0.0.1"), ip_network("10.0.0.0/24"))
    )

    assert len(wire.read_assigned_list([one], "addresses")) == 1
    with pytest.raises(InvalidArgument, match="addresses: at least one"):
        wire.read_assigned_list([], "addresses")
    with pytest.raises(InvalidArgument, match="addresses: at most one address per family"):
        wire.read_assigned_list([one, one], "addresses")


def test_a_network_from_text_names_the_field():
    assert wire.parse_network("10.0.0.0/8", "cidr") == ip_network("10.0.0.0/8")
    with pytest.raises(InvalidArgument, match="cidr: "):
        wire.parse_network("10.0.0.1/8", "cidr")


def test_times_for_people_are_utc_to_the_second():
    assert wire.iso(1_700_000_000.9) == "2023-11-14T22:13:20Z"
