"""Starting in order, stopping in reverse, finishing what must be finished, and telling systemd."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from services.common.errors import Unavailable
from services.common.lifecycle import Hook, Shielded, notify, running
from tests.ipam_support import Ipam, start, write_settings


class Recorder:
    """A component that writes down what happens to it."""

    def __init__(self, name: str, events: list[str], fails: str = "") -> None:
        self.name, self.events, self.fails = name, events, fails

    async def start(self) -> None:
        await self._happen("start")

    async def stop(self) -> None:
        await self._happen("stop")

    async def _happen(self, what: str) -> None:
        self.events.append(f"{what} {self.name}")
        if self.fails == what:
            raise Unavailable(f"{self.name} cannot {what}")


async def test_components_start_in_order_and_stop_in_reverse():
    events: list[str] = []

    async with running([Recorder("a", events), Recorder("b", events)]):
        events.append("work")

    assert events == ["start a", "start b", "work", "stop b", "stop a"]


async def test_the_first_failure_stops_what_had_started():
    events: list[str] = []
    components = [Recorder("a", events), Recorder("b", events, "start"), Recorder("c", events)]

    with pytest.raises(Unavailable, match="b cannot start"):
        async with running(components):
            pytest.fail("nothing may run")

    assert events == ["start a", "start b", "stop a"]


async def test_one_that_cannot_stop_does_not_keep_the_others():
    events: list[str] = []

    async with running([Recorder("a", events), Recorder("b", events, "stop")]):
        pass

    assert events[-2:] == ["stop b", "stop a"]


async def test_a_hook_without_a_second_function_has_nothing_to_undo():
    events: list[str] = []

    async with running(
        [Hook(Recorder("a", events).start), Hook(Recorder("b", events).start, Recorder("b", events).stop)]
    ):
        pass

    assert events == ["start a", "start b", "stop b"]


async def test_shielded_work_goes_on_when_its_caller_hangs_up():
    shielded, go, done = Shielded(), asyncio.Event(), []

    async def work() -> None:
        await go.wait()
        done.append("work")

    caller = asyncio.create_task(shielded.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    go.set()
    await shielded.stop()

    assert caller.cancelled()
    assert done == ["work"]


async def test_shielded_work_returns_and_raises_to_a_caller_that_stays():
    shielded = Shielded()

    async def seven() -> int:
        return 7

    async def fail() -> None:
        raise Unavailable("no")

    assert await shielded.run(seven()) == 7
    with pytest.raises(Unavailable):
        await shielded.run(fail())


def test_systemd_is_told_when_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        notify("READY=1")

        assert systemd.recv(64) == b"READY=1"


def test_an_abstract_notify_socket_works(monkeypatch: pytest.MonkeyPatch):
    name = f"podlane-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")

        notify("STOPPING=1")

        assert systemd.recv(64) == b"STOPPING=1"


def test_a_systemd_that_went_away_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_a_service_cleanly(tmp_path: Path, number: signal.Signals):
    async with Ipam.running(tmp_path) as ipam:
        await ipam.allocate("c1")
        ipam.process.send_signal(number)
        code = await ipam.process.wait()

        assert code == 0
        assert not ipam.socket.exists()
    events = (tmp_path / "log").read_text()
    assert events.index('"ready"') < events.index('"stopping"') < events.index('"stopped"')
    assert "Traceback" not in events


async def test_a_settings_file_that_is_not_there_is_one_line_and_exit_code_1(tmp_path: Path):
    process = await start(tmp_path, tmp_path / "none.toml")

    assert await process.wait() == 1
    assert (tmp_path / "log").read_text() == (
        f"podlane-ipam: {tmp_path}/none.toml: cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize(("key", "value"), [("log_level", "loud"), ("log_format", "xml")])
async def test_a_bad_log_setting_is_one_line_and_exit_code_1(tmp_path: Path, key: str, value: str):
    settings = write_settings(tmp_path)
    settings.write_text(settings.read_text().replace("[ipam]", f'{key} = "{value}"\n[ipam]', 1))
    process = await start(tmp_path, settings)

    assert await process.wait() == 1
    assert (tmp_path / "log").read_text().startswith(f"podlane-ipam: {key}: '{value}' is none of")
