"""Runs other programs: none with a shell, each with an end to its time and to what it may say."""

import asyncio
import contextlib
import os
from dataclasses import dataclass

from services.common.errors import FailedPrecondition, Unavailable

_SECONDS, _MOST_BYTES = 10.0, 16 << 20
# Nothing of our own environment is theirs to see; where their tools are is.
_ENVIRONMENT = {"LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"}


@dataclass(frozen=True, slots=True)
class Done:
    """What a program left."""

    code: int
    stdout: str
    stderr: str


async def run(*argv: str, seconds: float = _SECONDS, check: bool = True) -> Done:
    """Run a program to its end.

    Raises FailedPrecondition: it isn't installed, or with `check` says that it failed; Unavailable: it takes too long.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
        )
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise FailedPrecondition(f"{argv[0]} {'is not installed' if missing else f'can’t be run: {error}'}") from None
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        raise Unavailable(f"{' '.join(argv)}: not done in {seconds:.0f} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    done = Done(process.returncode or 0, _text(stdout), _text(stderr))
    if check and done.code:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise FailedPrecondition(f"{' '.join(argv)}: exit code {done.code}: {said[0]}")
    return done


def _text(said: bytes) -> str:
    return said[:_MOST_BYTES].decode("utf-8", "replace")
