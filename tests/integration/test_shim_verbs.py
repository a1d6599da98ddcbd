"""DEL, CHECK, VERSION, STATUS and GC by the installed plugin against real gRPC servers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from podlane.endpoint.v1 import endpoint_pb2
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from tests.shim_support import Plugin, Services, attachment, endpoint, link, pool, refuse

StatusCode = grpc.StatusCode
DEL = ["DeleteEndpoint", "DeleteLink", "ReleaseAddresses"]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"))


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


@pytest.mark.cni("DEL-1", "EXEC-2")
async def test_del_takes_everything_away_in_reverse_and_prints_nothing(plugin: Plugin, services: Services):
    outcome = await plugin.cni("DEL", services.conf())

    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
    assert services.calls == DEL
    assert services.requests["DeleteEndpoint"].selector.attachment == attachment()
    assert services.requests["DeleteLink"].attachment == attachment()
    assert services.requests["ReleaseAddresses"].owner == attachment()


@pytest.mark.cni("DEL-4")
async def test_del_needs_no_namespace_and_minds_no_previous_result(plugin: Plugin, services: Services):
    conf = services.conf(prevResult={"anything": []}, mtu="not a number")

    assert (await plugin.cni("DEL", conf, without="CNI_NETNS")).code == 0


@pytest.mark.cni("DEL-2", "DEL-3")
async def test_del_of_what_is_gone_succeeds(plugin: Plugin, services: Services):
    services.script["DeleteEndpoint"] = endpoint_pb2.DeleteEndpointResponse(deleted=False)
    services.script["DeleteLink"] = loader_pb2.DeleteLinkResponse(deleted=False)

    assert (await plugin.cni("DEL", services.conf())).code == 0


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        ("DeleteEndpoint", ["DeleteEndpoint", "DeleteLink"]),
        ("DeleteLink", ["DeleteEndpoint", "DeleteLink"]),
        ("ReleaseAddresses", DEL),
    ],
)
async def test_del_goes_on_after_an_error_but_gives_no_address_away_that_may_be_in_use(
    plugin: Plugin, services: Services, step: str, calls: list[str]
):
    services.script[step] = refuse(StatusCode.FAILED_PRECONDITION, "not like this")

    error = (await plugin.cni("DEL", services.conf())).error

    assert (error["code"], error["msg"]) == (102, "not like this")
    assert services.calls == calls


def previous(**changes: Any) -> dict[str, Any]:
    """Return the result of the ADD."""
    return {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "lxc0123456789ab", "mac": "02:00:00:00:00:aa"},
            {"name": "eth0", "mac": "02:00:00:00:00:BB", "sandbox": "/run/netns/pod-1"},
        ],
        "ips": [
            {"interface": 1, "address": "10.1.0.5/32"},
            {"interface": 1, "address": "fd00:1::5/128"},
        ],
        **changes,
    }


@pytest.mark.cni("CHECK-6")
async def test_check_of_a_healthy_pod_is_silent(plugin: Plugin, services: Services):
    outcome = await plugin.cni("CHECK", services.conf(prevResult=previous()))

    assert (outcome.code, outcome.stdout) == (0, "")
    assert services.calls == ["CheckEndpoint", "ListLinks"]
    assert services.requests["ListLinks"].verify
    assert services.requests["ListLinks"].attachment == attachment()


@pytest.mark.cni("CHECK-2")
async def test_check_minds_nothing_that_later_plugins_added(plugin: Plugin, services: Services):
    more = previous()
    more["interfaces"].append({"name": "ifb0"})
    more["ips"].append({"address": "192.0.2.1/24"})

    assert (await plugin.cni("CHECK", services.conf(prevResult=more))).code == 0


@pytest.mark.cni("CHECK-4")
async def test_check_names_every_problem(plugin: Plugin, services: Services):
    services.script["CheckEndpoint"] = endpoint_pb2.CheckEndpointResponse(
        endpoint=endpoint(), problems=["from_container is not attached"]
    )
    services.script["ListLinks"] = loader_pb2.ListLinksResponse(
        links=[loader_pb2.LinkStatus(link=link(), problems=["eth0 has the MTU 1400 and not 1500"])]
    )

    error = (await plugin.cni("CHECK", services.conf(prevResult=previous()))).error

    assert error["code"] == 101
    assert "from_container is not attached" in error["msg"]
    assert "eth0 has the MTU 1400" in error["details"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"interfaces": []}, "lxc0123456789ab"),
        ({"interfaces": None}, "eth0"),
        ({"ips": [{"address": "10.1.0.5/32"}]}, "fd00:1::5/128"),
        ({"ips": []}, "10.1.0.5/32"),
        ({"interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:cc", "sandbox": "/run/netns/pod-1"}]}, "00:cc"),
        ({"interfaces": [{"name": "eth0", "sandbox": "/run/netns/other"}]}, "eth0 in /run/netns/pod-1"),
    ],
)
@pytest.mark.cni("CHECK-1")
async def test_check_compares_with_the_previous_result(
    plugin: Plugin, services: Services, changes: dict[str, Any], named: str
):
    error = (await plugin.cni("CHECK", services.conf(prevResult=previous(**changes)))).error

    assert error["code"] == 101
    assert named in error["msg"] + error["details"]


async def test_check_of_a_link_that_nobody_knows_fails(plugin: Plugin, services: Services):
    services.script["ListLinks"] = loader_pb2.ListLinksResponse()

    error = (await plugin.cni("CHECK", services.conf(prevResult=previous()))).error

    assert error["code"] == 101
    assert "no link" in error["msg"]


@pytest.mark.parametrize("value", [None, [], "x", {"interfaces": 5}, {"ips": ["10.0.0.1"]}])
async def test_check_without_a_readable_previous_result_is_code_7(plugin: Plugin, services: Services, value: Any):
    error = (await plugin.cni("CHECK", services.conf(prevResult=value))).error

    assert error["code"] == 7
    assert "prevResult" in error["msg"]
    assert services.calls == []


@pytest.mark.cni("CHECK-5")
async def test_check_of_an_endpoint_that_is_gone_fails(plugin: Plugin, services: Services):
    services.script["CheckEndpoint"] = refuse(StatusCode.NOT_FOUND, "no endpoint of podlane/0123/eth0")

    error = (await plugin.cni("CHECK", services.conf(prevResult=previous()))).error

    assert error["code"] == 102
    assert "no endpoint" in error["msg"]


@pytest.mark.parametrize(
    ("stdin", "version"),
    [(b"", "1.1.0"), (b"nonsense", "1.1.0"), (b'{"cniVersion": "0.4.0"}', "0.4.0"), (b'{"cniVersion": "9"}', "1.1.0")],
)
@pytest.mark.cni("VERSION-1")
async def test_version_needs_nothing_at_all(plugin: Plugin, stdin: bytes, version: str):
    outcome = await plugin.cni("VERSION", stdin, without="CNI_CONTAINERID")

    assert outcome.result == {"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


@pytest.mark.cni("STATUS-1")
async def test_status_is_silent_when_all_three_serve(plugin: Plugin, services: Services):
    outcome = await plugin.cni("STATUS", services.conf())

    assert (outcome.code, outcome.stdout) == (0, "")


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ([pool(used4=253)], "pool default: 0 of 253 IPv4 addresses free"),
        ([pool(used6=2**64 - 2)], "pool default: 0 of 18446744073709551614 IPv6 addresses free"),
        ([pool("blue")], "pool default: podlane-ipam has no such pool, it has blue"),
        ([pool(delegated=True)], "pool default: it is delegated"),
        (
            [pool(cluster=True, ranges=[], problems=["etcd does not answer"])],
            "pool default: 0 of 0 IPv4 addresses free",
        ),
        ([pool(cluster=True, used4=253, problems=["etcd does not answer"])], "etcd does not answer"),
    ],
    ids=["IPv4", "IPv6", "no such pool", "delegated", "no claim", "no further claim"],
)
@pytest.mark.cni("STATUS-2")
async def test_status_is_code_50_with_numbers_when_the_pool_has_no_address(
    plugin: Plugin, services: Services, pools: list[ipam_pb2.Pool], says: str
):
    services.script["ListPools"] = ipam_pb2.ListPoolsResponse(pools=pools)

    error = (await plugin.cni("STATUS", services.conf())).error

    assert error["code"] == 50
    assert says in error["msg"]


@pytest.mark.parametrize(
    ("pools", "wanted"),
    [
        ([pool(used4=252)], ""),
        ([pool(used4=253), pool("blue")], "blue"),
        ([pool(cluster=True, used4=253)], ""),
        ([pool(ranges=pool().ranges[:1], families=[1])], ""),
        ([pool(ranges=[*pool(used4=253).ranges, *pool().ranges])], ""),
    ],
    ids=["the last one", "another pool", "a claim is under way", "one family", "a second range"],
)
async def test_status_minds_only_the_networks_own_pool_and_what_it_can_get(
    plugin: Plugin, services: Services, pools: list[ipam_pb2.Pool], wanted: str
):
    services.script["ListPools"] = ipam_pb2.ListPoolsResponse(pools=pools)

    assert (await plugin.cni("STATUS", services.conf(pool=wanted))).code == 0


async def test_status_tells_a_service_that_cannot_be_asked_beside_a_pool_that_is_full(
    plugin: Plugin, services: Services
):
    await services.stop("endpoint")
    services.script["ListPools"] = ipam_pb2.ListPoolsResponse(pools=[pool(used4=253)])

    error = (await plugin.cni("STATUS", services.conf())).error

    assert "0 of 253 IPv4" in error["details"]
    assert "endpoint.sock" in error["details"]


@pytest.mark.cni("STATUS-2")
async def test_status_is_code_50_when_a_service_is_down(plugin: Plugin, services: Services):
    await services.stop("loader")

    error = (await plugin.cni("STATUS", services.conf())).error

    assert error["code"] == 50
    assert "loader.sock" in error["msg"]


@pytest.mark.cni("STATUS-3")
async def test_status_is_code_51_when_pods_of_the_network_do_not_work_either(plugin: Plugin, services: Services):
    await services.stop("loader")
    broken, well, foreign = (endpoint(attachment(name)) for name in ("a", "b", "c"))
    foreign.attachment.network = "other"
    broken.id, broken.pod.namespace, broken.pod.name = 7, "shop", "web"
    for one in (broken, foreign):
        one.health.overall = endpoint_pb2.EndpointHealth.STATUS_FAILURE
        one.health.reasons.append("the last regeneration failed: clang is missing")
    well.health.overall = endpoint_pb2.EndpointHealth.STATUS_WARNING
    services.script["ListEndpoints"] = endpoint_pb2.ListEndpointsResponse(endpoints=[well, broken, foreign])

    error = (await plugin.cni("STATUS", services.conf())).error

    assert error["code"] == 51
    assert "loader.sock" in error["msg"]
    assert "1 running pods have limited connectivity, first: endpoint 7 (shop/web): the last reg" in error["msg"]
    assert "clang is missing" in error["details"]


async def test_status_is_silent_while_pods_can_be_attached_whatever_is_wrong_with_one(
    plugin: Plugin, services: Services
):
    broken = endpoint(attachment("a"))
    broken.health.overall = endpoint_pb2.EndpointHealth.STATUS_FAILURE
    services.script["ListEndpoints"] = endpoint_pb2.ListEndpointsResponse(endpoints=[broken])

    assert (await plugin.cni("STATUS", services.conf())).code == 0


async def test_status_is_code_50_when_a_service_is_not_ready(plugin: Plugin, services: Services):
    await services.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    error = (await plugin.cni("STATUS", services.conf())).error

    assert error["code"] == 50
    assert "podlane-endpoint" in error["msg"]
    assert "not ready" in error["msg"]


@pytest.mark.parametrize(("verb", "version"), [("STATUS", "1.0.0"), ("GC", "1.0.0"), ("CHECK", "0.3.1")])
@pytest.mark.cni("CONF-1")
async def test_a_verb_of_a_later_version_is_code_1(plugin: Plugin, services: Services, verb: str, version: str):
    error = (await plugin.cni(verb, services.conf(cniVersion=version))).error

    assert error["code"] == 1
    assert error["cniVersion"] == version


def populated(services: Services) -> list[str]:
    """Let each service know other attachments; return what DEL-like calls were made for, as they come."""
    ours = {name: attachment(name) for name in ("a", "b", "c", "valid")}
    foreign = attachment("foreign", network="other")
    services.script["ListEndpoints"] = endpoint_pb2.ListEndpointsResponse(
        endpoints=[endpoint(ours["a"]), endpoint(ours["valid"]), endpoint(foreign)]
    )
    services.script["ListLinks"] = loader_pb2.ListLinksResponse(
        links=[loader_pb2.LinkStatus(link=link(owner)) for owner in (ours["a"], ours["b"], ours["valid"], foreign)]
    )
    services.script["ListAllocations"] = ipam_pb2.ListAllocationsResponse(
        allocations=[ipam_pb2.Allocation(owner=owner) for owner in (*ours.values(), foreign)]
    )
    removed: list[str] = []

    async def release(request: Any, _context: Any) -> Any:
        removed.append(request.owner.container_id)
        return ipam_pb2.ReleaseAddressesResponse()

    services.script["ReleaseAddresses"] = release
    return removed


def garbage_conf(services: Services, *valid: str, **changes: Any) -> dict[str, Any]:
    named = [{"containerID": name, "ifname": "eth0"} for name in valid]
    return services.conf(**{"cni.dev/valid-attachments": named, **changes})


@pytest.mark.cni("GC-1", "GC-2", "GC-5")
async def test_gc_removes_what_is_not_valid_of_this_network_only(plugin: Plugin, services: Services):
    removed = populated(services)

    outcome = await plugin.cni("GC", garbage_conf(services, "valid"))

    assert (outcome.code, outcome.stdout) == (0, "")
    assert removed == ["a", "b", "c"]


@pytest.mark.cni("GC-4")
async def test_gc_with_an_empty_list_removes_all_of_this_network(plugin: Plugin, services: Services):
    removed = populated(services)

    assert (await plugin.cni("GC", garbage_conf(services))).code == 0
    assert removed == ["a", "b", "c", "valid"]


@pytest.mark.cni("GC-3")
async def test_gc_goes_on_after_errors_and_tells_them(plugin: Plugin, services: Services):
    removed = populated(services)

    async def stuck(request: Any, context: Any) -> Any:
        if request.attachment.container_id == "b":
            await refuse(StatusCode.UNAVAILABLE, "b is stuck")(request, context)
        return loader_pb2.DeleteLinkResponse()

    services.script["DeleteLink"] = stuck

    error = (await plugin.cni("GC", garbage_conf(services, "valid"))).error

    assert error["code"] == 105
    assert "b is stuck" in error["msg"]
    assert removed == ["a", "c"]


async def test_gc_with_a_service_down_does_what_is_safe(plugin: Plugin, services: Services):
    removed = populated(services)
    await services.stop("endpoint")

    error = (await plugin.cni("GC", garbage_conf(services, "valid"))).error

    assert error["code"] == 105
    assert "endpoint.sock" in error["details"]
    assert services.calls.count("DeleteLink") == 3
    assert removed == []


async def test_gc_reads_every_page(plugin: Plugin, services: Services):
    removed = populated(services)

    async def pages(request: Any, _context: Any) -> Any:
        number = int(request.page_token or 0)
        following = str(number + 1) if number < 2 else ""
        return ipam_pb2.ListAllocationsResponse(
            allocations=[ipam_pb2.Allocation(owner=attachment(f"page-{number}"))], next_page_token=following
        )

    services.script["ListAllocations"] = pages

    await plugin.cni("GC", garbage_conf(services, "a", "b", "valid"))

    assert removed == ["page-0", "page-1", "page-2"]


@pytest.mark.parametrize("value", [None, "all", {}, ["a"], [{"containerID": "a"}], [{"containerID": 1, "ifname": "b"}]])
async def test_gc_without_a_readable_list_removes_nothing(plugin: Plugin, services: Services, value: Any):
    conf = services.conf()
    if value is not None:
        conf["cni.dev/valid-attachments"] = value

    error = (await plugin.cni("GC", conf)).error

    assert error["code"] == 7
    assert "cni.dev/valid-attachments" in error["msg"]
    assert services.calls == []
