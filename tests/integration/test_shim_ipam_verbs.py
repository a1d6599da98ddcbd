"""podlane-ipam, the installed IPAM plugin, against scripted services: CHECK, STATUS, VERSION and GC."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from podlane.ipam.v1 import ipam_pb2

from tests.shim_ipam_support import held
from tests.shim_support import Outcome, Plugin, Services, attachment, pool, refuse


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"), "podlane-ipam")


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


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
            await refuse(grpc.StatusCode.UNAVAILABLE, "it is stuck")(request, context)
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
            await refuse(grpc.StatusCode.UNAVAILABLE, "the disk is away")(request, context)
        return first

    services.script["ListAllocations"] = pages

    error = (await plugin.cni("GC", garbage_conf(services, "valid"))).error

    assert error["code"] == 105
    assert "the disk is away" in error["msg"]
    assert released == ["a", "b"]
