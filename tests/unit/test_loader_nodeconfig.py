"""A node configuration is in force and written down, or neither."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from services.common.config import LoaderSettings
from services.common.errors import FailedPrecondition, Unavailable
from services.loader.model import NodeConfig
from services.loader.nodeconfig import NodeConfigurer
from services.loader.statedir import StateDir

ONE = NodeConfig((), (ip_address("10.0.0.1"),), masquerade=True)
TWO = NodeConfig((), (ip_address("10.0.0.2"),), masquerade=True)


class FakeSide:
    """The node's devices: remembers what was asked for, and refuses when told to."""

    def __init__(self) -> None:
        self.configured: list[NodeConfig] = []
        self.refuse = False

    async def configure(self, config: NodeConfig) -> int:
        if self.refuse:
            raise Unavailable("nft: no")
        self.configured.append(config)
        return config.mtu or 1500


class FakeAddresses:
    """The node's addresses in the endpoint map: remembers with what they were compared."""

    def __init__(self) -> None:
        self.compared: list[NodeConfig] = []

    async def sync(self, config: NodeConfig) -> None:
        self.compared.append(config)


class FakeOthers:
    """What there is because of other nodes: remembers how often it was taken away."""

    def __init__(self) -> None:
        self.withdrawn = 0

    async def withdraw(self) -> None:
        self.withdrawn += 1


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path)
    state.open()
    return state


def configurer(state: StateDir, side: FakeSide, **settings: Any) -> tuple[NodeConfigurer, FakeAddresses]:
    addresses = FakeAddresses()
    fakes: dict[str, Any] = {"side": side, "addresses": addresses, "others": FakeOthers(), "templates": None}
    return NodeConfigurer(state, **fakes, settings=LoaderSettings(**settings)), addresses


async def test_a_configuration_is_in_force_and_written_down(state: StateDir) -> None:
    node, addresses = configurer(state, FakeSide())

    assert [(await node.configure(ONE))[0], (await node.configure(ONE))[0], (await node.configure(TWO))[0]] == [
        True,
        False,
        True,
    ]
    assert state.node() == node.config == TWO
    assert addresses.compared == [ONE, ONE, TWO]


async def test_addresses_are_compared_with_the_configuration_in_force(state: StateDir) -> None:
    """There is nothing to compare with before the first."""
    node, addresses = configurer(state, FakeSide())

    await node.compare_addresses()
    assert addresses.compared == []
    await node.configure(ONE)
    await node.compare_addresses()
    assert addresses.compared == [ONE, ONE]


async def test_a_restart_puts_it_in_force_again(state: StateDir) -> None:
    await configurer(state, FakeSide())[0].configure(ONE)
    side = FakeSide()
    node, _ = configurer(state, side)

    await node.start()

    assert side.configured == [ONE]
    assert node.config == ONE
    assert (await node.configure(ONE))[0] is False


async def test_a_refusal_leaves_the_one_before(state: StateDir) -> None:
    side = FakeSide()
    node, _ = configurer(state, side)
    await node.configure(ONE)
    side.refuse = True

    with pytest.raises(Unavailable, match="nft: no"):
        await node.configure(TWO)

    assert state.node() == node.config == ONE


async def test_a_refused_first_one_leaves_the_node_unconfigured(state: StateDir) -> None:
    side = FakeSide()
    node, _ = configurer(state, side)
    side.refuse = True

    with pytest.raises(Unavailable, match="nft: no"):
        await node.configure(ONE)

    assert state.node() is None
    with pytest.raises(FailedPrecondition, match="ConfigureNode comes first"):
        node.mtu()


async def test_the_settings_fill_in_the_mtu_and_can_forbid_masquerading(state: StateDir) -> None:
    side = FakeSide()
    node, _ = configurer(state, side, mtu=1400, masquerade=False)

    await node.configure(ONE)

    assert (side.configured[0].mtu, side.configured[0].masquerade, node.mtu()) == (1400, False, 1400)
    assert state.node() == ONE
