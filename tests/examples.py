"""How many examples hypothesis tries: what a run of all tests has time for; `EXAMPLES=10 make test`: ten times that."""

import os

_FACTOR = int(os.environ.get("EXAMPLES", "1"))


def examples(usual: int) -> int:
    """Return how many to try."""
    return usual * _FACTOR
