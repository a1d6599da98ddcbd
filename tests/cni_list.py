"""A network configuration list run as libcni runs one: plugins in order, each with the result of the one before; DEL in
reverse, with what the ADD had; CHECK in order with that, too (SPEC.md, section 3).

    network = Network(node, "bridged", [bridge(...), node.plugin()])
    result = network.add(pod)
    network.check(pod)
    network.delete(pod)
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.node_support import Node, Outcome, Pod

REFERENCE = Path("/usr/lib/cni")


class Network:
    """One list. `results` are those of ADDs, by container id, as libcni keeps them."""

    def __init__(self, node: Node, name: str, plugins: Sequence[Mapping[str, Any]], version: str = "1.0.0") -> None:
        """`plugins` as in a conflist."""
        self._node, self._name, self._plugins, self._version = node, name, plugins, version
        self.results: dict[str, Any] = {}

    def call(self, verb: str, place: int, pod: Pod, **more: Any) -> Outcome:
        """Call one plugin of the list."""
        plugin = self._plugins[place]
        path = REFERENCE / plugin["type"]
        conf = {**plugin, "name": self._name, "cniVersion": self._version, **more}
        binary = path if path.exists() else self._node.bin_dir / plugin["type"]
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self._node.name}", str(binary)],
            input=json.dumps(conf),
            env=self._node.environment(verb, pod) | {"CNI_PATH": f"{REFERENCE}:{self._node.bin_dir}"},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def begin(self, pod: Pod) -> Outcome:
        """ADD; return the last plugin's answer, or the first failure."""
        pod.network = self._name
        previous: dict[str, Any] = {}
        outcome = Outcome(0, "", "")
        for place in range(len(self._plugins)):
            outcome = self.call("ADD", place, pod, **previous)
            if outcome.code:
                return outcome
            previous = {"prevResult": outcome.json}
        self.results[pod.container_id] = outcome.json
        return outcome

    def add(self, pod: Pod) -> Any:
        """ADD that must succeed; return the result."""
        outcome = self.begin(pod)
        assert outcome.code == 0, outcome
        return outcome.json

    def check(self, pod: Pod) -> list[Outcome]:
        """CHECK all plugins; return their answers."""
        previous = {"prevResult": self.results[pod.container_id]}
        return [self.call("CHECK", place, pod, **previous) for place in range(len(self._plugins))]

    def delete(self, pod: Pod) -> None:
        """DEL that must succeed."""
        cached = self.results.pop(pod.container_id, None)
        previous = {"prevResult": cached} if cached is not None else {}
        for place in reversed(range(len(self._plugins))):
            outcome = self.call("DEL", place, pod, **previous)
            assert outcome.code == 0, (self._plugins[place]["type"], outcome)


def addresses(result: Any) -> list[str]:
    """Return the addresses of a result without prefix lengths."""
    return [one["address"].partition("/")[0] for one in result["ips"]]
