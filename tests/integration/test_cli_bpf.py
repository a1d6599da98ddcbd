"""`podlane bpf`: maps with names where somebody knows them, and with numbers where nobody does."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import endpoint_pb2, policy_pb2
from podlane.loader.v1 import loader_pb2 as pb

from cli import connect
from services.common.errors import NotFound
from tests.cli_support import Services, serving

INGRESS, EGRESS = pb.TRAFFIC_DIRECTION_INGRESS, pb.TRAFFIC_DIRECTION_EGRESS
WEB = pb.PolicyEntry(direction=INGRESS, identity=300, protocol=6, port=8080, port_prefix_length=16)
RANGE = pb.PolicyEntry(direction=INGRESS, identity=16777217, protocol=17, port=8192, port_prefix_length=12)
ANY = pb.PolicyEntry(direction=EGRESS)


def address(*octets: int) -> types_pb2.IpAddress:
    """Return an address."""
    return types_pb2.IpAddress(packed=bytes(octets))


def prefix(length: int, *octets: int) -> types_pb2.IpPrefix:
    """Return a prefix."""
    return types_pb2.IpPrefix(address=address(*octets), length=length)


MAPS = {
    "endpoints": [
        pb.MapEntry(
            endpoint=pb.EndpointMapEntry(
                address=address(10, 0, 0, 7),
                endpoint_id=7,
                ifindex=12,
                identity=300,
                pod_mac=types_pb2.MacAddress(packed=bytes.fromhex("020000000007")),
            )
        ),
        pb.MapEntry(endpoint=pb.EndpointMapEntry(address=address(10, 0, 0, 1), identity=1)),
    ],
    "call_policy": [pb.MapEntry(call_policy=pb.CallPolicyEntry(endpoint_id=7, program_id=4711))],
    "policy": [
        pb.MapEntry(policy=pb.PolicyMapEntry(entry=one, packets=packets, bytes=packets * 60))
        for one, packets in ((ANY, 0), (WEB, 5), (RANGE, 0))
    ],
    "prefixes": [
        pb.MapEntry(prefix=pb.PrefixIdentity(prefix=prefix(8, 10, 0, 0, 0), identity=16777217)),
        pb.MapEntry(prefix=pb.PrefixIdentity(prefix=prefix(24, 10, 9, 9, 0), identity=16777218)),
    ],
    "metrics": [
        pb.MapEntry(metrics=pb.MetricsEntry(endpoint_id=7, direction=INGRESS, reason="policy", packets=3, bytes=180))
    ],
    "conntrack": [
        pb.MapEntry(
            conntrack=pb.ConntrackEntry(
                endpoint_id=7,
                direction=INGRESS,
                protocol="TCP",
                local=address(10, 0, 0, 7),
                local_port=8080,
                remote=address(10, 0, 0, 9),
                remote_port=40000,
                peer_identity=300,
                state=pb.FLOW_STATE_ESTABLISHED,
                expires_in=21600,
            )
        )
    ],
    "ipcache": [
        pb.MapEntry(ipcache=pb.IpcacheEntry(address=address(10, 1, 0, 5), identity=300, node=address(192, 0, 2, 7)))
    ],
}


def dumped(request: Any) -> pb.DumpMapResponse:
    """Answer as the loader does."""
    return pb.DumpMapResponse(entries=MAPS[request.map])


@pytest.fixture
def nameless() -> Iterator[Services]:
    """A loader alone."""
    with pytest.MonkeyPatch.context() as patch, serving() as found:
        patch.setattr(connect, "_WAIT", 0.0)
        found.replies["DumpMap"] = dumped
        program = pb.Program(name="policy", id=4711, tag=bytes.fromhex("00ff00ff00ff00ff"), hook="call_policy[7]")
        status = pb.EndpointDatapath(
            id=7, programs=[program], policy_entries=3, policy_digest=b"\x01" * 16, identity=300, problems=["it is odd"]
        )
        found.replies["ListEndpointDatapaths"] = pb.ListEndpointDatapathsResponse(datapaths=[status])
        yield found


@pytest.fixture
def services(nameless: Services) -> Services:
    """With the endpoint service beside it."""
    web = endpoint_pb2.Endpoint(id=7, pod=types_pb2.Pod(namespace="shop", name="web-0"))
    identities = [
        policy_pb2.Identity(id=1, labels={"reserved:host": ""}),
        policy_pb2.Identity(id=300, labels={"k8s:app": "web"}),
        policy_pb2.Identity(id=16777217, prefix=prefix(8, 10, 0, 0, 0), policies=["shop/web"]),
    ]
    wanted = [
        policy_pb2.WantedPolicyEntry(entry=WEB, origins=["policy shop/web, ingress[0].from[1]"]),
        policy_pb2.WantedPolicyEntry(entry=ANY, origins=["no policy isolates it"]),
        policy_pb2.WantedPolicyEntry(entry=pb.PolicyEntry(direction=INGRESS, identity=301, protocol=132)),
    ]
    nameless.replies |= {
        "ListEndpoints": endpoint_pb2.ListEndpointsResponse(endpoints=[web]),
        "GetEndpoint": endpoint_pb2.GetEndpointResponse(endpoint=web),
        "ListIdentities": policy_pb2.ListIdentitiesResponse(identities=identities),
        "ListPolicyEntries": policy_pb2.ListPolicyEntriesResponse(id=7, entries=wanted),
    }
    return nameless


def rows(services: Services, *argv: str) -> list[list[str]]:
    """Return the cells below the titles."""
    told = services.podlane("bpf", *argv)
    assert told.code == 0, told.stderr
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in told.stdout.splitlines()[1:]]


def test_each_map_is_shown_with_names(services: Services):
    assert rows(services, "endpoint", "list", "-o", "wide") == [
        ["10.0.0.7", "7", "shop/web-0", "300", "12", "02:00:00:00:00:07", "k8s:app=web"],
        ["10.0.0.1", "-", "(the node)", "1", "-", "reserved:host"],
    ]
    assert rows(services, "call", "list") == [["7", "shop/web-0", "4711"]]
    assert rows(services, "prefixes", "list", "-o", "wide")[0] == ["10.0.0.0/8", "16777217", "shop/web"]
    assert rows(services, "metrics", "list") == [["7", "shop/web-0", "ingress", "policy", "3", "180"]]
    assert rows(services, "ipcache", "list") == [["10.1.0.5", "300", "192.0.2.7", "k8s:app=web"]]
    (flow,) = rows(services, "ct", "list", "--endpoint", "shop/web-0", "-o", "wide")
    assert flow[:7] == ["7", "shop/web-0", "ingress", "TCP", "10.0.0.7:8080", "10.0.0.9:40000", "established"]
    assert flow[-1] == "k8s:app=web"
    assert [one.endpoint_id for name, one in services.requests if name == "DumpMap"][-1] == 7


def test_a_policy_map_is_shown_with_the_rules_that_it_comes_from(services: Services):
    told = services.podlane("bpf", "policy", "get", "shop/web-0")

    assert rows(services, "policy", "get", "7") == [
        ["ingress", "allow", "300", "k8s:app=web", "8080/TCP", "5", "300", "policy shop/web, ingress[0].from[1]"],
        ["ingress", "allow", "16777217", "10.0.0.0/8", "8192-8207/UDP", "0", "0", "no rule"],
        ["egress", "allow", "any", "everybody", "any", "0", "0", "no policy isolates it"],
    ]
    assert told.stderr == "podlane: endpoint 7: the map does not hold ingress from identity 301, SCTP\n"
    assert rows(services, "policy", "get", "--all")[0][:3] == ["7", "shop/web-0", "ingress"]
    one = json.loads(services.podlane("bpf", "policy", "get", "7", "-o", "json").stdout)[0]
    assert (one["origins"], one["identity_name"]) == (["policy shop/web, ingress[0].from[1]"], "k8s:app=web")
    assert (one["entry"]["port"], one["packets"], one["pod"]) == (8080, 5, "shop/web-0")
    assert rows(services, "policy", "list") == [["7", "shop/web-0", "300", "3"]]


def test_without_the_endpoint_service_there_are_numbers_and_that_is_said_once(nameless: Services):
    (nameless.directory / "endpoint" / "endpoint.sock").unlink()

    told = nameless.podlane("bpf", "policy", "get", "7")

    assert told.code == 0
    assert told.stderr.startswith("podlane: without names: podlane-endpoint does not answer on ")
    assert len(told.stderr.splitlines()) == 1
    assert [line.split()[-1] for line in told.stdout.splitlines()] == ["RULE", "?", "?", "?"]
    assert nameless.podlane("bpf", "policy", "get", "shop/web-0").code == 4


@pytest.mark.parametrize(
    ("wanted", "row"),
    [
        ("10.0.0.7", ["endpoints", "10.0.0.7", "shop/web-0", "300", "k8s:app=web"]),
        ("10.1.0.5", ["ipcache", "10.1.0.5", "192.0.2.7", "300", "k8s:app=web"]),
        ("10.2.2.2", ["prefixes", "10.0.0.0/8", "-", "16777217", "10.0.0.0/8"]),
        ("10.9.9.1", ["prefixes", "10.9.9.0/24", "-", "16777218", "-"]),
    ],
)
def test_an_address_is_looked_up_as_the_programs_do(services: Services, wanted: str, row: list[str]):
    assert rows(services, "ipcache", "get", wanted) == [row]


def test_an_address_that_no_map_has_is_not_found_and_a_word_is_none(services: Services):
    strange = services.podlane("bpf", "ipcache", "get", "192.0.2.99")

    assert (strange.code, strange.stderr) == (
        3,
        "podlane: no map has 192.0.2.99: the programs take it for reserved:world\n",
    )
    assert services.podlane("bpf", "ipcache", "get", "nobody").code == 2
    assert services.podlane("bpf", "policy", "get").code == 2
    services.replies["DumpMap"] = NotFound("endpoint 8 has no policy map")
    assert services.podlane("bpf", "policy", "get", "8").code == 3


def test_programs_are_shown_and_what_is_lost_is_said(services: Services):
    told = services.podlane("bpf", "prog", "list")

    assert told.stdout.splitlines()[1].split() == [
        "7",
        "shop/web-0",
        "policy",
        "4711",
        "00ff00ff00ff00ff",
        "call_policy[7]",
        "0",
    ]
    assert told.stderr == "podlane: endpoint 7: it is odd\n"


def test_pins_are_shown_with_whose_they_are(services: Services):
    root = services.directory / "bpf" / "podlane"
    services.config_file.write_text(services.config_file.read_text() + f'bpffs = "{services.directory}/bpf"\n')
    missing = services.podlane("bpf", "fs", "show")
    for name in ("maps/podlane_metrics", "maps/policy_7", "links/7/ingress"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()

    assert missing.code == 3
    assert str(root) in missing.stderr
    assert rows(services, "fs", "show") == [
        ["links/7/ingress", "link", "7", "shop/web-0"],
        ["maps/podlane_metrics", "map", "-", "-"],
        ["maps/policy_7", "map", "7", "shop/web-0"],
    ]
