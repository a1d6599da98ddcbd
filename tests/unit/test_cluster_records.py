"""Values of keys: what is written is read; what other hands have written is a sentence and never an accident."""

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.common.kvstore.keys import Keys, claimed
from services.endpoint.cluster import names, records
from services.endpoint.cluster.records import IpRecord, NodeRecord
from services.endpoint.policy.labels import Labels
from services.endpoint.policy.networkpolicy import NamedPort

addresses = st.ip_addresses()
networks = addresses.map(ip_network)
words = st.text(min_size=1, max_size=8)
nodes = st.builds(
    NodeRecord,
    name=words,
    instance=words,
    address=addresses,
    addresses=st.lists(addresses, max_size=3).map(tuple),
    gateways=st.lists(addresses, max_size=2).map(tuple),
    pod_cidrs=st.lists(networks, max_size=2).map(tuple),
    routing=st.sampled_from(["overlay", "native"]),
)
ports = st.builds(NamedPort, words, st.sampled_from([6, 17, 132]), st.integers(1, 65535))
ips = st.builds(
    IpRecord,
    node=words,
    host=addresses,
    identity=st.integers(256, 65535) | st.just(5),
    endpoint=st.integers(1, 65535),
    pod=st.text(max_size=8),
    key=st.integers(0, 255),
    ports=st.frozensets(ports, max_size=3),
)


@given(nodes)
def test_nodes(record: NodeRecord) -> None:
    assert records.read_node("k", record.write()) == record


@given(ips)
def test_addresses(record: IpRecord) -> None:
    assert records.read_ip("k", record.write()) == record


@given(st.dictionaries(words, st.text(max_size=5), min_size=1))
def test_labels(values: dict[str, str]) -> None:
    assert records.read_labels("k", records.write_labels(Labels(values))) == Labels(values)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("name", "instance", "address", "addresses", "gateways", "pod_cidrs", "routing", "node", "host", "identity")
values = st.text(max_size=20) | (
    st.dictionaries(st.sampled_from([*FIELDS, "endpoint", "pod", "key", "ports", "labels"]), anything).map(json.dumps)
)


@given(values, st.sampled_from([records.read_node, records.read_ip, records.read_labels, records.read_number]))
def test_nonsense_is_a_sentence_that_names_the_key(value: str, read) -> None:
    told = ""
    try:
        read("podlane/state/x", value)
    except InvalidArgument as error:
        told = error.message
    assert not told or told.startswith("podlane/state/x: ")


@pytest.mark.parametrize("identity", [0, 1, 2, 6, 255, 65536, 3 << 24])
def test_no_pod_is_the_host_or_a_node(identity: int) -> None:
    value = IpRecord("a", ip_address("192.0.2.1"), 300, 1).write().replace("300", str(identity))
    with pytest.raises(InvalidArgument, match="identity"):
        records.read_ip("k", value)


@given(values, st.sampled_from(["nodes", "ip", "endpoints", "identities", "policies", "pools", "other"]))
def test_every_entry_says_something(value: str, kind: str) -> None:
    keys = Keys("r")
    assert isinstance(names.text(keys, f"{keys.state}{kind}/v1/x/10.0.0.0-8", value, lambda _number: None), str)


def test_names() -> None:
    keys, web = Keys(), Labels({"k8s:app": "web"})

    def says(key: str, value: str) -> str:
        return names.text(keys, key, value, {300: web}.get)

    ip = IpRecord("n1", ip_address("192.0.2.1"), 300, 7, "shop/web-0")
    assert says(keys.ip(ip_address("10.1.0.5")), ip.write()) == (
        f"pod shop/web-0 on n1 (192.0.2.1): identity 300 ({web})"
    )
    node = NodeRecord("n1", "i", ip_address("192.0.2.1"), pod_cidrs=(ip_network("10.1.0.0/24"),))
    assert says(keys.node("n1"), node.write()) == "node n1 at 192.0.2.1: pods in 10.1.0.0/24"
    assert says(keys.identity(300), records.write_labels(web)) == str(web)
    assert says(keys.identity_value(web.canonical), records.write_number(300)) == "identity 300"
    assert says(keys.identity_reference(300, "n1"), "{}") == f"n1 uses identity 300 ({web})"
    assert says(keys.claim("default", ip_network("10.1.0.0/24")), '{"node": "n1"}') == "10.1.0.0/24 is n1's"
    assert says(keys.node("n1"), "[]").startswith("makes no sense: ")


@given(st.ip_addresses(), st.integers(0, 32))
def test_claims_have_their_range_in_the_key(address, length: int) -> None:
    network = ip_network((address, length), strict=False)
    assert claimed(Keys().claim("default", network)) == network
