"""`podlane monitor` and grpcurl listen to a real node while a pod speaks out of turn."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.node_support import Node, Pod
from tests.privileged.test_grpcurl import GRPCURL

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("cli")]

STRANGER = "10.99.0.1"


@contextlib.contextmanager
def running(node: Node, *argv: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in the node's namespace; end it with Ctrl-C."""
    process = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{node.name}", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@contextlib.contextmanager
def monitor(node: Node, *argv: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `podlane monitor` and wait until it listens."""
    with running(node, *node.command(node.config_file), "monitor", *argv) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("listening for ")
        yield process


@pytest.fixture
def liar(shared_node: Node) -> Iterator[Pod]:
    """A pod with an address of its own choice beside the one that it was given."""
    pod = shared_node.pod()
    gateway = shared_node.add(pod).json["ips"][0]["gateway"]
    assert pod.ping(gateway)  # or the first lie would be told by ARP
    pod.exec("ip", "addr", "add", f"{STRANGER}/32", "dev", "eth0")
    yield pod
    shared_node.delete(pod)


def lie(pod: Pod) -> None:
    """Send one packet from the wrong address."""
    pod.exec("ping", "-c", "1", "-W", "0.1", "-I", STRANGER, "192.0.2.1", check=False)


def id_of(node: Node, pod: Pod) -> int:
    """Return the pod's endpoint id."""
    (found,) = [one["id"] for one in node.show("endpoint", "list") if one["pod"]["name"] == pod.name]
    return int(found)


def test_a_drop_is_one_line(shared_node: Node, liar: Pod):
    id_ = id_of(shared_node, liar)
    with monitor(shared_node, "--type", "drop", "--endpoint", str(id_)) as process:
        lie(liar)
        assert process.stdout is not None
        line = next(line for line in process.stdout if STRANGER in line)

    moment, _, told = line.strip().partition(" ")
    assert len(moment) == len("12:34:56.123456")
    assert told.startswith("default/web-0 => 192.0.2.1: drop (invalid source ip) at bpf/bpf_lxc.c:")
    assert f"endpoint {id_} egress" in told
    assert f"{STRANGER} -> 192.0.2.1 ICMP echo request" in told


def test_for_scripts_it_is_one_json_object_a_line(shared_node: Node, liar: Pod):
    with monitor(shared_node, "-o", "json") as process:
        lie(liar)
        assert process.stdout is not None
        told = next(one for one in map(json.loads, process.stdout) if one["packet"].get("source") == STRANGER)

    assert (told["drop"]["reason"], told["direction"]) == ("invalid source ip", "egress")
    assert (told["packet"]["destination"], told["packet"]["protocol"]) == ("192.0.2.1", "ICMP")
    assert "trace" not in told


def test_ctrl_c_ends_it_quietly(shared_node: Node):
    with running(shared_node, *shared_node.command(shared_node.config_file), "monitor") as process:
        assert process.stderr is not None
        assert "Ctrl-C ends" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip() == ""
        assert process.wait(20) == 130


def test_an_unknown_type_is_refused_with_those_that_there_are(shared_node: Node):
    outcome = shared_node.podlane("monitor", "--type", "drop,flood", check=False)

    assert outcome.returncode == 2
    assert outcome.stderr == (
        "podlane: --type: 'flood' is no type of event; there are drop, trace, verdict, connection, endpoint, "
        "controller\n"
    )


def test_a_loader_that_is_down_is_named(node: Node):
    node.kill("loader")

    outcome = node.podlane("monitor", check=False)

    assert outcome.returncode == 4
    assert "podlane-loader does not answer" in outcome.stderr


def test_grpcurl_streams_the_same_with_names(shared_node: Node, liar: Pod):
    socket = f"{shared_node.dir}/run/loader/loader.sock"
    method = "podlane.loader.v1.LoaderService/WatchEvents"
    request = json.dumps({"types": ["EVENT_TYPE_DROP"], "endpointId": id_of(shared_node, liar)})
    with running(shared_node, GRPCURL, "-plaintext", "-unix", "-d", request, socket, method) as process:
        assert process.stdout is not None
        text, told = "", cast("dict[str, Any]", {"summary": ""})
        while STRANGER not in told["summary"]:
            lie(liar)  # grpcurl doesn't say when it listens
            text += process.stdout.readline()
            with contextlib.suppress(json.JSONDecodeError):
                told, text = json.loads(text), ""

    assert told["drop"]["reason"] == "invalid source ip"
    assert told["direction"] == "TRAFFIC_DIRECTION_EGRESS"
    assert STRANGER in told["summary"]
