"""The demo: one node, two pods, from CNI ADD to the first ping, told step by step with the time of each.

Then a policy comes between the two.

The node is a network namespace with its own bpffs and directories, so that nothing of the machine's own network is
touched; everything else is what a real node has: three service processes, the installed plugin called exactly as a
runtime calls it, programs in the kernel. At the end it shows that nothing is left.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class Failure(Exception):
    """A step that didn't do what the story says; the text tells what it saw."""


def run(*argv: str, answers: Sequence[int] = (0,), **options: Any) -> str:
    """Run a command and return its stdout; an exit code that is none of `answers` ends the story with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, **options)
    if done.returncode not in answers:
        raise Failure(f"{' '.join(argv)}\n  exit {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def say(text: str) -> None:
    """Print a paragraph, indented."""
    for line in text.rstrip("\n").splitlines() or [""]:
        print(f"     {line}".rstrip(), flush=True)


class Story:
    """Numbers the steps and times them."""

    def __init__(self) -> None:
        """Begin at step 1."""
        self._number = 0

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step: its title, what happens, how long it took."""
        self._number += 1
        print(f"\n{self._number:>3}  {title}", flush=True)
        begin = time.perf_counter()
        yield
        print(f"     \N{CHECK MARK} {(time.perf_counter() - begin) * 1000:.0f} ms", flush=True)


@dataclass
class Pod:
    """A sandbox as a runtime would make it: a network namespace and a container id."""

    name: str
    netns: str
    container_id: str
    addresses: tuple[str, ...] = ()

    def exec(self, *argv: str) -> str:
        """Run a command inside."""
        return run("ip", "netns", "exec", self.netns, *argv)


class Demo:
    """The node and its pods."""

    def __init__(self) -> None:
        """Choose the names."""
        self.node = f"podlane-{secrets.token_hex(3)}"
        self.dir = Path(tempfile.mkdtemp(prefix=f"{self.node}-", dir="/tmp"))
        self.config = self.dir / "podlane.toml"
        self.bin, self.conf = self.dir / "cni" / "bin", self.dir / "cni" / "net.d"
        self.pods = [Pod(name, f"{self.node}-{name}", secrets.token_hex(32)) for name in ("web", "client")]

    def inside(self, *argv: str, **options: Any) -> str:
        """Run a command in the node's network namespace."""
        return run("nsenter", f"--net=/run/netns/{self.node}", *argv, **options)

    def podlane(self, *argv: str, answers: Sequence[int] = (0,)) -> str:
        """Run the operator's command on the node; `answers` are the exit codes that are no failure."""
        command = str(Path(sys.executable).with_name("podlane"))
        return self.inside(command, "--config", str(self.config), *argv, answers=answers)

    def make_node(self) -> None:
        """Make the namespace, the bpffs and the settings."""
        run("ip", "netns", "add", self.node)
        run("ip", "-n", self.node, "link", "set", "lo", "up")
        (self.dir / "bpf").mkdir()
        run("mount", "-t", "bpf", "bpf", str(self.dir / "bpf"))
        self.config.write_text(
            "[node]\n"
            f'name = "{self.node}"\n'
            f'run_dir = "{self.dir}/run"\n'
            f'lib_dir = "{self.dir}/lib"\n'
            f'bpffs = "{self.dir}/bpf"\n'
            "[endpoint]\n"
            f'policy_dir = "{self.dir}/policy.d"\n'
            "[[ipam.pools]]\n"
            'name = "default"\n'
            'ranges = ["10.244.0.0/24", "fd00:10:244::/112"]\n'
        )

    def cni(self, verb: str, pod: Pod) -> Any:
        """Call the installed plugin as a runtime does: environment, JSON on stdin, JSON on stdout."""
        conflist = json.loads(next(self.conf.glob("*.conflist")).read_text())
        conf = {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
        conf["args"] = {"cni": {"labels": [{"key": "app", "value": pod.name}]}}
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": f"/run/netns/{pod.netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.bin),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={pod.name}",
        }
        told = self.inside(str(self.bin / "podlane"), input=json.dumps(conf), env=environment)
        return json.loads(told) if told else None

    def leftovers(self) -> list[str]:
        """Return what is still there of any pod: links, routes, pins, state, addresses, endpoints."""
        links = json.loads(self.inside("ip", "-j", "link"))
        found = [link["ifname"] for link in links if link["ifname"].startswith("lxc")]
        found += [line for line in self.inside("ip", "route").splitlines() if "lxc" in line]
        found += [str(path) for path in (self.dir / "bpf").rglob("*policy_*") if path.name[-1].isdigit()]
        found += [str(path) for path in (self.dir / "run" / "state").iterdir() if path.name[:1].isdigit()]
        found += [str(path) for path in (self.dir / "run" / "state" / "links").iterdir()]
        found += json.loads(self.podlane("ipam", "list", "-o", "json"))
        return found + json.loads(self.podlane("endpoint", "list", "-o", "json"))

    def clean(self) -> None:
        """Take everything away, whatever happened before."""
        with contextlib.suppress(Failure):
            self.podlane("node", "down")
        for netns in (*(pod.netns for pod in self.pods), self.node):
            subprocess.run(["ip", "netns", "del", netns], capture_output=True, check=False)
        subprocess.run(["umount", str(self.dir / "bpf")], capture_output=True, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def ping(prefix: Sequence[str], address: str) -> str:
    """Ping three times and return the summary; anything lost is a failure."""
    told = run(*prefix, "ping", "-c", "3", "-i", "0.05", "-W", "2", address)
    if "3 received" not in told:
        raise Failure(told)
    return told.splitlines()[-1].replace("rtt ", "")


def show_pings(demo: Demo) -> None:
    """Ping in every direction, in both families."""
    web, client = demo.pods
    host = ["nsenter", f"--net=/run/netns/{demo.node}"]
    gateways = [pool["gateway"] for pool in json.loads(demo.podlane("ipam", "pools", "-o", "json"))[0]["ranges"]]
    for version, address, gateway in zip((4, 6), web.addresses, gateways, strict=True):
        inside = ["ip", "netns", "exec", client.netns]
        say(f"IPv{version} pod \N{RIGHTWARDS ARROW} pod    {address:<18} {ping(inside, address)}")
        say(f"IPv{version} pod \N{RIGHTWARDS ARROW} host   {gateway:<18} {ping(inside, gateway)}")
        say(f"IPv{version} host \N{RIGHTWARDS ARROW} pod   {address:<18} {ping(host, address)}")


def show_transfer(demo: Demo) -> None:
    """Move 1 GiB of TCP from one pod to the other."""
    web, client = demo.pods
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


def reaches(client: Pod, address: str, port: int) -> str:
    """Knock at a TCP port where nobody listens: what answers with a refusal was reached, what is silent was not."""
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.2)\n"
        "except ConnectionRefusedError: print('reached')\n"
        "except TimeoutError: print('no answer')\n"
    )
    return client.exec(sys.executable, "-ISc", script, address, str(port)).strip()


def show_reach(demo: Demo, expected: Sequence[str]) -> None:
    """Show what the client reaches of the web pod at two ports; anything else than expected is a failure."""
    web, client = demo.pods
    for version, address in zip((4, 6), web.addresses, strict=True):
        found = [reaches(client, address, port) for port in (80, 22)]
        say(f"IPv{version} demo/client \N{RIGHTWARDS ARROW} demo/web   80/TCP {found[0]}, 22/TCP {found[1]}")
        if found != list(expected):
            raise Failure(f"{expected} was expected")


def show_policy(demo: Demo, story: Story) -> None:
    """Let the client reach one port of the web pod and nothing else."""
    file = demo.dir / "policy.yaml"
    file.write_text(POLICY)
    with story.step("No policy: everybody reaches everybody"):
        show_reach(demo, ("reached", "reached"))
    with story.step("podlane policy apply: the client may reach the web pod's port 80 and no other"):
        say(POLICY)
        say("")
        say(demo.podlane("policy", "apply", "-f", str(file)))
        show_reach(demo, ("reached", "no answer"))
    with story.step("podlane policy explain: which rule decides, and whether the programs agree"):
        ends = ("--from", "demo/client", "--to", "demo/web")
        say(demo.podlane("policy", "explain", *ends, "--port", "80/TCP"))
        say("")
        say(demo.podlane("policy", "explain", *ends, "--port", "22/TCP", answers=(1,)))


def tell(demo: Demo, story: Story) -> None:
    """Tell the whole story."""
    web, _ = demo.pods
    with story.step(f"A node of its own: network namespace {demo.node}, a bpffs, directories under {demo.dir}"):
        demo.make_node()
    with story.step("podlane node up: three services, three processes, three sockets"):
        say(demo.podlane("node", "up"))
    with story.step("podlane cni install: the plugin and its network configuration"):
        say(demo.podlane("cni", "install", "--bin-dir", str(demo.bin), "--conf-dir", str(demo.conf)))
    for pod in demo.pods:
        run("ip", "netns", "add", pod.netns)
        with story.step(f"CNI ADD for pod demo/{pod.name}, as a runtime calls it"):
            result = demo.cni("ADD", pod)
            pod.addresses = tuple(one["address"].partition("/")[0] for one in result["ips"])
            say(json.dumps(result, indent=2) if pod is web else "got " + ", ".join(pod.addresses))
    with story.step("What the pod sees"):
        say(
            web.exec("ip", "-brief", "address", "show", "eth0")
            + web.exec("ip", "route")
            + web.exec("ip", "-6", "route")
        )
    with story.step("Ping"):
        show_pings(demo)
    with story.step("1 GiB of TCP from pod to pod"):
        show_transfer(demo)
    with story.step("podlane endpoint list, ipam list"):
        say(demo.podlane("endpoint", "list"))
        say("")
        say(demo.podlane("ipam", "list"))
    with story.step(f"podlane endpoint get {web.addresses[0]}: phases and loaded programs"):
        say(demo.podlane("endpoint", "get", web.addresses[0]))
    show_policy(demo, story)
    for pod in demo.pods:
        with story.step(f"CNI DEL for pod demo/{pod.name}"):
            demo.cni("DEL", pod)
    with story.step("Nothing is left: links, routes, pins, state, addresses, endpoints"):
        left = demo.leftovers()
        if left:
            raise Failure(f"left behind: {left}")
        say("nothing found")
    with story.step("podlane node down"):
        say(demo.podlane("node", "down"))


def main() -> int:
    """Tell the story; exit code 1 and what happened when a step fails."""
    if os.geteuid():
        print("root is needed for network namespaces and eBPF: run 'sudo make demo'", file=sys.stderr)
        return 1
    demo, begin = Demo(), time.perf_counter()
    print("podlane: a pod's network, from CNI ADD to the first ping")
    try:
        tell(demo, Story())
    except Failure as failure:
        print(f"\nThe demo failed: {failure}", file=sys.stderr)
        return 1
    finally:
        demo.clean()
    print(f"\nDone in {time.perf_counter() - begin:.1f} s; the node is gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
