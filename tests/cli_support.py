"""The command against services that say what a test wants: real gRPC servers on a node's Unix sockets.

What a script says is what the contract allows, not what a service would decide; that is other tests' matter. Errors
travel as the services' own do.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from click.testing import CliRunner
from podlane.endpoint.v1 import (
    endpoint_pb2,
    endpoint_pb2_grpc,
    monitor_pb2,
    monitor_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
)
from podlane.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from cli.main import main
from services.common.edge import status_of
from services.common.errors import PodlaneError


@dataclass(frozen=True)
class Outcome:
    """What a command said, and its exit code."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Services:
    """What services answer, and what they were asked. A method without a reply is one that isn't known.

    Methods go by their names, MonitorService's as `monitor/<name>`: the loader has one of the same name.
    """

    directory: Path
    replies: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def config_file(self) -> Path:
        """The node's settings."""
        return self.directory / "podlane.toml"

    def asked(self, method: str) -> Any:
        """Return the only request of a method."""
        (request,) = [request for name, request in self.requests if name == method]
        return request

    def podlane(self, *argv: str, stdin: str = "") -> Outcome:
        """Run the command in this process."""
        before, sys.argv = sys.argv, ["podlane", "--config", str(self.config_file), *argv]
        try:
            with CliRunner().isolation(input=stdin) as (stdout, stderr, _):
                try:
                    code = main()
                except SystemExit as stop:
                    code = int(stop.code or 0)
                sys.stdout.flush()
                sys.stderr.flush()
                return Outcome(code, stdout.getvalue().decode(), stderr.getvalue().decode())
        finally:
            sys.argv = before

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Reply as the script says."""
        self.requests.append((method, request))
        reply = self.replies.get(method)
        if isinstance(reply, PodlaneError):
            context.abort_with_status(status_of(reply))
        if reply is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return reply(request) if callable(reply) else reply

    def stream(self, method: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Reply with a stream that ends."""
        messages = self.answer(method, request, context)
        context.send_initial_metadata(())
        yield from messages


def _servicer(services: Services, base: type, methods: Sequence[Any]) -> Any:
    def method(found: Any) -> Any:
        reply = services.stream if found.server_streaming else services.answer
        name = f"monitor/{found.name}" if base is monitor_pb2_grpc.MonitorServiceServicer else found.name
        return lambda _self, request, context: reply(name, request, context)

    return type("Scripted", (base,), {found.name: method(found) for found in methods})()


def _stop(server: grpc.Server) -> None:
    server.stop(None).wait()


@contextlib.contextmanager
def serving() -> Iterator[Services]:
    """Serve the endpoint service, policies among it, ipam and the loader, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="pl-cli-") as directory:
        services = Services(Path(directory))
        services.config_file.write_text(f'[node]\nrun_dir = "{directory}"\nlib_dir = "{directory}"\n')
        parts = {
            "endpoint": (
                (endpoint_pb2, "EndpointService", endpoint_pb2_grpc),
                (policy_pb2, "PolicyService", policy_pb2_grpc),
                (monitor_pb2, "MonitorService", monitor_pb2_grpc),
            ),
            "ipam": ((ipam_pb2, "IpamService", ipam_pb2_grpc),),
            "loader": ((loader_pb2, "LoaderService", loader_pb2_grpc),),
        }
        with contextlib.ExitStack() as stack:
            for name, served in parts.items():
                server = grpc.server(stack.enter_context(ThreadPoolExecutor(4)))
                for messages, service, stubs in served:
                    methods = messages.DESCRIPTOR.services_by_name[service].methods
                    servicer = _servicer(services, getattr(stubs, f"{service}Servicer"), methods)
                    getattr(stubs, f"add_{service}Servicer_to_server")(servicer, server)
                (services.directory / name).mkdir()
                server.add_insecure_port(f"unix:{services.directory}/{name}/{name}.sock")
                server.start()
                stack.callback(_stop, server)
            yield services
