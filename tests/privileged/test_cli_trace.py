"""`podlane trace` on a real node: packets die in all the places where they can, and it says where.

One tracer for the module: it compiles for a second. Each test makes its own packets die, at ports of its own, and waits
for the line that is about them.
"""

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.netns_support import in_netns
from tests.node_support import Node, Pod, run
from tests.privileged.test_cli_monitor import STRANGER, running

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("cli-trace")]

WITHIN = 30
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{ports: [{port: 5432}]}]
"""


@dataclass
class Told:
    """What a tracer has said so far, and what it says next."""

    process: "subprocess.Popen[str]"
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read on a thread, so that waiting can have an end."""
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))

    def one(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the drop that fits."""
        while True:
            for line in self.lines:
                if fits(line):
                    return line
            try:
                self.lines.append(self._queue.get(timeout=WITHIN))
            except queue.Empty:
                raise AssertionError(f"nothing fits: {self.lines[-3:]}") from None

    def after(self, send: Callable[[], None], port: int) -> dict[str, Any]:
        """Send again and again until a drop of it is told."""
        for _ in range(10 * WITHIN):
            send()
            with contextlib.suppress(queue.Empty):
                while True:
                    self.lines.append(self._queue.get(timeout=0.1))
                    if self.lines[-1]["destination"]["port"] == port:
                        return self.lines[-1]
        raise AssertionError(f"nothing to port {port}: {self.lines[-3:]}")

    def to_port(self, port: int, protocol: str = "UDP") -> dict[str, Any]:
        """Wait for the drop of a packet to a port."""
        return self.one(lambda drop: drop["destination"]["port"] == port and drop["protocol"] == protocol)


@contextlib.contextmanager
def tracing(node: Node, *argv: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `podlane trace drops` and wait until it listens."""
    command = ("env", *(f"{name}={value}" for name, value in environment.items()))
    with running(node, *command, *node.command(node.config_file), "trace", "drops", *argv) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("listening for dropped packets of "), first
        yield process


@dataclass
class Pair:
    """Two pods: web asks, db answers. db is isolated but for port 5432, UDP of policy is open otherwise."""

    node: Node
    web: Pod
    db: Pod
    web_addresses: list[str]
    db_addresses: list[str]

    def udp(self, pod: Pod, address: str, port: int) -> None:
        """Send a datagram."""
        pod.exec("bash", "-c", f"echo >/dev/udp/{address}/{port}", check=False)

    def flood(self, count: int, port: int) -> None:
        """Send many datagrams from web to db, as fast as it goes."""
        with in_netns(self.web.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for _ in range(count):
                sender.sendto(b"x", (self.db_addresses[0], port))


@pytest.fixture(scope="module")
def pair(shared_node: Node) -> Pair:
    """Two pods of the module's node."""
    web, db = shared_node.pod(), shared_node.pod()
    return Pair(shared_node, web, db, shared_node.add(web).addresses, shared_node.add(db).addresses)


@pytest.fixture(scope="module")
def told(pair: Pair) -> Iterator[Told]:
    """The module's tracer."""
    with tracing(pair.node, "-o", "json", "--all") as process:
        yield Told(process)


@pytest.mark.parametrize(("family", "function"), [(0, "__udp4_lib_rcv"), (1, "__udp6_lib_rcv")])
def test_a_port_where_nobody_listens(pair: Pair, told: Told, family: int, function: str):
    pair.udp(pair.web, pair.db_addresses[family], 9000 + family)

    drop = told.to_port(9000 + family)

    assert (drop["by"], drop["reason"], drop["kernel_reason"]) == ("kernel", "NO_SOCKET", "NO_SOCKET")
    assert drop["function"].partition("+")[0] == function
    assert (drop["where"], drop["device"]) == ("in default/web-1, eth0", "eth0")
    assert "nobody listens" in drop["explanation"]
    assert drop["source"] | {"port": 0} == {
        "address": pair.web_addresses[family],
        "port": 0,
        "name": "default/web-0",
    }
    assert drop["destination"]["name"] == "default/web-1"
    assert len(drop["endpoints"]) == 2


def test_iptables_inside_the_pod_on_its_way_in_and_out(pair: Pair, told: Told):
    for chain, port in (("INPUT", "9010"), ("OUTPUT", "9011")):
        pair.db.exec("iptables", "-w", "-A", chain, "-p", "udp", "--dport", port, "-j", "DROP")

    pair.udp(pair.web, pair.db_addresses[0], 9010)
    pair.udp(pair.db, pair.web_addresses[0], 9011)

    incoming, outgoing = told.to_port(9010), told.to_port(9011)
    assert [drop["reason"] for drop in (incoming, outgoing)] == ["NETFILTER_DROP"] * 2
    assert incoming["where"] == "in default/web-1, eth0"
    # Before its own stack has given it a device, the socket says whose it is.
    assert outgoing["where"] == "in default/web-1"
    assert "nft list ruleset" in incoming["explanation"]


def test_reverse_path_filtering(pair: Pair, told: Told):
    """A sysctl that people set on pods: what comes from where the pod has no route to."""
    pair.db.exec("sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
    pair.db.exec("ip", "route", "add", "unreachable", f"{pair.web_addresses[0]}/32")
    try:
        pair.udp(pair.web, pair.db_addresses[0], 9020)
        drop = told.to_port(9020)
    finally:
        pair.db.exec("ip", "route", "del", "unreachable", f"{pair.web_addresses[0]}/32")
        pair.db.exec("sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0")

    assert (drop["by"], drop["reason"]) == ("kernel", "IP_RPFILTER")
    assert drop["function"].startswith(("ip_rcv_finish", "ip_rcv"))


def test_no_route_on_the_node(pair: Pair, told: Told):
    pair.udp(pair.web, "192.0.2.1", 9030)

    drop = told.to_port(9030)

    assert drop["reason"] == "IP_INNOROUTES"
    assert drop["where"].startswith("on the node, at default/web-0's lxc")


def test_a_namespace_or_an_address_alone_makes_it_a_pods(pair: Pair, told: Told):
    """What stays within the pod has none of its addresses; what the node drops on its way out is at no interface."""
    rule = ("OUTPUT", "-p", "udp", "--dport", "9036", "-j", "DROP")
    pair.node.exec("iptables", "-w", "-A", *rule)
    pair.udp(pair.db, "127.0.0.1", 9035)
    pair.node.exec("bash", "-c", f"echo >/dev/udp/{pair.db_addresses[0]}/9036", check=False)
    pair.node.exec("iptables", "-w", "-D", *rule)

    within, outgoing = told.to_port(9035), told.to_port(9036)

    assert (within["reason"], within["where"], within["endpoints"]) == ("NO_SOCKET", "in default/web-1, lo", [2])
    assert (outgoing["reason"], outgoing["where"], outgoing["endpoints"]) == ("NETFILTER_DROP", "on the node", [2])


def test_what_podlane_drops_is_told_once_with_its_reason(pair: Pair, told: Told):
    """By policy at the receiver's program, which runs at the sender's interface; and a lie at the sender's."""
    document = pair.node.dir / "db.yaml"
    document.write_text(POLICY)
    pair.node.podlane("endpoint", "labels", "default/web-1", "app=db")
    pair.node.podlane("policy", "apply", "-f", str(document))
    pair.web.exec("ip", "addr", "add", f"{STRANGER}/32", "dev", "eth0", check=False)
    pair.udp(pair.web, pair.db_addresses[0], 9040)
    pair.web.exec("ping", "-c", "1", "-W", "0.1", "-I", STRANGER, "192.0.2.1", check=False)

    by_policy = told.to_port(9040)
    lie = told.one(lambda drop: drop["source"]["address"] == STRANGER)
    pair.node.podlane("policy", "delete", "netpol/default/db")

    assert (by_policy["by"], by_policy["reason"], by_policy["kernel_reason"]) == ("podlane", "policy", "TC_INGRESS")
    assert by_policy["place"].startswith("bpf/lib/policy.h:")
    assert by_policy["explanation"] == "isolated by default/db"
    assert by_policy["where"].startswith("on the node, at default/web-0's lxc")
    assert by_policy["function"].startswith("__netif_receive_skb_core")
    assert (lie["by"], lie["reason"], lie["protocol"]) == ("podlane", "invalid source ip", "ICMP")
    assert lie["kernel_reason"] == "TC_INGRESS"
    pair.udp(pair.web, pair.db_addresses[0], 9041)
    told.to_port(9041)
    assert [drop["by"] for drop in told.lines if drop["destination"]["port"] == 9040] == ["podlane"]


def test_pods_that_come_later_are_known_and_those_that_go_are_not(pair: Pair, told: Told):
    late = pair.node.pod()
    addresses = pair.node.add(late).addresses
    name = f"default/{late.name}"
    # To itself: it doesn't leave its namespace. The tracer hears of the pod a moment after ADD has returned.
    drop = told.after(lambda: pair.udp(late, addresses[0], 9050), 9050)
    assert (drop["reason"], drop["where"], drop["source"]["name"]) == ("NO_SOCKET", f"in {name}, lo", name)

    pair.node.delete(late)
    told.after(lambda: pair.udp(pair.web, addresses[0], 9051), 9051)
    assert told.lines[-1]["destination"]["name"] in {"", name}  # and it goes on


def test_one_endpoints_reasons_counted_at_the_end(pair: Pair):
    """--endpoint, --reason, --summary; what was dropped before Ctrl-C is counted. And --duration."""
    argv = ("--endpoint", "default/web-1", "--reason", "no_socket", "--summary")
    with tracing(pair.node, *argv, "-o", "json") as process:
        for _ in range(3):
            pair.udp(pair.web, pair.db_addresses[0], 9060)
        pair.udp(pair.db, pair.web_addresses[0], 9061)
        pair.udp(pair.web, pair.web_addresses[0], 9062)  # no business of the other's
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=WITHIN)
        rows = json.loads(told)

    assert {row["reason"] for row in rows} == {"NO_SOCKET"}
    # Answers to pings that nobody waits for any more may be among them.
    assert {(row["pod"], row["packets"]) for row in rows if row["function"] == "__udp4_lib_rcv"} == {
        ("default/web-1", 4),
        ("default/web-0", 4),
    }
    assert pair.node.podlane("trace", "drops", "--duration", "0.01", "--summary", "--reason", "XDP").stdout == (
        "nothing was dropped\n"
    )


def _tracers(parent: int) -> list[int]:
    """Return a command's tracers."""
    told = run("ps", "--ppid", str(parent), "-o", "pid=,args=").stdout.splitlines()
    return [int(line.split()[0]) for line in told if "drops_bcc" in line]


def _programs() -> list[int]:
    told = json.loads(run("bpftool", "-j", "prog", "show").stdout)
    return [one["id"] for one in told if one.get("name") == "dropped"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_the_kernel_forgets_the_program_and_what_was_lost_is_said(pair: Pair, number: signal.Signals):
    before = set(_programs())
    with tracing(pair.node, "--summary") as process:
        (tracer,) = _tracers(process.pid)
        mine = set(_programs()) - before
        assert mine
        handle = os.pidfd_open(tracer)
        os.kill(tracer, signal.SIGSTOP)
        pair.flood(20_000, 9080)
        os.kill(tracer, signal.SIGCONT)
        try:
            process.send_signal(number)
            told, said = process.communicate(timeout=WITHIN)
            assert process.returncode == (130 if number is signal.SIGINT else -number)
            assert select.select([handle], [], [], WITHIN)[0]
        finally:
            os.close(handle)
        assert not mine & set(_programs())
        assert "Traceback" not in said
        if number is signal.SIGINT:
            assert "more drops were lost: the tracer could not keep up" in said
            assert told.startswith(("PACKETS", "nothing"))


def test_without_bcc_it_says_what_to_install(pair: Pair, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nexec /usr/bin/python3 -S "$@"\n')
    python.chmod(0o755)

    for path, words in ((python, "No module named 'bcc'"), (tmp_path / "nowhere", "No such file")):
        done = pair.node.exec(
            *("env", f"PODLANE_TRACER_PYTHON={path}", *pair.node.command(pair.node.config_file), "trace", "drops"),
            check=False,
        )
        assert done.returncode == 5
        assert words in done.stderr
        assert "python3-bpfcc" in done.stderr


def test_an_endpoint_that_is_not_there_ends_it(pair: Pair):
    done = pair.node.podlane("trace", "drops", "--endpoint", "shop/nobody", check=False)

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "podlane: there is no endpoint with pod shop/nobody: see `podlane endpoint list`\n"


# ── trace packet ──


def packet(pair: Pair, *argv: str) -> "subprocess.CompletedProcess[str]":
    return pair.node.podlane("trace", "packet", *argv, check=False)


def test_a_packets_way_is_shown_and_its_end_is_the_exit_code(pair: Pair):
    ends = ("--from", "default/web-0", "--to", "default/web-1")

    passed = packet(pair, *ends, "--port", "5432")
    echo = packet(pair, *ends, "--protocol", "icmp", "--family", "6")
    spoofed = packet(pair, *ends, "--port", "5432", "--source", STRANGER)
    wrong = packet(pair, *ends)

    assert passed.returncode == echo.returncode == 0, passed.stderr
    first, *_, last = passed.stdout.splitlines()
    assert first == (f"default/web-0 ({pair.web_addresses[0]}) => default/web-1 ({pair.db_addresses[0]}), 5432/TCP SYN")
    assert last == "the programs in force did what follows from the maps"
    assert "TTL: 64 -> 63" in passed.stdout
    assert "passes: default/web-1, policy: delivered to endpoint" in passed.stdout
    assert f"default/web-1 ({pair.db_addresses[1]}), ICMPv6 echo request" in echo.stdout
    assert spoofed.returncode == 1
    assert "DROPPED: default/web-0, from_container: dropped: invalid source ip" in spoofed.stdout
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_where_policy_drops_the_rules_are_named(pair: Pair):
    document = pair.node.dir / "db.yaml"
    document.write_text(POLICY)
    pair.node.podlane("endpoint", "labels", "default/web-1", "app=db")
    pair.node.podlane("policy", "apply", "-f", str(document))
    try:
        denied = json.loads(
            packet(pair, "--from", "world", "--to", "default/web-1", "--port", "80", "-o", "json").stdout
        )
        allowed = packet(pair, "--from", "node", "--to", "default/web-1", "--port", "5432")
    finally:
        pair.node.podlane("policy", "delete", "netpol/default/db")

    assert (denied["passed"], denied["outcome"]) == (False, "default/web-1, policy: dropped: policy")
    assert denied["steps"][-1]["isolated_by"] == ["default/db"]
    assert denied["steps"][-1]["step"]["source"].startswith("bpf/lib/policy.h:")
    assert denied["disagreements"] == []
    assert allowed.returncode == 0
    assert "policy default/db, ingress[0]" in allowed.stdout


def test_what_the_stack_takes_is_followed_to_the_receiver(pair: Pair):
    pair.node.podlane("endpoint", "config", "default/web-0", "host-routing=on")
    try:
        told = json.loads(
            packet(pair, "--from", "default/web-0", "--to", "default/web-1", "--port", "80", "-o", "json").stdout
        )
    finally:
        pair.node.podlane("endpoint", "config", "default/web-0", "host-routing=default", check=False)

    assert [one["step"]["program"] for one in told["steps"]] == ["from_container", "to_container", "policy"]
    assert (told["passed"], told["disagreements"]) == (True, [])


def test_a_packet_that_is_really_sent_arrives_or_dies_where_it_says(pair: Pair):
    def sent(*argv: str) -> tuple[int, Any]:
        done = packet(pair, "--from", "default/web-0", *argv, "--send", "-o", "json")
        return done.returncode, json.loads(done.stdout)["sent"]

    code, echo = sent("--to", "default/web-1", "--protocol", "icmp")
    assert (code, echo["drops"], echo["untraced"]) == (0, [], "")
    assert [(one["where"], one["outgoing"]) for one in echo["seen"]][:2] == [
        ("default/web-0", True),
        ("the node", False),
    ]
    assert ("default/web-1", "eth0", False) in [(one["where"], one["device"], one["outgoing"]) for one in echo["seen"]]

    code, refused = sent("--to", "default/web-1", "--port", "9070/UDP")
    assert (code, [drop["reason"] for drop in refused["drops"]]) == (1, ["NO_SOCKET"])

    nobody = packet(pair, "--from", "world", "--to", "default/web-1", "--port", "80", "--send")
    assert nobody.returncode == 2
    assert "only a pod of this node can be made to send" in nobody.stderr
