"""What the configuration gives out, and what it refuses."""

from ipaddress import ip_address

import pytest

from services.common.config import PoolSettings
from services.common.errors import InvalidArgument
from services.ipam.poolplan import plan
from services.ipam.ranges import Range, gateways


def only(cidr: str, *exclude: str) -> Range:
    return plan((PoolSettings("default", (cidr,), exclude),))[0].ranges[0]


def usable(one: Range) -> list[str]:
    kind = type(one.prefix.network_address)
    return [str(kind(address)) for first, last in one.spans for address in range(first, last + 1)]


@pytest.mark.parametrize(
    ("cidr", "gateway", "rest"),
    [
        ("10.0.0.0/29", "10.0.0.1", [f"10.0.0.{n}" for n in (2, 3, 4, 5, 6)]),
        ("10.0.0.0/30", "10.0.0.1", ["10.0.0.2"]),
        ("10.0.0.0/31", "10.0.0.0", ["10.0.0.1"]),
        ("fd00::/125", "fd00::1", [f"fd00::{n}" for n in (2, 3, 4, 5, 6, 7)]),
        ("fd00::/126", "fd00::1", ["fd00::2", "fd00::3"]),
        ("fd00::/127", "fd00::", ["fd00::1"]),
    ],
)
def test_special_addresses_and_the_gateway_are_not_given_out(cidr: str, gateway: str, rest: list[str]):
    one = only(cidr)

    assert one.gateway == ip_address(gateway)
    assert usable(one) == rest
    assert one.size == len(rest)


@pytest.mark.parametrize(
    ("single", "more"), [("10.9.9.9/32", "10.0.0.0/30"), ("fd09::9/128", "fd00::/126")], ids=["IPv4", "IPv6"]
)
def test_a_first_range_of_one_address_names_the_gateway(single: str, more: str):
    ranges = plan((PoolSettings("default", (single, more)),))[0].ranges

    assert [str(one.gateway) for one in ranges] == [single.split("/", maxsplit=1)[0]] * 2
    assert ranges[0].size == 0
    assert usable(ranges[1])[0].endswith("1")


def test_all_ranges_of_a_family_share_the_nodes_first_gateway():
    pools = plan((PoolSettings("a", ("10.1.0.0/24", "fd01::/64")), PoolSettings("b", ("10.2.0.0/24", "fd02::/64"))))

    gateways = {str(one.gateway) for pool in pools for one in pool.ranges}

    assert gateways == {"10.1.0.1", "fd01::1"}
    assert usable(pools[1].ranges[0])[0] == "10.2.0.1"


def test_a_delegated_pools_ranges_have_their_own_gateways_and_the_node_has_none_of_them():
    pools = plan(
        (
            PoolSettings("bridge", ("10.9.0.0/29", "10.9.1.0/29", "fd09::/120"), ("10.9.1.1",), delegated=True),
            PoolSettings("default", ("10.0.0.0/24", "fd00::/120")),
        )
    )

    assert [str(one.gateway) for one in pools[0].ranges] == ["10.9.0.1", "10.9.1.2", "fd09::1"]
    assert not any(one.usable(int(one.gateway)) for one in pools[0].ranges)
    assert [str(one.gateway) for one in pools[1].ranges] == ["10.0.0.1", "fd00::1"]
    assert {family: str(one) for family, one in gateways(pools).items()} == {4: "10.0.0.1", 6: "fd00::1"}


def test_exclusions_are_cut_out_and_move_the_gateway():
    one = only("10.0.0.0/28", "10.0.0.1", "10.0.0.4/30", "10.0.0.14/31")

    assert str(one.gateway) == "10.0.0.2"
    assert usable(one) == [f"10.0.0.{n}" for n in (3, 8, 9, 10, 11, 12, 13)]


@pytest.mark.parametrize(
    ("address", "why"),
    [("10.0.0.1", "gateway"), ("10.0.0.4", "excluded by 10.0.0.4/32"), ("10.0.0.7", "network or broadcast")],
)
def test_why_an_address_is_not_given_out(address: str, why: str):
    one = only("10.0.0.0/29", "10.0.0.4")

    assert not one.usable(int(ip_address(address)))
    assert why in one.why_not(ip_address(address))


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ((), "at least one pool"),
        ((PoolSettings("default", ()),), "'default' ranges: at least one"),
        ((PoolSettings("default", ("10.0.0.0/33",)),), "ranges[0]: '10.0.0.0/33' does not appear"),
        ((PoolSettings("default", ("10.0.0.1/24",)),), "has host bits set"),
        ((PoolSettings("default", ("10.0.0.0/24", "ten")),), "ranges[1]: 'ten'"),
        ((PoolSettings("default", ("224.0.0.0/24",)),), "no unicast"),
        ((PoolSettings("default", ("127.0.0.0/24",)),), "no unicast"),
        ((PoolSettings("b ad", ("10.0.0.0/24",)),), "'b ad' must begin with"),
        ((PoolSettings("default", ("10.0.0.0/24",), mtu=67),), "mtu: 67"),
        ((PoolSettings("default", ("10.0.0.0/24",), ("10.0.1.7",)),), "exclude[0]: 10.0.1.7/32 lies in none"),
        ((PoolSettings("default", ("10.0.0.0/24",), ("x",)),), "exclude[0]: 'x'"),
        ((PoolSettings("default", ("10.0.0.0/24", "10.0.0.128/25")),), "10.0.0.0/24 of pool 'default' overlaps"),
        ((PoolSettings("a", ("10.0.0.0/25",)), PoolSettings("b", ("10.0.0.0/24",))), "pool 'a' overlaps 10.0.0.0/24"),
        ((PoolSettings("a", ("10.0.0.0/24",)), PoolSettings("a", ("10.1.0.0/24",))), "two pools are named 'a'"),
        ((PoolSettings("a", ("10.0.0.0/32",)),), "nothing is left to give out in IPv4"),
        ((PoolSettings("a", ("fd00::/64",), ("fd00::/60",)),), "all of that is excluded"),
        ((PoolSettings("a", ("10.0.0.0/32",), delegated=True),), "nothing is left to give out in IPv4"),
        (
            (PoolSettings("a", ("10.0.0.0/24", "10.0.1.0/24"), ("10.0.1.0/24",), delegated=True),),
            "its IPv4 gateway is the first address of 10.0.1.0/24, and all of that is excluded",
        ),
        ((PoolSettings("a", cluster_ranges=("10.0.0.0/16",), delegated=True),), "delegated: it has cluster_ranges"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_name(pools: tuple[PoolSettings, ...], words: str):
    with pytest.raises(InvalidArgument) as refused:
        plan(pools)

    assert words in refused.value.message
