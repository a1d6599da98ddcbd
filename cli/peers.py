"""Ends of packets as people name them on the command line, and the filters that follow."""

from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any, TypeVar

import click
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import monitor_pb2

from services.common.errors import InvalidArgument

F = TypeVar("F", bound=Callable[..., Any])

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}
_LARGEST_ID, _LARGEST_PORT = 65535, 65535


def read_peer(text: str, option: str) -> monitor_pb2.PeerFilter:
    """Return an end by an endpoint's id, an address or a prefix, namespace/pod, or namespace/ for all of its pods."""
    if text.isdecimal():
        if not 0 < int(text) <= _LARGEST_ID:
            raise InvalidArgument(f"{option}: {text} is not an endpoint id (1–{_LARGEST_ID})")
        return monitor_pb2.PeerFilter(endpoint_id=int(text))
    try:
        network = ip_network(text)
    except ValueError:
        namespace, slash, pod = text.partition("/")
        if not (slash and namespace):
            raise InvalidArgument(
                f"{option}: {text!r} is neither an endpoint's id, nor an address or prefix, nor namespace/pod"
            ) from None
        return monitor_pb2.PeerFilter(namespace=namespace, pod=pod)
    prefix = types_pb2.IpPrefix(
        address=types_pb2.IpAddress(packed=network.network_address.packed), length=network.prefixlen
    )
    return monitor_pb2.PeerFilter(prefix=prefix)


_OPTIONS = (
    click.option("--endpoint", default="", metavar="END", help="Of it only, at either end: see above."),
    click.option("--from", "source", default="", metavar="END", help="What comes from there."),
    click.option("--to", "destination", default="", metavar="END", help="What goes there."),
    click.option("--pod", default="", metavar="NAMESPACE/NAME", help="Of a pod, at either end."),
    click.option("--namespace", default="", help="Of pods of a namespace, at either end."),
    click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="An end has it; again: all of them."),
    click.option("--identity", type=click.IntRange(0, 0xFFFFFFFF), default=0, help="An end has this identity."),
    click.option("--port", type=int, default=0, help="Of an event either port, of a flow the server's."),
    click.option("--protocol", default="", help="tcp, udp, sctp, icmp, icmpv6 or a number."),
    click.option("--reason", default="", help="Why it was dropped, for example policy."),
    click.option(
        "--verdict", type=click.Choice(["allowed", "denied", "dropped"]), default=None, help="What became of it."
    ),
)


def filter_options(command: F) -> F:
    """Give a command the options that `read_filter` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_filter(
    *,
    endpoint: str,
    source: str,
    destination: str,
    pod: str,
    namespace: str,
    labels: Sequence[str],
    identity: int,
    port: int,
    protocol: str,
    reason: str,
    verdict: str | None,
) -> monitor_pb2.EventFilter:
    """Return the filter that the options ask for. Raises InvalidArgument that names the option."""
    asked = monitor_pb2.EventFilter(reason=reason, protocol=read_protocol(protocol))
    if not 0 <= port <= _LARGEST_PORT:
        raise InvalidArgument(f"--port: {port} is not a port (1–{_LARGEST_PORT})")
    asked.port = port
    for option, text in (("--endpoint", endpoint), ("--pod", pod)):
        if text:
            asked.any.MergeFrom(read_peer(text, option))
    if namespace:
        asked.any.namespace = namespace
    for one in labels:
        key, _, value = one.partition("=")
        if not key:
            raise InvalidArgument(f"--label: {one!r} is not key=value")
        asked.any.labels[key] = value
    if identity:
        asked.any.identity = identity
    if source:
        getattr(asked, "from").CopyFrom(read_peer(source, "--from"))  # a word of Python's
    if destination:
        asked.to.CopyFrom(read_peer(destination, "--to"))
    if verdict:
        asked.verdict = monitor_pb2.Verdict.Value(f"VERDICT_{verdict.upper()}")
    return asked


def read_protocol(text: str) -> int:
    """Return a protocol's number, 0 for none. Raises InvalidArgument."""
    if not text:
        return 0
    number = PROTOCOLS.get(text.lower(), int(text) if text.isdecimal() else 0)
    if not 0 < number <= 0xFF:
        raise InvalidArgument(f"--protocol: {text!r} is none of {', '.join(PROTOCOLS)}, nor a number (1–255)")
    return number
