"""Endpoints are found by every name that they have."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, cast

from services.common.model import AssignedAddress, Attachment, Pod
from services.endpoint.managed import ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, Link
from services.endpoint.registry import Registry


def managed(number: int, ifindex: int) -> ManagedEndpoint:
    """An endpoint as far as a registry looks at it."""
    owner = Attachment("podnet", f"c{number}", "eth0")
    link = Link(owner, "lxc1", ifindex, b"\2" * 6, b"\4" * 6)
    address = AssignedAddress(ip_interface(f"10.7.0.{number}"), ip_address("10.7.0.1"), ip_network("10.7.0.0/16"))
    endpoint = Endpoint(number, number, EndpointSpec(owner, Pod(), link, (address,)), 0.0, EndpointState.READY)
    holder: Any = type("Holder", (), {"endpoint": endpoint})()
    return cast("ManagedEndpoint", holder)


def test_an_endpoint_is_found_by_its_link_by_name_and_index() -> None:
    """A link of the same name with another index is another link."""
    registry, one = Registry(), managed(2, 7)
    registry.put(one)

    assert registry.linked("lxc1", 7) is one
    assert registry.linked("lxc1", 8) is registry.linked("lxc2", 7) is None
    registry.remove(one)
    assert registry.linked("lxc1", 7) is None


def test_of_two_endpoints_on_one_link_the_newer_one_is_found_and_survives_the_other() -> None:
    """That is a mistake of whoever made them; the collector finds the other one when the link goes."""
    registry, older, newer = Registry(), managed(2, 7), managed(3, 7)
    registry.put(older)
    registry.put(newer)
    registry.remove(older)

    assert registry.linked("lxc1", 7) is newer
