"""What a link may be asked to be, and how requests and the kernel are compared with its record."""

import dataclasses
import json
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import CorruptState, InvalidArgument
from services.common.model import AssignedAddress, Attachment, Route
from services.loader import linkcompare, linkrecord, linkspec
from services.loader.linkrecord import LinkRecords
from services.loader.linkspec import HostEnd, LinkRecord, LinkSpec, OffloadSizes, PodEnd

MAC = bytes.fromhex("02c0ffee0001")
SPEC = LinkSpec(
    Attachment("podlane", "c0ffee", "eth0"),
    "/run/netns/web",
    (AssignedAddress(ip_interface("10.0.0.2/32"), ip_address("10.0.0.1"), ip_network("10.0.0.0/24")),),
    (Route(ip_network("10.0.0.1/32")), Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"))),
    route_mtu=1450,
)
IPV6 = AssignedAddress(ip_interface("fd00::2/128"), ip_address("fd00::1"), ip_network("fd00::/112"))
RECORD = LinkRecord(SPEC, 1500, b"\2\0\0\0\0\1", MAC, 7, 8, done=True, host_ifindex=5, pod_ifindex=2)
POD_END = PodEnd(
    2,
    MAC,
    1500,
    up=True,
    addresses=frozenset({ip_interface("10.0.0.2/32")}),
    routes=frozenset({Route(ip_network("10.0.0.1/32")), Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.1"), 1450)}),
)


def test_a_random_mac_is_unicast_locally_administered_and_not_repeated():
    macs = {linkspec.random_mac() for _ in range(200)}

    assert len(macs) == 200
    assert all(len(mac) == 6 and mac[0] & 0b11 == 0b10 for mac in macs)


def test_a_sensible_request_passes():
    linkspec.check(SPEC)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"netns_path": "web"}, "netns_path"),
        ({"addresses": ()}, "addresses"),
        ({"mtu": 67}, "mtu"),
        ({"mtu": 65536}, "mtu"),
        ({"route_mtu": 65536}, "route_mtu"),
        ({"mtu": 1279, "addresses": (*SPEC.addresses, IPV6)}, "mtu"),
        ({"routes": (*SPEC.routes, Route(ip_network("10.9.0.0/16"), None, 9))}, "routes[2].mtu"),
        ({"offload": OffloadSizes(gro_ipv4_max_size=1 << 20)}, "offload.gro_ipv4_max_size"),
        ({"pod_mac": bytes.fromhex("01005e000001")}, "pod_mac"),
        ({"pod_mac": bytes(6)}, "pod_mac"),
    ],
)
def test_what_no_kernel_would_accept_is_refused_by_the_fields_name(change, field):
    with pytest.raises(InvalidArgument) as refused:
        linkspec.check(dataclasses.replace(SPEC, **change))

    assert refused.value.message.startswith(f"{field}: ")
    assert refused.value.fields["field"] == field


def test_routes_by_a_gateway_get_the_route_mtu_and_on_link_ones_do_not():
    assert [route.mtu for route in linkspec.effective_routes(SPEC)] == [0, 1450]


def test_the_same_request_differs_in_nothing():
    assert linkcompare.differences(SPEC, RECORD) == []


def test_what_is_left_open_differs_in_nothing_from_what_was_chosen():
    """MTU 0 is the node's at that time, no MAC is any."""
    record = dataclasses.replace(RECORD, mtu=9000)

    assert linkcompare.differences(dataclasses.replace(SPEC, netns_path="/proc/7/ns/net"), record) == []


def test_the_same_routes_said_in_another_way_do_not_differ():
    said = dataclasses.replace(SPEC, route_mtu=0, routes=linkspec.effective_routes(SPEC))

    assert linkcompare.differences(said, RECORD) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pod_mac": b"\2\0\0\0\0\3"}, "its MAC is 02:c0:ff:ee:00:01, not 02:00:00:00:00:03"),
        ({"attachment": Attachment("other", "c0ffee", "eth0")}, "it belongs to network podlane, not other"),
        ({"mtu": 1400}, "its MTU is 1500, not 1400"),
        ({"addresses": (IPV6,)}, "its addresses are 10.0.0.2/32, not fd00::2/128"),
        ({"routes": ()}, "its routes are 10.0.0.1/32, 0.0.0.0/0 via 10.0.0.1 mtu 1450, not none"),
    ],
)
def test_a_difference_is_a_sentence_with_both_values(change, sentence):
    assert linkcompare.differences(dataclasses.replace(SPEC, **change), RECORD) == [sentence]


def test_an_intact_link_has_no_problems():
    assert linkcompare.pod_problems(RECORD, POD_END) == []
    assert linkcompare.host_problems(RECORD, HostEnd(5, RECORD.host_mac, 1500)) == []


def test_another_interface_under_the_old_name_is_one_problem_not_many():
    found = dataclasses.replace(POD_END, ifindex=9, mac=b"\2\0\0\0\0\3", addresses=frozenset())

    assert linkcompare.pod_problems(RECORD, found) == ["eth0 in the pod is another interface: index 9, not 2"]


def test_all_that_a_pod_has_lost_is_told():
    found = dataclasses.replace(POD_END, up=False, addresses=frozenset(), routes=frozenset())

    assert linkcompare.pod_problems(RECORD, found) == [
        "eth0 is down in the pod",
        "eth0 has lost its address 10.0.0.2/32",
        "the pod has lost its route to 10.0.0.1/32",
        "the pod has lost its route to 0.0.0.0/0 via 10.0.0.1 mtu 1450",
    ]


def test_a_link_that_is_not_finished_is_told_as_such():
    record = dataclasses.replace(RECORD, done=False)

    assert "being made" in linkcompare.host_problems(record, None)[0]


def test_a_link_is_idle_since_it_was_last_asked_for():
    record = dataclasses.replace(RECORD, asked_at=100.0)

    assert record.idle(130.5) == 30.5
    assert record.idle(50.0) == 50.0  # of an earlier boot: at least as long as this one lasts


def test_a_record_of_a_loader_that_did_not_note_when_is_of_a_link_that_is_old():
    older = json.loads(linkrecord.write(RECORD))
    del older["asked_at"]

    assert linkrecord.read(json.dumps(older), Path("x.json")) == dataclasses.replace(RECORD, asked_at=0.0)


networks4 = st.builds(
    lambda number, length: ip_network((number, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
)
networks6 = st.builds(
    lambda number, length: ip_network((ip_address(number + (1 << 64)), length), strict=False),
    st.integers(0, 2**100),
    st.integers(0, 128),
)
names = st.text(min_size=1, max_size=15)
macs = st.binary(min_size=6, max_size=6)
records = st.builds(
    LinkRecord,
    spec=st.builds(
        LinkSpec,
        attachment=st.builds(Attachment, names, names, names),
        netns_path=st.text(min_size=1),
        addresses=st.lists(
            st.builds(
                lambda network: AssignedAddress(ip_interface(network), network.network_address, network),
                networks4 | networks6,
            ),
            max_size=2,
        ).map(tuple),
        routes=st.lists(
            st.builds(
                lambda network, way, mtu: Route(network, network.network_address if way else None, mtu),
                networks4 | networks6,
                st.booleans(),
                st.integers(0, 65535),
            ),
            max_size=4,
        ).map(tuple),
        mtu=st.integers(0, 65535),
        route_mtu=st.integers(0, 65535),
        offload=st.builds(OffloadSizes, *[st.integers(0, 524280)] * 4),
        pod_mac=st.none() | macs,
    ),
    mtu=st.integers(68, 65535),
    host_mac=macs,
    pod_mac=macs,
    netns_inode=st.integers(0, 2**64 - 1),
    netns_cookie=st.integers(0, 2**64 - 1),
    done=st.booleans(),
    host_ifindex=st.integers(0, 2**31 - 1),
    pod_ifindex=st.integers(0, 2**31 - 1),
    asked_at=st.floats(0, 1e9),
)


@given(records)
def test_a_record_is_read_back_as_it_was_written(record: LinkRecord):
    assert linkrecord.read(linkrecord.write(record), Path("x.json")) == record


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        str
    )
)
def test_whatever_a_damaged_record_holds_it_is_corrupt_state_with_the_path(content: str):
    with pytest.raises(CorruptState, match=r"lxc1\.json"):
        linkrecord.read(content, Path("/run/lxc1.json"))


CHAINED = dataclasses.replace(RECORD, spec=dataclasses.replace(SPEC, chained=True), chained_ifname="veth7")


def test_a_chained_link_has_a_format_that_older_loaders_refuse():
    """They would take it for their own and delete it."""
    written = linkrecord.write(CHAINED)
    assert linkrecord.read(written, Path("x.json")) == CHAINED
    assert (json.loads(written)["format"], json.loads(linkrecord.write(RECORD))["format"]) == (2, 1)


def test_a_chained_link_is_found_by_its_attachment_and_by_its_name(tmp_path: Path):
    records = LinkRecords(tmp_path)
    records.open()
    records.put(CHAINED)

    assert records.get(SPEC.attachment.host_ifname()) == CHAINED
    assert records.named("veth7") == CHAINED
    assert records.named("veth8") is None
    assert CHAINED.host_ifname == "veth7"
    records.remove(CHAINED.key)
    assert records.named("veth7") is None


def test_a_chained_links_mtu_and_routes_are_its_plugins_matter():
    host = HostEnd(RECORD.host_ifindex, RECORD.host_mac, 9000)
    assert linkcompare.host_problems(CHAINED, host) == []
    assert linkcompare.host_problems(RECORD, host) != []


def test_records_are_found_again_by_the_next_loader(tmp_path: Path):
    records = LinkRecords(tmp_path)
    records.open()
    records.put(dataclasses.replace(RECORD, done=False))
    records.put(RECORD)

    again = LinkRecords(tmp_path)
    again.open()

    assert again.all() == [RECORD]
    assert again.get(RECORD.host_ifname) == RECORD
    again.remove(RECORD.host_ifname)
    again.remove(RECORD.host_ifname)
    assert again.all() == []
    assert list(tmp_path.iterdir()) == []
