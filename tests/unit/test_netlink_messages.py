"""Every message that is sent or read, held against pyroute2's idea of it."""

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from services.common.model import Route
from services.loader import netlink_messages, rtnl, rtnl_ip, rtnl_rule, tc
from services.loader.linkspec import OffloadSizes, Rule
from services.loader.netlink_messages import AnswerLost, Request
from services.loader.rtnl import EndOfPair

MAC, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ROUTE4 = Route(ip_network("10.0.0.0/24"), ip_address("10.0.0.1"), 1450)
ROUTE6 = Route(ip_network("::/0"), ip_address("fd00::1"))


def read(kind: Callable[[bytes], Any], request: Request) -> Any:
    """What pyroute2 reads in a message of ours."""
    message = kind(netlink_messages.pack(request, 77))
    message.decode()
    assert message["header"]["type"] == request.type
    assert message["header"]["sequence_number"] == 77
    assert message["header"]["flags"] == 0x5 | request.flags
    return message


def test_a_veth_pair():
    sizes = OffloadSizes(1, 2, 3, 4)
    message = read(
        ifinfmsg,
        rtnl.new_veth(
            EndOfPair("lxc0", MAC, 1500, offload=sizes), EndOfPair("eth0", OTHER, 1500, netns_fd=9, offload=sizes)
        ),
    )

    assert message.get_attr("IFLA_IFNAME") == "lxc0"
    assert message.get_attr("IFLA_ADDRESS") == "02:00:00:00:00:01"
    assert message.get("flags") == 0
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    peer = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_NET_NS_FD") == 9
    for end in (message, peer):
        assert (end.get_attr("IFLA_MTU"), end.get_attr("IFLA_TXQLEN")) == (1500, 1000)
        assert (end.get_attr("IFLA_NUM_TX_QUEUES"), end.get_attr("IFLA_NUM_RX_QUEUES")) == (1, 1)
        assert (end.get_attr("IFLA_GSO_MAX_SIZE"), end.get_attr("IFLA_GRO_MAX_SIZE")) == (1, 2)


def test_a_changed_link():
    message = read(
        ifinfmsg,
        rtnl.set_link(ifindex=7, up=True, noarp=False, mac=MAC, mtu=1400, group=3),
    )

    assert (message["index"], message["flags"], message["change"]) == (7, 0x1, 0x81)
    assert message.get_attr("IFLA_ADDRESS") == "02:00:00:00:00:01"
    assert (message.get_attr("IFLA_MTU"), message.get_attr("IFLA_GROUP")) == (1400, 3)


def test_a_link_without_an_address_of_its_own():
    message = read(ifinfmsg, rtnl.no_link_local("lxc0"))

    assert message.get_attr("IFLA_IFNAME") == "lxc0"
    assert message.get_nested("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_ADDR_GEN_MODE") == 1


def test_what_is_not_to_change_is_not_in_the_message():
    message = read(ifinfmsg, rtnl.set_link(ifname="lxc0"))

    assert (message["flags"], message["change"]) == (0, 0)
    assert [name for name, _ in message["attrs"]] == ["IFLA_IFNAME"]


def test_looking_for_and_deleting_links():
    asked = read(ifinfmsg, rtnl.get_link(ifindex=2, netnsid=4))
    assert (asked["index"], asked.get_attr("IFLA_IF_NETNSID")) == (2, 4)
    assert read(ifinfmsg, rtnl.delete_link(ifname="lxc0")).get_attr("IFLA_IFNAME") == "lxc0"
    assert read(ifinfmsg, rtnl.delete_link(ifindex=4))["index"] == 4
    group = read(ifinfmsg, rtnl.delete_group(99))
    assert (group["index"], group.get_attr("IFLA_GROUP")) == (0, 99)


def test_the_number_of_a_namespace():
    assert read(nsidmsg, rtnl.get_netnsid(4711)).get_attr("NETNSA_PID") == 4711
    for said, number in ((3, 3), (0xFFFFFFFF, None)):  # -1: it has none
        assert rtnl.read_netnsid(encoded(nsidmsg(), {}, [("NETNSA_NSID", said)])) == number


@pytest.mark.parametrize(("address", "family", "flags"), [("10.0.0.2/32", 2, 0), ("fd00::2/128", 10, 2)])
def test_an_address(address: str, family: int, flags: int):
    message = read(ifaddrmsg, rtnl_ip.new_address(5, ip_interface(address)))

    assert (message["family"], message["index"], message["flags"]) == (family, 5, flags)
    assert f"{message.get_attr('IFA_LOCAL')}/{message['prefixlen']}" == address
    assert message.get_attr("IFA_ADDRESS") == message.get_attr("IFA_LOCAL")


def test_a_route_by_a_gateway():
    message = read(rtmsg, rtnl_ip.new_route(5, ROUTE4, ip_address("10.0.0.9")))

    assert (message["family"], message["dst_len"], message["table"], message["type"]) == (2, 24, 254, 1)
    assert message["scope"] == 0
    assert (message.get_attr("RTA_DST"), message.get_attr("RTA_GATEWAY")) == ("10.0.0.0", "10.0.0.1")
    assert (message.get_attr("RTA_OIF"), message.get_attr("RTA_PREFSRC")) == (5, "10.0.0.9")
    assert message.get_nested("RTA_METRICS", "RTAX_MTU") == 1450


def test_an_on_link_route_has_link_scope():
    assert read(rtmsg, rtnl_ip.new_route(5, Route(ip_network("10.0.0.1/32"))))["scope"] == 253


@pytest.mark.parametrize("tunnel", ["192.0.2.7", "2001:db8::7"])
def test_a_route_says_where_a_tunnel_leads(tunnel: str):
    """What pyroute2 doesn't know; `ip route` reads it in test_othernodes.py."""
    request = rtnl_ip.new_route(5, ROUTE4, tunnel=ip_address(tunnel))

    assert rtnl_ip.read_route(request.body).tunnel == ip_address(tunnel)
    assert rtnl_ip.read_route(rtnl_ip.new_route(5, ROUTE4).body).tunnel is None


def test_a_default_route_has_no_destination():
    message = read(rtmsg, rtnl_ip.new_route(5, ROUTE6))

    assert (message["family"], message["dst_len"], message.get_attr("RTA_DST")) == (10, 0, None)
    assert message.get_attr("RTA_METRICS") is None


def test_an_unreachable_route():
    message = read(rtmsg, rtnl_ip.unreachable(ip_network("10.0.0.0/24"), 99, add=True))

    assert (message["type"], message.get_attr("RTA_PRIORITY"), message.get_attr("RTA_OIF")) == (7, 99, None)
    assert read(rtmsg, rtnl_ip.unreachable(ip_network("10.0.0.0/24"), 99, add=False))["scope"] == 255


def test_a_neighbour():
    message = read(ndmsg, rtnl_ip.new_neighbour(5, ip_address("fd00::2"), MAC))

    assert (message["family"], message["ifindex"], message["state"]) == (10, 5, 0x80)
    assert (message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")) == ("fd00::2", "02:00:00:00:00:01")


def test_a_route_and_a_neighbour_are_asked_for():
    route = read(rtmsg, rtnl_ip.get_route(ip_address("10.0.0.2")))
    assert (route["family"], route["dst_len"], route["flags"], route.get_attr("RTA_DST")) == (2, 32, 0x2000, "10.0.0.2")

    neighbour = read(ndmsg, rtnl_ip.get_neighbour(5, ip_address("fd00::2")))
    assert (neighbour["family"], neighbour["ifindex"], neighbour["state"]) == (10, 5, 0)
    assert neighbour.get_attr("NDA_DST") == "fd00::2"


def test_a_filter():
    message = read(tcmsg, tc._filter(5, "ingress", tc.Filter("from_container", 9)))

    assert (message["index"], message["handle"], message["parent"], message["info"]) == (5, 1, 0xFFFFFFF2, 0x10300)
    assert message.get_attr("TCA_KIND") == "bpf"
    assert message.get_nested("TCA_OPTIONS", "TCA_BPF_NAME") == "from_container"
    assert message.get_nested("TCA_OPTIONS", "TCA_BPF_FD") == 9
    assert message.get_nested("TCA_OPTIONS", "TCA_BPF_FLAGS") == 1


def encoded(message: Any, fields: dict[str, object], attributes: list[tuple[str, object]]) -> bytes:
    """A message's body as pyroute2 writes it."""
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[16:])


def test_a_link_is_read():
    body = encoded(
        ifinfmsg(),
        {"index": 5, "flags": 0x1003},
        [
            ("IFLA_IFNAME", "lxc0"),
            ("IFLA_ADDRESS", "02:00:00:00:00:01"),
            ("IFLA_MTU", 1500),
            ("IFLA_GROUP", 7),
            ("IFLA_LINK", 2),
            ("IFLA_LINK_NETNSID", 3),
            ("IFLA_OPERSTATE", "UP"),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
        ],
    )

    link = rtnl.read_link(body)

    assert (link.ifindex, link.ifname, link.mac, link.mtu) == (5, "lxc0", MAC, 1500)
    assert (link.group, link.kind, link.peer_ifindex, link.peer_netnsid) == (7, "veth", 2, 3)
    assert link.up
    assert link.running


@pytest.mark.parametrize(("state", "mac"), [(0x80, MAC), (0x02, b"")], ids=["permanent", "reachable"])
def test_a_neighbour_is_read_if_the_kernel_will_never_ask_for_it(state: int, mac: bytes):
    body = encoded(ndmsg(), {"family": 2, "ifindex": 5, "state": state}, [("NDA_LLADDR", "02:00:00:00:00:01")])

    assert rtnl_ip.read_neighbour(body) == mac


def test_an_address_and_a_route_are_read():
    address = encoded(
        ifaddrmsg(), {"family": 10, "prefixlen": 128, "index": 5}, [("IFA_ADDRESS", "fd00::2"), ("IFA_FLAGS", 2)]
    )
    assert rtnl_ip.read_address(address) == (5, ip_interface("fd00::2/128"))

    route = encoded(
        rtmsg(),
        {"family": 2, "dst_len": 24, "table": 254, "type": 1},
        [
            ("RTA_DST", "10.0.0.0"),
            ("RTA_GATEWAY", "10.0.0.1"),
            ("RTA_OIF", 5),
            ("RTA_PRIORITY", 9),
            ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1450)]}),
        ],
    )
    found = rtnl_ip.read_route(route)
    assert (found.route, found.ifindex, found.metric, found.unicast) == (ROUTE4, 5, 9, True)


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), unique_by=lambda pair: pair[0]))
def test_attributes_are_read_back_as_they_were_packed(pairs: list[tuple[int, bytes]]):
    body = b"".join(netlink_messages.attribute(kind, payload) for kind, payload in pairs)

    assert netlink_messages.attributes(body) == dict(pairs)


@given(st.binary(max_size=200))
def test_no_bytes_from_the_kernel_make_the_reader_run_away(content: bytes):
    """Damaged answers end in AnswerLost or in nothing, never in a loop or another exception."""
    try:
        netlink_messages.attributes(content)
        list(netlink_messages.messages(bytearray(content), len(content)))
    except AnswerLost:
        pass


@pytest.mark.parametrize(
    ("rule", "source", "ifname"),
    [
        (Rule(4, 1003, ip_address("10.0.0.9")), "10.0.0.9", None),
        (Rule(6, 1003, ip_address("fd00::9")), "fd00::9", None),
        (Rule(4, 1003, ifname="net1"), None, "net1"),
    ],
)
@pytest.mark.parametrize("change", [rtnl_rule.add, rtnl_rule.delete])
def test_a_rule(change: Callable[[Rule], Request], rule: Rule, source: str | None, ifname: str | None):
    message = read(fibmsg, change(rule))

    assert message["family"] == (2 if rule.version == 4 else 10)
    assert message["src_len"] == (0 if source is None else 32 if rule.version == 4 else 128)
    assert message["action"] == 1
    assert message.get_attr("FRA_TABLE") == 1003
    assert message.get_attr("FRA_PRIORITY") == 1000
    assert message.get_attr("FRA_SRC") == source
    assert message.get_attr("FRA_OIFNAME") == ifname
    assert rtnl_rule.read(bytes(message.data[16:])) == rule


def test_the_list_of_rules_is_asked_for_by_family():
    assert read(fibmsg, rtnl_rule.dump(6))["family"] == 10
