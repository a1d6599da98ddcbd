"""Dropped packets as people and scripts read them. Pure."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cli.tracer.seen import KERNEL, PODLANE, Seen


def line(drop: Seen) -> str:
    """Return a drop in one line."""
    moment = datetime.fromtimestamp(drop.time).astimezone()
    place = f" at {drop.place}" if drop.place else ""
    function = f" ({drop.function})" if drop.function and not drop.place else ""
    by = "" if drop.by == KERNEL else f"{drop.by} "
    what = " ".join(filter(None, (drop.protocol_name, *_details(drop), f"{drop.length} bytes")))
    words = ", ".join(filter(None, (drop.where, drop.explanation)))
    return (
        f"{moment:%H:%M:%S.%f} {_end(drop, drop.source_name, drop.source, drop.source_port)} => "
        f"{_end(drop, drop.destination_name, drop.destination, drop.destination_port)} {what}: "
        f"{by}drop ({drop.reason}){place}{function}: {words}"
    )


def plain(drop: Seen) -> dict[str, Any]:
    """Return a drop as JSON-ready values; keys don't change."""
    icmp = drop.icmp
    return {
        "time": datetime.fromtimestamp(drop.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "by": drop.by,
        "reason": drop.reason,
        "kernel_reason": drop.kernel_reason,
        "function": drop.function,
        "place": drop.place,
        "explanation": drop.explanation,
        "where": drop.where,
        "device": drop.device,
        "endpoints": sorted(drop.endpoints),
        "source": {"address": drop.source, "port": _port(drop, drop.source_port), "name": drop.source_name},
        "destination": {
            "address": drop.destination,
            "port": _port(drop, drop.destination_port),
            "name": drop.destination_name,
        },
        "protocol": drop.protocol_name,
        "protocol_number": drop.protocol,
        "tcp_flags": list(drop.tcp_flags),
        "icmp_type": icmp[0] if icmp is not None else None,
        "icmp_code": icmp[1] if icmp is not None else None,
        "length": drop.length,
        "cpu": drop.cpu if drop.cpu >= 0 else None,
    }


def _end(drop: Seen, name: str, address: str, port: int) -> str:
    shown = address or "?"
    if drop.source and _port(drop, port):
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f"{name} {shown}" if name else shown


def _port(drop: Seen, port: int) -> int:
    return port if drop.has_ports and drop.icmp is None else 0


def _details(drop: Seen) -> tuple[str, ...]:
    icmp = drop.icmp
    if icmp is not None:
        return (f"type {icmp[0]} code {icmp[1]}",)
    return drop.tcp_flags


class Summary:
    """How many of which kind."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    def add(self, drop: Seen, names: Mapping[int, str]) -> None:
        """Count a drop for each of its endpoints."""
        function = drop.place if drop.by == PODLANE and drop.place else drop.function.partition("+")[0]
        for pod in sorted(names[id_] for id_ in drop.endpoints if id_ in names) or ["-"]:
            self._counts[drop.reason, drop.by, function, pod] += 1

    def rows(self) -> list[dict[str, Any]]:
        """Return them, the most frequent first."""
        keys = ("reason", "by", "function", "pod")
        ordered = sorted(self._counts.items(), key=_most_first)
        return [dict(zip(keys, key, strict=True)) | {"packets": count} for key, count in ordered]


def _most_first(pair: tuple[tuple[str, ...], int]) -> tuple[int, tuple[str, ...]]:
    return -pair[1], pair[0]
