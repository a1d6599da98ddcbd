"""Policy: who an endpoint is, whom it may talk to, and what its policy map must hold for that. All of it pure.

    labels ─▶ identity ──────────────┐
    text ─▶ documents ─▶ policies ───┼─▶ resolver ─▶ EndpointPolicy ─▶ entries, differences, explanations
    endpoints, their named ports ────┘        └────▶ prefixes ─▶ CIDR identities

entry.py ports.py         an entry of a policy map; port ranges as prefixes
labels.py selectors.py    identity-relevant labels and their filter; label selectors
labelchanges.py           an operator's word about labels, over a pod's own
identity.py               reserved identities, the node's own allocator, what a shared one promises
networkpolicy.py          NetworkPolicy, Namespace and Pod as values
parse.py policyspec.py fields.py yamltree.py syntax.py    from text to these values, strictly
document.py               what a document is known by; values as canonical JSON, and back
prefixes.py               ipBlocks as sets of numbers
compiled.py selection.py namedports.py granting.py resolve.py    who may what, incrementally
desired.py overflow.py settings.py explain.py    what an endpoint is granted; too much of it; the settings; why

What a policy means is what Kubernetes' documentation of networking.k8s.io/v1 says:

- A pod is open in a direction until a policy of that direction selects it: then only what a rule of one of these
  policies allows passes. Policies add up; none takes away what another allows.
- A connection needs the source's egress and the destination's ingress. Replies pass: connections are the datapath's.
- `policyTypes` absent or empty: Ingress, and Egress when there are egress rules.
- Rules, peers and ports are alternatives. A rule without peers is about everybody, outside of the cluster too, one
  without ports about all traffic. A list of rules that is empty allows nobody.
- `podSelector` is about pods of the policy's namespace, `namespaceSelector` about all pods of namespaces, both in one
  peer about these pods of those namespaces. An empty selector selects all.
- `ipBlock` matches by address, whoever has it, pods included.
- A port is of TCP unless it says otherwise, and none means all of its protocol. ICMP has no ports: only a rule without
  ports allows it.
- SCTP is a protocol as the others.

What the documentation leaves open, or what is decided otherwise:

- **Labels.** Selectors see identity-relevant labels only (`labels.py`); a policy that needs others is refused.
- **Namespaces.** A pod or policy without one is in `default`, so that there is policy without Kubernetes. A namespace
  is selected by the labels of its Namespace document, and always by `kubernetes.io/metadata.name`.
- **Nodes.** A pod's own node always reaches it, by default (`allow_from_host`); whether it reaches its node is up to
  its policies, by default (`allow_to_host`; the documentation allows it always, Cilium does not). Other nodes are
  matched by ipBlocks alone. A pod in its node's network is its node: nothing selects it, and nothing isolates it.
- **Oneself.** A pod can't be kept from itself: such packets don't leave its namespace. Other pods with the same labels
  are peers as any.
- **Named ports** have the numbers that the pod gives them which is connected to. Ingress: exact. Egress: exact, but for
  pods of the same labels that disagree about a number (`namedports.py`). An ipBlock in egress has no named ports.
- **Before labels are known** an endpoint has the identity init: nothing selects it, as a peer nothing but ipBlocks and
  rules for everybody match it, and it is open, or open to its node alone (`init_policy`).
- **Port 0** is no port that a policy could name; `1` to `65535` is every port.
- **Too many entries** for a map: nothing is written, and the error says what exploded (`overflow.py`).

How the datapath looks a packet up: with the peer's identity, with identity 0 (everybody), and with the number of the
longest known prefix that the peer's address lies in. Each has entries of direction, protocol and port prefix, the
longest match answers, and one answer that allows is enough. Entries that deny exist, but NetworkPolicy has no use for
them.
"""

from services.endpoint.policy.entry import Direction, PolicyEntry, allow_all

__all__ = ["Direction", "PolicyEntry", "allow_all"]
