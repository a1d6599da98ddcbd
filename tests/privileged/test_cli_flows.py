"""`podlane flows` and `podlane monitor --last` on a real node: who talks to whom, to the byte, and what has happened.

`web-0` may speak to `db-0`, which a policy is about; `cron-0` may not.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agreement import until
from tests.netns_support import in_netns
from tests.node_support import Node, Pod
from tests.privileged.test_cli_monitor import running
from tests.privileged.test_grpcurl import GRPCURL, grpcurl
from tests.traffic_support import Echo, echoes

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("cli-flows")]

TCP_PORT, UDP_PORT = 5432, 5353
DB = f"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
    ports: [{{port: {TCP_PORT}}}, {{port: {UDP_PORT}, protocol: UDP}}]
"""
HEADERS = {4: 14 + 20, 6: 14 + 40}
TCP_HEADER, UDP_HEADER = 20 + 12, 8  # with timestamps, as every segment has them but the SYNs, which have 8 bytes more


class Shop:
    """The node, its pods by name and their addresses."""

    def __init__(self, node: Node) -> None:
        """Add the pods, and put the policy in force."""
        self.node = node
        self.pods: dict[str, Pod] = {}
        self.addresses: dict[str, list[str]] = {}
        node.podlane("config", "set", "connection-events=on")
        for name in ("web-0", "db-0", "cron-0"):
            self.add(name)
        policy = node.dir / "db.yaml"
        policy.write_text(DB)
        node.podlane("policy", "apply", "-f", str(policy))

    def add(self, name: str) -> None:
        pod = self.node.pod()
        pod.namespace, pod.name = "shop", name
        labels = [{"key": "app", "value": name.partition("-")[0]}]
        self.addresses[name] = self.node.add(pod, args={"cni": {"labels": labels}}).addresses
        self.pods[name] = pod

    def flows(self, *argv: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.node.show("flows", *argv)["flows"]
        return found

    def last(self, *argv: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.node.podlane("monitor", "-o", "json", *argv).stdout.splitlines()]

    def datagrams(self, source: str, target: str, version: int, sizes: list[int]) -> None:
        """Send datagrams, each answered with as many bytes and one more."""
        family, address = (socket.AF_INET if version == 4 else socket.AF_INET6), self.addresses[target][version == 6]
        with (
            in_netns(self.pods[target].path, lambda: socket.socket(family, socket.SOCK_DGRAM)) as server,
            in_netns(self.pods[source].path, lambda: socket.socket(family, socket.SOCK_DGRAM)) as client,
        ):
            for one in (server, client):
                one.settimeout(10)
            server.bind((address, UDP_PORT))
            for size in sizes:
                client.sendto(bytes(size), (address, UDP_PORT))
                came, peer = server.recvfrom(2048)
                server.sendto(came + b"x", peer)
                client.recv(2048)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Node() as node:
        yield Shop(node)


def knock(shop: Shop, source: str, times: int) -> None:
    """Send datagrams to the database that policy drops."""
    with in_netns(shop.pods[source].path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        for _ in range(times):
            client.sendto(b"hello", (shop.addresses["db-0"][0], UDP_PORT))


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_are_counted_to_the_byte(shop: Shop, version: int) -> None:
    sizes = [1, 100, 1000, 7]
    before = {flow["bytes"] for flow in shop.flows("--protocol", "udp", "--verdict", "allowed")}

    shop.datagrams("web-0", "db-0", version, sizes)

    (flow,) = shop.flows("--from", "shop/web-0", "--to", "shop/db-0", "--protocol", "udp", "--verdict", "allowed")
    header = HEADERS[version] + UDP_HEADER
    there, back = sum(sizes) + len(sizes) * header, sum(sizes) + len(sizes) * (header + 1)
    assert (flow["source"]["name"], flow["destination"]["name"]) == ("shop/web-0", "shop/db-0")
    assert (flow["port"], flow["verdict"], flow["seen_at"]) == (UDP_PORT, "allowed", "ingress")
    # Both families are one row: the pair, the protocol and the port are the same.
    earlier = before.pop() if before else 0
    assert (flow["bytes"] - earlier, flow["packets"] % len(sizes)) == (there, 0)
    assert (flow["bytes_back"] - flow["bytes"]) % len(sizes) == 0
    assert flow["bytes_back"] >= back


def test_connections_are_counted_and_told_of_and_what_is_denied_is_too(shop: Shop) -> None:
    address, payload = shop.addresses["db-0"][0], 100_000
    with Echo(shop.pods["db-0"], TCP_PORT):
        assert echoes(shop.pods["web-0"].path, address, TCP_PORT, size=10)
        assert not echoes(shop.pods["cron-0"].path, address, TCP_PORT, patience=0.5)
        assert echoes(shop.pods["web-0"].path, address, TCP_PORT, size=payload)

    def denied() -> list[dict[str, Any]]:
        return shop.flows("--verdict", "denied", "--from", "shop/cron-0", "--port", str(TCP_PORT))

    (refused,) = until(denied, lambda: "the denied connection is in no row")
    (passed,) = shop.flows("--to", "shop/db-0", "--port", str(TCP_PORT), "--verdict", "allowed")
    assert (refused["destination"]["name"], refused["reason"], refused["connections"]) == ("shop/db-0", "policy", 0)
    assert refused["bytes"] == refused["packets"] * (HEADERS[4] + TCP_HEADER + 8)  # SYNs
    assert (passed["source"]["name"], passed["connections"]) == ("shop/web-0", 2)
    # What is sent in one piece has one header, so all that isn't payload is headers.
    for direction in ("", "_back"):
        packets, octets = passed[f"packets{direction}"], passed[f"bytes{direction}"]
        assert octets == payload + 10 + packets * (HEADERS[4] + TCP_HEADER) + 2 * 8

    def told() -> list[tuple[str, str]]:
        events = shop.last("--last", "50", "--type", "drop,connection", "--port", str(TCP_PORT), "--to", "shop/db-0")
        events = [one for one in events if one["direction"] == "egress" or one["kind"] == "drop"]
        return [
            (one["source"]["name"], one["drop"]["reason"] if one["kind"] == "drop" else one["connection"]["change"])
            for one in events
        ]

    wanted = [("shop/web-0", "opened"), ("shop/cron-0", "policy"), ("shop/web-0", "opened")]
    until(
        lambda: [one for one in dict.fromkeys(told()) if one in wanted] == list(dict.fromkeys(wanted)),
        lambda: str(told()),
    )
    closed = shop.last("--last", "9", "--type", "connection", "--port", str(TCP_PORT))
    ended = [one["connection"] for one in closed if one["connection"]["change"] == "closed"]
    assert {one["flow"]["protocol"] for one in ended} == {"TCP"}
    assert all(one["flow"]["traffic"]["bytes_in"] > 10 for one in ended)


def test_a_table_has_the_greatest_first_and_pairs_sum_up(shop: Shop) -> None:
    shop.datagrams("web-0", "db-0", 4, [1000] * 20)

    table = shop.node.podlane("flows", "--top", "2").stdout.splitlines()
    pairs = shop.node.podlane("flows", "--pairs", "--from", "shop/web-0", "--to", "shop/db-0").stdout.splitlines()
    found = shop.node.show("flows")

    assert table[0].split()[:4] == ["SOURCE", "DESTINATION", "PORT", "VERDICT"]
    assert len([line for line in table if line.startswith("shop/")]) == 2
    assert pairs[1].split()[:2] == ["shop/web-0", "shop/db-0"]
    ends = ("shop/web-0", "shop/db-0")
    rows = [one for one in found["flows"] if (one["source"]["name"], one["destination"]["name"]) == ends]
    (pair,) = [one for one in found["pairs"] if (one["source"]["name"], one["destination"]["name"]) == ends]
    assert pair["bytes"] == sum(one["bytes"] + one["bytes_back"] for one in rows if one["verdict"] == "allowed")


def test_rows_outlive_the_pod_and_keep_its_name_though_its_id_is_given_again(shop: Shop) -> None:
    shop.add("web-1")
    shop.datagrams("web-1", "db-0", 4, [5])
    shop.node.delete(shop.pods["web-1"])
    shop.add("web-2")
    shop.datagrams("web-2", "db-0", 4, [6])

    rows = {one["source"]["name"]: one["bytes"] for one in shop.flows("--to", "shop/db-0", "--verdict", "allowed")}

    header = HEADERS[4] + UDP_HEADER
    assert (rows["shop/web-1"], rows["shop/web-2"]) == (5 + header, 6 + header)
    shop.node.delete(shop.pods["web-2"])


def test_endpoints_and_controllers_are_in_the_history(shop: Shop) -> None:
    shop.add("web-9")
    shop.node.delete(shop.pods["web-9"])

    events = shop.last("--last", "100", "--type", "endpoint", "--pod", "shop/web-9")

    changes = [one["endpoint"]["change"] for one in events]
    assert (changes[0], changes[-1]) == ("created", "deleted")
    assert {one["endpoint"]["endpoint"]["name"] for one in events} == {"shop/web-9"}
    states = [one["endpoint"]["state"] for one in events]
    assert states.index("ready") < states.index("disconnecting")

    shop.node.kill("ipam")
    fails = until(lambda: shop.last("--last", "20", "--type", "controller"), lambda: "no controller is told of")
    assert (fails[-1]["controller"]["failing"], fails[-1]["kind"]) == (True, "controller")
    shop.node.launch("ipam")
    until(
        lambda: not shop.last("--last", "20", "--type", "controller")[-1]["controller"]["failing"],
        lambda: "no controller is told to work again",
    )
    numbers = [one["number"] for one in shop.last("--last", "1000")]
    assert numbers == sorted(numbers)


def test_a_flood_is_lost_in_part_counted_and_told(shop: Shop) -> None:
    packets = 3000
    before = shop.node.show("flows")
    knock(shop, "cron-0", packets)

    def counted() -> int:
        now = shop.node.show("flows", "--from", "shop/cron-0", "--protocol", "udp", "--verdict", "denied")
        heard = sum(one["packets"] for one in now["flows"])
        return int(heard + now["drops_not_told"] - before["drops_not_told"])

    until(lambda: counted() >= packets, lambda: f"{counted()} of {packets}")
    assert counted() == packets
    assert shop.node.show("flows")["drops_not_told"] > before["drops_not_told"]
    lost = [one for one in shop.last("--last", "5", "--type", "endpoint") if one["kind"] == "lost"]
    assert lost  # whatever the filter
    assert lost[0]["lost"]["where"] in {"loader", "history"}
    assert "more drops were not told of" in shop.node.podlane("flows").stdout


def test_history_and_what_follows_have_no_seam(shop: Shop) -> None:
    """Each datagram is told once: those from before, and those that come."""
    command = shop.node.command(shop.node.config_file)
    port = str(UDP_PORT)
    knock(shop, "cron-0", 1)
    until(
        lambda: shop.last("--last", "1", "--type", "drop", "--port", port, "--from", "shop/cron-0"),
        lambda: "the drop is not in the history",
    )
    argv = ("monitor", "--last", "1", "-f", "--type", "drop", "--from", "shop/cron-0", "--port", port, "-o", "json")
    with running(shop.node, *command, *argv) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline().startswith("listening for ")
        knock(shop, "cron-0", 3)
        lines = [json.loads(process.stdout.readline()) for _ in range(4)]

    assert [bool(one["number"]) for one in lines] == [True, False, False, False]
    assert len({(one["boot_ns"], one["endpoint_id"]) for one in lines}) == 4


def test_grpcurl_asks_for_flows_and_for_the_last_events(shop: Shop) -> None:
    service = "podlane.endpoint.v1.MonitorService"
    request = {"filter": {"from": {"namespace": "shop", "pod": "cron-0"}, "verdict": "VERDICT_DENIED"}, "top": 1}
    flows = json.loads(grpcurl(shop.node, "endpoint", json.dumps(request), f"{service}/ListFlows"))
    last = {"last": 1, "historyOnly": True, "filter": {"kinds": ["EVENT_KIND_DROP"]}}
    event = grpcurl(shop.node, "endpoint", json.dumps(last), f"{service}/WatchEvents")

    assert flows["flows"][0]["source"]["name"] == "shop/cron-0"
    assert '"EVENT_KIND_DROP"' in event
    assert GRPCURL


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("monitor", "--label", "=x"), "--label: '=x' is not key=value"),
        (("monitor", "--from", "nobody"), "--from: 'nobody' is neither an endpoint's id"),
        (("monitor", "--port", "70000"), "--port: 70000 is not a port"),
        (("monitor", "--protocol", "carrier"), "--protocol: 'carrier' is none of tcp"),
        (("flows", "--endpoint", "70000"), "--endpoint: 70000 is not an endpoint id"),
        (("flows", "--since", "yesterday"), "--since: 'yesterday' is not an age"),
    ],
)
def test_what_can_not_be_meant_is_named(shop: Shop, argv: tuple[str, ...], words: str) -> None:
    outcome = shop.node.podlane(*argv, check=False)

    assert outcome.returncode == 2
    assert words in outcome.stderr


def test_without_the_loader_the_history_answers(shop: Shop) -> None:
    shop.node.kill("loader")

    assert shop.last("--last", "3")
    outcome = shop.node.podlane("flows", check=False)
    assert outcome.returncode == 4
    assert "podlane-loader does not answer" in outcome.stderr
    shop.node.launch("loader")
    until(lambda: shop.node.podlane("flows", check=False).returncode == 0, lambda: "the loader does not come back")
