"""Exit codes, for scripts: the one place where errors become numbers.

    0    done, and all is well
    1    the answer is no, or something that was looked at isn't well; or a fault of podlane's own
    2    the request makes no sense: usage, a wrong argument, wrong settings
    3    what it names isn't there
    4    a service doesn't answer, isn't ready or took too long: the same may work later
    5    refused as things are: something else has to be done first, or somebody else holds it
    6    full: a pool, a map, a line of those who wait
    130  ended by Ctrl-C, as a shell says it of any command
    141  whoever read the output has gone, likewise

`policy diff` and `policy explain` answer by their exit code, as diff(1) does: 0, 1, and 2 for any error.
"""

from services.common import errors

OK, FINDING, USAGE, NOT_FOUND, UNREACHABLE, REFUSED, FULL, INTERRUPTED, NO_READER = 0, 1, 2, 3, 4, 5, 6, 130, 141

_CODES: dict[type[errors.PodlaneError], int] = {
    errors.InvalidArgument: USAGE,
    errors.NotFound: NOT_FOUND,
    errors.Unavailable: UNREACHABLE,
    errors.DeadlineExceeded: UNREACHABLE,
    errors.AlreadyExists: REFUSED,
    errors.FailedPrecondition: REFUSED,
    errors.Exhausted: FULL,
    errors.Internal: FINDING,
}


def code(error: errors.PodlaneError) -> int:
    """Return the exit code of an error."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), FINDING)


def table() -> str:
    """Return the codes as the help shows them."""
    return (__doc__ or "").split("\n\n")[1].strip("\n")
