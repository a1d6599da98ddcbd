"""The resolver: what a change touches, what is granted, what becomes of too much."""

import pytest

from services.common.errors import Exhausted, FailedPrecondition, Internal, NotFound
from services.endpoint.policy.desired import NOT_ISOLATED
from services.endpoint.policy.entry import TCP, Direction, PolicyEntry, allow_all
from services.endpoint.policy.identity import CIDR_SCOPE, Reserved
from services.endpoint.policy.labels import LabelFilter, identity_labels
from services.endpoint.policy.networkpolicy import NamedPort, NetworkPolicy, PolicyName
from services.endpoint.policy.parse import parse
from services.endpoint.policy.prefixes import PrefixTable
from services.endpoint.policy.resolve import Resolver
from services.endpoint.policy.settings import InitPolicy, Settings

IN, OUT = Direction.INGRESS, Direction.EGRESS
WEB, CLIENT, OTHER = 300, 301, 302
ANY = PolicyEntry(OUT)
HOST = PolicyEntry(IN, 1)


def policy(name: str, spec: str, namespace: str = "shop") -> NetworkPolicy:
    """Return a policy; its spec in flow style."""
    head = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}"
    return parse(f"{head}\nspec: {spec}").policies[0]


def resolver(settings: Settings | None = None) -> Resolver:
    """Return one that knows three identities, and endpoints 1 (web), 2 (client) and 3 (web, too)."""
    found = Resolver(settings or Settings())
    for number, app, namespace in ((WEB, "web", "shop"), (CLIENT, "client", "shop"), (OTHER, "web", "ops")):
        found.put_identity(number, identity_labels({"app": app}, namespace, {}, LabelFilter()))
    for endpoint, identity in ((1, WEB), (2, CLIENT), (3, WEB)):
        found.put_endpoint(endpoint, identity)
    found.settle()
    return found


def port(way: Direction, identity: int, number: int) -> PolicyEntry:
    """Return the entry of one TCP port."""
    return PolicyEntry(way, identity, TCP, number, 16)


SELECT_WEB = "podSelector: {matchLabels: {app: web}}"
FROM_CLIENT = "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: %d}]}"
WEB_FROM_CLIENT = f"{{{SELECT_WEB}, ingress: [{FROM_CLIENT % 80}]}}"


def test_an_endpoint_that_no_policy_selects_allows_all() -> None:
    found = resolver()
    assert found.desired(1) == NOT_ISOLATED
    assert found.desired(1).entries() == allow_all()


def test_a_policy_touches_the_endpoints_that_it_selects_and_no_others() -> None:
    found = resolver()
    found.put_policy(policy("web", WEB_FROM_CLIENT))

    assert found.settle().endpoints == {1, 3}
    assert found.selected(PolicyName("shop", "web")) == {1, 3}
    assert found.selected(PolicyName("shop", "none")) == frozenset()
    assert found.desired(1).entries() == (HOST, port(IN, CLIENT, 80), ANY)
    assert found.desired(1) is found.desired(3), "endpoints of one identity share what they are granted"


def test_a_policy_that_changes_its_subject_touches_those_it_selected_and_selects() -> None:
    found = resolver()
    found.put_policy(policy("web", WEB_FROM_CLIENT))
    found.settle()
    found.put_policy(policy("web", "{podSelector: {matchLabels: {app: client}}}"))

    assert found.settle().endpoints == {1, 2, 3}
    assert found.desired(1).entries() == allow_all()
    assert found.desired(2).entries() == (HOST, ANY)


def test_a_policy_that_is_told_again_changes_nothing() -> None:
    found = resolver()
    found.put_policy(policy("web", WEB_FROM_CLIENT))
    found.settle()
    found.put_policy(policy("web", WEB_FROM_CLIENT))
    assert found.settle().endpoints == frozenset()


def test_an_identity_touches_only_endpoints_whose_policies_select_it() -> None:
    found = resolver()
    found.put_policy(policy("web", WEB_FROM_CLIENT))
    found.settle()
    found.put_identity(400, identity_labels({"app": "db"}, "shop", {}, LabelFilter()))
    assert found.settle().endpoints == frozenset()

    before = found.desired(1)
    found.put_identity(401, identity_labels({"app": "client", "v": "2"}, "shop", {}, LabelFilter()))
    assert found.settle().endpoints == {1, 3}
    assert found.desired(1).difference(before) == ((port(IN, 401, 80),), ())

    found.drop_identity(401)
    assert found.settle().endpoints == {1, 3}
    assert found.desired(1) == before


def test_a_new_endpoint_touches_itself_and_is_always_told() -> None:
    found = resolver()
    found.put_endpoint(4, WEB)
    assert found.settle().endpoints == {4}
    found.drop_endpoint(4)
    assert found.settle().endpoints == frozenset()
    with pytest.raises(NotFound, match="endpoint 4 has no resolved policy"):
        found.desired(4)


def test_an_endpoint_that_came_and_went_is_not_told() -> None:
    found = resolver()
    found.put_endpoint(4, WEB)
    found.drop_endpoint(4)
    assert found.settle().endpoints == frozenset()


def test_an_identity_must_be_known_before_an_endpoint_has_it_and_for_as_long() -> None:
    """Or selectors would not see the endpoint, and it would be open."""
    found = resolver()
    with pytest.raises(FailedPrecondition, match="endpoint 9: identity 999 isn't known"):
        found.put_endpoint(9, 999)
    with pytest.raises(FailedPrecondition, match=r"identity 300 is that of endpoints \[1, 3\]"):
        found.drop_identity(WEB)
    with pytest.raises(Internal, match="identity 300 stands for"):
        found.put_identity(WEB, identity_labels({}, "shop", {}, LabelFilter()))


def test_what_everybody_may_is_not_repeated_for_somebody() -> None:
    found = resolver()
    found.put_policy(policy("web", WEB_FROM_CLIENT))
    found.put_policy(policy("all", f"{{{SELECT_WEB}, ingress: [{{ports: [{{port: 80, endPort: 81}}]}}]}}"))
    found.settle()
    everybody = PolicyEntry(IN, 0, TCP, 80, 15)

    assert found.desired(1).entries() == (everybody, HOST, ANY)
    assert [str(one) for one in found.desired(1).origins(everybody)] == ["policy shop/all, ingress[0]"]

    before = found.desired(1)
    found.drop_policy(PolicyName("shop", "all"))
    found.settle()
    assert found.desired(1).difference(before) == ((port(IN, CLIENT, 80),), (everybody,))


def test_an_entry_that_joins_what_two_rules_grant_comes_from_both() -> None:
    found = resolver()
    found.put_policy(policy("a", f"{{{SELECT_WEB}, ingress: [{FROM_CLIENT % 80}]}}"))
    found.put_policy(policy("b", f"{{{SELECT_WEB}, ingress: [{FROM_CLIENT % 9}, {FROM_CLIENT % 81}]}}"))
    found.settle()
    joined = PolicyEntry(IN, CLIENT, TCP, 80, 15)

    assert found.desired(1).entries() == (HOST, port(IN, CLIENT, 9), joined, ANY)
    assert [str(one) for one in found.desired(1).origins(joined)] == [
        "policy shop/a, ingress[0].from[0] (podSelector app=client)",
        "policy shop/b, ingress[1].from[0] (podSelector app=client)",
    ]
    assert [str(one) for one in found.desired(1).origins(HOST)] == ["the pod's own node always reaches it (a setting)"]


def test_policies_that_differ_may_need_no_entry_to_change() -> None:
    found = resolver()
    found.put_policy(policy("web", WEB_FROM_CLIENT))
    found.settle()
    before = found.desired(1)
    found.drop_policy(PolicyName("shop", "web"))
    found.put_policy(policy("renamed", WEB_FROM_CLIENT))

    assert found.settle().endpoints == {1, 3}, "explanations change"
    assert found.desired(1).difference(before) == ((), ())


def test_a_named_port_of_egress_is_allowed_with_every_number_that_pods_of_the_identity_give_it() -> None:
    """And with no other: what is lost is that one of them is reached at the other's number."""
    found = resolver()
    found.put_policy(policy("out", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}"))
    found.put_endpoint(1, WEB, [NamedPort("http", TCP, 80)])
    found.put_endpoint(3, WEB, [NamedPort("http", TCP, 8080)])
    found.put_peer("far/pod", OTHER, [NamedPort("http", TCP, 9090), NamedPort("dns", TCP, 53)])
    found.settle()
    expected = (PolicyEntry(IN), port(OUT, WEB, 80), port(OUT, WEB, 8080), port(OUT, OTHER, 9090))
    assert found.desired(2).entries() == expected

    before = found.desired(2)
    found.put_endpoint(3, WEB, [NamedPort("http", TCP, 80)])
    assert 2 in found.settle().endpoints
    assert found.desired(2).difference(before) == ((), (port(OUT, WEB, 8080),))

    found.put_peer("far/pod", OTHER, [NamedPort("dns", TCP, 53)])
    found.put_endpoint(1, WEB)
    found.settle()
    assert found.desired(2).entries() == (PolicyEntry(IN), port(OUT, WEB, 80)), "endpoint 3 still has it"
    found.drop_endpoint(3)
    found.settle()
    assert found.desired(2).entries() == (PolicyEntry(IN),)


def test_the_first_pod_that_has_a_named_port_touches_those_who_may_send_to_it() -> None:
    found = resolver()
    found.put_policy(policy("out", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}"))
    found.settle()
    found.put_peer("far/pod", OTHER, [NamedPort("http", TCP, 9090)])
    assert found.settle().endpoints == {1, 2, 3}
    found.put_peer("far/other", OTHER, [NamedPort("http", TCP, 9090)])
    assert found.settle().endpoints == frozenset()
    found.drop_peer("far/pod")
    assert found.settle().endpoints == frozenset()
    found.drop_peer("far/other")
    assert found.settle().endpoints == {1, 2, 3}


def test_endpoints_of_one_identity_may_number_a_named_port_of_ingress_differently() -> None:
    found = resolver()
    found.put_policy(policy("in", f"{{{SELECT_WEB}, ingress: [{{ports: [{{port: http}}, {{port: 9}}]}}]}}"))
    found.put_endpoint(1, WEB, [NamedPort("http", TCP, 80)])
    found.settle()

    assert found.desired(1).entries() == (port(IN, 0, 9), port(IN, 0, 80), HOST, ANY)
    assert found.desired(3).entries() == (port(IN, 0, 9), HOST, ANY)


def test_a_prefix_that_another_policy_brings_splits_a_block_in_two() -> None:
    found = resolver()
    block = "{podSelector: {matchLabels: {app: %s}}, ingress: [{from: [{ipBlock: {cidr: %s}}]}]}"
    found.put_policy(policy("wide", block % ("web", "10.0.0.0/8")))
    assert {str(prefix) for prefix in found.settle().prefixes.added} == {"10.0.0.0/8"}
    wide, narrow = CIDR_SCOPE + 1, CIDR_SCOPE + 2
    assert found.desired(1).entries() == (HOST, PolicyEntry(IN, wide), ANY)

    before = found.desired(1)
    found.put_policy(policy("narrow", block % ("client", "10.1.0.0/16")))
    assert found.settle().endpoints == {1, 2, 3}
    assert found.desired(1).difference(before) == ((PolicyEntry(IN, narrow),), ())

    found.drop_policy(PolicyName("shop", "narrow"))
    changes = found.settle()
    assert changes.endpoints == {1, 2, 3}
    assert list(changes.prefixes.removed.values()) == [narrow]
    assert found.desired(1) == before


def test_a_policy_whose_prefixes_do_not_fit_changes_nothing() -> None:
    found = Resolver(Settings(prefix_map_size=1))
    with pytest.raises(Exhausted):
        found.put_policy(policy("a", "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9]}}]}]}"))
    assert found.policies() == []
    assert found.settle() == (frozenset(), ({}, {}))


def test_numbers_of_an_earlier_run_are_kept() -> None:
    first = resolver()
    first.put_policy(policy("a", "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}"))
    first.put_policy(policy("b", "{ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}"))
    first.drop_policy(PolicyName("shop", "a"))

    second = Resolver(Settings(), PrefixTable(10, first.prefixes().numbers()))
    second.put_policy(policy("b", "{ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}"))
    assert second.prefixes().numbers() == first.prefixes().numbers()


@pytest.mark.parametrize(
    ("init", "expected"),
    [(InitPolicy.ALLOW, allow_all()), (InitPolicy.DENY, (PolicyEntry(IN, 1), PolicyEntry(OUT, 1)))],
)
def test_before_its_labels_are_known_an_endpoint_has_the_rules_of_init(
    init: InitPolicy, expected: tuple[PolicyEntry, ...]
) -> None:
    found = resolver(Settings(init_policy=init))
    found.put_policy(policy("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}", "default"))
    found.put_endpoint(9, Reserved.INIT)
    found.settle()
    assert found.desired(9).entries() == expected

    found.put_identity(500, identity_labels({}, "default", {}, LabelFilter()))
    found.put_endpoint(9, 500)
    assert found.settle().endpoints == {9}
    assert found.desired(9).entries() == (HOST,)


def test_a_set_that_is_too_big_is_told_with_what_exploded_and_what_to_do() -> None:
    found = resolver(Settings(policy_map_size=12))
    found.put_policy(policy("web", WEB_FROM_CLIENT))
    found.settle()
    in_force = found.desired(1)
    rule = "{from: [{namespaceSelector: {}}], ports: [{port: 1001, endPort: 1099}]}"
    found.put_policy(policy("odd", f"{{{SELECT_WEB}, ingress: [{rule}]}}"))
    assert found.settle().endpoints == {1, 3}

    with pytest.raises(Exhausted) as caught:
        found.desired(1)
    assert caught.value.message == (
        "the policies of endpoint 1 (identity 300) need 24 map entries and its map holds 12: what is in force stays. "
        "policy shop/odd, ingress[0].from[0] (namespaceSelector {}): 3 identities × 7 port prefixes = 21; "
        "policy shop/web, ingress[0].from[0] (podSelector app=client): 1 identity × 1 port prefix = 1; "
        "the pod's own node always reaches it (a setting): 1 identity × 1 port prefix = 1; 1 more: 1. "
        "Select fewer identities, leave labels out of identities that differ from pod to pod, or allow everybody"
    )
    assert caught.value.fields == {"size": "12", "needed": "24"}
    assert found.desired(2).entries() == allow_all(), "others are not concerned"

    found.drop_policy(PolicyName("shop", "odd"))
    found.settle()
    assert found.desired(1) == in_force


def test_ranges_that_explode_are_advised_upon() -> None:
    found = resolver(Settings(policy_map_size=12))
    found.put_policy(policy("odd", "{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 65534}]}]}"))
    found.settle()
    with pytest.raises(
        Exhausted, match=r"1 identity × 30 port prefixes = 30; .*\. Begin and end port ranges at multiples"
    ):
        found.desired(1)


def test_what_fits_only_once_it_is_simplified_fits() -> None:
    found = resolver(Settings(policy_map_size=3))
    twice = "{ports: [{port: 80}]}, {from: [{namespaceSelector: {}}], ports: [{port: 80}]}"
    found.put_policy(policy("twice", f"{{podSelector: {{}}, ingress: [{twice}]}}"))
    found.settle()
    assert found.desired(1).cost() > 3
    assert found.desired(1).size() == len(found.desired(1).entries()) == 3
