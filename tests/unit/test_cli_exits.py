"""Exit codes: each error has one, and the help and the page say which."""

import pytest

from cli import exits
from services.common import errors
from services.common.errors import PodlaneError


def kinds(kind: type[PodlaneError] = PodlaneError) -> list[type[PodlaneError]]:
    """Return the whole tree."""
    return [one for child in kind.__subclasses__() for one in (child, *kinds(child))]


def test_every_kind_of_error_has_a_code_that_is_documented():
    documented = {int(line.split()[0]) for line in exits.table().splitlines()}

    assert {exits.code(kind.__new__(kind)) for kind in kinds()} <= documented
    assert {exits.OK, exits.INTERRUPTED, exits.NO_READER} <= documented


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("x"), 2),
        (errors.NotFound("x"), 3),
        (errors.Unavailable("x"), 4),
        (errors.DeadlineExceeded("x"), 4),
        (errors.AlreadyExists("x"), 5),
        (errors.FailedPrecondition("x"), 5),
        (errors.Exhausted("x"), 6),
        (errors.Internal("x"), 1),
        (errors.CorruptState("x"), 1),
    ],
)
def test_codes_never_change(error: PodlaneError, code: int):
    assert exits.code(error) == code
