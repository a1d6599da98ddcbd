"""Identities, labels of endpoints, and flows with names, as people see and change them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import endpoint_pb2, monitor_pb2
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from cli import exits
from services.common.errors import InvalidArgument, NotFound, Unavailable
from tests.cli_support import Services, serving

LABELS = {"k8s:app": "web", "k8s:io.kubernetes.pod.namespace": "shop"}


@pytest.fixture
def services() -> Iterator[Services]:
    """Services that say what a test wants."""
    with serving() as found:
        yield found


def endpoint(**more: Any) -> endpoint_pb2.Endpoint:
    """Return an endpoint with policies and an operator's labels."""
    return endpoint_pb2.Endpoint(
        id=7,
        pod=types_pb2.Pod(namespace="shop", name="web-0"),
        created=Timestamp(seconds=1_700_000_000),
        identity=300,
        identity_labels=LABELS,
        labels={"app": "web", "tier": "a", "k8s:old": "x"},
        operator_labels={"tier": "b"},
        removed_labels=["old"],
        ingress_policies=["shop/web", "shop/all"],
        **more,
    )


def test_identities_are_listed_with_what_they_stand_for(services: Services):
    prefix = types_pb2.IpPrefix(address=types_pb2.IpAddress(packed=bytes((10, 0, 0, 0))), length=8)
    services.replies["ListIdentities"] = pb.ListIdentitiesResponse(
        identities=[
            pb.Identity(id=1, labels={"reserved:host": ""}),
            pb.Identity(id=300, labels={**LABELS, "k8s:x": ""}, endpoints=[7, 9], policies=["shop/web"]),
            pb.Identity(id=301, labels=LABELS, expires_in_seconds=42),
            pb.Identity(id=1 << 24 | 1, prefix=prefix),
        ]
    )

    rows = [line.split() for line in services.podlane("identity", "list").stdout.splitlines()]

    assert rows == [
        ["IDENTITY", "STANDS", "FOR", "ENDPOINTS", "POLICIES", "EXPIRES"],
        ["1", "reserved:host", "-", "-", "-"],
        ["300", "k8s:app=web,k8s:io.kubernetes.pod.namespace=shop,k8s:x=", "7,9", "shop/web", "-"],
        ["301", "k8s:app=web,k8s:io.kubernetes.pod.namespace=shop", "-", "-", "in", "42s"],
        ["16777217", "10.0.0.0/8", "-", "-", "-"],
    ]
    assert json.loads(services.podlane("identity", "list", "-o", "json").stdout)[3]["prefix"] == "10.0.0.0/8"


def test_one_identity_is_told_in_lines(services: Services):
    found = pb.Identity(id=300, labels=LABELS, endpoints=[7], policies=["shop/web"])
    services.replies["ListIdentities"] = pb.ListIdentitiesResponse(identities=[found])

    told = services.podlane("identity", "get", "300")

    assert services.asked("ListIdentities").identity == 300
    assert told.stdout.splitlines() == [
        "identity    300",
        "label       k8s:app=web",
        "label       k8s:io.kubernetes.pod.namespace=shop",
        "endpoints   7",
        "policies    shop/web",
        "expires     -",
    ]


def test_an_identity_that_nobody_knows_is_an_error(services: Services):
    services.replies["ListIdentities"] = pb.ListIdentitiesResponse()

    outcome = services.podlane("identity", "get", "4242")

    assert outcome.code == 3
    assert outcome.stderr.startswith("podlane: identity 4242 is not known on this node")
    assert services.podlane("identity", "get", "0").code == 2


def test_labels_are_shown_with_who_said_so(services: Services):
    services.replies["GetEndpoint"] = endpoint_pb2.GetEndpointResponse(endpoint=endpoint())

    rows = [line.split(maxsplit=2) for line in services.podlane("endpoint", "labels", "7").stdout.splitlines()]

    assert rows == [
        ["LABEL", "VALUE", "SAID BY"],
        ["app", "web", "pod"],
        ["k8s:old", "x", "pod, not in force"],
        ["old", "(removed)", "operator"],
        ["tier", "a", "pod, not in force"],
        ["tier", "b", "operator"],
    ]
    told = json.loads(services.podlane("endpoint", "labels", "7", "-o", "json").stdout)
    assert told["removed_labels"] == ["old"]
    assert "health" not in told


def test_labels_are_set_removed_and_taken_back(services: Services):
    effect = pb.PolicyEffect(endpoints=2, entries_added=3, duration_us=900)
    services.replies["UpdateLabels"] = pb.UpdateLabelsResponse(endpoint=endpoint(), effect=effect)

    outcome = services.podlane("endpoint", "labels", "shop/web-0", "a=1", "b=", "c-", "d=x=y", "--reset", "e")

    assert outcome.code == 0
    assert outcome.stdout.splitlines() == [
        "endpoint 7 has identity 300: k8s:app=web, k8s:io.kubernetes.pod.namespace=shop",
        "2 endpoints: 3 entries added, 0 removed, enforced in 0.9 ms",
    ]
    request = services.asked("UpdateLabels")
    assert request.selector.pod.name == "web-0"
    assert [(one.key, one.value if one.HasField("value") else None, one.remove) for one in request.changes] == [
        ("a", "1", False),
        ("b", "", False),
        ("c", None, True),
        ("d", "x=y", False),
        ("e", None, False),
    ]


@pytest.mark.parametrize("change", ["app", "=x", "-", ""])
def test_what_is_no_change_of_a_label_is_refused(services: Services, change: str):
    outcome = services.podlane("endpoint", "labels", "7", "--", change)

    assert outcome.code == 2
    assert "is neither KEY=VALUE, which sets a label, nor KEY-, which removes it" in outcome.stderr
    assert services.requests == []


def test_a_label_that_the_service_refuses_is_one_line(services: Services):
    services.replies["UpdateLabels"] = InvalidArgument("label 'a b': no")

    outcome = services.podlane("endpoint", "labels", "7", "a b=x")

    assert (outcome.code, outcome.stderr) == (2, "podlane: label 'a b': no\n")


def test_endpoint_get_tells_of_labels_and_policies(services: Services):
    found = endpoint(policy_error="policy map is full")
    services.replies["GetEndpoint"] = endpoint_pb2.GetEndpointResponse(endpoint=found)

    lines = services.podlane("endpoint", "get", "7").stdout.splitlines()

    assert lines[3:8] == [
        "identity    300",
        "label       k8s:app=web",
        "label       k8s:io.kubernetes.pod.namespace=shop",
        "ingress     isolated by shop/web, shop/all",
        "policy      not what it should be: policy map is full",
    ]


def test_endpoint_list_has_policies_when_it_may_be_wide(services: Services):
    services.replies["ListEndpoints"] = endpoint_pb2.ListEndpointsResponse(endpoints=[endpoint()])

    narrow = services.podlane("endpoint", "list").stdout.splitlines()
    wide = services.podlane("endpoint", "list", "-o", "wide").stdout.splitlines()

    assert "POLICIES" not in narrow[0]
    assert wide[0].endswith("LABELS")
    assert wide[1].split()[-3:] == ["shop/web,shop/all", "-", "k8s:app=web,k8s:io.kubernetes.pod.namespace=shop"]


EVENT = loader_pb2.WatchEventsResponse(
    time=Timestamp(seconds=1_700_000_000),
    drop=loader_pb2.DropEvent(reason="policy"),
    endpoint_id=7,
    summary="drop 10.0.0.5 -> 10.0.0.7",
)
FLOW = pb.WatchFlowsResponse(
    event=EVENT,
    source=pb.FlowEnd(name="shop/a"),
    isolated_by=["shop/web"],
    summary="drop shop/a -> shop/web-0, isolated by shop/web",
)

TOLD = monitor_pb2.WatchEventsResponse(
    time=EVENT.time, kind=monitor_pb2.EVENT_KIND_DROP, flow=FLOW, summary=FLOW.summary, number=1
)


def test_monitor_tells_of_flows_with_names(services: Services):
    services.replies |= {"ListIdentities": pb.ListIdentitiesResponse(), "monitor/WatchEvents": [TOLD]}

    outcome = services.podlane("monitor", "--type", "drop", "--endpoint", "shop/web-0")

    assert outcome.code == 0
    assert outcome.stderr == ("listening for drop events of endpoint shop/web-0 (options: drop-notify); Ctrl-C ends\n")
    assert outcome.stdout.partition(" ")[2] == "drop shop/a -> shop/web-0, isolated by shop/web\n"
    asked = services.asked("monitor/WatchEvents").filter
    assert (asked.any.pod, list(asked.kinds)) == ("web-0", [monitor_pb2.EVENT_KIND_DROP])


def test_json_of_a_flow_has_the_events_fields_where_they_are_without_names(services: Services):
    services.replies |= {"ListIdentities": pb.ListIdentitiesResponse(), "monitor/WatchEvents": [TOLD]}
    named = json.loads(services.podlane("monitor", "-o", "json").stdout)
    services.replies = {"WatchEvents": [EVENT]}
    bare = json.loads(services.podlane("monitor", "-o", "json").stdout)

    assert bare.keys() <= named.keys()
    assert {key for key in bare if bare[key] != named[key]} == {"summary"}
    assert (named["source"]["name"], named["isolated_by"]) == ("shop/a", ["shop/web"])


@pytest.mark.parametrize("away", [None, Unavailable("podlane-endpoint is starting")])
def test_without_the_endpoint_service_events_are_the_loaders_and_that_is_said(
    services: Services, away: Unavailable | None
):
    services.replies |= {"ListIdentities": away, "WatchEvents": [EVENT]}

    outcome = services.podlane("monitor", "--endpoint", "7")

    assert outcome.code == 0
    assert len(outcome.stderr.splitlines()) == 1
    assert "; Ctrl-C ends; without names: podlane-endpoint " in outcome.stderr
    assert outcome.stdout.endswith("drop 10.0.0.5 -> 10.0.0.7\n")
    assert services.asked("WatchEvents").endpoint_id == 7


def test_a_name_that_nobody_can_look_up_is_not_taken_for_all_endpoints(services: Services):
    services.replies["WatchEvents"] = [EVENT]

    outcome = services.podlane("monitor", "--endpoint", "shop/web-0")

    assert (outcome.code, outcome.stdout) == (4, "")
    assert "podlane-endpoint, which knows names and keeps the history, is needed for that" in outcome.stderr
    assert "podlane-endpoint does not know this call" in outcome.stderr


@pytest.mark.parametrize("error", [NotFound("there is no endpoint 7"), Unavailable("podlane-loader does not answer")])
def test_a_stream_that_fails_is_an_error_and_no_reason_to_ask_another(services: Services, error: NotFound):
    services.replies |= {
        "ListIdentities": pb.ListIdentitiesResponse(),
        "monitor/WatchEvents": error,
        "WatchEvents": [EVENT],
    }

    outcome = services.podlane("monitor", "--endpoint", "7")

    assert (outcome.code, outcome.stdout) == (exits.code(error), "")
    assert outcome.stderr.endswith(f"podlane: {error.message}\n")
    assert [name for name, _ in services.requests] == ["ListIdentities", "monitor/WatchEvents"]
