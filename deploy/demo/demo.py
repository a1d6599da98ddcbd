"""The demo: one node, two pods, from CNI ADD to the first ping, told step by step with the time of each.

Then a policy comes between the two. At the end it shows that nothing is left.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence

from stage import Failure, Node, Story, main, reaches, run, say

GIBIBYTE = 1 << 30
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: demo}
spec:
  podSelector:
    matchLabels: {app: web}
  ingress:
  - from:
    - podSelector:
        matchLabels: {app: client}
    ports:
    - {port: 80}
"""


def ping(prefix: Sequence[str], address: str) -> str:
    """Ping three times and return the summary; anything lost is a failure."""
    told = run(*prefix, "ping", "-c", "3", "-i", "0.05", "-W", "2", address)
    if "3 received" not in told:
        raise Failure(told)
    return told.splitlines()[-1].replace("rtt ", "")


def show_pings(node: Node) -> None:
    """Ping in every direction, in both families."""
    web, client = node.pods
    host = ["nsenter", f"--net=/run/netns/{node.name}"]
    gateways = [pool["gateway"] for pool in json.loads(node.podlane("ipam", "pools", "-o", "json"))[0]["ranges"]]
    for version, address, gateway in zip((4, 6), web.addresses, gateways, strict=True):
        inside = ["ip", "netns", "exec", client.netns]
        say(f"IPv{version} pod \N{RIGHTWARDS ARROW} pod    {address:<18} {ping(inside, address)}")
        say(f"IPv{version} pod \N{RIGHTWARDS ARROW} host   {gateway:<18} {ping(inside, gateway)}")
        say(f"IPv{version} host \N{RIGHTWARDS ARROW} pod   {address:<18} {ping(host, address)}")


def show_transfer(node: Node) -> None:
    """Move 1 GiB of TCP from one pod to the other."""
    web, client = node.pods
    with subprocess.Popen(
        ["ip", "netns", "exec", web.netns, "iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            while "Server listening" not in (line := server.stdout.readline()):
                if not line:
                    raise Failure("iperf3 did not start")
            told = json.loads(client.exec("iperf3", "-c", web.addresses[0], "-n", str(GIBIBYTE), "-J"))
        finally:
            server.terminate()
    # What the receiver has counted may lag behind at the moment iperf3 asks it.
    sent, received = told["end"]["sum_sent"], told["end"]["sum_received"]
    say(
        f"{sent['bytes'] / GIBIBYTE:.2f} GiB in {received['seconds']:.2f} s: "
        f"{received['bits_per_second'] / 1e9:.1f} Gbit/s"
    )


def show_reach(node: Node, expected: Sequence[str]) -> None:
    """Show what the client reaches of the web pod at two ports; anything else than expected is a failure."""
    web, client = node.pods
    for version, address in zip((4, 6), web.addresses, strict=True):
        found = [reaches(client, address, port) for port in (80, 22)]
        say(f"IPv{version} demo/client \N{RIGHTWARDS ARROW} demo/web   80/TCP {found[0]}, 22/TCP {found[1]}")
        if found != list(expected):
            raise Failure(f"{expected} was expected")


def show_policy(node: Node, story: Story) -> None:
    """Let the client reach one port of the web pod and nothing else."""
    file = node.dir / "policy.yaml"
    file.write_text(POLICY)
    with story.step("No policy: everybody reaches everybody"):
        show_reach(node, ("reached", "reached"))
    with story.step("podlane policy apply: the client may reach the web pod's port 80 and no other"):
        say(POLICY)
        say("")
        say(node.podlane("policy", "apply", "-f", str(file)))
        show_reach(node, ("reached", "no answer"))
    with story.step("podlane policy explain: which rule decides, and whether the programs agree"):
        ends = ("--from", "demo/client", "--to", "demo/web")
        say(node.podlane("policy", "explain", *ends, "--port", "80/TCP"))
        say("")
        say(node.podlane("policy", "explain", *ends, "--port", "22/TCP", answers=(1,)))


def tell(stack: contextlib.ExitStack) -> None:
    """Tell the whole story."""
    node, story = Node({}, ["10.244.0.0/24", "fd00:10:244::/112"]), Story()
    stack.callback(node.clean)
    with story.step(f"A node of its own: network namespace {node.name}, a bpffs, directories under {node.dir}"):
        node.make()
    with story.step("podlane node up: three services, three processes, three sockets"):
        say(node.podlane("node", "up"))
    with story.step("podlane cni install: the plugin and its network configuration"):
        say(node.podlane("cni", "install", "--bin-dir", str(node.bin), "--conf-dir", str(node.conf)))
    web, _ = pods = [node.pod("web"), node.pod("client")]
    for pod in pods:
        with story.step(f"CNI ADD for pod demo/{pod.name}, as a runtime calls it"):
            result = node.cni("ADD", pod)
            pod.addresses = tuple(one["address"].partition("/")[0] for one in result["ips"])
            say(json.dumps(result, indent=2) if pod is web else "got " + ", ".join(pod.addresses))
    with story.step("What the pod sees"):
        say(
            web.exec("ip", "-brief", "address", "show", "eth0")
            + web.exec("ip", "route")
            + web.exec("ip", "-6", "route")
        )
    with story.step("Ping"):
        show_pings(node)
    with story.step("1 GiB of TCP from pod to pod"):
        show_transfer(node)
    with story.step("podlane endpoint list, ipam list"):
        say(node.podlane("endpoint", "list"))
        say("")
        say(node.podlane("ipam", "list"))
    with story.step(f"podlane endpoint get {web.addresses[0]}: phases and loaded programs"):
        say(node.podlane("endpoint", "get", web.addresses[0]))
    show_policy(node, story)
    for pod in node.pods:
        with story.step(f"CNI DEL for pod demo/{pod.name}"):
            node.cni("DEL", pod)
    with story.step("Nothing is left: links, routes, pins, state, addresses, endpoints"):
        left = node.leftovers()
        if left:
            raise Failure(f"left behind: {left}")
        say("nothing found")
    with story.step("podlane node down"):
        say(node.podlane("node", "down"))


if __name__ == "__main__":
    sys.exit(main("podlane: a pod's network, from CNI ADD to the first ping", tell, "make demo"))
