"""The first line says which capability is missing."""

import pytest

from services.common.errors import FailedPrecondition
from services.loader import privileges


def test_all_four_capabilities_are_enough() -> None:
    privileges.check(f"Name:\tx\nCapEff:\t{1 << 12 | 1 << 21 | 1 << 38 | 1 << 39:016x}\n")


def test_the_missing_ones_are_named() -> None:
    with pytest.raises(FailedPrecondition, match=r"needs root .* lacks CAP_PERFMON, CAP_BPF: start it with sudo"):
        privileges.check(f"CapEff:\t{1 << 12 | 1 << 21:016x}\n")
