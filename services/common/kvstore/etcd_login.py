"""Who we are to etcd, where it has authentication on: a token for a user name and a password.

A token is good at every member and for some minutes after its last use; a member that was restarted may not know it
any more. Whoever is told so has it renewed, once for all who are told at the same time. The password is read from its
file each time, so a changed one counts without a restart.
"""

import asyncio

from aetcd import rpc

from services.common.config import KvstoreSettings
from services.common.kvstore.answer import Problem, Verdict
from services.common.kvstore.etcd_channel import Member, read, translated

Metadata = tuple[tuple[str, str], ...]

# A member without a leader says so at once, instead of letting us wait for one.
_REQUIRE_LEADER: Metadata = (("hasleader", "true"),)


class Login:
    """The token of one process."""

    def __init__(self, settings: KvstoreSettings) -> None:
        """Nobody is asked before the first request."""
        self._settings = settings
        self._token: str | None = None
        self._one = asyncio.Lock()

    async def metadata(self, member: Member) -> Metadata:
        """Return what goes with each request. Raises Problem when the member refuses us."""
        if not self._settings.username:
            return _REQUIRE_LEADER
        async with self._one:
            if self._token is None:
                self._token = await self._ask(member)
        return (*_REQUIRE_LEADER, ("token", self._token)) if self._token else _REQUIRE_LEADER

    def refused(self, metadata: Metadata) -> bool:
        """Forget the token of a request that was refused for it; whether another one may help."""
        if not self._settings.username:
            return False
        if dict(metadata).get("token", "") == self._token:
            self._token = None
        return True

    async def _ask(self, member: Member) -> str:
        password = read(self._settings.password_file).decode(errors="replace").removesuffix("\n")
        request = rpc.AuthenticateRequest(name=self._settings.username, password=password)
        try:
            with translated():
                answer = await member.auth.Authenticate(request, metadata=_REQUIRE_LEADER)
        except Problem as problem:
            if problem.verdict is not Verdict.NO_USERS:
                raise
            return ""  # it may be turned on later; requests without a token are refused then
        token: str = answer.token
        return token
