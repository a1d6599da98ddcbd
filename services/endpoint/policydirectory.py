"""The controller `policy-directory`: what lies in the watched directory is in force, file by file.

A file's documents are taken in together, in place of those that the same file had before. A file that is refused
changes nothing, and the controller fails with what is wrong until it is right.
"""

import asyncio
import contextlib
from pathlib import Path

from services.common import controllers, telemetry
from services.common.controller_parameters import Parameters
from services.common.errors import FailedPrecondition, PodlaneError
from services.endpoint.policies import Policies
from services.endpoint.policy.document import documents_of, name_of
from services.endpoint.policy.parse import parse
from services.endpoint.watchdir import Directory

_SECONDS = 1.0
_LONGEST_SECONDS = 5.0

_log = telemetry.logger("policydirectory")


class PolicyDirectory:
    """A component: `start` begins to watch, when policies have been read. An unset path: none is watched."""

    def __init__(self, path: Path, policies: Policies, own: controllers.Manager) -> None:
        """Wire."""
        self._path = path
        self._policies = policies
        self._controllers = own
        self._directory = Directory(path)
        self._seen = policies.repository

    async def start(self) -> None:
        """Begin."""
        known = {one.source for one in self._policies.repository if one.source}
        self._directory = Directory(self._path, known)
        if known or self._path != Path():
            look = Parameters(run=self.look, interval=_SECONDS, retry_base=_SECONDS, retry_cap=_LONGEST_SECONDS)
            self._controllers.update("policy-directory", look)

    async def stop(self) -> None:
        """Nothing to do: controllers are ended by their registry."""

    async def look_first(self) -> None:
        """Take in what lies there before the node takes endpoints; what is wrong is the controller's to say."""
        with contextlib.suppress(PodlaneError):
            await self.look()

    async def look(self) -> None:
        """Take in what has changed. Raises FailedPrecondition when a file is not in force as it is, Unavailable."""
        if not self._policies.begun:
            return
        if self._policies.repository is not self._seen:
            # What a file was refused for may be gone.
            self._directory.retry()
        for file, text in (await asyncio.to_thread(self._directory.changed)).items():
            try:
                await self._take(file, text)
            except PodlaneError as error:
                self._directory.refused(file, error.message)
                _log.warning("refused", file=file, error=error.message)
            else:
                self._directory.taken(file)
        self._seen = self._policies.repository
        if self._directory.errors:
            wrong = "; ".join(f"{file}: {error}" for file, error in self._directory.errors.items())
            raise FailedPrecondition(f"{self._path}: what was last taken of these files stays in force: {wrong}")

    async def _take(self, file: str, text: str | None) -> None:
        found = documents_of(parse(text, file, self._policies.filter)) if text is not None else []
        names = {name_of(one) for one in found}
        gone = [name for name in self._policies.repository.of_source(file) if name not in names]
        change, effect = await self._policies.changes.apply_now(found, file, gone)
        words = [f"{name} {outcome.name.lower()}" for name, outcome in change.outcomes.items()]
        _log.info("taken", file=file, documents=words, endpoints=len(effect.endpoints), failures=effect.failures)
