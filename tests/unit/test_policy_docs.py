"""docs/policy.md: its documents are right, and what it shows is what is printed."""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from services.endpoint.policy.desired import EndpointPolicy, Origin
from services.endpoint.policy.entry import TCP, Direction, PolicyEntry
from services.endpoint.policy.explain import Party, explain
from services.endpoint.policy.labels import LabelFilter, identity_labels
from services.endpoint.policy.parse import InvalidDocuments, parse
from services.endpoint.policy.resolve import Resolver

TEXT = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
SHOP, LABELS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_its_documents_are_right():
    assert [str(one.name) for one in parse(SHOP).policies] == ["shop/db"]
    found = parse(LABELS)
    assert [one.name for one in found.namespaces] == ["shop"]
    assert {port.name for one in found.pods for port in one.named_ports} == {"postgres"}


def shop() -> Resolver:
    """Return a node with a web server and a database of the shop."""
    resolver = Resolver()
    for number, app in ((300, "web"), (301, "db")):
        resolver.put_identity(number, identity_labels({"app": app}, "shop", {}, LabelFilter()))
        resolver.put_endpoint(number, number)
    resolver.settle()
    return resolver


def origins(policy: EndpointPolicy) -> Iterator[tuple[PolicyEntry, Origin]]:
    """Yield the entries of ingress with the rule that each comes from."""
    for grant in policy.side(Direction.INGRESS).grants:
        for entry in policy.entries():
            if entry.direction is Direction.INGRESS and entry.identity in grant.peers:
                yield entry, grant.origin


def test_the_difference_is_what_the_kernel_gets():
    resolver = shop()
    before = set(origins(resolver.desired(301)))
    resolver.put_policy(parse(SHOP).policies[0])
    resolver.settle()
    after = set(origins(resolver.desired(301)))

    lines = [f"- {entry}: {origin}" for entry, origin in sorted(before - after)]
    lines += [f"+ {entry}: {origin}" for entry, origin in sorted(after - before)]
    assert "\n".join(["", *lines, ""]) in TEXT
    assert f"{len(after - before)} entries added, {len(before - after)} removed" in TEXT


def test_the_explanation_is_what_is_printed():
    resolver = shop()
    resolver.put_policy(parse(SHOP).policies[0])
    resolver.settle()
    web = Party("shop/web-0", 300, ip_address("10.244.0.7"), None, resolver.desired(300))
    db = Party("shop/db-0", 301, ip_address("10.244.0.9"), None, resolver.desired(301))

    for line in explain(web, db, TCP, 5432, resolver.prefixes()).lines:
        assert f"\n{line}\n" in TEXT


def test_the_problem_is_what_is_printed():
    with pytest.raises(InvalidDocuments) as caught:
        parse(SHOP.replace("        matchLabels: {app: web}", "        matchlabels: {app: web}"))

    (problem,) = caught.value.problems
    assert f"\nbad.yaml:{problem.line}: {problem.document}: {problem.path}: {problem.message}\n" in TEXT
