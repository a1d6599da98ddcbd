"""A made-up shop for the page: endpoints, who talks to whom, and what has happened, the same each time."""

import itertools
from collections.abc import Iterator
from ipaddress import ip_address
from random import Random
from typing import Any

from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import endpoint_pb2, monitor_pb2, policy_pb2
from podlane.loader.v1 import loader_pb2

APPS = {
    "shop/web": 12,
    "shop/cart": 8,
    "shop/search": 6,
    "shop/catalog": 5,
    "pay/checkout": 5,
    "pay/ledger": 2,
    "pay/fraud": 3,
    "data/postgres": 2,
    "data/redis": 3,
    "data/kafka": 3,
    "obs/prometheus": 1,
    "obs/logs": 2,
    "mail/sender": 1,
    "batch/report": 2,
}
TALKS = [
    ("world", "shop/web", 443, 900),
    ("shop/web", "shop/cart", 8080, 420),
    ("shop/web", "shop/search", 8080, 310),
    ("shop/web", "shop/catalog", 8080, 250),
    ("shop/cart", "data/redis", 6379, 180),
    ("shop/cart", "pay/checkout", 8443, 60),
    ("shop/search", "shop/catalog", 8080, 90),
    ("shop/catalog", "data/postgres", 5432, 200),
    ("pay/checkout", "pay/ledger", 9000, 30),
    ("pay/checkout", "pay/fraud", 9000, 24),
    ("pay/checkout", "data/kafka", 9092, 75),
    ("pay/ledger", "data/postgres", 5432, 40),
    ("pay/checkout", "world", 443, 20),
    ("obs/prometheus", "shop/web", 9100, 3),
    ("obs/prometheus", "data/kafka", 9100, 2),
    ("obs/prometheus", "pay/checkout", 9100, 2),
    ("shop/web", "obs/logs", 4317, 33),
    ("pay/checkout", "obs/logs", 4317, 12),
    ("data/kafka", "mail/sender", 8080, 4),
    ("mail/sender", "world", 587, 2),
    ("batch/report", "data/postgres", 5432, 140),
    ("host", "shop/web", 8081, 1),
]
DENIED = [("batch/report", "pay/ledger", 9000, 1287), ("shop/web", "data/postgres", 5432, 42)]

# Microseconds, as `podlane endpoint why-slow` has them on a machine at rest.
PHASES = [
    ("start", 0, 9100),
    ("configuration", 9100, 420),
    ("addresses", 9520, 1350),
    ("addresses/lock", 9700, 40),
    ("addresses/choose", 9760, 110),
    ("addresses/store", 9900, 830),
    ("link", 10900, 3300),
    ("link/netns", 11050, 240),
    ("link/link", 11400, 1700),
    ("link/pod", 13150, 820),
    ("handover", 14200, 260),
    ("identity", 14460, 180),
    ("turn", 14640, 90),
    ("record", 14730, 710),
    ("confirm", 15440, 880),
    ("peers", 15440, 640),
    ("datapath", 16080, 5200),
    ("datapath/template", 16300, 130),
    ("datapath/load", 16450, 3300),
    ("datapath/load/rewrite", 16450, 220),
    ("datapath/load/verify", 16680, 2900),
    ("datapath/attach", 19800, 640),
    ("datapath/host", 20450, 520),
    ("datapath/maps", 20990, 160),
    ("agreement", 21280, 120),
]


class World:
    """The made-up shop."""

    def __init__(self, size: int, began: float) -> None:
        """Make all of it."""
        self._random = Random(7)
        self.began = began
        self.identities = {app: 4100 + 7 * number for number, app in enumerate(APPS)}
        self.endpoints: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        weights = list(APPS.values())
        apps = list(APPS)
        members = [*apps[: min(size, len(apps))]]
        members += self._random.choices(apps, weights, k=max(0, size - len(members)))
        serial: dict[str, Iterator[int]] = {app: itertools.count() for app in apps}
        for id_, app in enumerate(members, 1):
            self.endpoints[id_] = self.endpoint(id_, app, next(serial[app]))
        if size > 10:
            self._troubles(size)
        self.flows = list(self._flows())
        self.history = list(self._history())

    def endpoint(self, id_: int, app: str, number: int) -> Any:
        """Return a ready endpoint of an app."""
        namespace, name = app.split("/")
        created = self.began + 3 * id_
        one = endpoint_pb2.Endpoint(
            id=id_,
            generation=id_,
            attachment=types_pb2.Attachment(
                network="podlane", container_id=f"{self._random.getrandbits(256):064x}", ifname="eth0"
            ),
            pod=types_pb2.Pod(namespace=namespace, name=f"{name}-{number}"),
            state=endpoint_pb2.ENDPOINT_STATE_READY,
            identity=self.identities[app],
            identity_labels={
                "k8s:app": name,
                "k8s:io.kubernetes.pod.namespace": namespace,
                "k8s:tier": "front" if namespace == "shop" else "back",
            },
        )
        for text, length in ((f"10.44.{id_ // 250}.{id_ % 250 + 2}", 32), (f"fd00:44::{id_ + 1:x}", 128)):
            prefix = types_pb2.IpPrefix(address=types_pb2.IpAddress(packed=ip_address(text).packed), length=length)
            one.addresses.append(types_pb2.AssignedAddress(address=prefix))
        one.created.FromMicroseconds(int(created * 1e6))
        mac = types_pb2.MacAddress(packed=id_.to_bytes(6, "big"))
        one.link.CopyFrom(
            loader_pb2.Link(
                host_ifname=f"lxc{id_:012x}", host_ifindex=id_ + 10, host_mac=mac, pod_mac=mac, mtu=1500, up=True
            )
        )
        one.health.CopyFrom(
            endpoint_pb2.EndpointHealth(
                overall=endpoint_pb2.EndpointHealth.STATUS_OK,
                bpf=endpoint_pb2.EndpointHealth.STATUS_OK,
                policy=endpoint_pb2.EndpointHealth.STATUS_OK,
                connected=endpoint_pb2.EndpointHealth.STATUS_OK,
            )
        )
        one.counters.CopyFrom(endpoint_pb2.Counters(regenerations=3, folded=1))
        if namespace in {"pay", "data"}:
            one.ingress_policies.append(f"{namespace}/{name}-callers")
        if app == "pay/ledger":
            one.egress_policies.append("pay/ledger-out")
        self._life(one, created)
        return one

    def _life(self, one: Any, created: float) -> None:
        slow = 6 if one.id % 97 == 3 else 1
        shift = 0
        for name, at, took in PHASES:
            lasts = int(took * (0.8 + 0.4 * self._random.random()))
            if name in {"datapath/load/verify", "datapath/load", "datapath"}:
                lasts += (slow - 1) * 9000
            one.timeline.phases.add(
                name=name,
                offset_us=at + shift * (name in {"datapath/attach", "datapath/host", "datapath/maps", "agreement"}),
                duration_us=lasts,
            )
            if name == "datapath/load":
                shift = (slow - 1) * 9000
        one.timeline.total_us = 21500 + shift
        one.timeline.began.FromMicroseconds(int(created * 1e6))
        last = one.last_regeneration
        last.level = 1
        last.reasons.append("the policy has changed")
        last.started.FromMicroseconds(int((created + 60) * 1e6))
        for name, took in (("headers", 120), ("observe", 610), ("policy", 240), ("host", 310), ("maps", 90)):
            last.phases.add(name=name, duration_us=took)
        for name, hook in (
            ("from_container", "tcx ingress"),
            ("to_container", "tcx egress"),
            ("policy", f"call_policy[{one.id}]"),
        ):
            last.programs.add(name=name, id=100 + 3 * one.id, hook=hook, instructions=1400, verified_instructions=2100)
        for after, kind, message in (
            (0, "bpf", "regenerated at level 2: created"),
            (60, "policy", "2 entries written"),
            (61, "other", "published"),
        ):
            entry = one.log.add(type=kind, code="ok", message=message, state=endpoint_pb2.ENDPOINT_STATE_READY)
            entry.time.FromMicroseconds(int((created + after) * 1e6))

    def _troubles(self, size: int) -> None:
        waiting = self.endpoints[size]
        waiting.state = endpoint_pb2.ENDPOINT_STATE_WAITING_TO_REGENERATE
        waiting.waiting_for = "its turn: 3 are created at a time"
        self.endpoints[size - 1].state = endpoint_pb2.ENDPOINT_STATE_REGENERATING
        failing = self.endpoints[9]
        failing.health.overall = failing.health.bpf = endpoint_pb2.EndpointHealth.STATUS_FAILURE
        failing.health.reasons.append(
            "its programs are of the last regeneration that succeeded: the newest was refused by the verifier"
        )
        failing.last_regeneration.error = (
            "from_container: the verifier refused it: invalid access to packet, off=54 size=4"
        )
        entry = failing.log.add(
            type="bpf", code="failure", message=failing.last_regeneration.error, state=endpoint_pb2.ENDPOINT_STATE_READY
        )
        entry.time.FromMicroseconds(int((self.began + 7000) * 1e6))

    def of(self, app: str) -> list[Any]:
        """Return an app's endpoints."""
        namespace, name = app.split("/")
        return [
            one
            for one in self.endpoints.values()
            if one.pod.namespace == namespace and one.pod.name.rpartition("-")[0] == name
        ]

    def named(self, name: str) -> Any:
        """Return an endpoint by namespace/name."""
        return next(one for one in self.endpoints.values() if f"{one.pod.namespace}/{one.pod.name}" == name)

    def end(self, one: Any) -> Any:
        """Return a FlowEnd of an endpoint, or of `world` or `host`."""
        if isinstance(one, str):
            name = "203.0.113.7 (reserved:world)" if one == "world" else "10.0.0.1 (reserved:host)"
            return policy_pb2.FlowEnd(identity=2 if one == "world" else 1, labels={f"reserved:{one}": ""}, name=name)
        return policy_pb2.FlowEnd(
            endpoint_id=one.id,
            pod=one.pod,
            identity=one.identity,
            labels=one.identity_labels,
            name=f"{one.pod.namespace}/{one.pod.name}",
        )

    def _ends(self, app: str) -> list[Any]:
        return [app] if "/" not in app else self.of(app)

    def _flows(self) -> Iterator[Any]:
        for source, destination, port, mega in TALKS:
            ones, others = self._ends(source), self._ends(destination)
            for number, one in enumerate(ones[:24]):
                for other in others[number % max(1, len(others)) :: 5][:3] or others[:1]:
                    size = int(mega * 2**20 * (0.5 + self._random.random()) / max(1, len(ones)))
                    yield self._flow(
                        one,
                        other,
                        port,
                        packets=size // 900,
                        bytes=size,
                        connections=size // 10**5,
                        verdict=monitor_pb2.VERDICT_ALLOWED,
                    )
        for source, destination, port, packets in DENIED:
            ones, others = self.of(source), self.of(destination)
            if ones and others:
                yield self._flow(
                    ones[0],
                    others[0],
                    port,
                    packets=packets,
                    bytes=packets * 74,
                    verdict=monitor_pb2.VERDICT_DENIED,
                    reason="policy",
                )

    def _flow(self, source: Any, destination: Any, port: int, **counted: Any) -> Any:
        flow = monitor_pb2.Flow(
            source=self.end(source),
            destination=self.end(destination),
            protocol="TCP",
            protocol_number=6,
            port=port,
            **counted,
        )
        flow.last_seen.FromMicroseconds(int((self.began + 7000) * 1e6))
        return flow

    def drop(self, source: str, destination: str, port: int, moment: float) -> Any:
        """Return a drop's event, and count it."""
        one, other = self.named(source), self.named(destination)
        ends = self.end(one), self.end(other)
        known = [
            flow
            for flow in self.flows
            if flow.source == ends[0] and flow.destination == ends[1] and flow.port == port and flow.reason
        ]
        if known:
            known[0].packets += 1
        else:
            self.flows.append(
                self._flow(one, other, port, packets=1, bytes=74, verdict=monitor_pb2.VERDICT_DENIED, reason="policy")
            )
        event = loader_pb2.WatchEventsResponse(endpoint_id=other.id, direction=loader_pb2.TRAFFIC_DIRECTION_INGRESS)
        event.drop.reason, event.drop.source = "policy", "bpf/lib/policy.h:85"
        event.packet.protocol, event.packet.destination_port = "TCP", port
        flow = policy_pb2.WatchFlowsResponse(
            event=event, source=ends[0], destination=ends[1], isolated_by=list(other.ingress_policies)
        )
        return self._event(moment, monitor_pb2.EVENT_KIND_DROP, f"{source} => {destination}: drop (policy)", flow=flow)

    def _event(self, moment: float, kind: Any, summary: str, **what: Any) -> Any:
        told = monitor_pb2.WatchEventsResponse(kind=kind, summary=summary, number=next(self._numbers), **what)
        told.time.FromMicroseconds(int(moment * 1e6))
        return told

    def _history(self) -> Iterator[Any]:
        names = [f"{one.pod.namespace}/{one.pod.name}" for one in self.endpoints.values()]
        for number in range(min(400, 12 * len(names))):
            moment = self.began + 7000 + number * 0.4137
            one = self.endpoints[1 + number * 31 % len(names)]
            if number % 5 == 2 and len(names) > 10:
                sources = self.of("batch/report")
                yield self.drop(f"batch/{sources[number % len(sources)].pod.name}", "pay/ledger-0", 9000, moment)
            elif number % 11 == 7:
                change = monitor_pb2.ControllerChange(
                    resource=f"endpoint-{one.id}",
                    name="sync-to-kvstore",
                    failing=number % 2 == 0,
                    error="etcd didn't answer in 3 s" if number % 2 == 0 else "",
                )
                yield self._event(moment, monitor_pb2.EVENT_KIND_CONTROLLER, "a controller", controller=change)
            elif number % 3 == 0:
                state = endpoint_pb2.ENDPOINT_STATE_READY
                noted = monitor_pb2.EndpointChange(
                    change=monitor_pb2.EndpointChange.CHANGE_NOTED,
                    endpoint=self.end(one),
                    state=state,
                    message="regenerated at level 1: the policy has changed",
                )
                yield self._event(moment, monitor_pb2.EVENT_KIND_ENDPOINT, "an endpoint", endpoint=noted)
            else:
                flow = self.flows[number * 17 % len(self.flows)]
                event = loader_pb2.WatchEventsResponse(endpoint_id=flow.destination.endpoint_id)
                event.connection.change = (
                    loader_pb2.CONNECTION_CHANGE_OPENED if number % 2 else loader_pb2.CONNECTION_CHANGE_CLOSED
                )
                event.packet.protocol, event.packet.destination_port = "TCP", flow.port
                named = policy_pb2.WatchFlowsResponse(event=event, source=flow.source, destination=flow.destination)
                yield self._event(moment, monitor_pb2.EVENT_KIND_CONNECTION, "a connection", flow=named)
