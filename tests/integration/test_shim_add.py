"""ADD by the installed plugin against real gRPC servers: what is asked, what is answered, what is undone."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from podlane.endpoint.v1 import endpoint_pb2
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from tests.shim_support import CONTAINER, NETNS, POD_MAC, Plugin, Services, allocated, attachment, link, never, refuse

StatusCode = grpc.StatusCode
ADD = ["AllocateAddresses", "CreateLink", "CreateEndpoint"]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"))


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


@pytest.mark.cni("ADD-2", "EXEC-2", "RESULT-2")
async def test_three_steps_make_one_result(plugin: Plugin, services: Services):
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=u1"
    conf = services.conf(
        mtu=1400,
        routeMtu=1350,
        pool="blue",
        gsoMaxSize=65536,
        labels={"app": "web"},
        dns={"nameservers": ["10.0.0.53"]},
    )

    outcome = await plugin.cni("ADD", conf, arguments=arguments)

    assert services.calls == ADD
    result = outcome.result
    assert [one["name"] for one in result["interfaces"]] == ["lxc0123456789ab", "eth0"]
    assert [one["address"] for one in result["ips"]] == ["10.1.0.5/32", "fd00:1::5/128"]
    assert result["interfaces"][1]["sandbox"] == NETNS
    assert result["dns"] == {"nameservers": ["10.0.0.53"]}
    allocate, create, endpoint = (services.requests[name] for name in ADD)
    assert allocate.owner == create.attachment == endpoint.attachment == attachment()
    assert (allocate.pool, allocate.pod.namespace, allocate.pod.name, allocate.pod.uid) == ("blue", "ns", "web", "u1")
    assert (create.netns_path, create.mtu, create.route_mtu, create.offload.gso_max_size) == (NETNS, 1400, 1350, 65536)
    assert create.addresses == endpoint.addresses == allocated().allocation.addresses
    assert create.routes == allocated().routes
    assert (endpoint.link, endpoint.labels, endpoint.pod.name) == (link(), {"app": "web"}, "web")
    assert not create.HasField("pod_mac")


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.cni("RESULT-1")
async def test_the_result_has_the_version_that_was_asked_for(plugin: Plugin, services: Services, version: str):
    result = (await plugin.cni("ADD", services.conf(cniVersion=version))).result

    assert result["cniVersion"] == version
    assert all(("version" in ip) == version.startswith("0.") for ip in result["ips"])


@pytest.mark.cni("CONF-5")
async def test_the_runtimes_address_and_mac_are_asked_for(plugin: Plugin, services: Services):
    runtime = {"mac": "02:00:00:00:00:bb", "ips": ["10.1.0.5/24", "fd00:1::5"]}

    await plugin.cni("ADD", services.conf(runtimeConfig=runtime))

    assert services.requests["CreateLink"].pod_mac.packed == POD_MAC
    wanted = [one.packed for one in services.requests["AllocateAddresses"].requested]
    assert wanted == [one.address.address.packed for one in allocated().allocation.addresses]


async def test_the_pools_mtu_holds_when_the_configuration_has_none(plugin: Plugin, services: Services):
    services.script["AllocateAddresses"] = allocated(mtu=8950)

    await plugin.cni("ADD", services.conf())

    assert services.requests["CreateLink"].mtu == 8950


async def test_every_call_has_a_deadline_and_a_request_id(plugin: Plugin, services: Services):
    left: list[float] = []

    async def answer(_request: Any, context: Any) -> Any:
        left.append(context.time_remaining())
        return allocated()

    services.script["AllocateAddresses"] = answer

    await plugin.cni("ADD", services.conf(timeoutSeconds=7))

    assert 0 < left[0] <= 7
    assert services.metadata["AllocateAddresses"]["x-request-id"] == f"cni-ADD-{CONTAINER[:12]}"


UNDONE = [
    ("AllocateAddresses", StatusCode.RESOURCE_EXHAUSTED, 11, []),
    ("AllocateAddresses", StatusCode.INVALID_ARGUMENT, 7, []),
    ("AllocateAddresses", StatusCode.ALREADY_EXISTS, 103, []),
    ("CreateLink", StatusCode.ALREADY_EXISTS, 103, ["ReleaseAddresses"]),
    ("CreateLink", StatusCode.FAILED_PRECONDITION, 102, ["ReleaseAddresses"]),
    ("CreateLink", StatusCode.UNAVAILABLE, 11, ["DeleteLink", "ReleaseAddresses"]),
    ("CreateLink", StatusCode.INTERNAL, 104, ["DeleteLink", "ReleaseAddresses"]),
    ("CreateEndpoint", StatusCode.FAILED_PRECONDITION, 102, ["DeleteLink", "ReleaseAddresses"]),
    ("CreateEndpoint", StatusCode.NOT_FOUND, 102, ["DeleteLink", "ReleaseAddresses"]),
    ("CreateEndpoint", StatusCode.UNAVAILABLE, 11, ["DeleteEndpoint", "DeleteLink", "ReleaseAddresses"]),
    ("CreateEndpoint", StatusCode.DATA_LOSS, 104, ["DeleteEndpoint", "DeleteLink", "ReleaseAddresses"]),
]


@pytest.mark.parametrize(("step", "status", "expected"), [(step, status, rest) for step, status, *rest in UNDONE])
@pytest.mark.cni("ADD-5", "EXEC-3")
async def test_a_step_that_fails_undoes_the_ones_before_it_last_first(
    plugin: Plugin, services: Services, step: str, status: StatusCode, expected: tuple[int, list[str]]
):
    code, undo = expected
    sentence = "der Pool „blau“ ist voll: 254 von 254 – 100 %"
    services.script[step] = refuse(status, sentence, pool="blau", size="254")

    outcome = await plugin.cni("ADD", services.conf())

    assert services.calls == [*ADD[: ADD.index(step) + 1], *undo]
    assert outcome.error["code"] == code
    assert outcome.error["msg"] == sentence
    assert "pool=blau" in outcome.error["details"]
    assert step in outcome.error["details"]


@pytest.mark.parametrize(
    ("field", "status", "code"),
    [
        ("netns_path", StatusCode.NOT_FOUND, 4),
        ("netns_path", StatusCode.INVALID_ARGUMENT, 4),
        ("attachment.ifname", StatusCode.INVALID_ARGUMENT, 4),
        ("owner.container_id", StatusCode.INVALID_ARGUMENT, 4),
        ("mtu", StatusCode.INVALID_ARGUMENT, 7),
        ("pool", StatusCode.NOT_FOUND, 7),
    ],
)
async def test_a_refused_field_is_the_environments_or_the_configurations(
    plugin: Plugin, services: Services, field: str, status: StatusCode, code: int
):
    services.script["CreateLink"] = refuse(status, f"{field}: it is wrong", field=field)

    assert (await plugin.cni("ADD", services.conf())).error["code"] == code


async def test_an_undo_that_fails_is_told_beside_the_first_error_and_keeps_the_address(
    plugin: Plugin, services: Services
):
    """The link may still stand: its address must not go to another pod."""
    services.script["CreateEndpoint"] = refuse(StatusCode.FAILED_PRECONDITION, "the verifier says no")
    services.script["DeleteLink"] = refuse(StatusCode.UNAVAILABLE, "netlink is stuck")

    error = (await plugin.cni("ADD", services.conf())).error

    assert (error["code"], error["msg"]) == (102, "the verifier says no")
    assert "netlink is stuck" in error["details"]
    assert services.calls == [*ADD, "DeleteLink"]


def repeated(services: Services, state: int = 2) -> None:
    """Let the services answer as for an attachment that exists."""
    services.script["AllocateAddresses"] = allocated(created=False, state=state)
    services.script["CreateLink"] = loader_pb2.CreateLinkResponse(link=link())
    services.script["CreateEndpoint"] = endpoint_pb2.CreateEndpointResponse()


async def test_a_repeated_add_gives_the_same_result(plugin: Plugin, services: Services):
    first = (await plugin.cni("ADD", services.conf())).result
    repeated(services)

    assert (await plugin.cni("ADD", services.conf())).result == first
    assert services.calls == ADD * 2


@pytest.mark.parametrize("step", ADD)
@pytest.mark.parametrize("status", [StatusCode.UNAVAILABLE, StatusCode.FAILED_PRECONDITION, StatusCode.INTERNAL])
async def test_a_repeated_add_that_fails_takes_nothing_from_a_running_pod(
    plugin: Plugin, services: Services, step: str, status: StatusCode
):
    repeated(services)
    services.script[step] = refuse(status, "not now")
    services.script["ListAllocations"] = ipam_pb2.ListAllocationsResponse(allocations=[allocated(state=2).allocation])

    await plugin.cni("ADD", services.conf())

    assert [call for call in services.calls if call.startswith(("Delete", "Release"))] == []


async def test_a_repeated_add_undoes_only_the_link_that_it_had_to_make_anew(plugin: Plugin, services: Services):
    repeated(services)
    services.script["CreateLink"] = loader_pb2.CreateLinkResponse(link=link(), created=True)
    services.script["CreateEndpoint"] = refuse(StatusCode.FAILED_PRECONDITION, "no")

    await plugin.cni("ADD", services.conf())

    assert services.calls == [*ADD, "DeleteLink"]


async def test_an_address_is_kept_while_a_link_from_before_stands(plugin: Plugin, services: Services):
    services.script["CreateLink"] = loader_pb2.CreateLinkResponse(link=link())
    services.script["CreateEndpoint"] = refuse(StatusCode.FAILED_PRECONDITION, "no")

    await plugin.cni("ADD", services.conf())

    assert services.calls == ADD


async def test_the_rest_of_a_killed_attempt_counts_as_new(plugin: Plugin, services: Services):
    """Merely reserved addresses: no endpoint was ever confirmed, so an unknown link can't be a running pod's."""
    services.script["AllocateAddresses"] = allocated(created=False, state=1)
    services.script["CreateLink"] = refuse(StatusCode.UNAVAILABLE, "gone")

    await plugin.cni("ADD", services.conf())

    assert services.calls == ["AllocateAddresses", "CreateLink", "DeleteLink"]


@pytest.mark.parametrize(("state", "released"), [(1, True), (2, False), (0, False)])
async def test_addresses_of_which_the_answer_was_lost_are_looked_up_first(
    plugin: Plugin, services: Services, state: int, released: bool
):
    services.script["AllocateAddresses"] = never()
    found = [allocated(state=state).allocation] if state else []
    services.script["ListAllocations"] = ipam_pb2.ListAllocationsResponse(allocations=found)

    outcome = await plugin.cni("ADD", services.conf(timeoutSeconds=0.3))

    assert outcome.error["code"] == 11
    assert services.requests["ListAllocations"].owner == attachment()
    assert services.calls == ["AllocateAddresses", "ListAllocations", *(["ReleaseAddresses"] if released else [])]


@pytest.mark.parametrize(
    ("step", "undo"),
    [
        ("CreateLink", ["DeleteLink", "ReleaseAddresses"]),
        ("CreateEndpoint", ["DeleteEndpoint", "DeleteLink", "ReleaseAddresses"]),
    ],
)
async def test_a_step_that_never_answers_is_undone_as_if_it_had_happened(
    plugin: Plugin, services: Services, step: str, undo: list[str]
):
    services.script[step] = never()

    outcome = await plugin.cni("ADD", services.conf(timeoutSeconds=0.5))

    assert outcome.error["code"] == 11
    assert f"podlane-{'loader' if step == 'CreateLink' else 'endpoint'}" in outcome.error["msg"]
    assert services.calls == [*ADD[: ADD.index(step) + 1], *undo]


async def test_a_result_that_nobody_reads_undoes_everything(plugin: Plugin, services: Services):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = await plugin.start("ADD", stdout=writer)
    finally:
        os.close(writer)

    outcome = await plugin.started(process, services.conf())

    assert (outcome.code, outcome.stderr) == (1, "")
    assert services.calls == [*ADD, "DeleteEndpoint", "DeleteLink", "ReleaseAddresses"]


@pytest.mark.cni("LIFE-2")
async def test_eight_at_a_time_get_their_own_answers(plugin: Plugin, services: Services):
    names = [f"c{number}" for number in range(8)]

    outcomes = await asyncio.gather(*(plugin.cni("ADD", services.conf(), CNI_CONTAINERID=name) for name in names))

    assert all(outcome.result for outcome in outcomes)
    assert sorted(services.calls) == sorted(ADD * 8)


async def test_a_call_is_logged_with_its_steps_when_there_is_a_log_file(
    plugin: Plugin, services: Services, tmp_path: Path
):
    log = tmp_path / "cni.log"
    conf = services.conf(logFile=str(log), logLevel="debug")
    await plugin.cni("ADD", conf, arguments="K8S_POD_NAME=web")
    services.script["DeleteLink"] = refuse(StatusCode.INTERNAL, "netlink is stuck")
    await plugin.cni("DEL", conf)

    first, second = (json.loads(line) for line in log.read_text().splitlines())

    assert (first["verb"], first["code"], [step[0] for step in first["steps"]]) == ("ADD", 0, ADD)
    assert first["attachment"] == {"network": "podlane", "container_id": CONTAINER, "ifname": "eth0"}
    assert first["environment"]["CNI_ARGS"] == "K8S_POD_NAME=web"
    assert (second["code"], second["msg"]) == (104, "netlink is stuck")
    assert second["steps"][1][2] == "netlink is stuck"


async def test_a_log_that_cannot_be_written_fails_no_call(plugin: Plugin, services: Services, tmp_path: Path):
    outcome = await plugin.cni("ADD", services.conf(logFile=str(tmp_path / "missing" / "cni.log")))

    assert outcome.result


async def test_at_level_error_only_failures_are_logged(plugin: Plugin, services: Services, tmp_path: Path):
    log = tmp_path / "cni.log"
    conf = services.conf(logFile=str(log), logLevel="error")
    await plugin.cni("ADD", conf)
    assert not log.exists()
    services.script["AllocateAddresses"] = refuse(StatusCode.RESOURCE_EXHAUSTED, "full")

    await plugin.cni("ADD", conf)

    assert json.loads(log.read_text())["msg"] == "full"
