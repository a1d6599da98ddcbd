"""Switches: default, node, endpoint, and what a change makes of them."""

import pytest

from services.common.errors import InvalidArgument
from services.endpoint.options import OptionInfo, changed, describe, effective, status

KNOWN = (
    OptionInfo("trace", default=False, text="Trace", define="ENABLE_TRACE"),
    OptionInfo("arp", default=True, text="ARP", define="ENABLE_ARP"),
)


def test_the_nearest_level_that_sets_a_switch_decides() -> None:
    assert effective({"trace": True, "arp": False}, {"arp": True}) == {"trace": True, "arp": True}
    arp, trace = status(KNOWN, {"arp": False}, {"trace": True})
    assert (arp.info.name, arp.node, arp.endpoint, arp.enabled) == ("arp", False, None, False)
    assert (trace.node, trace.endpoint, trace.enabled) == (None, True, True)
    assert [one.enabled for one in status(KNOWN, {}, {})] == [True, False]


def test_a_change_sets_takes_back_and_leaves_the_rest() -> None:
    assert changed({"trace": True}, {"arp": False}, KNOWN) == {"trace": True, "arp": False}
    assert changed({"trace": True, "arp": False}, {"trace": None}, KNOWN) == {"arp": False}


def test_an_unknown_switch_is_refused_by_name_with_those_that_there_are() -> None:
    with pytest.raises(InvalidArgument, match="'sorcery' is no option; there are arp, trace"):
        changed({}, {"trace": True, "sorcery": True}, KNOWN)


def test_a_change_reads_as_a_sentence() -> None:
    assert describe({"trace": True, "arp": None, "debug": False}) == "arp unset, debug off, trace on"
