"""DEL while services are away: what the plugin journals, what it doesn't, and who deals with an entry."""

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from podlane.ipam.v1 import ipam_pb2

from services.common.deletions import file_name, scan
from services.common.model import Attachment
from tests.journal_support import entries, files, journalled, locked
from tests.shim_support import CONTAINER, NETNS, Plugin, Services, attachment, never, refuse

StatusCode = grpc.StatusCode
ADD = ["AllocateAddresses", "CreateLink", "CreateEndpoint"]
DEL = ["DeleteEndpoint", "DeleteLink", "ReleaseAddresses"]
OURS = Attachment("podlane", CONTAINER, "eth0")
ATTACHMENT = {"network": "podlane", "container_id": CONTAINER, "ifname": "eth0"}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"))


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


@pytest.fixture
def directory(services: Services) -> Path:
    return services.directory / "deletions"


def silent(outcome: Any) -> bool:
    return (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("down", "done"),
    [
        (["endpoint"], ["DeleteLink"]),
        (["loader"], ["DeleteEndpoint"]),
        (["ipam"], DEL[:2]),
        (["ipam", "loader", "endpoint"], []),
    ],
    ids=["endpoint", "loader", "ipam", "all"],
)
async def test_del_with_services_away_succeeds_and_is_journalled(
    plugin: Plugin, services: Services, directory: Path, down: list[str], done: list[str]
):
    for service in down:
        await services.stop(service)
    before = time.time()

    assert silent(await plugin.cni("DEL", services.conf()))

    assert services.calls == done
    (entry,) = entries(directory)
    assert before - 1 <= entry.pop("when") <= time.time() + 1
    assert entry == {"version": 1, "attachment": ATTACHMENT, "netns": NETNS, "request_id": f"cni-DEL-{CONTAINER[:12]}"}
    (file,) = files(directory)
    assert file.name == f"podlane~{CONTAINER}~eth0.json" == file_name(OURS)
    assert [one.stat().st_mode & 0o777 for one in (file, file.parent)] == [0o640, 0o750]
    assert scan(directory, {})[file.name].attachment == OURS


async def test_the_same_del_twice_is_one_file_which_stays_as_it_is(plugin: Plugin, services: Services, directory: Path):
    """Whoever carries it out may have locked it: another file in its place would have another lock."""
    await services.stop("loader")
    await plugin.cni("DEL", services.conf())
    (first,) = files(directory)
    inode, content = first.stat().st_ino, first.read_text()

    assert silent(await plugin.cni("DEL", services.conf(), without="CNI_NETNS"))

    (second,) = files(directory)
    assert (second, second.stat().st_ino, second.read_text()) == (first, inode, content)


async def test_del_without_a_namespace_is_journalled_without_one(plugin: Plugin, services: Services, directory: Path):
    await services.stop("ipam")

    assert silent(await plugin.cni("DEL", services.conf(), without="CNI_NETNS"))

    assert entries(directory)[0]["netns"] == ""


async def test_only_the_first_of_many_dels_waits_for_a_service(plugin: Plugin, services: Services, directory: Path):
    """When one has waited in vain the others look at the sockets, and ask nobody."""
    await services.stop("loader")
    await plugin.cni("DEL", services.conf())
    services.calls.clear()

    outcomes = [await plugin.cni("DEL", services.conf(), CNI_CONTAINERID=f"c{number}") for number in range(5)]

    assert all(map(silent, outcomes))
    assert services.calls == []
    assert len(files(directory)) == 6


async def test_a_service_that_comes_back_in_time_is_used(plugin: Plugin, services: Services, directory: Path):
    await services.stop("loader")
    asked = asyncio.Event()

    async def die(_reader: Any, writer: Any) -> None:
        asked.set()
        writer.close()

    dying = await asyncio.start_unix_server(die, services.socket("loader"))
    deleting = asyncio.create_task(plugin.cni("DEL", services.conf()))
    await asked.wait()
    dying.close()
    services.socket("loader").unlink(missing_ok=True)
    await services.start("loader")

    assert silent(await deleting)

    assert services.calls == DEL
    assert files(directory) == []


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        ("DeleteEndpoint", ["DeleteEndpoint", "DeleteLink"]),
        ("DeleteLink", ["DeleteEndpoint", "DeleteLink"]),
        ("ReleaseAddresses", DEL),
    ],
)
async def test_a_service_that_says_that_another_is_away_is_as_one_that_is(
    plugin: Plugin, services: Services, directory: Path, step: str, calls: list[str]
):
    services.script[step] = refuse(StatusCode.UNAVAILABLE, "podlane-loader does not answer")

    assert silent(await plugin.cni("DEL", services.conf()))

    assert services.calls == calls
    assert len(files(directory)) == 1


async def test_a_service_that_hangs_costs_the_others_nothing_and_is_journalled(
    plugin: Plugin, services: Services, directory: Path
):
    # In haste, so that the test is: somebody has waited before.
    other = journalled(directory, Attachment("podlane", "other", "eth0"))
    services.script["DeleteEndpoint"] = never()

    assert silent(await plugin.cni("DEL", services.conf()))

    assert services.calls == ["DeleteEndpoint", "DeleteLink"]
    assert [path for path in files(directory) if path != other] == [directory / file_name(OURS)]


@pytest.mark.parametrize(
    "code",
    [StatusCode.INTERNAL, StatusCode.FAILED_PRECONDITION, StatusCode.PERMISSION_DENIED],
    ids=lambda code: code.name,
)
async def test_errors_of_a_service_that_answers_stay_errors_whoever_else_is_away(
    plugin: Plugin, services: Services, directory: Path, code: StatusCode
):
    services.script["DeleteLink"] = refuse(code, "this is wrong")
    await services.stop("endpoint")

    error = (await plugin.cni("DEL", services.conf())).error

    assert "this is wrong" in error["details"]
    assert "repeat DEL" in error["details"]
    assert files(directory) == []


async def test_del_is_logged_as_journalled(plugin: Plugin, services: Services, tmp_path: Path):
    log = tmp_path / "cni.log"
    await services.stop("ipam")

    await plugin.cni("DEL", services.conf(logFile=str(log)))

    line = json.loads(log.read_text())
    assert (line["code"], line["steps"][-1][0]) == (0, "journal")
    assert "ipam.sock" in line["steps"][-1][2]


def _a_file(path: Path) -> Path:
    path.write_text("")
    return path / "deletions"


def _a_link(path: Path) -> Path:
    path.symlink_to("/tmp")
    return path


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path / "missing" / "deletions", "No such file"),
        (_a_file, "Not a directory"),
        (_a_link, "Not a directory"),
    ],
    ids=["its parent is missing", "its parent is a file", "it is a symbolic link"],
)
async def test_a_journal_that_cannot_be_written_is_an_error_with_both_problems(
    plugin: Plugin, services: Services, tmp_path: Path, make: Any, why: str
):
    await services.stop("ipam")
    journal = make(tmp_path / "place")

    error = (await plugin.cni("DEL", services.conf(journalDir=str(journal)))).error

    assert error["code"] == 11
    assert "ipam.sock" in error["msg"]
    assert f"{journal}: the deletion can't be journalled: {why}" in error["msg"]


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may give a file to somebody else (chown(2)); `make test` is root"
)
async def test_what_is_made_belongs_to_the_owner_of_the_directory_around_it(
    plugin: Plugin, services: Services, tmp_path: Path
):
    """podlane-endpoint isn't root and has to remove what the plugin, which is, has written."""
    library = tmp_path / "lib"
    library.mkdir()
    os.chown(library, 1234, 2345)
    await services.stop("ipam")

    await plugin.cni("DEL", services.conf(journalDir=f"{library}/deletions/"))

    made = [library / "deletions", *files(library / "deletions")]
    assert [(path.stat().st_uid, path.stat().st_gid) for path in made] == [(1234, 2345)] * 2


async def test_names_that_do_not_fit_are_hashed(plugin: Plugin, services: Services, directory: Path):
    long = "c" * 300
    await services.stop("ipam")

    assert silent(await plugin.cni("DEL", services.conf(), CNI_CONTAINERID=long))

    (found,) = scan(directory, {}).values()
    assert found.attachment == Attachment("podlane", long, "eth0")
    assert found.name.startswith("long~")
    assert len(found.name) < 80


async def test_del_carries_an_entry_out_once_services_are_back(plugin: Plugin, services: Services, directory: Path):
    journalled(directory, OURS)

    assert silent(await plugin.cni("DEL", services.conf()))

    assert services.calls == DEL
    assert files(directory) == []


@pytest.mark.parametrize("content", [None, b"", b"\xff{"], ids=["whole", "empty", "damaged"])
async def test_add_carries_an_entry_of_its_attachment_out_before_it_adds(
    plugin: Plugin, services: Services, directory: Path, content: bytes | None
):
    entry = journalled(directory, OURS)
    other = journalled(directory, Attachment("podlane", "other", "eth0"))
    if content is not None:
        entry.write_bytes(content)

    assert (await plugin.cni("ADD", services.conf())).result

    assert services.calls == [*DEL, *ADD]
    assert files(directory) == [other]


async def test_add_adds_nothing_while_its_entry_cannot_be_carried_out(
    plugin: Plugin, services: Services, directory: Path
):
    entry = journalled(directory, OURS)
    services.script["DeleteLink"] = refuse(StatusCode.UNAVAILABLE, "not now")

    error = (await plugin.cni("ADD", services.conf())).error

    assert error["code"] == 11
    assert "an earlier DEL of this attachment comes first" in error["msg"]
    assert "not now" in error["msg"]
    assert str(entry) in error["details"]
    assert services.calls == ["DeleteEndpoint", "DeleteLink"]
    assert files(directory) == [entry]


async def test_add_waits_for_whoever_carries_its_entry_out(plugin: Plugin, services: Services, directory: Path):
    """And looks again when it has the lock: the name may be another file's by then."""
    with locked(directory, OURS) as entry:
        process = await plugin.start("ADD")
        adding = asyncio.create_task(plugin.started(process, services.conf()))
        await until_opened(entry, process.pid)
        assert services.calls == []
        entry.unlink()

    assert (await adding).result

    assert services.calls[-3:] == ADD
    assert files(directory) == []


async def test_add_of_an_entry_that_is_carried_out_for_too_long_is_told_to_try_again(
    plugin: Plugin, services: Services, directory: Path
):
    with locked(directory, OURS) as entry:
        error = (await plugin.cni("ADD", services.conf(timeoutSeconds=0.2))).error

    assert error["code"] == 11
    assert "podlane cni journal" in error["details"]
    assert services.calls == []
    assert files(directory) == [entry]


async def until_opened(path: Path, pid: int) -> None:
    """Wait until a process has a file open."""
    while not _is_opened(path, pid):
        await asyncio.sleep(0.005)


def _is_opened(path: Path, pid: int) -> bool:
    opened = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by now
            opened.append(one.readlink())
    return path in opened


async def test_add_without_an_entry_asks_nothing_more(plugin: Plugin, services: Services, directory: Path):
    assert (await plugin.cni("ADD", services.conf())).result

    assert services.calls == ADD
    assert directory.name not in [file.name for file in files(services.directory)]


async def test_gc_carries_out_what_its_network_has_journalled(plugin: Plugin, services: Services, directory: Path):
    journalled(directory, Attachment("podlane", "gone", "eth0"))
    journalled(directory, Attachment("podlane", "g" * 300, "eth0"))
    kept = [
        journalled(directory, Attachment("other", "gone", "eth0")),
        journalled(directory, Attachment("podlane", "valid", "eth0")),
    ]
    foreign = directory / "README"
    foreign.write_text("")
    removed = []

    async def release(request: Any, _context: Any) -> Any:
        removed.append(request.owner.container_id)
        return ipam_pb2.ReleaseAddressesResponse()

    services.script["ReleaseAddresses"] = release
    conf = services.conf(**{"cni.dev/valid-attachments": [{"containerID": "valid", "ifname": "eth0"}]})

    assert silent(await plugin.cni("GC", conf))

    # One link is known whose attachment isn't valid, too.
    assert removed == sorted(["gone", "g" * 300, attachment().container_id])
    assert files(directory) == sorted([*kept, foreign])


async def test_gc_keeps_an_entry_that_it_could_not_carry_out(plugin: Plugin, services: Services, directory: Path):
    entry = journalled(directory, OURS)
    services.script["DeleteLink"] = refuse(StatusCode.INTERNAL, "stuck")

    error = (await plugin.cni("GC", services.conf(**{"cni.dev/valid-attachments": []}))).error

    assert error["code"] == 105
    assert files(directory) == [entry]
    with entry.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_add_behind_another_plugin_leaves_that_ones_addresses_alone(
    plugin: Plugin, services: Services, directory: Path
):
    """They were given for this very ADD, maybe by podlane-ipam for the same attachment."""
    journalled(directory, OURS)
    previous = {
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": NETNS}],
        "ips": [{"interface": 1, "address": "10.1.0.5/24"}],
    }

    assert (await plugin.cni("ADD", services.conf(prevResult=previous))).result

    assert services.calls == ["DeleteEndpoint", "DeleteLink", "CreateLink", "CreateEndpoint"]
    assert files(directory) == []


@pytest.fixture(scope="module")
def ipam_plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("ipam"), "podlane-ipam")


async def test_podlane_ipam_gives_nothing_out_before_an_earlier_del_is_carried_out(
    ipam_plugin: Plugin, services: Services, directory: Path
):
    """Carrying it out might release what is given out now. podlane-ipam can only wait for those who can do it."""
    entry = journalled(directory, OURS)

    error = (await ipam_plugin.cni("ADD", services.ipam_conf())).error

    assert error["code"] == 11
    assert "an earlier DEL of this attachment comes first" in error["msg"]
    assert services.calls == []

    adding = asyncio.create_task(ipam_plugin.cni("ADD", services.ipam_conf()))
    entry.unlink()
    assert (await adding).result
