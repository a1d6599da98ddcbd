"""The README can't rot: its commands are run as written, on a node of the test's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node_support import Node
from tests.objects import REMEMBERING

pytestmark = [pytest.mark.privileged, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
# What a demonstration compiles, another test has compiled as well.
DEMO = {**os.environ, "PODLANE_LOADER_CLANG": REMEMBERING}


def blocks(heading: str) -> list[str]:
    """Return the shell blocks below a heading of the README."""
    text = (ROOT / "README.md").read_text()
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def test_the_node_commands_work_as_written():
    with Node(start=False) as node:
        (script,) = blocks("On a node")
        # The only difference from a real node: where things lie.
        for real, ours in (
            ("/run/podlane", f"{node.dir}/run"),
            ("/opt/cni/bin", f"{node.dir}/opt-bin"),
            ("/etc/cni/net.d", f"{node.dir}/net.d"),
            ("/tmp/db.yaml", f"{node.dir}/db.yaml"),
        ):
            script = script.replace(real, ours)
        environment = {**os.environ, "PODLANE_CONFIG": str(node.config_file)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

        told = node.exec("sh", "-euc", script, env=environment).stdout

        assert told.count("serving") >= 6
        assert "no endpoints" in told
        assert "podlane.ipam.v1.IpamService" in told
        assert "10.44.0.0/24" in told
        assert told.count("networkpolicy shop/db created") == 2
        assert "networkpolicy shop/db deleted" in told
        assert told.count("stopped") == 3
        assert (node.dir / "opt-bin" / "podlane").exists()


def test_make_demo_tells_its_story_to_the_end():
    (script,) = blocks("Three commands")
    demo = next(line for line in script.splitlines() if line == "make demo")

    told = subprocess.run(demo.split(), cwd=ROOT, capture_output=True, text=True, timeout=110, check=False, env=DEMO)

    assert told.returncode == 0, told.stdout + told.stderr
    assert "Nothing is left" in told.stdout
    assert "1.00 GiB" in told.stdout
    assert told.stdout.count("the programs in force agree") == 2
    assert told.stdout.rstrip().endswith("nothing of it is left.")


@pytest.mark.timeout(240)
def test_make_demo_cluster_tells_its_story_to_the_end():
    (script,) = blocks("Three commands")
    demo = next(line for line in script.splitlines() if line == "make demo-cluster")

    told = subprocess.run(demo.split(), cwd=ROOT, capture_output=True, text=True, timeout=220, check=False, env=DEMO)

    assert told.returncode == 0, told.stdout + told.stderr
    assert "no answer" in told.stdout
    assert "absent" in told.stdout
    assert told.stdout.rstrip().endswith("nothing of it is left.")


def test_a_second_setup_does_nothing_and_says_nothing():
    told = subprocess.run(["make", "setup"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)

    assert told.stdout + told.stderr == ""


def test_without_root_the_first_line_says_what_is_needed_and_how():
    told = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "make", "--no-print-directory", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert told.returncode != 0
    assert told.stderr.splitlines()[0].startswith("root is needed")
    assert "sudo make demo" in told.stderr.splitlines()[0]


def test_make_alone_prints_a_menu_with_every_command_that_the_documents_name():
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout
    documents = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))

    named = set(re.findall(r"`make ([a-z-]+)", documents)) | {"demo", "test"}

    assert named <= set(re.findall(r"make ([a-z-]+)", told))


def test_ci_runs_the_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
