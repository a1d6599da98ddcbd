"""Whether a store answers, since when it doesn't, and which change of that was told already. Pure but for the clock."""

import time


class Health:
    """Of one store."""

    def __init__(self) -> None:
        """Nobody was asked."""
        self.reachable = False
        self.error = ""
        self._silent_since: float | None = None
        self._told: set[str] = set()

    def silent_for(self) -> float:
        """Return the seconds since the first failure after the last answer; 0.0: the last request was answered."""
        return time.monotonic() - self._silent_since if self._silent_since is not None else 0.0

    def failing(self) -> None:
        """An attempt has failed."""
        if self._silent_since is None:
            self._silent_since = time.monotonic()

    def unanswered(self, error: str) -> bool:
        """A request was given up; whether this is news."""
        return self._change(error, "unanswered")

    def refused(self, error: str) -> bool:
        """A request was refused; whether this is news."""
        self.failing()
        return self._change(error, error)

    def answered(self) -> float | None:
        """A request was answered; the seconds that none was, if that was told."""
        silent = self.silent_for() if self._told else None
        self.reachable, self.error, self._silent_since, self._told = True, "", None, set()
        return silent

    def _change(self, error: str, what: str) -> bool:
        # A store that is slow to refuse does not answer in between: neither is told again before an answer.
        self.reachable, self.error = False, error
        news = what not in self._told
        self._told.add(what)
        return news
