"""Listings: the ways to print them, and what --watch shows, in a pipe, in a terminal and from a stream."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import endpoint_pb2 as pb
from podlane.endpoint.v1 import policy_pb2
from podlane.ipam.v1 import ipam_pb2

from services.common.errors import Unavailable
from tests.cli_support import Services, serving

CHANGE = pb.WatchEndpointsResponse


@pytest.fixture
def services() -> Iterator[Services]:
    """Services that say what a test wants."""
    with serving() as found:
        yield found


def endpoint(id_: int = 7, state: str = "READY", **more: Any) -> pb.Endpoint:
    """Return an endpoint."""
    made = pb.Endpoint(
        id=id_,
        pod=types_pb2.Pod(namespace="shop", name=f"web-{id_}"),
        state=pb.EndpointState.Value(f"ENDPOINT_STATE_{state}"),
        identity=300,
        created=Timestamp(seconds=1_700_000_000),
        identity_labels={"k8s:app": "web"},
        **more,
    )
    made.link.host_ifname = "lxc0123456789ab"
    made.link.pod_mac.packed = bytes.fromhex("020000000007")
    made.link.host_mac.packed = bytes.fromhex("020000000008")
    for address in (bytes((10, 0, 0, id_)), bytes.fromhex("fd" + "00" * 14) + bytes((id_,))):
        made.addresses.add().address.address.packed = address
    return made


def command(services: Services, *argv: str) -> list[str]:
    """Return the command as people run it."""
    return [sys.executable, "-m", "cli", "--config", str(services.config_file), *argv]


def test_endpoints_are_listed_as_cilium_dbg_lists_them(services: Services):
    services.replies["ListEndpoints"] = pb.ListEndpointsResponse(
        endpoints=[endpoint(ingress_policies=["shop/web"]), endpoint(8, "REGENERATING")]
    )

    head, one, other = services.podlane("endpoint", "list").stdout.splitlines()

    assert head.split() == ["ENDPOINT", "INGRESS", "EGRESS", "IDENTITY", "POD", "IPV6", "IPV4", "STATUS"]
    assert one.split() == ["7", "enabled", "disabled", "300", "shop/web-7", "fd00::7", "10.0.0.7", "ready"]
    assert other.split()[7] == "regenerating"
    wide = services.podlane("endpoint", "list", "-o", "wide").stdout.splitlines()[1]
    assert {"lxc0123456789ab", "02:00:00:00:00:07", "02:00:00:00:00:08", "shop/web"} <= set(wide.split())
    assert services.podlane("endpoint", "list", "-o", "name").stdout == "endpoint/7\nendpoint/8\n"


@pytest.mark.parametrize("argv", [("endpoint", "list"), ("endpoint", "get", "7"), ("endpoint", "health", "7")])
def test_yaml_says_what_json_says(services: Services, argv: tuple[str, ...]):
    services.replies["ListEndpoints"] = pb.ListEndpointsResponse(endpoints=[endpoint()])
    services.replies["GetEndpoint"] = pb.GetEndpointResponse(endpoint=endpoint())

    as_json = services.podlane(*argv, "-o", "json").stdout
    as_yaml = services.podlane(*argv, "-o", "yaml").stdout

    assert yaml.safe_load(as_yaml) == json.loads(as_json)
    assert not as_yaml.startswith(("{", "["))


def pools(*used: int) -> Any:
    """Answer with one pool more full each time, and then not at all."""
    left = list(used)

    def reply(_request: Any) -> ipam_pb2.ListPoolsResponse:
        if not left:
            raise AssertionError("asked once too often")
        prefix = types_pb2.IpPrefix(address=types_pb2.IpAddress(packed=bytes((10, 0, 0, 0))), length=24)
        part = ipam_pb2.PoolRange(prefix=prefix, gateway=prefix.address, size=254, used=left.pop(0))
        return ipam_pb2.ListPoolsResponse(pools=[ipam_pb2.Pool(name="default", ranges=[part])])

    return reply


WATCHED = ("ipam", "pools", "--watch", "--interval", "0.1")


def test_what_changes_is_printed_and_what_does_not_is_not(services: Services):
    services.replies["ListPools"] = pools(1, 1, 2)

    told = services.podlane(*WATCHED)

    rows = [line.split() for line in told.stdout.splitlines()]
    assert [row[0] for row in rows] == ["EVENT", "ADDED", "MODIFIED"]
    assert [row[5] for row in rows] == ["USED", "1", "2"]
    assert told.code == 1


def test_changes_as_json_are_a_document_a_line(services: Services):
    services.replies["ListPools"] = pools(1, 2)

    lines = services.podlane(*WATCHED, "-o", "json").stdout.splitlines()

    told = [json.loads(line) for line in lines]
    assert [(one["type"], one["object"]["ranges"][0]["used"]) for one in told] == [("ADDED", 1), ("MODIFIED", 2)]


def test_changes_as_yaml_are_documents(services: Services):
    services.replies["ListPools"] = pools(1, 2)

    told = list(yaml.safe_load_all(services.podlane(*WATCHED, "-o", "yaml").stdout))

    assert [(one["type"], one["object"]["name"]) for one in told] == [("ADDED", "default"), ("MODIFIED", "default")]


def test_what_is_gone_is_told_and_names_are_enough(services: Services):
    found = [["a", "b"], ["b"]]

    def identities(_request: Any) -> policy_pb2.ListIdentitiesResponse:
        if not found:
            raise AssertionError("asked once too often")
        known = [policy_pb2.Identity(id=300 + ord(one)) for one in found.pop(0)]
        return policy_pb2.ListIdentitiesResponse(identities=known)

    services.replies["ListIdentities"] = identities

    told = services.podlane("identity", "list", "-w", "--interval", "0.1", "-o", "name")

    assert told.stdout == "ADDED identity/397\nADDED identity/398\nDELETED identity/397\n"


def stream() -> list[CHANGE]:
    """Return a pod's life with another beside it."""
    return [
        CHANGE(change=CHANGE.CHANGE_EXISTING, endpoint=endpoint(7)),
        CHANGE(change=CHANGE.CHANGE_SYNCED),
        CHANGE(change=CHANGE.CHANGE_UPSERTED, endpoint=endpoint(8, "WAITING_TO_REGENERATE")),
        CHANGE(change=CHANGE.CHANGE_UPSERTED, endpoint=endpoint(8, "WAITING_TO_REGENERATE", waiting_for="its turn")),
        CHANGE(change=CHANGE.CHANGE_UPSERTED, endpoint=endpoint(8)),
        CHANGE(change=CHANGE.CHANGE_DELETED, endpoint=endpoint(7)),
    ]


def test_endpoints_are_watched_by_the_services_stream(services: Services):
    services.replies["WatchEndpoints"] = stream()

    told = services.podlane("endpoint", "list", "--watch")

    rows = [line.split() for line in told.stdout.splitlines()]
    assert rows[0] == ["EVENT", "ENDPOINT", "IDENTITY", "POD", "IPV6", "IPV4", "STATUS"]
    assert [(row[0], row[1], row[6]) for row in rows[1:]] == [
        ("ADDED", "7", "ready"),
        ("ADDED", "8", "waiting-to-regenerate"),
        ("MODIFIED", "8", "ready"),
        ("DELETED", "7", "ready"),
    ]
    assert told.code == 0
    assert services.podlane("endpoint", "list", "-w", "-o", "wide").stdout.splitlines()[0].endswith("AGE    LABELS")
    events = [json.loads(line) for line in services.podlane("endpoint", "list", "-wo", "json").stdout.splitlines()]
    assert [one["type"] for one in events] == ["ADDED", "ADDED", "MODIFIED", "MODIFIED", "DELETED"]
    assert events[3]["object"]["state"] == "ready"


def test_ctrl_c_ends_a_watch_with_130(services: Services):
    services.replies["ListPools"] = ipam_pb2.ListPoolsResponse(pools=[ipam_pb2.Pool(name="default")])

    with subprocess.Popen(
        command(services, *WATCHED, "-o", "name"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ADDED pool/default\n"
            process.send_signal(signal.SIGINT)

            assert "".join(process.communicate(timeout=30)).strip() == ""
        finally:
            process.kill()
        assert process.returncode == 130


def seen(argv: list[str], until: bytes, **environment: str) -> bytes:
    """Run a command in a terminal of its own and return what it wrote, as soon as that has something in it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", **environment}
    )
    os.close(theirs)
    text = b""
    try:
        while until not in text and select.select([ours], [], [], 30)[0]:
            text += os.read(ours, 4096)
            assert len(text) < 1 << 16, text
    except OSError:
        pass  # it has ended
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return text


def test_on_a_terminal_a_table_fits_and_states_are_in_colour(services: Services):
    services.replies["ListEndpoints"] = pb.ListEndpointsResponse(endpoints=[endpoint()])
    services.replies["ListEndpoints"].endpoints[0].pod.name = "web-6d4cf56db6-x8j2k"
    argv = command(services, "endpoint", "list")

    plain = seen(argv, b"ready\r\n", NO_COLOR="1", COLUMNS="80").decode()
    colour = seen(argv, b"\n\n", NO_COLOR="", COLUMNS="400").decode()

    assert max(map(len, plain.splitlines())) <= 80
    assert "  shop/web-6d4…  " in plain
    assert "…" in plain
    assert "\x1b" not in plain
    assert "\x1b[32mready" in colour
    assert "…" not in colour


def test_on_a_terminal_a_watched_table_is_drawn_anew_and_fits_the_screen(services: Services):
    known = [policy_pb2.Identity(id=number) for number in range(300, 340)]
    services.replies["ListIdentities"] = policy_pb2.ListIdentitiesResponse(identities=known)
    argv = command(services, "identity", "list", "--watch", "--interval", "0.1")

    screens = seen(argv, b"more rows", COLUMNS="80", LINES="12").decode().split("\x1b[H\x1b[2J")

    assert screens[0] == ""
    lines = screens[1].splitlines()
    assert lines[0].startswith("every 0.1 s, ")
    assert lines[2].split() == ["IDENTITY", "STANDS", "FOR", "ENDPOINTS", "POLICIES", "EXPIRES"]
    assert len(lines) == 11
    assert lines[-1] == "… and 33 more rows"


def test_a_service_that_goes_away_ends_a_watch(services: Services):
    services.replies["ListPools"] = Unavailable("podlane-ipam is going")

    told = services.podlane(*WATCHED)

    assert (told.code, told.stdout, told.stderr) == (4, "", "podlane: podlane-ipam is going\n")
