"""A service that can't be asked: the error names the socket, the service and what to do. And what a call costs."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import endpoint_pb2
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from cli import connect
from services.common import configfile
from services.common.errors import DeadlineExceeded, Exhausted, InvalidArgument, Unavailable
from tests.cli_support import Services, serving


@pytest.fixture
def services() -> Iterator[Services]:
    """Services that say what a test wants, waited for only a moment when they are away."""
    with pytest.MonkeyPatch.context() as patch, serving() as found:
        patch.setattr(connect, "_WAIT", 0.0)
        yield found


def test_where_there_is_no_socket_the_service_does_not_run(services: Services):
    path = services.directory / "ipam" / "ipam.sock"
    path.unlink()

    told = services.podlane("ipam", "list")

    assert told.code == 4
    assert told.stderr == (
        f"podlane: podlane-ipam does not answer on {path}: there is no such socket, so it does not run, or with other "
        "settings (--config): start it with `podlane node up` or `systemctl start podlane-ipam`\n"
    )


def test_a_socket_that_nobody_listens_on_is_what_an_ended_process_left(services: Services):
    path = services.directory / "loader" / "loader.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    # By either way that a call can go.
    for argv in (("metrics", "list"), ("ct", "list")):
        told = services.podlane("bpf", *argv)
        assert told.code == 4
        assert told.stderr.startswith(f"podlane: podlane-loader does not answer on {path}: the socket is what an ended")
        assert "systemctl start podlane-loader" in told.stderr
    assert "ended process" in services.podlane("monitor", "--endpoint", "7").stderr


def test_what_is_no_socket_is_named(services: Services):
    path = services.directory / "ipam" / "ipam.sock"
    path.unlink()
    path.write_text("")

    told = services.podlane("ipam", "pools")

    assert told.code == 4
    assert "does not answer" in told.stderr
    assert str(path) in told.stderr


@pytest.mark.privileged
def test_without_permission_root_is_what_is_missing(services: Services):
    services.directory.chmod(0o755)
    (services.directory / "ipam").chmod(0o700)
    os.seteuid(65534)
    try:
        told = services.podlane("ipam", "pools")
    finally:
        os.seteuid(0)

    assert told.code == 4
    assert told.stderr == (
        f"podlane: podlane-ipam does not answer on {services.directory}/ipam/ipam.sock: permission denied: run podlane "
        "as root\n"
    )


def test_a_service_that_is_starting_says_so_itself(services: Services):
    services.replies["ListPools"] = Unavailable("podlane-ipam is starting: its ranges are not known yet")

    told = services.podlane("ipam", "pools")

    assert (told.code, told.stderr) == (4, "podlane: podlane-ipam is starting: its ranges are not known yet\n")


def test_an_error_comes_back_as_it_was_raised_with_its_facts(services: Services):
    services.replies["ListPools"] = Exhausted("nothing is left, really – nothing", size=254)

    with pytest.raises(Exhausted, match="nothing is left, really – nothing") as caught:
        connect.ask(connect.ipam(configfile.load(services.config_file, {})), "ListPools", ipam_pb2.ListPoolsRequest())

    assert caught.value.fields == {"size": "254"}


class Precise(InvalidArgument):
    """A service's own kind, which nobody else knows."""


def test_a_kind_of_error_that_only_the_service_knows_counts_as_what_it_is(services: Services):
    services.replies["ListPools"] = Precise("the third word is wrong")

    told = services.podlane("ipam", "pools")

    assert (told.code, told.stderr) == (2, "podlane: the third word is wrong\n")


def test_who_takes_too_long_is_named_with_the_time(services: Services):
    settings = configfile.load(services.config_file, {})
    path = settings.ipam.socket
    path.unlink()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()

        with pytest.raises(DeadlineExceeded, match=f"podlane-ipam did not finish in time on {path}"):
            connect.ask(connect.ipam(settings), "ListPools", ipam_pb2.ListPoolsRequest(), timeout=0.2)


def test_a_service_that_restarts_is_waited_for(services: Services, monkeypatch: pytest.MonkeyPatch):
    """Its socket is not there at the first look."""
    monkeypatch.setattr(connect, "_WAIT", 20.0)
    services.replies["ListPools"] = ipam_pb2.ListPoolsResponse()
    path = services.directory / "ipam" / "ipam.sock"
    hidden = path.rename(path.with_suffix(".hidden"))
    looks = []

    def look(*_: object) -> None:
        looks.append(1)
        hidden.rename(path)

    monkeypatch.setattr("cli.call.select.select", look)

    assert services.podlane("ipam", "pools").code == 0
    assert looks == [1]


LEAN = {"grpc", "asyncio", "structlog", "ssl", "yaml", "socket", "subprocess"}
PROGRAM = """
import json, sys
sys.argv = ["podlane", *{argv!r}]
from cli.main import main
out, sys.stdout = sys.stdout, sys.stderr
try:
    code = main()
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted(name for name, module in sys.modules.items() if module is not None)]), file=out)
"""


@pytest.mark.parametrize(
    "argv",
    [
        "--help",
        "endpoint list",
        "endpoint get 7 -o json",
        "ipam pools",
        "bpf metrics list",
        "node status",
    ],
)
def test_a_command_imports_nothing_that_takes_long(services: Services, argv: str):
    """grpcio alone is more than half of what a command may take; help needs not even protobuf."""
    found = endpoint_pb2.Endpoint(id=7, pod=types_pb2.Pod(namespace="shop", name="web-0"))
    services.replies["ListEndpoints"] = endpoint_pb2.ListEndpointsResponse(endpoints=[found])
    services.replies["GetEndpoint"] = endpoint_pb2.GetEndpointResponse(endpoint=found)
    services.replies |= {
        "ListPools": ipam_pb2.ListPoolsResponse(),
        "DumpMap": loader_pb2.DumpMapResponse(),
        "ListDeletions": endpoint_pb2.ListDeletionsResponse(),
    }
    words = [argv] if argv == "--help" else ["--config", str(services.config_file), *argv.split()]

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(argv=words)], capture_output=True, text=True, check=True
    )

    code, loaded = json.loads(done.stdout)
    assert code in {0, 1}, done.stderr
    assert LEAN.isdisjoint(loaded), LEAN & set(loaded)
    if argv == "--help":
        assert {"google.protobuf.message", "services.common.config", "cli.endpoint"}.isdisjoint(loaded)


BASH = """
source <(podlane completion bash)
complete_words() {{
    COMP_WORDS=(podlane "$@") COMP_CWORD=$#
    COMPREPLY=()
    _podlane_completion podlane
    echo "${{COMPREPLY[*]}}"
}}
{calls}
"""


def completed(services: Services, *lines: str) -> list[str]:
    """Return what bash offers for the last word of each line."""
    script = BASH.format(calls="\n".join(f"complete_words {line}" for line in lines))
    environment = {**os.environ, "PODLANE_CONFIG": str(services.config_file)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_nouns_verbs_options_and_endpoints(services: Services):
    found = [
        endpoint_pb2.Endpoint(id=id_, pod=types_pb2.Pod(namespace="shop", name=name))
        for id_, name in ((7, "web-0"), (71, "db-0"))
    ]
    services.replies["ListEndpoints"] = endpoint_pb2.ListEndpointsResponse(endpoints=found)
    offered = {
        "en": "endpoint",
        "bpf p": "policy prefixes prog",
        "endpoint list --wa": "--watch",
        "endpoint list -o y": "yaml",
        "endpoint get 7": "7 71",
        "bpf policy get shop/w": "shop/web-0",
        "bpf ct list --endpoint shop/d": "shop/db-0",
    }

    assert completed(services, *offered) == list(offered.values())


def test_nothing_is_offered_and_nothing_is_said_while_the_service_is_away(services: Services):
    (services.directory / "endpoint" / "endpoint.sock").unlink()

    assert completed(services, "endpoint get 7") == [""]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_own_script(services: Services, shell: str):
    assert "_PODLANE_COMPLETE" in services.podlane("completion", shell).stdout
