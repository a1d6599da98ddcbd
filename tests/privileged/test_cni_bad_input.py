"""Bad input and bad days with everything real: the spec's code, a message that names the field, nothing left behind."""

import json
import signal

import pytest

from tests.node_support import Node, run, stopped

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


@pytest.mark.parametrize("service", ["loader", "endpoint"])
def test_a_shim_that_is_killed_between_two_steps_leaves_what_del_can_clear(node: Node, service: str):
    """The service of the next step is held still, the shim is killed while it waits, then time goes on."""
    import subprocess

    pod = node.pod()
    with stopped(node, service):
        shim = subprocess.Popen(
            [str(node.bin_dir / "podlane")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=node.environment("ADD", pod),
        )
        assert shim.stdin is not None
        shim.stdin.write(json.dumps(node.conf()).encode())
        shim.stdin.close()
        # The step before is done when its address is reserved, or its link is made.
        if service == "loader":
            wait_until(lambda: node.show("ipam", "list") != [])
        else:
            wait_until(lambda: any(link["ifname"].startswith("lxc") for link in node.links()))
        shim.send_signal(signal.SIGKILL)
        shim.wait(10)
        assert shim.stdout is not None
        assert shim.stderr is not None
        shim.stdout.close()
        shim.stderr.close()

    node.delete(pod)

    wait_until(lambda: node.leftovers() == [])
    node.add(pod)
    assert pod.ping("10.44.0.1")
    node.delete(pod)
    assert node.leftovers() == []


def wait_until(condition: object) -> None:
    """Wait for a condition, at most twenty seconds."""
    import time

    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator] # any callable
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.02)
