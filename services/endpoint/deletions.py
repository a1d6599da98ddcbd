"""The controller `deletion-journal`: what CNI DEL journalled while a service was away is carried out.

    directory ──scan──▶ entries ──due──▶ lock ─▶ endpoint ─▶ link ─▶ addresses ─▶ remove the entry ─▶ let go
                           ▲               └─ busy: an ADD of the same attachment does it itself        │
                           └────────────── failed: again after a pause that grows, the others meanwhile ┘

The directory is looked at every second, for as long as the service runs: an entry that is written a moment after the
start, or because only the loader was away, waits no longer than that. Before the node is compared and announced ready,
all that waits is carried out, so that addresses are free again for the pods to come; after FIRST_SECONDS of it that
goes on in the background.

An entry means its attachment as it was, never what a later ADD made of it: cni/journal.py says how. It is carried out
as DEL does: errors don't stop it, only addresses wait until the rest is gone.

How many entries there are isn't bounded, only how old one gets, and age alone drops none: it has to fail although
ipam and the loader answer. Whether it was tried while they didn't, or written when the clock was wrong, says nothing.

An entry of podlane-ipam's is about addresses alone; what an endpoint has is none of its business.

Entries that can't be read are told once and left alone (services/common/deletions.py).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common import deletions, telemetry
from services.common.controller_parameters import Parameters, backoff
from services.common.controllers import Manager as Controllers
from services.common.deletions import Entry
from services.common.errors import DeadlineExceeded, PodlaneError, Unavailable
from services.common.lifecycle import Shielded
from services.common.model import Attachment
from services.endpoint.flow import Addresses
from services.endpoint.manager import Manager
from services.endpoint.peers import Ipam, Loader

CONTROLLER = "deletion-journal"
FIRST_SECONDS = 10.0
# What comes meanwhile waits for the end of a pass.
_PASS_SECONDS = 30.0
_SECONDS = 1.0
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 60.0
# Deletions of links that come together share one message to the kernel, and its waiting.
_TOGETHER = 16
# Some thousands of entries are no hang.
_ALARM_SECONDS = 120.0
_DAY = 86400.0

_log = telemetry.logger("deletions")


@dataclass(slots=True)
class Failures:
    """What became of an entry so far. `due`: when it is tried again, by the loop's clock."""

    inode: int
    count: int = 0
    last: str = ""
    due: float = 0.0


class Journal:
    """A component: `start` begins to look, `stop` lets what was begun finish."""

    def __init__(
        self, directory: Path, max_days: float, *, manager: Manager, loader: Loader, ipam: Ipam, own: Controllers
    ) -> None:
        """Wire."""
        self._directory = directory
        self._max_age = max_days * _DAY
        self._manager = manager
        self._loader, self._ipam = loader, ipam
        self._controllers = own
        self._shielded = Shielded()
        self._one_pass = asyncio.Lock()
        self._stopping = False
        self._entries: Mapping[str, Entry] = {}
        self._failures: dict[str, Failures] = {}
        self._told: set[tuple[str, int]] = set()
        self.carried_out = self.dropped = 0
        """Since the start."""

    async def start(self) -> None:
        """Begin. Raises Unavailable when there is no such directory and none can be made."""
        await asyncio.to_thread(_make, self._directory)
        look = Parameters(self.look, _SECONDS, retry_base=_SECONDS, retry_cap=_SECONDS, alarm=_ALARM_SECONDS)
        self._controllers.update(CONTROLLER, look)

    async def stop(self) -> None:
        """Begin no further entry, and wait for those that were begun."""
        self._stopping = True
        await self._controllers.remove(CONTROLLER)
        await self._shielded.stop()

    async def look(self) -> None:
        """Carry out what is due. Raises Unavailable while anything fails."""
        await self._shielded.run(self._pass())
        failing = self.failing()
        if failing:
            first, failures = failing[0]
            others = f", and {len(failing) - 1} more deletions fail" if len(failing) > 1 else ""
            raise Unavailable(
                f"the deletion of {first.attachment} failed {failures.count} times{others}: {failures.last}; "
                "see `podlane cni journal`"
            )

    async def look_first(self) -> None:
        """Carry out what waits before the node takes endpoints; what fails is the controller's to say."""
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                await self._shielded.run(self._pass())
        except TimeoutError:
            _log.warning("more is journalled than can be waited for", entries=len(self._entries))
        except PodlaneError as error:
            _log.warning("the journal can't be read", error=error.message)

    def waiting(self) -> Sequence[Entry]:
        """Return the entries that can be read, as they were seen last, the oldest first."""
        return sorted((one for one in self._entries.values() if one.attachment), key=lambda one: one.when)

    def failing(self) -> Sequence[tuple[Entry, Failures]]:
        """Return those of `waiting` that failed, and how."""
        return [(one, self._failures[one.name]) for one in self.waiting() if one.name in self._failures]

    def unreadable(self) -> Sequence[Entry]:
        """Return the others."""
        return [one for one in self._entries.values() if one.attachment is None]

    async def entries(self) -> Sequence[tuple[Entry, Failures]]:
        """Look, and return all entries, the oldest first, and how they failed. Raises Unavailable."""
        found = await asyncio.to_thread(deletions.scan, self._directory, self._entries)
        oldest = sorted(found.values(), key=lambda one: one.when)
        return [(one, self._failures.get(one.name, Failures(one.inode))) for one in oldest]

    async def _pass(self) -> None:
        """Carry out all that is due, several at a time; begin none after _PASS_SECONDS."""
        async with self._one_pass:
            await self._scan()
            now = asyncio.get_running_loop().time()
            due = [one for one in self.waiting() if self._due(one) <= now]
            if due:
                await self._each(due, now + _PASS_SECONDS)
                await self._scan()

    def _due(self, entry: Entry) -> float:
        return self._failures[entry.name].due if entry.name in self._failures else 0.0

    async def _scan(self) -> None:
        self._entries = await asyncio.to_thread(deletions.scan, self._directory, self._entries)
        inodes = {name: one.inode for name, one in self._entries.items()}
        self._failures = {name: one for name, one in self._failures.items() if inodes.get(name) == one.inode}
        unreadable = {(one.name, one.inode): one for one in self.unreadable()}
        for key in sorted(unreadable.keys() - self._told):
            _log.warning("left alone", file=str(self._directory / key[0]), error=unreadable[key].error)
        self._told = set(unreadable)

    async def _each(self, due: Iterable[Entry], until: float) -> None:
        left, away = iter(due), False

        async def work() -> None:
            nonlocal away
            for entry in left:
                if self._stopping or away or asyncio.get_running_loop().time() > until:
                    return
                away |= not await self._try(entry)

        await asyncio.gather(*(work() for _ in range(_TOGETHER)))

    async def _try(self, entry: Entry) -> bool:
        """Carry an entry out; False: whom it takes is away, so that others needn't be tried now."""
        try:
            if await self._locked(entry, self._carry_out):
                self.carried_out += 1
                _log.info("carried out", attachment=str(entry.attachment), age=round(entry.age(), 1), file=entry.name)
        except PodlaneError as error:
            away = isinstance(error, Unavailable) and _is_peers(error)
            # Whoever is away may be back in a moment, and others needn't be tried before.
            self._failed(entry, error, _SECONDS if away else _LONGEST_RETRY_SECONDS)
            if not _is_peers(error) and entry.age() > self._max_age:
                await self._drop(entry, error)
            return not away
        return True

    def _failed(self, entry: Entry, error: PodlaneError, longest: float) -> None:
        failures = self._failures.setdefault(entry.name, Failures(entry.inode))
        failures.count += 1
        failures.last = error.message
        pause = backoff(failures.count, _RETRY_SECONDS, longest, 0.0)
        failures.due = asyncio.get_running_loop().time() + pause

    async def _locked(self, entry: Entry, act: Callable[[Entry], Awaitable[None]]) -> bool:
        """Do something to an entry, then remove it; False when it is gone or somebody else's."""
        file = await asyncio.to_thread(deletions.hold, self._directory, entry)
        if file is None:
            return False
        try:
            await act(entry)
            await asyncio.to_thread(deletions.forget, self._directory, entry)
        finally:
            os.close(file)
        return True

    async def _carry_out(self, entry: Entry) -> None:
        """Take away all that an attachment has, as DEL does. Raises the first error, with all messages."""
        attachment = entry.attachment
        assert attachment is not None  # noqa: S101 - those that can't be read don't wait
        if entry.addresses_only:
            await self._ipam.release(attachment, ipam_only=True)
            return
        errors: list[PodlaneError] = []
        async with self._manager.hold(attachment):
            for step in (self._delete_endpoint, self._delete_link):
                try:
                    await step(attachment)
                except PodlaneError as error:
                    errors.append(error)
            if not errors:
                await self._release(attachment)
        if errors:
            first = errors[0]
            message = "; ".join(dict.fromkeys(one.message for one in errors))
            raise type(first)(message, **first.fields)

    async def _delete_endpoint(self, attachment: Attachment) -> None:
        managed = self._manager.registry.attached(attachment)
        if managed is not None:
            await self._manager.remover.take_down(managed, Addresses.LEAVE, "DEL came while a service was away")

    async def _delete_link(self, attachment: Attachment) -> None:
        await self._loader.delete_link(attachment, 0)

    async def _release(self, attachment: Attachment) -> None:
        for held in await self._ipam.allocations(attachment):
            # Behind another plugin addresses are that one's, and its own DEL gives them back.
            if not held.ipam_only:
                await self._ipam.release(attachment, held.endpoint_id)

    async def _drop(self, entry: Entry, error: PodlaneError) -> None:
        async def give_up(_entry: Entry) -> None:
            days = f"{entry.age() / _DAY:.1f}"
            _log.error(
                "given up",
                attachment=str(entry.attachment),
                journalled_days_ago=days,
                max_days=self._max_age / _DAY,
                error=error.message,
                todo="what is left of the pod is found by `podlane gc` and by CNI GC, or by `podlane endpoint delete`",
            )

        try:
            if await self._locked(entry, give_up):
                self.dropped += 1
        except PodlaneError as failed:
            _log.error("not given up", attachment=str(entry.attachment), error=failed.message)


def _is_peers(error: PodlaneError) -> bool:
    """Whether an error says of a peer that it doesn't answer, or not in time (services/common/client.py)."""
    return isinstance(error, Unavailable | DeadlineExceeded) and "socket" in error.fields


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{directory} can't be made: {error.strerror}", path=directory) from None
