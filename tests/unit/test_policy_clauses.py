"""Each clause of the documentation of NetworkPolicy, as a case of its own.

What is expected is written down here, and both the oracle and the resolver (with the model of the datapath) must say
so: thus the oracle, against which generated worlds are held, is itself held against a person's reading.
"""

from collections.abc import Iterable

import pytest
import yaml

from tests.policy_model import Cluster
from tests.policy_oracle import End, Node, Outside, Pod, Probe, World, allowed

NODE, FAR_NODE = Node("node", ("192.0.2.10", "2001:db8:1::a")), Node("far", ("192.0.2.11", "2001:db8:1::b"))
WORLD_OUTSIDE = Outside(("198.51.100.7", "2001:db8::7"))

WEB = Pod("shop", "web", ("10.1.0.1", "fd00::1"), {"app": "web"}, {"http": ("TCP", 8080), "dns": ("UDP", 5353)})
CLIENT = Pod("shop", "client", ("10.1.0.2", "fd00::2"), {"app": "client"})
ADMIN = Pod("ops", "admin", ("10.1.0.3", "fd00::3"), {"app": "client", "role": "admin"})
OTHER = Pod("ops", "other", ("10.1.0.4", "fd00::4"), {}, node="far")
PODS = (WEB, CLIENT, ADMIN, OTHER)
NAMESPACES = {"shop": {"team": "a"}, "ops": {"team": "b", "trusted": ""}}

HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: shop}\nspec:\n"


def world(*specs: str, **settings: bool) -> World:
    """Return the world with policies in namespace shop, each written as the lines of its spec."""
    texts = [
        HEAD % f"p{number}" + "\n".join(f"  {line}" for line in spec.splitlines()) for number, spec in enumerate(specs)
    ]
    return World(NAMESPACES, PODS, tuple(map(yaml.safe_load, texts)), (NODE, FAR_NODE), **settings)


class Asked:
    """A world, asked twice: the oracle and the model must agree."""

    def __init__(self, *specs: str, **settings: bool) -> None:
        """Resolve it."""
        self._world = world(*specs, **settings)
        self._cluster = Cluster(self._world)

    def __call__(self, source: End, destination: End, protocol: str = "TCP", port: int | None = 8080) -> bool:
        """Return whether a connection is possible; both families must have the same answer."""
        found = set()
        for version in (4, 6):
            probe = Probe(source, destination, version, protocol, port)
            assert self._cluster.allowed(probe) == allowed(self._world, probe), probe
            found.add(allowed(self._world, probe))
        assert len(found) == 1, "IPv4 and IPv6 differ"
        return found.pop()

    def who_reaches(self, pod: Pod, port: int = 8080) -> set[End]:
        """Return the pods that reach a pod."""
        return {one for one in PODS if one is not pod and self(one, pod, port=port)}

    def whom_reaches(self, pod: Pod, port: int = 8080) -> set[End]:
        """Return the pods that a pod reaches."""
        return {one for one in PODS if one is not pod and self(pod, one, port=port)}


EVERYBODY_ELSE = {CLIENT, ADMIN, OTHER}


# 'The two sorts of pod isolation'


def test_without_policies_every_pod_is_open_in_both_directions() -> None:
    ask = Asked()
    assert ask.who_reaches(WEB) == ask.whom_reaches(WEB) == EVERYBODY_ELSE
    assert ask(WORLD_OUTSIDE, WEB)
    assert ask(WEB, WORLD_OUTSIDE, "ICMP", None)


def test_a_policy_isolates_only_the_pods_it_selects_in_its_own_namespace() -> None:
    ask = Asked("podSelector: {matchLabels: {app: client}}")
    assert ask.who_reaches(CLIENT) == set()
    assert ask.who_reaches(WEB) == EVERYBODY_ELSE
    assert ask.who_reaches(ADMIN) == {WEB, CLIENT, OTHER}


def test_isolation_for_ingress_leaves_egress_open() -> None:
    ask = Asked("podSelector: {}\npolicyTypes: [Ingress]")
    assert ask.who_reaches(WEB) == set()
    assert ask.whom_reaches(WEB) == {ADMIN, OTHER}


def test_isolation_for_egress_leaves_ingress_open() -> None:
    ask = Asked("podSelector: {}\npolicyTypes: [Egress]")
    assert ask.whom_reaches(WEB) == set()
    assert ask.who_reaches(WEB) == {ADMIN, OTHER}


def test_both_ends_must_allow_a_connection() -> None:
    to_web = "podSelector: {matchLabels: {app: client}}\npolicyTypes: [Egress]\negress: [{to: [{podSelector: {}}]}]"
    from_client = "podSelector: {matchLabels: {app: web}}\ningress: [{from: [{podSelector: {matchLabels: {app: %s}}}]}]"
    assert Asked(to_web, from_client % "client")(CLIENT, WEB)
    assert not Asked(to_web, from_client % "nobody")(CLIENT, WEB)
    assert not Asked(to_web.replace("{to: [{podSelector: {}}]}", ""), from_client % "client")(CLIENT, WEB)


def test_policies_add_up_in_any_order() -> None:
    deny = "podSelector: {}"
    http = "podSelector: {matchLabels: {app: web}}\ningress: [{ports: [{port: 8080}]}]"
    client = "podSelector: {}\ningress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 81}]}]"
    for ask in (Asked(deny, http, client), Asked(client, http, deny)):
        assert ask.who_reaches(WEB, 8080) == EVERYBODY_ELSE
        assert ask.who_reaches(WEB, 81) == {CLIENT}
        assert ask.who_reaches(WEB, 82) == set()


def test_a_pod_cannot_be_kept_from_itself() -> None:
    assert allowed(world("podSelector: {}\npolicyTypes: [Ingress, Egress]"), Probe(WEB, WEB, 4, "TCP", 8080))


# 'Default policies', and how policyTypes are defaulted


def test_default_deny_all_ingress() -> None:
    ask = Asked("podSelector: {}\npolicyTypes: [Ingress]")
    assert not ask(CLIENT, WEB)
    assert not ask(WORLD_OUTSIDE, WEB)
    assert not ask(CLIENT, WEB, "ICMP", None)


def test_allow_all_ingress() -> None:
    ask = Asked("podSelector: {}\ningress: [{}]\npolicyTypes: [Ingress]", "podSelector: {}")
    assert ask.who_reaches(WEB) == EVERYBODY_ELSE
    assert ask(WORLD_OUTSIDE, WEB, "UDP", 1)
    assert ask(WORLD_OUTSIDE, WEB, "ICMP", None)


def test_default_deny_all_egress() -> None:
    ask = Asked("podSelector: {}\npolicyTypes: [Egress]")
    assert not ask(CLIENT, ADMIN)
    assert not ask(CLIENT, WORLD_OUTSIDE)


def test_allow_all_egress() -> None:
    ask = Asked("podSelector: {}\negress: [{}]\npolicyTypes: [Egress]", "podSelector: {}\npolicyTypes: [Egress]")
    assert ask.whom_reaches(CLIENT) == {WEB, ADMIN, OTHER}
    assert ask(CLIENT, WORLD_OUTSIDE, "SCTP", 9)


def test_default_deny_all() -> None:
    ask = Asked("podSelector: {}\npolicyTypes: [Ingress, Egress]")
    assert ask.who_reaches(WEB) == ask.whom_reaches(WEB) == set()


@pytest.mark.parametrize("types", ["", "\npolicyTypes: []"])
def test_without_types_a_policy_is_for_ingress(types: str) -> None:
    ask = Asked("podSelector: {}\ningress: []" + types)
    assert ask.who_reaches(WEB) == set()
    assert ask.whom_reaches(WEB) == {ADMIN, OTHER}


def test_without_types_egress_rules_make_it_one_for_egress_too() -> None:
    ask = Asked("podSelector: {}\negress: [{ports: [{port: 8080}]}]")
    assert ask.who_reaches(WEB) == set()
    assert ask(CLIENT, ADMIN, port=8080)
    assert not ask(CLIENT, ADMIN, port=81)


def test_without_types_an_empty_list_of_egress_rules_does_not() -> None:
    assert Asked("podSelector: {}\negress: []").whom_reaches(WEB) == {ADMIN, OTHER}


def test_rules_of_a_direction_that_is_not_among_the_types_mean_nothing() -> None:
    ask = Asked("podSelector: {}\npolicyTypes: [Egress]\ningress: [{ports: [{port: 1}]}]\negress: [{}]")
    assert ask.who_reaches(WEB) == EVERYBODY_ELSE
    assert ask.whom_reaches(WEB) == EVERYBODY_ELSE
    ask = Asked("podSelector: {}\npolicyTypes: [Ingress]\ningress: [{}]\negress: [{ports: [{port: 1}]}]")
    assert ask.whom_reaches(WEB) == EVERYBODY_ELSE


# 'Behavior of to and from selectors'


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ("- podSelector: {matchLabels: {app: client}}", {CLIENT}),
        ("- podSelector: {}", {CLIENT}),
        ("- namespaceSelector: {matchLabels: {team: b}}", {ADMIN, OTHER}),
        ("- namespaceSelector: {}", EVERYBODY_ELSE),
        ("- namespaceSelector: {matchLabels: {team: b}}\n  podSelector: {matchLabels: {app: client}}", {ADMIN}),
        ("- namespaceSelector: {matchLabels: {team: b}}\n- podSelector: {}", EVERYBODY_ELSE),
        ("- namespaceSelector: {}\n  podSelector: {matchLabels: {app: client}}", {CLIENT, ADMIN}),
        ("- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}", {ADMIN, OTHER}),
        ("- namespaceSelector: {matchLabels: {team: b}}\n  podSelector: {}", {ADMIN, OTHER}),
        ("- namespaceSelector: {matchLabels: {team: c}}", set()),
        ("- podSelector: {matchLabels: {role: admin}}", set()),
        ("- podSelector: {matchLabels: {app: nobody}}\n- podSelector: {matchLabels: {app: client}}", {CLIENT}),
    ],
)
def test_selectors_alone_together_and_in_lists(peers: str, expected: set[End]) -> None:
    lines = "\n".join(f"  {line}" for line in peers.splitlines())
    assert Asked(f"podSelector: {{}}\ningress:\n- from:\n{lines}").who_reaches(WEB) == expected
    assert Asked(f"podSelector: {{}}\npolicyTypes: [Egress]\negress:\n- to:\n{lines}").whom_reaches(WEB) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("{key: app, operator: In, values: [client, web]}", {CLIENT, ADMIN}),
        ("{key: app, operator: NotIn, values: [client]}", {OTHER}),
        ("{key: app, operator: Exists}", {CLIENT, ADMIN}),
        ("{key: role, operator: DoesNotExist}", {CLIENT, OTHER}),
        ("{key: role, operator: NotIn, values: [x]}", EVERYBODY_ELSE),
        ("{key: app, operator: Exists}, {key: role, operator: DoesNotExist}", {CLIENT}),
    ],
)
def test_expressions(expression: str, expected: set[End]) -> None:
    peer = f"{{namespaceSelector: {{}}, podSelector: {{matchExpressions: [{expression}]}}}}"
    assert Asked(f"podSelector: {{}}\ningress: [{{from: [{peer}]}}]").who_reaches(WEB) == expected


def test_labels_and_expressions_must_both_hold() -> None:
    both = "{matchLabels: {app: client}, matchExpressions: [{key: role, operator: Exists}]}"
    peer = f"{{namespaceSelector: {{}}, podSelector: {both}}}"
    assert Asked(f"podSelector: {{}}\ningress: [{{from: [{peer}]}}]").who_reaches(WEB) == {ADMIN}


def test_a_namespace_label_that_is_empty_exists() -> None:
    selector = "{matchExpressions: [{key: trusted, operator: Exists}]}"
    spec = f"podSelector: {{}}\ningress: [{{from: [{{namespaceSelector: {selector}}}]}}]"
    assert Asked(spec).who_reaches(WEB) == {ADMIN, OTHER}


@pytest.mark.parametrize("absent", ["", "from: []"])
def test_without_peers_a_rule_is_about_everybody(absent: str) -> None:
    ask = Asked(f"podSelector: {{}}\ningress: [{{{absent}}}]")
    assert ask.who_reaches(WEB) == EVERYBODY_ELSE
    assert ask(WORLD_OUTSIDE, WEB)
    assert ask(FAR_NODE, WEB)


def test_no_rule_allows_nobody() -> None:
    assert Asked("podSelector: {}\ningress: []").who_reaches(WEB) == set()


def test_selectors_never_match_what_is_outside_or_a_node() -> None:
    ask = Asked("podSelector: {}\ningress: [{from: [{namespaceSelector: {}}]}]")
    assert not ask(WORLD_OUTSIDE, WEB)
    assert not ask(FAR_NODE, WEB)


# 'ipBlock' matches by address, a pod's as anybody's

BOTH = "podSelector: {}\ningress: [{from: [{ipBlock: {cidr: %s}}, {ipBlock: {cidr: %s}}]}]"


def test_a_block_matches_addresses_outside() -> None:
    ask = Asked(BOTH % ("198.51.100.0/24", "'2001:db8::/64'"))
    assert ask(WORLD_OUTSIDE, WEB)
    assert ask.who_reaches(WEB) == set()


def test_a_block_matches_pods_addresses_too() -> None:
    ask = Asked(BOTH % ("10.1.0.2/31", "'fd00::2/127'"))
    assert ask.who_reaches(WEB) == {CLIENT, ADMIN}
    assert not ask(WORLD_OUTSIDE, WEB)


def test_a_block_matches_nodes_addresses_too() -> None:
    assert Asked(BOTH % ("192.0.2.11/32", "'2001:db8:1::b/128'"))(FAR_NODE, WEB)


def test_the_whole_space_is_everybody_of_that_family() -> None:
    ask = Asked(BOTH % ("0.0.0.0/0", "'::/0'"))
    assert ask.who_reaches(WEB) == EVERYBODY_ELSE
    assert ask(WORLD_OUTSIDE, WEB)


def test_a_block_of_one_family_is_nobody_in_the_other() -> None:
    world_ = world("podSelector: {}\ningress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]")
    cluster = Cluster(world_)
    for version, expected in ((4, True), (6, False)):
        probe = Probe(CLIENT, WEB, version, "TCP", 80)
        assert cluster.allowed(probe) == allowed(world_, probe) == expected


def test_except_takes_out_a_part() -> None:
    peers = """[{ipBlock: {cidr: 10.1.0.0/24, except: [10.1.0.3/32]}},
                {ipBlock: {cidr: 'fd00::/64', except: ['fd00::3/128']}}]"""
    assert Asked(f"podSelector: {{}}\ningress: [{{from: {peers}}}]").who_reaches(WEB) == {CLIENT, OTHER}


def test_what_one_block_excepts_another_may_allow() -> None:
    peers = """[{ipBlock: {cidr: 10.1.0.0/24, except: [10.1.0.2/31]}}, {ipBlock: {cidr: 10.1.0.3/32}},
                {ipBlock: {cidr: 'fd00::/64', except: ['fd00::2/127']}}, {ipBlock: {cidr: 'fd00::3/128'}}]"""
    assert Asked(f"podSelector: {{}}\ningress: [{{from: {peers}}}]").who_reaches(WEB) == {ADMIN, OTHER}


def test_another_policys_blocks_change_nothing_for_this_one() -> None:
    mine = BOTH.replace("{}\n", "{matchLabels: {app: web}}\n", 1) % ("10.1.0.0/24", "'fd00::/64'")
    finer = BOTH.replace("{}\n", "{matchLabels: {app: client}}\n", 1) % ("10.1.0.3/32", "'fd00::3/128'")
    ask = Asked(mine, finer)
    assert ask.who_reaches(WEB) == EVERYBODY_ELSE
    assert ask.who_reaches(CLIENT) == {ADMIN}


def test_egress_to_a_block() -> None:
    block = "[{ipBlock: {cidr: 198.51.100.0/24}}, {ipBlock: {cidr: '2001:db8::/64'}}]"
    ask = Asked(f"podSelector: {{}}\npolicyTypes: [Egress]\negress: [{{to: {block}, ports: [{{port: 443}}]}}]")
    assert ask(WEB, WORLD_OUTSIDE, port=443)
    assert not ask(WEB, WORLD_OUTSIDE, port=444)
    assert ask.whom_reaches(WEB, 443) == set()


# NetworkPolicyPort


def open_at(ports: str) -> Asked:
    """Return a world where web may be reached by everybody at some ports."""
    return Asked(f"podSelector: {{}}\ningress: [{{ports: {ports}}}]")


@pytest.mark.parametrize(
    ("ports", "open_", "closed"),
    [
        ("[{port: 80}]", [("TCP", 80)], [("TCP", 79), ("TCP", 81), ("UDP", 80), ("SCTP", 80), ("ICMP", None)]),
        ("[{protocol: UDP, port: 53}]", [("UDP", 53)], [("TCP", 53)]),
        ("[{protocol: SCTP, port: 7}]", [("SCTP", 7)], [("TCP", 7), ("UDP", 7)]),
        ("[{protocol: UDP}]", [("UDP", 1), ("UDP", 65535)], [("TCP", 1), ("ICMP", None)]),
        ("[{}]", [("TCP", 1), ("TCP", 65535)], [("UDP", 1)]),
        ("[]", [("TCP", 1), ("UDP", 9), ("SCTP", 3), ("ICMP", None)], []),
        ("[{port: 80}, {protocol: UDP, port: 81}]", [("TCP", 80), ("UDP", 81)], [("TCP", 81), ("UDP", 80)]),
        ("[{port: 80, endPort: 80}]", [("TCP", 80)], [("TCP", 79), ("TCP", 81)]),
        (
            "[{port: 8000, endPort: 8080}]",
            [("TCP", 8000), ("TCP", 8040), ("TCP", 8080)],
            [("TCP", 7999), ("TCP", 8081)],
        ),
        ("[{port: 1, endPort: 65535}]", [("TCP", 1), ("TCP", 65535)], [("UDP", 1), ("ICMP", None)]),
        ("[{port: 65535}]", [("TCP", 65535)], [("TCP", 65534)]),
    ],
)
def test_numbers_ranges_and_protocols(
    ports: str, open_: Iterable[tuple[str, int | None]], closed: Iterable[tuple[str, int | None]]
) -> None:
    ask = open_at(ports)
    assert all(ask(CLIENT, WEB, *one) for one in open_)
    assert not any(ask(CLIENT, WEB, *one) for one in closed)


def test_a_rule_matches_only_with_both_its_peers_and_its_ports() -> None:
    rule = "{from: [{podSelector: {}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {}}], ports: [{port: 81}]}"
    ask = Asked(f"podSelector: {{}}\ningress: [{rule}]")
    assert ask.who_reaches(WEB, 80) == {CLIENT}
    assert ask.who_reaches(WEB, 81) == EVERYBODY_ELSE


def test_a_named_port_of_ingress_is_the_selected_pods() -> None:
    ask = open_at("[{port: http}]")
    assert ask(CLIENT, WEB, port=8080)
    assert not ask(CLIENT, WEB, port=80)
    assert not ask(WEB, CLIENT, port=8080), "client has no port of that name"


def test_a_named_port_must_have_the_protocol() -> None:
    assert open_at("[{port: dns, protocol: UDP}]")(CLIENT, WEB, "UDP", 5353)
    assert not open_at("[{port: dns}]")(CLIENT, WEB, "TCP", 5353)
    assert not open_at("[{port: dns}]")(CLIENT, WEB, "UDP", 5353)


def test_a_named_port_of_egress_is_the_peers() -> None:
    ask = Asked("podSelector: {}\npolicyTypes: [Egress]\negress: [{ports: [{port: http}]}]")
    assert ask(CLIENT, WEB, port=8080)
    assert not ask(CLIENT, WEB, port=80)
    assert not ask(CLIENT, ADMIN, port=8080)
    assert not ask(CLIENT, WORLD_OUTSIDE, port=8080)


def test_a_named_port_of_egress_is_only_that_of_the_peers_that_are_selected() -> None:
    to = "{to: [{podSelector: {matchLabels: {app: %s}}}], ports: [{port: http}]}"
    spec = "podSelector: {}\npolicyTypes: [Egress]\negress: [%s]"
    assert Asked(spec % (to % "web"))(CLIENT, WEB, port=8080)
    assert not Asked(spec % (to % "client"))(CLIENT, WEB, port=8080)


def test_an_ip_block_has_no_named_ports() -> None:
    block = "[{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}]"
    ports = "[{port: http}, {port: 81}]"
    ask = Asked(f"podSelector: {{}}\npolicyTypes: [Egress]\negress: [{{to: {block}, ports: {ports}}}]")
    assert not ask(CLIENT, WEB, port=8080)
    assert ask(CLIENT, WEB, port=81)


# Traffic of nodes, and of pods in their network

DENY = "podSelector: {}\npolicyTypes: [Ingress, Egress]"


def test_the_pods_own_node_reaches_it_whatever_policies_say() -> None:
    ask = Asked(DENY)
    assert ask(NODE, WEB)
    assert ask(NODE, WEB, "ICMP", None)
    assert not ask(FAR_NODE, WEB)


def test_unless_a_setting_says_otherwise() -> None:
    assert not Asked(DENY, allow_from_host=False)(NODE, WEB)


def test_a_pod_reaches_its_own_node_only_when_policy_or_a_setting_says_so() -> None:
    assert not Asked(DENY)(WEB, NODE)
    assert Asked(DENY, allow_to_host=True)(WEB, NODE)
    assert not Asked(DENY, allow_to_host=True)(WEB, FAR_NODE)
    assert Asked("podSelector: {}\negress: [{}]")(WEB, NODE)


def test_other_nodes_are_reached_and_reach_by_ip_blocks() -> None:
    block = "[{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: '2001:db8:1::/64'}}]"
    ask = Asked(f"podSelector: {{}}\ningress: [{{from: {block}}}]\negress: [{{to: {block}}}]")
    assert ask(FAR_NODE, WEB)
    assert ask(WEB, FAR_NODE)
    assert not ask(WEB, CLIENT)
