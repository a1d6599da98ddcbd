"""podlane-ipam, the installed IPAM plugin, against scripted services: what is asked, answered, undone and refused."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from podlane.ipam.v1 import ipam_pb2

from services.common import deletions
from services.common.model import Attachment
from tests.shim_support import (
    CONTAINER,
    Outcome,
    Plugin,
    Services,
    address,
    allocated,
    attachment,
    never,
    pool,
    refuse,
)

StatusCode = grpc.StatusCode
ADD = ["AllocateAddresses", "ConfirmAllocation"]
IPS = [
    {"address": "10.1.0.5/24", "gateway": "10.1.0.1"},
    {"address": "fd00:1::5/64", "gateway": "fd00:1::1"},
]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"), "podlane-ipam")


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


def held(services: Services, *, state: int = 2, endpoint_id: int = 0, owner: Any = None) -> ipam_pb2.Allocation:
    """Let ipam list one allocation, and return it."""
    allocation = allocated(state=state).allocation
    allocation.endpoint_id = endpoint_id
    if owner is not None:
        allocation.owner.CopyFrom(owner)
    services.script["ListAllocations"] = ipam_pb2.ListAllocationsResponse(allocations=[allocation])
    return allocation


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


def previous(*addresses: str) -> dict[str, Any]:
    """Return the result of the plugin that asked."""
    return {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}], "ips": [{"address": one} for one in addresses]}


OWN = ("10.1.0.5/24", "fd00:1::5/64")


async def check(plugin: Plugin, services: Services, *addresses: str) -> Outcome:
    return await plugin.cni("CHECK", services.ipam_conf(prevResult=previous(*addresses)))


async def test_check_is_silent_when_the_addresses_are_there_and_minds_no_others(plugin: Plugin, services: Services):
    held(services)

    for more in ((), ("192.0.2.1/24",), ("fd09::1/64",)):
        outcome = await check(plugin, services, "10.1.0.5/24", "fd00:1:0::5/64", *more)
        assert (outcome.code, outcome.stdout) == (0, "")
    assert services.requests["ListAllocations"].owner == attachment()
    assert set(services.calls) == {"ListAllocations"}


@pytest.mark.parametrize(
    ("state", "addresses", "says"),
    [
        (0, OWN, ["holds no addresses"]),
        (1, OWN, ["as a reservation"]),
        (42, OWN, ["for endpoint 42"]),
        (2, OWN[:1], ["holds fd00:1::5/64 for it, prevResult has 10.1.0.5/24"]),
        (2, (), ["prevResult has none"]),
        (2, (*OWN, "10.1.0.6/24"), ["prevResult has 10.1.0.6/24, which podlane-ipam doesn't hold for it"]),
        (2, ("10.1.0.5/32", OWN[1]), ["holds 10.1.0.5/24 for it", "prevResult has 10.1.0.5/32"]),
        (1, OWN[:1], ["as a reservation", "holds fd00:1::5/64 for it"]),
    ],
    ids=["gone", "reserved", "an endpoint's", "one lost", "none", "one more", "another length", "two problems"],
)
@pytest.mark.cni("IPAM-3")
async def test_check_names_each_problem(
    plugin: Plugin, services: Services, state: int, addresses: tuple[str, ...], says: list[str]
):
    """`state` 42: confirmed by endpoint 42."""
    if state:
        held(services, state=min(state, 2), endpoint_id=42 if state == 42 else 0)

    error = (await check(plugin, services, *addresses)).error

    assert error["code"] == 101
    assert says[0] in error["msg"]
    assert all(one in error["details"] for one in says)


@pytest.mark.parametrize("value", [None, [], {"ips": 5}, {"ips": [{}]}, {"ips": [{"address": "10.1.0"}]}])
async def test_check_without_a_readable_previous_result_is_code_7(plugin: Plugin, services: Services, value: Any):
    error = (await plugin.cni("CHECK", services.ipam_conf(prevResult=value))).error

    assert error["code"] == 7
    assert "prevResult" in error["msg"]
    assert services.calls == []


async def test_status_asks_ipam_alone(plugin: Plugin, services: Services):
    for other in ("loader", "endpoint"):
        await services.stop(other)
    services.script["ListPools"] = ipam_pb2.ListPoolsResponse(pools=[pool(used4=253), pool("blue", delegated=True)])

    outcome = await plugin.cni("STATUS", services.ipam_conf(ipam={"pool": "blue"}))

    assert (outcome.code, outcome.stdout) == (0, "")


@pytest.mark.cni("IPAM-3")
async def test_status_is_code_50_with_numbers_when_the_pool_has_no_address(plugin: Plugin, services: Services):
    services.script["ListPools"] = ipam_pb2.ListPoolsResponse(pools=[pool(used4=253)])

    error = (await plugin.cni("STATUS", services.ipam_conf())).error

    assert error["code"] == 50
    assert "pool default: 0 of 253 IPv4 addresses free" in error["msg"]


async def test_status_is_code_50_when_the_service_is_down(plugin: Plugin, services: Services):
    await services.stop("ipam")

    error = (await plugin.cni("STATUS", services.ipam_conf())).error

    assert error["code"] == 50
    assert "ipam.sock" in error["msg"]


async def test_version_needs_no_configuration(plugin: Plugin):
    outcome = await plugin.cni("VERSION", b'{"cniVersion": "1.0.0"}', without="CNI_CONTAINERID")

    assert outcome.result == {"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


def populated(services: Services) -> list[str]:
    """Let ipam know allocations of every kind; return what is released, as it comes."""
    foreign = attachment("foreign", network="other")
    kinds = [(attachment(name), 2, 0) for name in ("a", "b", "valid")]
    kinds += [(attachment("endpoint"), 2, 42), (attachment("reserved"), 1, 0), (foreign, 2, 0)]
    services.script["ListAllocations"] = ipam_pb2.ListAllocationsResponse(
        allocations=[
            ipam_pb2.Allocation(owner=owner, state=ipam_pb2.AllocationState.ValueType(state), endpoint_id=id_)
            for owner, state, id_ in kinds
        ]
    )
    released: list[str] = []

    async def release(request: Any, context: Any) -> Any:
        assert request.without_endpoint
        if request.owner.container_id == "stuck":
            await refuse(StatusCode.UNAVAILABLE, "it is stuck")(request, context)
        released.append(request.owner.container_id)
        return ipam_pb2.ReleaseAddressesResponse()

    services.script["ReleaseAddresses"] = release
    return released


def garbage_conf(services: Services, *valid: str) -> dict[str, Any]:
    named = [{"containerID": name, "ifname": "eth0"} for name in valid]
    return services.ipam_conf(**{"cni.dev/valid-attachments": named})


@pytest.mark.parametrize(("valid", "gone"), [(("valid",), ["a", "b"]), ((), ["a", "b", "valid"])])
@pytest.mark.cni("IPAM-3")
async def test_gc_releases_what_is_ipam_only_of_this_network_and_not_valid(
    plugin: Plugin, services: Services, valid: tuple[str, ...], gone: list[str]
):
    released = populated(services)

    outcome = await plugin.cni("GC", garbage_conf(services, *valid))

    assert (outcome.code, outcome.stdout) == (0, "")
    assert released == gone
    assert set(services.calls) == {"ListAllocations", "ReleaseAddresses"}


async def test_gc_with_another_interface_of_a_valid_container_releases_that_one(plugin: Plugin, services: Services):
    released = populated(services)
    conf = services.ipam_conf(**{"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "net1"}]})

    await plugin.cni("GC", conf)

    assert released == ["a", "b", "valid"]


@pytest.mark.parametrize("keys", [{}, {"cni.dev/valid-attachments": None}, {"cni.dev/valid-attachments": [{}]}])
async def test_gc_without_a_list_is_refused(plugin: Plugin, services: Services, keys: dict[str, Any]):
    released = populated(services)

    error = (await plugin.cni("GC", services.ipam_conf(**keys))).error

    assert error["code"] == 7
    assert "cni.dev/valid-attachments" in error["msg"]
    assert released == []


async def test_gc_goes_on_past_errors_and_tells_them_all(plugin: Plugin, services: Services):
    released = populated(services)
    listed = services.script["ListAllocations"]
    for name in ("stuck", "stuck"):
        listed.allocations.add().CopyFrom(listed.allocations[0])
        listed.allocations[-1].owner.container_id = name
        listed.allocations[-1].owner.ifname = f"net{len(listed.allocations)}"

    error = (await plugin.cni("GC", garbage_conf(services))).error

    assert error["code"] == 105
    assert "2 steps" in error["msg"]
    assert error["details"].count("it is stuck") == 2
    assert released == ["a", "b", "valid"]


async def test_gc_reads_every_page_and_does_what_it_read_before_one_failed(plugin: Plugin, services: Services):
    released = populated(services)
    first = services.script["ListAllocations"]
    first.next_page_token = "1"

    async def pages(request: Any, context: Any) -> Any:
        if request.page_token:
            await refuse(StatusCode.UNAVAILABLE, "the disk is away")(request, context)
        return first

    services.script["ListAllocations"] = pages

    error = (await plugin.cni("GC", garbage_conf(services, "valid"))).error

    assert error["code"] == 105
    assert "the disk is away" in error["msg"]
    assert released == ["a", "b"]


@pytest.mark.parametrize(
    ("ipam", "named"),
    [
        ("podlane-ipam", "ipam"),
        ([], "ipam"),
        ({"pool": 5}, "ipam.pool"),
        ({"ipamSocket": "relative.sock"}, "ipam.ipamSocket"),
        ({"ipamSocket": 5}, "ipam.ipamSocket"),
        ({"ipamSocket": "/" + "x" * 200}, "ipam.ipamSocket"),
        ({"timeoutSeconds": "5"}, "ipam.timeoutSeconds"),
        ({"timeoutSeconds": 0}, "ipam.timeoutSeconds"),
        ({"logFile": "log"}, "ipam.logFile"),
        ({"logLevel": "loud"}, "ipam.logLevel"),
        ({"dns": []}, "ipam.dns"),
        ({"routes": {}}, "ipam.routes"),
        ({"routes": None}, "ipam.routes"),
        ({"routes": [5]}, "ipam.routes[0]"),
        ({"routes": [{"dst": "10.0.0.0/8"}, {}]}, "ipam.routes[1].dst"),
        ({"routes": [{"dst": 5}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.0"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.0/33"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.1/8"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "default/0"}]}, "ipam.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]}, "ipam.routes[0].gw"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "10.0.0.1/8"}]}, "ipam.routes[0].gw"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": 5}]}, "ipam.routes[0].gw"),
        ({"routes": [{"dst": "10.0.0.0/8", "mtu": "1400"}]}, "ipam.routes[0].mtu"),
        ({"routes": [{"dst": "10.0.0.0/8", "mtu": -1}]}, "ipam.routes[0].mtu"),
    ],
)
async def test_an_ill_typed_key_is_code_7_and_named(plugin: Plugin, services: Services, ipam: Any, named: str):
    error = (await plugin.cni("ADD", services.ipam_conf(ipam=ipam))).error

    assert error["code"] == 7
    assert error["msg"].startswith(named)
    assert services.calls == []


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"runtimeConfig": {"ips": "10.1.0.5"}}, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ips": ["10.1.0.5", "10.1.0.6"]}}, "runtimeConfig.ips"),
        ({"runtimeConfig": []}, "runtimeConfig"),
        ({"args": {"cni": {"ips": [5]}}}, "args.cni.ips"),
        ({"args": {"cni": {"ips": ["x"]}}}, "args.cni.ips"),
        ({"args": {"cni": 5}}, "args.cni"),
        ({"args": 5}, "args"),
    ],
)
async def test_ill_typed_wishes_for_addresses_are_code_7_and_named(
    plugin: Plugin, services: Services, keys: dict[str, Any], named: str
):
    error = (await plugin.cni("ADD", services.ipam_conf(**keys))).error

    assert error["code"] == 7
    assert error["msg"].startswith(named)


@pytest.mark.parametrize("arguments", ["IP=x", "IP=10.1.0.5,10.1.0.6", "SURPRISE=1", "IP"])
async def test_odd_arguments_are_code_4(plugin: Plugin, services: Services, arguments: str):
    error = (await plugin.cni("ADD", services.ipam_conf(), arguments=arguments)).error

    assert error["code"] == 4
    assert "CNI_ARGS" in error["msg"]


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "STATUS", "GC"])
async def test_a_configuration_without_ipam_says_what_the_plugin_is_for(plugin: Plugin, services: Services, verb: str):
    error = (await plugin.cni(verb, services.conf())).error

    assert error["code"] == 7
    assert "ipam.type" in error["msg"]


@pytest.mark.cni("CONF-4")
async def test_unknown_keys_are_ignored(plugin: Plugin, services: Services):
    conf = services.ipam_conf(ipam={"ranges": [[{"subnet": 5}]], "dataDir": []}, bridge="cni0", mtu="many")

    assert (await plugin.cni("ADD", conf)).result["ips"] == IPS


@pytest.mark.parametrize(("verb", "version"), [("STATUS", "1.0.0"), ("GC", "1.0.0"), ("CHECK", "0.3.1")])
async def test_a_verb_of_a_later_version_is_code_1(plugin: Plugin, services: Services, verb: str, version: str):
    assert (await plugin.cni(verb, services.ipam_conf(cniVersion=version))).error["code"] == 1


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
