"""What the plugin does when the other end of a socket is absent, deaf, slow, dying, or no gRPC server at all."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from cni import http2
from tests.shim_support import Plugin, Services, allocated, refuse


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    return Plugin.installed(tmp_path_factory.mktemp("plugin"))


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with Services(tmp_path) as running:
        yield running


@asynccontextmanager
async def peer(path: Path, behaviour: Callable[[Any, Any], Any]) -> AsyncIterator[None]:
    """Listen on a socket and do to each connection what `behaviour` says."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behaviour(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_unix_server(accepted, path)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("service", "calls"),
    [
        ("ipam", []),
        ("loader", ["AllocateAddresses", "ReleaseAddresses"]),
        ("endpoint", ["AllocateAddresses", "CreateLink", "DeleteLink", "ReleaseAddresses"]),
    ],
)
@pytest.mark.cni("RESULT-5")
async def test_a_service_that_is_down_is_code_11_with_its_socket_and_what_to_do(
    plugin: Plugin, services: Services, service: str, calls: list[str]
):
    await services.stop(service)

    error = (await plugin.cni("ADD", services.conf())).error

    assert error["code"] == 11
    assert str(services.socket(service)) in error["msg"]
    assert "podlane node up" in error["details"]
    assert services.calls == calls


async def test_a_socket_without_a_listener_is_code_11(plugin: Plugin, services: Services):
    await services.stop("ipam")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(services.socket("ipam")))

    error = (await plugin.cni("ADD", services.conf())).error

    assert error["code"] == 11
    assert "refused" in error["msg"]


async def test_a_file_that_is_no_socket_is_code_11(plugin: Plugin, services: Services, tmp_path: Path):
    (tmp_path / "file").write_text("")

    error = (await plugin.cni("ADD", services.conf(ipamSocket=str(tmp_path / "file")))).error

    assert error["code"] == 11


async def test_a_full_accept_queue_is_waited_for(plugin: Plugin, services: Services):
    """A hundred pods at once must not fail because the service hasn't come round to accepting yet."""
    await services.stop("ipam")
    path = services.socket("ipam")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            process = await plugin.start("ADD")
            outcome = asyncio.create_task(plugin.started(process, services.conf(timeoutSeconds=2)))
            listener.settimeout(10)
            accepted = [await asyncio.to_thread(listener.accept)]
            accepted += [await asyncio.to_thread(listener.accept)]
            greeting = await asyncio.to_thread(accepted[1][0].recv, 65536)
            for connection, _ in accepted:
                connection.close()
    assert greeting.startswith(b"PRI * HTTP/2.0")
    assert (await outcome).error["code"] == 11


async def test_a_full_accept_queue_is_waited_for_no_longer_than_allowed(plugin: Plugin, services: Services):
    await services.stop("ipam")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(services.socket("ipam")))
        listener.listen(0)
        first.connect(str(services.socket("ipam")))

        error = (await plugin.cni("ADD", services.conf(timeoutSeconds=0.3))).error

    assert error["code"] == 11


async def test_a_service_that_dies_during_the_call_is_code_11_and_undone(plugin: Plugin, services: Services):
    await services.stop("loader")
    connections = []

    async def die(reader: Any, _writer: Any) -> None:
        connections.append(await reader.read(65536))

    async with peer(services.socket("loader"), die):
        error = (await plugin.cni("ADD", services.conf())).error

    assert error["code"] == 11
    assert "podlane-loader" in error["msg"]
    assert "DeleteLink" in error["details"]
    # The link may stand: its address is kept until the reservation expires.
    assert services.calls == ["AllocateAddresses"]
    assert len(connections) == 2


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100, os.urandom(4096), b"\n"],
    ids=["HTTP/1.1", "zeros", "noise", "a line"],
)
async def test_a_peer_that_is_no_grpc_server_is_an_error_without_a_traceback(
    plugin: Plugin, services: Services, garbage: bytes
):
    await services.stop("ipam")

    async def talk(_reader: Any, writer: Any) -> None:
        writer.write(garbage)
        await writer.drain()

    async with peer(services.socket("ipam"), talk):
        error = (await plugin.cni("ADD", services.conf(timeoutSeconds=5))).error

    assert error["code"] in {11, 104}
    assert "ipam" in error["msg"]


async def test_a_slow_service_is_waited_for_and_kept_company(plugin: Plugin, services: Services):
    """The settings and pings that arrive meanwhile are acknowledged, or grpcio's server would hang up."""
    await services.stop("ipam")
    heard = []

    async def slow(reader: Any, writer: Any) -> None:
        await reader.read(65536)
        writer.write(http2._frame(http2.SETTINGS, 0, 0, b"") + http2._frame(http2.PING, 0, 0, b"are you?"))
        heard.append(await reader.readexactly(26))

    async with peer(services.socket("ipam"), slow):
        await plugin.cni("ADD", services.conf())

    assert heard[0] == http2.SETTINGS_ACK + http2._frame(http2.PING, http2.ACK, 0, b"are you?")


async def test_a_long_request_goes_through_grpcio(plugin: Plugin, services: Services):
    labels = {f"label-{number}": "ü" * 100 for number in range(500)}

    outcome = await plugin.cni("ADD", services.conf(labels=labels))

    assert outcome.result
    assert dict(services.requests["CreateEndpoint"].labels) == labels
    assert "grpc-python" in services.metadata["CreateEndpoint"]["user-agent"]
    assert "user-agent" not in services.metadata["CreateLink"]
    assert services.calls == ["AllocateAddresses", "CreateLink", "CreateEndpoint"]


async def test_a_call_that_took_the_long_way_is_visible_in_the_log(plugin: Plugin, services: Services, tmp_path: Path):
    log = tmp_path / "cni.log"

    await plugin.cni("ADD", services.conf(labels={"a": "x" * 20_000}, logFile=str(log)))

    steps = json.loads(log.read_text())["steps"]
    assert [step[2] for step in steps[:2]] == ["ok", "ok"]
    assert steps[2][2].startswith("ok, by grpcio: a request of 20")


@pytest.mark.parametrize(("state", "made"), [(1, True), (2, False)])
async def test_an_answer_that_was_not_understood_is_asked_for_again_and_undone_with_care(
    plugin: Plugin, services: Services, tmp_path: Path, state: int, made: bool
):
    """The first call made the reservation, the second one finds it there: only its state tells whose it is."""
    from podlane.ipam.v1 import ipam_pb2

    services.script["AllocateAddresses"] = allocated(created=False, state=state)
    services.script["CreateLink"] = refuse(grpc.StatusCode.ALREADY_EXISTS, "eth0 is somebody else's")
    services.script["ReleaseAddresses"] = ipam_pb2.ReleaseAddressesResponse()
    front = tmp_path / "front.sock"
    asked: list[None] = []

    async def first_garbage_then_ipam(reader: Any, writer: Any) -> None:
        asked.append(None)
        if len(asked) == 1:
            await reader.read(65536)
            writer.write(http2._frame(http2.SETTINGS, 0, 0, b"") + http2._frame(http2.PUSH_PROMISE, 0, 1, b"\0\0\0\2"))
            return
        behind_reader, behind_writer = await asyncio.open_unix_connection(services.socket("ipam"))
        await asyncio.gather(relay(reader, behind_writer), relay(behind_reader, writer))

    async with peer(front, first_garbage_then_ipam):
        error = (await plugin.cni("ADD", services.conf(ipamSocket=str(front)))).error

    assert error["code"] == 103
    assert services.calls == ["AllocateAddresses", "CreateLink", *(["ReleaseAddresses"] if made else [])]


async def relay(reader: Any, writer: Any) -> None:
    """Copy one direction until it ends."""
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_long_request_that_fails_is_told_as_any_other(plugin: Plugin, services: Services):
    services.script["CreateEndpoint"] = refuse(grpc.StatusCode.FAILED_PRECONDITION, "zu groß – ✗", field="labels")

    error = (await plugin.cni("ADD", services.conf(labels={"a": "x" * 100_000}))).error

    assert (error["code"], error["msg"]) == (102, "zu groß – ✗")
    assert "field=labels" in error["details"]
    assert services.calls[-2:] == ["DeleteLink", "ReleaseAddresses"]


async def test_a_long_request_to_nobody_is_code_11(plugin: Plugin, services: Services):
    await services.stop("endpoint")

    error = (await plugin.cni("ADD", services.conf(labels={"a": "x" * 100_000}, timeoutSeconds=5))).error

    assert error["code"] == 11
    assert str(services.socket("endpoint")) in error["msg"]
    assert services.calls[-2:] == ["DeleteLink", "ReleaseAddresses"]


async def test_a_long_answer_is_read(plugin: Plugin, services: Services):
    answer = allocated()
    answer.allocation.pod.name = "x" * 300_000
    services.script["AllocateAddresses"] = answer

    assert (await plugin.cni("ADD", services.conf())).result
    assert "user-agent" not in services.metadata["AllocateAddresses"]


async def test_an_error_with_a_very_long_message_is_told(plugin: Plugin, services: Services):
    message = "verifier: " + "R1 invalid mem access – " * 200
    services.script["CreateEndpoint"] = refuse(grpc.StatusCode.FAILED_PRECONDITION, message)

    error = (await plugin.cni("ADD", services.conf())).error

    assert error["msg"].startswith("verifier: R1 invalid mem access – ")


async def test_a_service_that_does_not_know_the_method_is_code_104(plugin: Plugin, services: Services):
    services.script["CreateLink"] = refuse(grpc.StatusCode.INTERNAL, "internal error c0ffee")

    assert (await plugin.cni("ADD", services.conf())).error["code"] == 104
