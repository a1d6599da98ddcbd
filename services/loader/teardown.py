"""Taking things down: every step is tried, what fails is collected, and the block's end says what is left."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from services.common.errors import PodlaneError, Unavailable


class Teardown:
    """A context manager. `what` names the object in the error."""

    def __init__(self, what: str) -> None:
        """Nothing has failed yet."""
        self._what = what
        self._errors: list[PodlaneError | OSError] = []

    def step(self, work: Callable[[], object]) -> None:
        """Try a step."""
        try:
            work()
        except (PodlaneError, OSError) as error:
            self._errors.append(error)

    async def wait(self, work: Awaitable[object]) -> None:
        """Try a step that waits."""
        try:
            await work
        except (PodlaneError, OSError) as error:
            self._errors.append(error)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Raise Unavailable with all that failed: the same request finds what is left."""
        if kind is None and self._errors:
            said = "; ".join(str(one) for one in self._errors)
            raise Unavailable(f"{self._what} is not wholly gone: {said}; repeat the request") from self._errors[0]
