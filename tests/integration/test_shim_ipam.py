"""podlane-ipam, the installed IPAM plugin, against scripted services: what is asked, answered, undone and refused."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from services.common import deletions
from services.common.model import Attachment
from tests.shim_ipam_support import ADD, IPS, held
from tests.shim_support import CONTAINER, Plugin, Services, address, allocated, attachment, never, refuse

StatusCode = grpc.StatusCode


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"), "podlane-ipam")


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


@pytest.mark.cni("IPAM-1", "IPAM-2")
async def test_add_reserves_confirms_without_an_endpoint_and_answers_as_an_ipam_plugin(
    plugin: Plugin, services: Services
):
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=u1"

    result = (await plugin.cni("ADD", services.ipam_conf(ipam={"pool": "blue"}), arguments=arguments)).result

    assert services.calls == ADD
    assert result == {
        "cniVersion": "1.1.0",
        "ips": IPS,
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "fd00:1::1"}],
        "dns": {},
    }
    allocate, confirm = (services.requests[name] for name in ADD)
    assert allocate.owner == confirm.owner == attachment()
    assert (allocate.pool, allocate.delegated) == ("blue", True)
    assert (allocate.pod.namespace, allocate.pod.name, allocate.pod.uid) == ("ns", "web", "u1")
    assert confirm.endpoint_id == 0
    assert services.metadata["ConfirmAllocation"]["x-request-id"] == f"cni-ADD-{CONTAINER[:12]}"


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.cni("RESULT-1")
async def test_the_result_has_the_version_that_was_asked_for(plugin: Plugin, services: Services, version: str):
    result = (await plugin.cni("ADD", services.ipam_conf(cniVersion=version))).result

    assert result["cniVersion"] == version
    assert "interfaces" not in result
    assert not any("interface" in ip for ip in result["ips"])
    assert [ip.get("version") for ip in result["ips"]] == (["4", "6"] if version.startswith("0.") else [None, None])


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
@pytest.mark.cni("CONF-3")
async def test_routes_and_dns_of_the_configuration_go_before_the_pools(
    plugin: Plugin, services: Services, version: str
):
    routes = [{"dst": "192.0.2.0/24"}, {"dst": "fd99::/16", "gw": "fd00:1::7", "mtu": 1400, "comment": "x"}]
    dns = {"nameservers": ["10.1.0.53"]}
    conf = services.ipam_conf(cniVersion=version, ipam={"routes": routes, "dns": dns})

    result = (await plugin.cni("ADD", conf)).result

    more = {"mtu": 1400} if version == "1.1.0" else {}
    assert result["routes"] == [{"dst": "192.0.2.0/24"}, {"dst": "fd99::/16", "gw": "fd00:1::7", **more}]
    assert result["dns"] == dns


async def test_an_empty_list_of_routes_means_none(plugin: Plugin, services: Services):
    assert (await plugin.cni("ADD", services.ipam_conf(ipam={"routes": []}))).result["routes"] == []


ASKED: dict[str, dict[str, Any]] = {
    "capability": {"runtimeConfig": {"ips": ["10.1.0.7/24", "fd00:1::7"]}},
    "convention": {"args": {"cni": {"ips": ["10.1.0.8"]}}},
}


@pytest.mark.parametrize(
    ("keys", "arguments", "asked"),
    [
        (ASKED["capability"], "IP=10.1.0.9", ["10.1.0.7", "fd00:1::7"]),
        ({**ASKED["capability"], **ASKED["convention"]}, "", ["10.1.0.7", "fd00:1::7"]),
        (ASKED["convention"], "IP=10.1.0.9", ["10.1.0.8"]),
        ({}, "IP=10.1.0.9", ["10.1.0.9"]),
        ({}, "IP=10.1.0.9,fd00:1::9", ["10.1.0.9", "fd00:1::9"]),
        ({"runtimeConfig": {"ips": []}}, "", []),
    ],
    ids=["capability", "before the convention", "convention", "one argument", "two addresses", "none"],
)
async def test_addresses_are_asked_for_by_capability_convention_and_argument(
    plugin: Plugin, services: Services, keys: dict[str, Any], arguments: str, asked: list[str]
):
    await plugin.cni("ADD", services.ipam_conf(**keys), arguments=arguments)

    assert list(services.requests["AllocateAddresses"].requested) == [address(one) for one in asked]


UNDONE = [
    ("AllocateAddresses", StatusCode.RESOURCE_EXHAUSTED, 11, []),
    ("AllocateAddresses", StatusCode.INVALID_ARGUMENT, 7, []),
    ("AllocateAddresses", StatusCode.ALREADY_EXISTS, 103, []),
    ("AllocateAddresses", StatusCode.FAILED_PRECONDITION, 102, []),
    ("AllocateAddresses", StatusCode.UNAVAILABLE, 11, ["ListAllocations"]),
    ("ConfirmAllocation", StatusCode.NOT_FOUND, 102, ["ReleaseAddresses"]),
    ("ConfirmAllocation", StatusCode.UNAVAILABLE, 11, ["ReleaseAddresses"]),
    ("ConfirmAllocation", StatusCode.INTERNAL, 104, ["ReleaseAddresses"]),
    ("ConfirmAllocation", StatusCode.ALREADY_EXISTS, 103, ["ReleaseAddresses"]),
]


@pytest.mark.parametrize(("step", "status", "expected"), [(step, status, rest) for step, status, *rest in UNDONE])
@pytest.mark.cni("IPAM-4")
async def test_a_failed_add_gives_back_what_it_took(
    plugin: Plugin, services: Services, step: str, status: StatusCode, expected: tuple[int, list[str]]
):
    code, undo = expected
    services.script[step] = refuse(status, "it says why", pool="blue")

    error = (await plugin.cni("ADD", services.ipam_conf())).error

    assert (error["code"], error["msg"]) == (code, "it says why")
    assert "pool=blue" in error["details"]
    assert services.calls == [*ADD[: ADD.index(step) + 1], *undo]
    if "ReleaseAddresses" in undo:
        # Never what an endpoint has, whatever happened in between.
        assert services.requests["ReleaseAddresses"].without_endpoint


@pytest.mark.parametrize(("state", "released"), [(1, True), (2, False), (0, False)])
async def test_addresses_of_which_the_answer_was_lost_are_looked_up_first(
    plugin: Plugin, services: Services, state: int, released: bool
):
    services.script["AllocateAddresses"] = never()
    if state:
        held(services, state=state)

    outcome = await plugin.cni("ADD", services.ipam_conf(ipam={"timeoutSeconds": 0.3}))

    assert outcome.error["code"] == 11
    assert services.calls == ["AllocateAddresses", "ListAllocations", *(["ReleaseAddresses"] if released else [])]


async def test_an_undo_that_fails_is_told_beside_the_first_error(plugin: Plugin, services: Services):
    services.script["ConfirmAllocation"] = refuse(StatusCode.INTERNAL, "the disk is full")
    services.script["ReleaseAddresses"] = refuse(StatusCode.INTERNAL, "the disk is still full")

    error = (await plugin.cni("ADD", services.ipam_conf())).error

    assert error["msg"] == "the disk is full"
    assert "the disk is still full" in error["details"]


async def test_a_repeated_add_gives_the_same_and_one_that_was_killed_is_taken_to_its_end(
    plugin: Plugin, services: Services
):
    first = (await plugin.cni("ADD", services.ipam_conf())).result
    services.calls.clear()
    services.script["AllocateAddresses"] = allocated(created=False, state=2)
    assert (await plugin.cni("ADD", services.ipam_conf())).result == first
    assert services.calls == ADD[:1]
    services.calls.clear()
    services.script["AllocateAddresses"] = allocated(created=False, state=1)

    assert (await plugin.cni("ADD", services.ipam_conf())).result == first

    assert services.calls == ADD


async def test_an_add_on_what_an_endpoint_has_is_refused_and_takes_nothing(plugin: Plugin, services: Services):
    taken = allocated(created=False, state=2)
    taken.allocation.endpoint_id = 42
    services.script["AllocateAddresses"] = taken
    services.script["ConfirmAllocation"] = refuse(StatusCode.ALREADY_EXISTS, "it is endpoint 42's")

    error = (await plugin.cni("ADD", services.ipam_conf())).error

    assert (error["code"], error["msg"]) == (103, "it is endpoint 42's")
    assert services.calls == ADD


async def test_a_result_that_nobody_reads_is_given_back(plugin: Plugin, services: Services):
    import os

    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = await plugin.start("ADD", stdout=writer)
    finally:
        os.close(writer)

    outcome = await plugin.started(process, services.ipam_conf())

    assert outcome.code == 1
    assert services.calls == [*ADD, "ReleaseAddresses"]


async def test_an_address_without_its_range_is_the_services_fault(plugin: Plugin, services: Services):
    answer = allocated()
    answer.allocation.addresses[1].ClearField("range")
    services.script["AllocateAddresses"] = answer

    error = (await plugin.cni("ADD", services.ipam_conf())).error

    assert error["code"] == 104
    assert services.calls == [*ADD, "ReleaseAddresses"]


@pytest.mark.cni("IPAM-3")
async def test_del_releases_what_no_endpoint_has_and_prints_nothing(plugin: Plugin, services: Services):
    conf = services.ipam_conf(prevResult={"anything": []}, ipam={"routes": 5, "pool": []})

    outcome = await plugin.cni("DEL", conf, without="CNI_NETNS")

    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
    assert services.calls == ["ReleaseAddresses"]
    request = services.requests["ReleaseAddresses"]
    assert (request.owner, request.without_endpoint) == (attachment(), True)


async def test_del_while_the_service_is_down_is_journalled_and_a_repeated_one_carries_it_out(
    plugin: Plugin, services: Services
):
    journal = services.directory / "deletions"
    await services.stop("ipam")

    outcome = await plugin.cni("DEL", services.ipam_conf())

    assert (outcome.code, outcome.stdout) == (0, "")
    (entry,) = journal.iterdir()
    found = deletions.scan(journal, {})[entry.name]
    assert (found.attachment, found.addresses_only, found.error) == (Attachment("podlane", CONTAINER, "eth0"), True, "")

    await services.start("ipam")
    await plugin.cni("DEL", services.ipam_conf())
    assert services.calls == ["ReleaseAddresses"]
    assert services.requests["ReleaseAddresses"].without_endpoint
    assert list(journal.iterdir()) == []


async def test_an_add_carries_the_journalled_deletion_out_first(plugin: Plugin, services: Services):
    await services.stop("ipam")
    await plugin.cni("DEL", services.ipam_conf())
    await services.start("ipam")

    assert (await plugin.cni("ADD", services.ipam_conf())).result["ips"] == IPS

    assert services.calls == ["ReleaseAddresses", *ADD]


async def test_calls_are_logged_where_ipam_says(plugin: Plugin, services: Services, tmp_path: Path):
    import json

    log = tmp_path / "ipam.log"

    await plugin.cni("ADD", services.ipam_conf(ipam={"logFile": str(log)}))

    (line,) = log.read_text().splitlines()
    assert [step[0] for step in json.loads(line)["steps"]] == ADD


async def test_the_sources_do_the_work_when_the_interpreter_is_another_one(tmp_path: Path):
    plugin = Plugin.installed(tmp_path, "podlane-ipam")
    bundle = plugin.executable.parent / ".podlane" / "podlane.bundle"
    bundle.write_bytes(b"\0\0\0\0" + bundle.read_bytes()[4:])
    async with Services(tmp_path) as services:
        assert (await plugin.cni("ADD", services.ipam_conf())).result["ips"] == IPS
