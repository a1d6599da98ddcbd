"""Who talks to whom, for the map: flows as edges, one for each pair of ends, protocol and port. Pure.

What has passed and what was dropped between the same ends are two flows and one edge. Ends are endpoints, or whatever
else has a name. What nobody misses (NOISE) is no talk.
"""

from collections.abc import Iterable
from typing import Any

from cli.ui import shapes


def edges(flows: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Return the edges of ListFlows' flows by what tells them apart; the first of a pair says who its ends are."""
    found: dict[str, dict[str, Any]] = {}
    for flow in flows:
        if flow.reason in shapes.NOISE:
            continue
        ends = shapes.end(flow.source), shapes.end(flow.destination)
        key = "|".join([*map(_who, ends), flow.protocol, str(flow.port)])
        edge = found.setdefault(key, _new(flow, *ends))
        packets = flow.packets + flow.packets_back
        if shapes.word(flow, "verdict") == "allowed":
            edge["packets"] += packets
            edge["bytes"] += flow.bytes + flow.bytes_back
            edge["connections"] += flow.connections
        else:
            edge["dropped"] += packets
            edge["reason"] = edge["reason"] or flow.reason
        edge["last"] = max(edge["last"], shapes.seconds(flow, "last_seen") or 0.0)
    return found


def _who(end: dict[str, Any]) -> str:
    return str(end["endpoint"] or end["name"] or end["identity"])


def _new(flow: Any, source: dict[str, Any], destination: dict[str, Any]) -> dict[str, Any]:
    nothing = {"packets": 0, "bytes": 0, "connections": 0, "dropped": 0, "reason": "", "last": 0.0}
    return {"source": source, "destination": destination, "protocol": flow.protocol, "port": flow.port, **nothing}


def drops(reply: Any) -> int:
    """Return how many packets were dropped or denied so far, told of or not, of a ListFlows answer."""
    told = (flow.packets + flow.packets_back for flow in reply.flows if flow.reason and flow.reason not in shapes.NOISE)
    return int(sum(told) + reply.drops_not_told)
