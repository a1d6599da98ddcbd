"""What the page shows of messages, and what it sums up."""

from typing import Any

import pytest
from podlane.endpoint.v1 import endpoint_pb2, monitor_pb2, policy_pb2
from podlane.loader.v1 import loader_pb2

from cli.ui import edges, shapes

WEB = policy_pb2.FlowEnd(endpoint_id=1, name="shop/web-0", identity=300, labels={"k8s:app": "web"})
DB = policy_pb2.FlowEnd(endpoint_id=2, name="shop/db-0", identity=301)


def flow(packets: int, verdict: Any, reason: str = "", **more: Any) -> Any:
    return monitor_pb2.Flow(
        source=WEB, destination=DB, protocol="TCP", port=5432, packets=packets, verdict=verdict, reason=reason, **more
    )


def test_what_passed_and_what_was_dropped_is_one_edge():
    told = [
        flow(10, monitor_pb2.VERDICT_ALLOWED, bytes=1000, packets_back=8, bytes_back=900, connections=2),
        flow(3, monitor_pb2.VERDICT_DENIED, "policy"),
        flow(1, monitor_pb2.VERDICT_DROPPED, "invalid source ip"),
    ]
    (edge,) = edges.edges(told).values()

    counted = {name: edge[name] for name in ("packets", "bytes", "connections", "dropped", "reason")}
    assert counted == {"packets": 18, "bytes": 1900, "connections": 2, "dropped": 4, "reason": "policy"}
    assert edge["source"] == {"endpoint": 1, "name": "shop/web-0", "identity": 300, "labels": ["k8s:app=web"]}
    assert edges.drops(monitor_pb2.ListFlowsResponse(flows=told, drops_not_told=5)) == 9


def test_noise_is_no_talk_and_no_alarm():
    noise = flow(7, monitor_pb2.VERDICT_DROPPED, "link local noise")
    event = loader_pb2.WatchEventsResponse(drop=loader_pb2.DropEvent(reason="link local noise"))
    told = monitor_pb2.WatchEventsResponse(flow=policy_pb2.WatchFlowsResponse(event=event))

    assert edges.edges([noise]) == {}
    assert edges.drops(monitor_pb2.ListFlowsResponse(flows=[noise])) == 0
    assert (shapes.event(told)["what"], shapes.event(told)["bad"]) == ("dropped", False)


DENIAL = loader_pb2.WatchEventsResponse(policy_verdict=loader_pb2.PolicyVerdictEvent(allowed=False, reason="policy"))
CONTROLLER = monitor_pb2.ControllerChange(resource="endpoint-7", name="x", failing=True, error="no answer")
READY = monitor_pb2.EndpointChange(
    change=monitor_pb2.EndpointChange.CHANGE_STATE, state=endpoint_pb2.ENDPOINT_STATE_READY, message="so"
)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"flow": policy_pb2.WatchFlowsResponse(event=DENIAL)}, ("denied", "policy", True)),
        ({"controller": CONTROLLER}, ("fails", "no answer", True)),
        ({"endpoint": READY}, ("state", "ready: so", False)),
        ({"lost": monitor_pb2.Loss(events=12, where="reader", reason="too slow")}, ("lost", "reader: too slow", True)),
    ],
)
def test_each_kind_of_event_says_what_and_why(told: dict[str, Any], expected: tuple[str, str, bool]):
    shown = shapes.event(monitor_pb2.WatchEventsResponse(**told))
    assert (shown["what"], shown["reason"], shown["bad"]) == expected


def test_sizes_that_a_browser_would_round_are_bounded():
    from podlane.common.v1 import types_pb2
    from podlane.ipam.v1 import ipam_pb2

    prefix = types_pb2.IpPrefix(address=types_pb2.IpAddress(packed=bytes(16)), length=64)
    shown = shapes.pool(ipam_pb2.Pool(name="default", ranges=[ipam_pb2.PoolRange(prefix=prefix, size=2**64 - 1)]))
    assert shown["ranges"][0]["size"] == 2**53
