"""One endpoint of a loader: real maps and programs under a link that is only pretended and fails when it is told to."""

import dataclasses
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from services.common.errors import Unavailable
from services.common.locks import KeyedLocks
from services.common.model import Attachment
from services.loader import libbpf
from services.loader.attach import Attachers
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath
from services.loader.flowledger import FlowLedger
from services.loader.image import Images
from services.loader.inventory import Inventory
from services.loader.libbpf import Fd
from services.loader.model import Direction, EndpointSpec, Level, NodeConfig, PolicyEntry
from services.loader.pins import Pins
from services.loader.policies import Policies
from services.loader.regenerate import Regenerator
from services.loader.spares import Spares
from services.loader.statedir import StateDir
from services.loader.steps import Kernel
from services.loader.template import Templates

NODE = NodeConfig((), (ip_address("10.0.0.1"), ip_address("fd00::1")))
V4, V6 = ip_address("10.0.0.9"), ip_address("fd00::9")
# The loopback device is a link that every namespace has.
SPEC = EndpointSpec(
    7, 1, Attachment("net", "c0ffee", "eth0"), "lo", 1, b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", (V4, V6), 4711
)
ALLOW = (PolicyEntry(Direction.INGRESS), PolicyEntry(Direction.EGRESS))


class FakeLink:
    """A link's hooks and its host side. It holds the programs that are attached, and fails where it is told to."""

    mode = "tc"

    def __init__(self) -> None:
        self.hooks: dict[str, int] = {}
        self.held: list[Fd] = []
        self.connected = False
        self.calls: list[str] = []
        self.fail_at = ""
        self.look: Any = lambda: None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.look()
        if name == self.fail_at:
            self.fail_at = ""
            raise Unavailable(f"{name} was told to fail")

    async def attach(self, _spec: EndpointSpec, programs: Mapping[str, Fd]) -> None:
        self._call("attach")
        self.hold({name: libbpf.program_info(fd).id for name, fd in programs.items()})

    def hold(self, hooks: Mapping[str, int]) -> None:
        held = [libbpf.program_by_id(id_) for id_ in hooks.values()]
        for fd in self.held:
            fd.close()
        self.held = [fd for fd in held if fd is not None]
        self.hooks = dict(hooks)

    async def detach(self, _spec: EndpointSpec) -> None:
        self._call("detach")
        self.hold({})

    async def attached(self, _spec: EndpointSpec) -> Mapping[str, int | None]:
        return {"from_container": None, "to_container": None} | self.hooks

    async def forget(self, _id: int) -> None:
        self._call("forget")

    async def connect(self, _spec: EndpointSpec) -> None:
        self._call("connect")
        self.connected = True

    async def problems(self, _spec: EndpointSpec) -> list[str]:
        return [] if self.connected else ["the node's end is down"]

    async def disconnect(self, _spec: EndpointSpec) -> None:
        self._call("disconnect")
        self.connected = False


class Bench:
    """One endpoint's world."""

    def __init__(self, directory: Path, templates: Templates) -> None:
        self.state = StateDir(directory / "state")
        self.state.open()
        self.link = FakeLink()
        self.pins = Pins(directory / "bpf")
        attachers, locks = Attachers({"tc": self.link}, "tc"), KeyedLocks()
        self.datapath = Datapath(self.pins, attachers, self.link)
        self.inventory = Inventory(self.datapath, self.pins, self.state, locks)
        self.blocking = Blocking()
        self.policies = Policies(self.datapath, self.state, self.blocking)
        ledger = FlowLedger(self.datapath, self.blocking)
        self.kernel = Kernel(self.datapath, self.inventory, self.policies, attachers, self.link, self.blocking, ledger)
        images = Images(self.blocking)
        self.spares = Spares(images, 1)
        self.regenerator = Regenerator(
            self.state, templates, self.kernel, locks, lambda: NODE, images=images, spares=self.spares
        )

    async def build(self, level: Level = Level.REWRITE_LOAD, policy: Any = ALLOW, **changes: Any) -> Any:
        return await self.regenerator.regenerate(dataclasses.replace(SPEC, **changes), level, policy)

    def snapshot(self) -> Any:
        """Everything that the kernel and the state directory hold for the endpoint."""
        policy = sorted(one.entry for one in self.policy()) if self.datapath.has_policy(7) else None
        return (
            self.state.record(7),
            sorted(path.name for path in self.state.root.iterdir() if path.name.startswith("7")),
            self.datapath.call_policy.get(7),
            dict(self.link.hooks),
            [self.datapath.endpoints.get(address) for address in (V4, V6)],
            policy,
        )

    def policy(self) -> Any:
        with self.datapath.policy(7) as policy:
            return policy.dump()
