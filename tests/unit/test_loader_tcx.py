"""How programs are attached on a kernel without tcx."""

import errno
from pathlib import Path
from typing import Any, NoReturn

import pytest

from services.common.errors import InvalidArgument
from services.loader import tcx
from services.loader.blocking import Blocking
from services.loader.libbpf import BpfError
from services.loader.netlink_worker import NetlinkWorker
from services.loader.overlayhooks import OverlayHooks
from services.loader.pins import Pins
from services.loader.tc import TcFilters


def hooks(mode: str) -> OverlayHooks:
    return OverlayHooks(mode, TcFilters(NetlinkWorker("netlink")), Pins(Path("/nowhere")), Blocking())


def refusing(number: int) -> Any:
    def query(*_: object) -> NoReturn:
        raise BpfError(number, "bpf_prog_query", "tcx_ingress of interface 1")

    return query


@pytest.mark.parametrize(("number", "there"), [(errno.EINVAL, False), (None, True)])
def test_the_kernel_is_asked_whether_it_has_tcx(
    monkeypatch: pytest.MonkeyPatch, number: int | None, there: bool
) -> None:
    monkeypatch.setattr(tcx, "attached_programs", refusing(number) if number else lambda *_: [])
    assert tcx.supported.__wrapped__() is there


def test_a_question_that_isnt_answered_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcx, "attached_programs", refusing(errno.EPERM))
    with pytest.raises(BpfError):
        tcx.supported.__wrapped__()


@pytest.mark.parametrize(
    ("wanted", "there", "mode"), [("tcx", True, "tcx"), ("tcx", False, "tc"), ("tc", True, "tc"), ("tc", False, "tc")]
)
def test_the_overlay_has_links_where_the_kernel_has_them_and_nobody_objects(
    monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, mode: str
) -> None:
    monkeypatch.setattr(tcx, "supported", lambda: there)
    assert hooks(wanted).mode == mode


def test_another_mode_is_refused_and_the_setting_named() -> None:
    with pytest.raises(InvalidArgument, match=r"loader\.overlay_attach_mode: 'xdp' is neither tc nor tcx"):
        hooks("xdp")
