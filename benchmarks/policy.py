"""Policy in Python: reading documents, resolving them from nothing, and what a change costs.

The cluster is a bad one: 250 endpoints of this node, each with an identity of its own, among 500 identities and 1,000
policies, half of which select some of these endpoints. A change is timed until the map entries to add and to remove are
there for every endpoint that it touches; writing them is the datapath's time.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from typing import Any

from benchmarks.harness import Report, Row, summary
from services.endpoint.policy.desired import EndpointPolicy
from services.endpoint.policy.labels import LabelFilter, Labels, identity_labels
from services.endpoint.policy.networkpolicy import NetworkPolicy
from services.endpoint.policy.parse import parse
from services.endpoint.policy.resolve import Changes, Resolver

POLICIES, IDENTITIES, ENDPOINTS = 1_000, 500, 250
ROUNDS = 30
_FILTER = LabelFilter()
_APPS, _TIERS, _OTHERS = 50, 5, 10

Change = Callable[[Resolver], None]


def report(into: Report) -> None:
    """Measure, and add the rows."""
    text = documents()
    parsed, policies = timed(lambda: parse(text).policies)
    into.add(Row(f"reading {POLICIES:,} policies", parsed, "ms", note=f"{len(text) / 1e3:,.0f} kB of YAML"))

    resolver, took, mebibytes = from_nothing(policies)
    into.add(Row(f"resolving {POLICIES:,} policies × {IDENTITIES} identities", took, "ms", note="from nothing"))
    told = {endpoint: resolver.desired(endpoint) for endpoint in range(1, ENDPOINTS + 1)}
    listed, sizes = timed(lambda: [len(one.entries()) for one in told.values()])
    note = f"{sum(sizes):,} entries, at most {max(sizes):,} in a map"
    into.add(Row(f"listing the maps of {ENDPOINTS} endpoints", listed, "ms", note=note))
    into.add(Row("memory of a resolver", mebibytes, "MiB", note=f"documents aside; {ENDPOINTS} endpoints"))

    identity = changes(resolver, told, new_identities())
    into.add(Row("one new identity", identity["median"], "ms", bound=10, note=f"{identity['touched']} endpoints"))
    policy = changes(resolver, told, new_policies())
    into.add(
        Row("one policy for all endpoints", policy["median"], "ms", bound=20, note=f"{policy['touched']} endpoints")
    )
    endpoint = changes(resolver, told, new_endpoints())
    into.add(Row("one new endpoint", endpoint["median"], "ms", note="what policy adds to an ADD"))
    cloned, _ = timed(resolver.clone)
    into.add(Row("copying a resolver to try something", cloned, "ms"))
    into.raw["policy"] = {"identity": identity, "policy": policy, "endpoint": endpoint}


def documents() -> str:
    """Write the policies, half of them in the namespace of this node's endpoints."""
    namespaces = ("apps" if number % 2 else f"other-{number % _OTHERS}" for number in range(POLICIES))
    return "---\n".join(
        document(f"policy-{number}", namespace, f"{{matchLabels: {{app: app-{number // 2 % _APPS}}}}}", rules(number))
        for number, namespace in enumerate(namespaces)
    )


def document(name: str, namespace: str, selector: str, rules_: str) -> str:
    """Write one policy."""
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  podSelector: {selector}\n  {rules_}\n"
    )


def rules(number: int) -> str:
    """Write rules of one of four kinds."""
    app, tier, net = number % _APPS, number % _TIERS, number % 200
    match number % 4:
        case 0:  # from an application of the same namespace, to one port: what most policies are
            return from_application(app, 8080)
        case 1:  # from another namespace, to a range of ports
            peer = f"{{namespaceSelector: {{matchLabels: {{team: team-{app}}}}}}}"
            return f"ingress: [{{from: [{peer}], ports: [{{port: 8000, endPort: 8099}}]}}]"
        case 2:  # to a tier of any namespace, and to an address block
            peer = f"{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{tier: tier-{tier}}}}}}}"
            block = f"{{ipBlock: {{cidr: 10.{net}.0.0/16, except: [10.{net}.1.0/24]}}}}"
            return f"policyTypes: [Egress]\n  egress: [{{to: [{peer}]}}, {{to: [{block}], ports: [{{port: 443}}]}}]"
        case _:  # from whoever does not carry a label
            others = f"{{key: app, operator: NotIn, values: [app-{app}]}}"
            return f"ingress: [{{from: [{{podSelector: {{matchExpressions: [{others}]}}}}]}}]"


def from_application(app: int, port: int) -> str:
    """Write the rules of a policy for ingress."""
    return f"ingress: [{{from: [{{podSelector: {{matchLabels: {{app: app-{app}}}}}}}], ports: [{{port: {port}}}]}}]"


def labels(number: int, namespace: str = "") -> Labels:
    """Return the labels of an identity: the first are those of this node's endpoints."""
    own = {"app": f"app-{number % _APPS}", "tier": f"tier-{number % _TIERS}", "pod": f"{number}"}
    namespace = namespace or ("apps" if number < ENDPOINTS else f"other-{number % _OTHERS}")
    return identity_labels(own, namespace, {"team": f"team-{number % _APPS}"}, _FILTER)


def from_nothing(policies: tuple[NetworkPolicy, ...]) -> tuple[Resolver, float, float]:
    """Return a resolver, what it took in milliseconds, and its memory in MiB, which a run of its own tells."""
    known = {256 + number: labels(number) for number in range(IDENTITIES)}
    took = min(timed(lambda: filled(known, policies))[0] for _ in range(3))
    gc.collect()
    tracemalloc.start()
    resolver = filled(known, policies)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return resolver, took, used / (1 << 20)


def filled(known: dict[int, Labels], policies: tuple[NetworkPolicy, ...]) -> Resolver:
    """Resolve everything."""
    resolver = Resolver()
    for number, of in known.items():
        resolver.put_identity(number, of)
    for policy in policies:
        resolver.put_policy(policy)
    for endpoint in range(1, ENDPOINTS + 1):
        resolver.put_endpoint(endpoint, 255 + endpoint)
    resolver.settle()
    return resolver


def changes(resolver: Resolver, told: dict[int, EndpointPolicy], what: Iterator[Change]) -> dict[str, float]:
    """Time changes until the entries to add and to remove are known for all whom they touch."""
    times, touched = [], 0
    for change in islice(what, ROUNDS):
        gc.collect()
        took, found = timed(partial(_settled, resolver, told, change))
        times.append(took)
        touched = len(found.endpoints)
    return {**summary(times), "touched": touched}


def _settled(resolver: Resolver, told: dict[int, EndpointPolicy], change: Change) -> Changes:
    change(resolver)
    found = resolver.settle()
    for endpoint in found.endpoints:
        desired = resolver.desired(endpoint)
        if endpoint in told:
            desired.difference(told[endpoint])
        else:
            desired.entries()
        told[endpoint] = desired
    return found


def new_identities() -> Iterator[Change]:
    """Yield changes: pods with labels that nobody had, in the endpoints' own namespace."""
    for number in count(10_000):
        yield partial(Resolver.put_identity, identity=number, labels=labels(number, "apps"))


def new_policies() -> Iterator[Change]:
    """Yield changes: a policy for every endpoint, each time with another port."""
    for port in count(9_000):
        (policy,) = parse(document("for-all", "apps", "{}", from_application(1, port))).policies
        yield partial(Resolver.put_policy, policy=policy)


def new_endpoints() -> Iterator[Change]:
    """Yield changes: pods of the identities that came last."""
    for number in range(ROUNDS):
        yield partial(Resolver.put_endpoint, endpoint=1_000 + number, identity=10_000 + number)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many milliseconds some work took, and what it returned."""
    begin = time.perf_counter()
    found = work()
    return (time.perf_counter() - begin) * 1e3, found
