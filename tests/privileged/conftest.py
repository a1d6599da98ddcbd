"""Nodes for the privileged tests."""

from collections.abc import Iterator

import pytest

from tests import crash_site
from tests.node_support import Node

# Shared by all files that kill services.
site, sites = crash_site.site, crash_site.sites


@pytest.fixture(scope="module")
def shared_node() -> Iterator[Node]:
    """One node for all tests of a module; each makes its own pods and takes them down."""
    with Node() as node:
        yield node


@pytest.fixture
def node() -> Iterator[Node]:
    """A node for one test that stops, kills or fills things."""
    with Node() as node:
        yield node
