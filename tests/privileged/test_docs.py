"""The task pages of docs/: their examples are run as they stand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import docs_runner
from tests.node_support import Node, _delete_netns

pytestmark = [pytest.mark.privileged, pytest.mark.long]


RANGES = ("10.244.0.0/24", "fd00:10:244::/112")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node with the addresses that the pages have."""
    with Node(ranges=RANGES) as node:
        yield node
        for left in Path("/run/netns").glob(f"{node.name}-*"):
            _delete_netns(left.name)


@pytest.mark.parametrize("page", ["first-pod", "debugging-with-grpcurl", "monitor", "upgrade", "bugtool", "monitoring"])
def test_a_pages_examples_print_what_it_says(node: Node, page: str):
    assert docs_runner.check(node, docs_runner.DOCS / f"{page}.md") > 0
    assert node.leftovers() == []


def test_the_installations_examples_print_what_it_says_and_leave_nothing_that_runs():
    with Node(ranges=RANGES, start=False) as node:
        assert docs_runner.check(node, docs_runner.DOCS / "install.md") > 0
        assert list(node.bin_dir.iterdir()) == []
        assert list((node.dir / "run").glob("*.pid")) == []
