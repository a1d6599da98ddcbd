"""Policy maps of endpoints that have nothing else, in a bpffs of their own: what changes them, without a process.

async with PolicyMaps(directory) as maps:
    target = await maps.fill(7, PolicyEntry(Direction.INGRESS))
    await maps.policies.update(Update((Change(added, removed, (target,)),), {}, ()))
"""

import asyncio
from pathlib import Path
from typing import Any, Self

from services.loader import bpffs, model
from services.loader.attach import Attachers
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath
from services.loader.model import PolicyEntry
from services.loader.pins import Pins
from services.loader.policies import Policies
from services.loader.policyupdate import Target
from services.loader.statedir import StateDir

# What no map has: nothing was changed yet.
AFTER = bytes(15) + b"\1"


class PolicyMaps:
    """The maps, and `policies`, which is under test."""

    def __init__(self, directory: Path) -> None:
        """Wire; entering mounts and opens."""
        self._mount = directory / "bpf"
        self.state = StateDir(directory / "state")
        nobody: Any = None
        self.datapath = Datapath(Pins(self._mount), Attachers({}, "tc"), nobody)
        self.blocking = Blocking()
        self.policies = Policies(self.datapath, self.state, self.blocking)

    async def __aenter__(self) -> Self:
        """Mount, and make the maps that endpoints share."""
        self.state.open()
        self._mount.mkdir()
        await bpffs.mount(self._mount)
        await self.datapath.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take all of it away."""
        await self.datapath.stop()
        await self.blocking.stop()
        unmount = await asyncio.create_subprocess_exec("umount", str(self._mount))
        await unmount.wait()

    async def fill(self, id_: int, *entries: PolicyEntry) -> Target:
        """Give an endpoint a map; return it as the target of a change."""
        spec: Any = type("Spec", (), {"id": id_, "generation": 1})
        with self.datapath.policy(id_) as policy:
            await self.policies.fill(spec, policy, entries)
        return Target(id_, 1, model.policy_content(entries).digest, AFTER)

    def held(self, id_: int) -> list[PolicyEntry]:
        """Return what an endpoint's map holds, sorted."""
        return sorted(self.datapath.policy_entries(id_))
