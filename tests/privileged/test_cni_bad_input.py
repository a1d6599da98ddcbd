"""Bad input and bad days with everything real: the spec's code, a message that names the field, nothing left behind."""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node_support import Node, Pod, run, stopped

pytestmark = pytest.mark.privileged


@pytest.mark.xdist_group("bad-input")
@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/run/netns/there-is-none", "there-is-none"),
        ("/etc/hostname", "/etc/hostname"),
        ("host", "own"),
    ],
)
def test_a_namespace_that_is_missing_or_none_or_the_hosts_own_is_refused(shared_node: Node, path: str, named: str):
    pod = shared_node.pod()
    asked = f"/run/netns/{shared_node.name}" if path == "host" else path

    outcome = shared_node.cni("ADD", pod, CNI_NETNS=asked)

    assert outcome.code == 1
    assert outcome.json["code"] in {3, 4, 8}
    assert named in outcome.json["msg"] + outcome.json.get("details", "")
    assert "Traceback" not in outcome.stderr
    assert shared_node.leftovers() == []


@pytest.mark.xdist_group("bad-input")
@pytest.mark.cni("ADD-4", "EXEC-5")
def test_an_interface_of_somebody_else_is_left_alone_and_named(shared_node: Node):
    pod = shared_node.pod()
    run("ip", "-n", pod.netns, "link", "add", "eth0", "type", "veth", "peer", "name", "other")

    outcome = shared_node.cni("ADD", pod)

    assert outcome.code == 1
    assert "eth0" in outcome.json["msg"]
    assert {link["ifname"] for link in json.loads(pod.exec("ip", "-j", "link").stdout)} == {"lo", "eth0", "other"}
    assert shared_node.leftovers() == []


@pytest.mark.parametrize("service", ["ipam", "loader", "endpoint"])
def test_a_service_that_is_down_is_named_with_code_11_and_the_rest_is_undone(node: Node, service: str):
    pod = node.pod()
    node.kill(service)

    outcome = node.cni("ADD", pod)

    assert outcome.code == 1
    assert outcome.json["code"] == 11
    assert f"{service}.sock" in outcome.json["msg"] + outcome.json.get("details", "")
    node.podlane("node", "up")
    assert node.leftovers() == []
    node.add(pod)
    node.delete(pod)
    assert node.leftovers() == []


def test_an_exhausted_pool_says_how_full_it_is():
    with Node(ranges=["10.44.1.0/30"]) as node:
        first, second = node.pod(), node.pod()
        node.add(first)

        outcome = node.cni("ADD", second)

        assert outcome.code == 1
        assert outcome.json["code"] == 11
        told = outcome.json["msg"] + outcome.json.get("details", "")
        assert "default" in told
        assert "10.44.1.0/30" in told
        node.delete(first)
        assert node.leftovers() == []
        node.add(second)


@pytest.mark.cni("ADD-5")
def test_a_program_that_the_verifier_rejects_fails_the_add_and_leaves_nothing():
    with Node() as healthy:
        source = healthy.loaded.loader.bpf_dir
        broken = healthy.dir / "bpf-src"
        run("cp", "-r", str(source), str(broken))
        # An access that no check precedes: clang is content, the verifier is not.
        program = broken / "bpf_lxc.c"
        text = program.read_text()
        marker = "from_container(struct __sk_buff *"
        start = text.index("{", text.index(marker)) + 1
        name = text[text.index(marker) + len(marker) :].partition(")")[0]
        spoiled = f"\n\tif (*(volatile __u8 *)(long){name}->data == 42)\n\t\treturn 2;\n"
        program.write_text(text[:start] + spoiled + text[start:])
        healthy.settings = {"loader": {"bpf_dir": str(broken)}}
        healthy.write_config()
        healthy.podlane("node", "down")
        healthy.podlane("node", "up")
        pod = healthy.pod()

        outcome = healthy.cni("ADD", pod)

        assert outcome.code == 1
        told = outcome.json["msg"] + outcome.json.get("details", "")
        assert "from_container" in told
        assert healthy.leftovers() == []
        logs = list((healthy.dir / "run" / "state").glob("*_next_fail/verifier.log"))
        assert logs
        assert "invalid" in logs[0].read_text()


def start_add(node: Node, pod: Pod, stdout: int) -> subprocess.Popen[bytes]:
    """Start an ADD whose result goes to the descriptor `stdout`."""
    shim = subprocess.Popen(
        [str(node.bin_dir / "podlane")],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=node.environment("ADD", pod),
    )
    assert shim.stdin is not None
    with shim.stdin as stdin:
        stdin.write(json.dumps(node.conf()).encode())
    return shim


def has_socket(shim: subprocess.Popen[bytes]) -> bool:
    """Return whether the shim has connected to a service."""
    links = Path(f"/proc/{shim.pid}/fd").iterdir()
    return any(str(link.readlink()).startswith("socket:") for link in links)


def heal(node: Node, pod: Pod) -> None:
    """DEL clears what a killed ADD left, and the next ADD works as if nothing had been."""
    node.delete(pod)
    wait_until(lambda: node.leftovers() == [])
    node.add(pod)
    assert pod.ping("10.44.0.1")
    node.delete(pod)
    assert node.leftovers() == []


@pytest.mark.parametrize("service", ["ipam", "loader", "endpoint"])
def test_a_shim_that_is_killed_before_during_or_between_its_steps_leaves_what_del_can_clear(node: Node, service: str):
    """The service of one step is held still, the shim is killed while it waits for it, then time goes on."""
    pod = node.pod()
    with stopped(node, service):
        shim = start_add(node, pod, subprocess.DEVNULL)
        begun: dict[str, Callable[[], bool]] = {
            "ipam": lambda: has_socket(shim),
            "loader": lambda: node.show("ipam", "list") != [],
            "endpoint": lambda: any(link["ifname"].startswith("lxc") for link in node.links()),
        }
        wait_until(begun[service])
        shim.kill()
        shim.wait(10)

    heal(node, pod)


def test_a_shim_that_is_killed_after_the_last_step_leaves_what_del_can_clear(node: Node):
    """Its result finds a full pipe, so that it ends between the last step and the answer."""
    pod = node.pod()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    shim = start_add(node, pod, writer)
    wait_until(lambda: [one["state"] for one in node.show("endpoint", "list")] == ["ready"])
    shim.kill()
    shim.wait(10)
    os.close(reader)
    os.close(writer)

    heal(node, pod)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most twenty seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.02)
