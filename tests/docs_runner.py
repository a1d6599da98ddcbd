"""The pages of docs/ as tests: what stands in their `console` blocks is run, in order, on a node.

    ```console
    $ podlane ipam pools                 a command; lines that begin with `> ` go on with it
    POOL     RANGE         …             what it prints, both streams: `…` stands for anything within a line,
    …                                    a line of its own for any number of lines
    ```

The places of a real node stand in a page, those of the test's node are put in for them, and back for comparing. A
command without output below it must print nothing. It may fail only where the page says so, with `|| echo $?`. How many
blanks there are doesn't count.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.node_support import Node

DOCS = Path(__file__).parents[1] / "docs"
ANYTHING = "…"


@dataclass(frozen=True)
class Step:
    """A command of a page, where it stands, and the lines that it is to print."""

    line: int
    command: str
    expected: tuple[str, ...]


def steps(page: Path) -> Iterator[Step]:
    """Yield the commands of a page's `console` blocks."""
    command: list[str] = []
    expected: list[str] = []
    begin, inside = 0, False
    for number, line in enumerate([*page.read_text().splitlines(), "```"], 1):
        fence = line.lstrip().startswith("```")
        if inside and not fence and command and not expected and line.startswith("> "):
            command.append(line[2:])
        elif inside and not fence and not line.startswith("$ "):
            expected.append(line)
        else:
            if command:
                yield Step(begin, "\n".join(command), tuple(expected))
            command, expected = ([line[2:]], []) if inside and not fence else ([], [])
            begin = number
            inside = line.lstrip() == "```console" if fence else inside


def places(node: Node) -> dict[str, str]:
    """Return what stands for the places of a real node on this one."""
    return {
        "/run/podlane": f"{node.dir}/run",
        "/var/lib/podlane": f"{node.dir}/lib",
        "/etc/podlane/podlane.toml": str(node.config_file),
        "/opt/cni/bin": str(node.bin_dir),
        "/etc/cni/net.d": str(node.conf_dir),
        "/sys/fs/bpf": f"{node.dir}/bpf",
        "/tmp/": f"{node.dir}/",
        "demo-": f"{node.name}-",
    }


def run(node: Node, step: Step) -> str:
    """Run a command on the node and return what it printed, as if it were a real one."""
    ours = places(node)
    command = _swapped(step.command, ours)
    environment = {**os.environ, "PODLANE_CONFIG": str(node.config_file), "COLUMNS": "120"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = node.exec("sh", "-euc", f"exec 2>&1\n{command}", env=environment, check=False)
    told = _swapped(done.stdout, {there: real for real, there in ours.items()})
    assert done.returncode == 0, f"line {step.line}: {step.command}\nexit {done.returncode}\n{told}"
    return told


def _swapped(text: str, swaps: Mapping[str, str]) -> str:
    """Replace all at once, the longest first: one place may lie in another."""
    longest = sorted(swaps, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest)), lambda found: swaps[found[0]], text)


def check(node: Node, page: Path) -> int:
    """Run a page; return how many commands it has. Raises AssertionError with the line and what was printed."""
    count = 0
    for step in steps(page):
        count += 1
        told = run(node, step)
        assert matches(step.expected, told), (
            f"{page.name}, line {step.line}: `{step.command}` printed\n{told}\nand not\n" + "\n".join(step.expected)
        )
    return count


def _narrow(text: str) -> str:
    """Return text with one blank where there are several: how wide a column is depends on what is in it."""
    return re.sub("  +", " ", text)


def matches(expected: tuple[str, ...], told: str) -> bool:
    """Return whether a command has printed what it is to print."""
    lines = list(expected)
    while lines and not lines[-1].strip():
        lines.pop()
    wanted = ""
    for line in lines:
        anything = line.strip() == ANYTHING
        wanted += r"(?:[^\n]*\n)*?" if anything else ".*?".join(map(re.escape, _narrow(line).split(ANYTHING))) + " *\n"
    return re.fullmatch(wanted, "".join(f"{line}\n" for line in _narrow(told).splitlines())) is not None
