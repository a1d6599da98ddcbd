"""docs/trace.md: what it shows is what is printed, and its reasons are those that are told."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import trace_pb2
from podlane.loader.v1 import loader_pb2
from podlane.loader.v1 import trace_pb2 as loader_trace

from cli.tracer import packet as packets
from cli.tracer import reasons

DOC = (Path(__file__).resolve().parents[2] / "docs" / "trace.md").read_text()


def step(program: str, number: int, hook: str, lookups: list[tuple[Any, ...]], **fields: Any) -> loader_trace.TraceStep:
    return loader_trace.TraceStep(
        program=program,
        program_id=number,
        hook=hook,
        lookups=[
            loader_trace.MapLookup(map=map_, key=key, found=found, entry=entry[0] if entry else None)
            for map_, key, found, *entry in lookups
        ],
        conntrack=loader_pb2.CONNTRACK_STATE_NEW,
        ran=True,
        **fields,
    )


def test_the_example_is_what_is_printed():
    web, db = (types_pb2.IpAddress(packed=ip_address(one).packed) for one in ("10.244.0.5", "10.244.0.9"))
    anything = loader_pb2.PolicyEntry(direction=loader_pb2.TRAFFIC_DIRECTION_EGRESS)
    one = step(
        *("from_container", 57, "tc ingress of lxc3f0a12cd34ef"),
        [
            ("endpoints", "10.244.0.9", "endpoint 9, identity 301, interface 12"),
            ("conntrack", "10.244.0.5:0 -> 10.244.0.9:8080 TCP of endpoint 7", ""),
            ("policy", "egress to identity 301, 8080/TCP", ""),
            ("policy", "egress to anybody, 8080/TCP", "allows", anything),
            ("prefixes", "10.244.0.9", ""),
            ("call_policy", "9", "program 61"),
        ],
        direction=loader_pb2.TRAFFIC_DIRECTION_EGRESS,
        rewrites=[loader_trace.Rewrite(field="TTL", before="64", after="63")],
        verdict=loader_trace.TRACE_VERDICT_TAIL_CALL,
        next="into call_policy[9], the policy program of endpoint 9",
    )
    other = step(
        *("policy", 61, "call_policy[9]"),
        [
            ("conntrack", "10.244.0.5:0 -> 10.244.0.9:8080 TCP of endpoint 9", ""),
            ("policy", "ingress from identity 300, 8080/TCP", ""),
            ("policy", "ingress from anybody, 8080/TCP", ""),
            ("prefixes", "10.244.0.5", ""),
        ],
        direction=loader_pb2.TRAFFIC_DIRECTION_INGRESS,
        verdict=loader_trace.TRACE_VERDICT_SHOT,
        source="bpf/lib/policy.h:118",
        next="dropped: policy",
    )
    reply = trace_pb2.TracePacketResponse(
        source=web,
        destination=db,
        source_name="shop/web-0",
        destination_name="shop/db-0",
        outcome="shop/db-0, policy: dropped: policy",
        steps=[
            trace_pb2.NamedStep(step=one, endpoint_name="shop/web-0", rules=["no policy isolates it"]),
            trace_pb2.NamedStep(step=other, endpoint_name="shop/db-0", isolated_by=["shop/db"]),
        ],
    )
    request = trace_pb2.TracePacketRequest(protocol=6, port=8080)

    shown = "\n".join(packets.lines(reply, packets.describe(request)))

    assert f"--port 8080\n{shown}\n```" in DOC


def test_the_reasons_are_those_that_are_told():
    rows = dict(
        re.findall(r"^\| `([A-Z0-9_]+)` \| (.*) \|$", DOC.partition("## The kernel's reasons")[2], re.MULTILINE)
    )

    assert rows == {name: reasons.explanation(name) for name in reasons.explained()}
    assert list(rows) == sorted(rows)
