"""The loader's nouns as plain values, and what follows from them. Pure: no protobuf, no kernel, no files.

`EndpointSpec` is what was asked for, `EndpointRecord` what was last put in force (kept in the state directory),
`Observed` what the kernel has now. Two functions decide everything that a regeneration does:

- `reload_reason` says why programs must be loaded anew, or None: maps are enough (level 1);
- `problems` says what the kernel has lost against the record, one sentence each.

What is in a policy map is no part of either: it changes without its endpoint's programs and without the record, and
whoever wants it in force compares the digest of what the kernel has (`policy_content`).

A config hash covers all that a loaded program was made of: the template (sources, headers, flags, compiler), the
constants and variables that it was given, and how it is attached. Two endpoints never share one; two loads of one
endpoint with equal hashes are equal.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from services.common import policydigest
from services.common.model import Address, Attachment, Network, format_mac

LARGEST_ID = 65535
HOST_ROUTING = "host-routing"
"""The option that has values of its own in the maps, beside its define."""


class Level(IntEnum):
    """How much of an endpoint a regeneration renews; the numbers are the API's and the seed's."""

    NO_REBUILD = 1
    REWRITE_LOAD = 2


class Direction(IntEnum):
    """Seen from the pod; the numbers are the API's."""

    INGRESS = 1
    EGRESS = 2


class Routing(IntEnum):
    """How pods of other nodes are reached; the numbers are the API's."""

    ALONE = 0
    """There are no other nodes."""
    OVERLAY = 1
    NATIVE = 2


DEFAULT_TUNNEL_PORT = 8472


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What all endpoints of a node share. `mtu` in bytes, 0: found out from the device that leads away.

    `underlay_device` empty: that of the default route. `underlay_family` 4 or 6, 0: IPv4 where the device has such an
    address. What is in `cluster_cidrs` is never masqueraded.
    """

    pod_cidrs: tuple[Network, ...]
    gateways: tuple[Address, ...]
    masquerade: bool = False
    mtu: int = 0
    routing: Routing = Routing.ALONE
    underlay_device: str = ""
    underlay_family: int = 0
    tunnel_port: int = DEFAULT_TUNNEL_PORT
    cluster_cidrs: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Underlay:
    """Where other nodes find this one: the device that leads to them, the address that they send to, all addresses of
    the node that others can see, and the device's MTU in bytes.
    """

    device: str
    ifindex: int
    address: Address
    addresses: tuple[Address, ...]
    mtu: int


@dataclass(frozen=True, slots=True)
class RemoteNode:
    """Another node of the cluster: where it is reached, its pods' ranges, and all its own addresses."""

    name: str
    address: Address
    pod_cidrs: tuple[Network, ...]
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class PolicyEntry:
    """One entry of an endpoint's policy map: allow or `deny` traffic of a peer identity to a port.

    Identity, protocol and `port_prefix_length` 0 stand for any; 16 prefix bits are one exact port.
    """

    direction: Direction
    identity: int = 0
    protocol: int = 0
    port: int = 0
    port_prefix_length: int = 0
    deny: bool = False


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """An endpoint as its programs are to see it. `options` holds the switches that differ from the default; `chained`:
    its link is another plugin's.
    """

    id: int
    generation: int
    attachment: Attachment
    host_ifname: str
    host_ifindex: int
    host_mac: bytes
    pod_mac: bytes
    addresses: tuple[Address, ...]
    identity: int
    options: Mapping[str, bool] = field(default_factory=dict)
    chained: bool = False

    @property
    def host_routed(self) -> bool:
        """Whether the node's stack has all its packets, and not only those that have to go there."""
        return self.options.get(HOST_ROUTING, False)


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program: kernel id and tag, translated and verifier-processed instructions, and where it hangs.

    `hook` is `tc ingress`, `tc egress`, `tcx ingress`, `tcx egress` or `call_policy[<endpoint id>]`.
    """

    name: str
    id: int
    tag: bytes
    instructions: int
    verified_instructions: int
    hook: str


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """What was last put in force for an endpoint. `policy_map` is the kernel's id of the map its programs use,
    `request_id` that of the call that has loaded them, as logs have it; empty: a loader that kept none has.
    """

    spec: EndpointSpec
    config_hash: str
    template_hash: str
    attach_mode: str
    programs: tuple[Program, ...]
    policy_map: int
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Which programs hang where: hook → program id, None for an empty one; the tags of those programs; and the id of
    the policy map that is pinned, None when none is.
    """

    ids: Mapping[str, int | None]
    tags: Mapping[int, bytes]
    policy_map: int | None


@dataclass(frozen=True, slots=True)
class Observed:
    """What the kernel has for one endpoint now.

    `leads_here` says for each of the record's addresses whether the endpoint map has the right entry.
    """

    link: bool
    running: Running
    leads_here: Mapping[Address, bool]
    node_side: Sequence[str]
    """What the node's end, its routes and neighbours have lost, one sentence each."""


@dataclass(frozen=True, slots=True)
class PolicyContent:
    """What a policy map holds: its digest (policydigest.py; empty: there is no map), and how many entries."""

    digest: bytes = b""
    entries: int = 0


def policy_content(entries: Collection[PolicyEntry]) -> PolicyContent:
    """Return what stands for these entries, each of which is there once."""
    fields = (
        (one.direction, one.identity, one.protocol, one.port, one.port_prefix_length, one.deny) for one in entries
    )
    return PolicyContent(policydigest.digest(fields), len(entries))


def config_hash(template_hash: str, attach_mode: str, constants: Mapping[str, int | bytes]) -> str:
    """Return the SHA-256 over the template, the constants, and how programs are attached, hex."""
    plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in constants.items()}
    text = f"{template_hash}\n{attach_mode}\n{json.dumps(plain, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()


def reload_reason(
    spec: EndpointSpec, level: Level, wanted_hash: str, record: EndpointRecord | None, lost: Sequence[str]
) -> str | None:
    """Return why the endpoint's programs are loaded anew, None when what is loaded stays.

    `lost` are the sentences about programs from `program_problems`.
    """
    if record is None:
        return "the endpoint has no programs yet"
    if record.config_hash != wanted_hash:
        return "the configuration has changed"
    if record.spec.host_ifindex != spec.host_ifindex:
        return f"the link is another one: ifindex {record.spec.host_ifindex} became {spec.host_ifindex}"
    if lost:
        return lost[0]
    return "it was asked for" if level is Level.REWRITE_LOAD else None


def policy_changes(id_: int, before: Iterable[PolicyEntry], after: Iterable[PolicyEntry]) -> list[str]:
    """Say how a policy map changes, in one sentence or none."""
    old, new = set(before), set(after)
    if old == new:
        return []
    return [f"policy map policy_{id_}: {len(new - old)} entries written, {len(old - new)} removed"]


def led_elsewhere(address: Address, id_: int) -> str:
    """Say that the endpoint map has to be written for an address."""
    return f"the endpoint map did not lead {address} to endpoint {id_}"


def map_changes(spec: EndpointSpec, live: EndpointRecord, observed: Observed) -> list[str]:
    """Say which entries of the endpoint map a regeneration would write."""
    # Another identity or interface changes the entries' values, wherever they lead.
    same = (live.spec.identity, live.spec.host_ifindex) == (spec.identity, spec.host_ifindex)
    return [led_elsewhere(one, spec.id) for one in spec.addresses if not (same and observed.leads_here.get(one, False))]


def program_problems(record: EndpointRecord, running: Running) -> list[str]:
    """Say which programs of the record are not where they belong, or have lost their policy map: only loading anew
    brings programs and a pinned map together again.
    """
    found = []
    for program in record.programs:
        there = running.ids.get(program.hook)
        if there is None:
            found.append(f"{program.hook} is empty: {program.name} (program {program.id}) was there")
        elif there != program.id:
            found.append(f"{program.hook} runs program {there}, not {program.name} (program {program.id})")
        elif running.tags.get(there, program.tag) != program.tag:
            tag = running.tags[there].hex()
            found.append(f"{program.hook}: program {there} has tag {tag}, {program.name} had {program.tag.hex()}")
    if running.policy_map != record.policy_map:
        now = "missing" if running.policy_map is None else f"map {running.policy_map}"
        found.append(
            f"the pin of policy map policy_{record.spec.id} is {now}: its programs use map {record.policy_map}"
        )
    return found


def problems(record: EndpointRecord, observed: Observed) -> list[str]:
    """Say what the kernel has lost against the record, one sentence each; nothing when it is whole."""
    spec = record.spec
    found = []
    if not observed.link:
        found.append(f"link {spec.host_ifname} (ifindex {spec.host_ifindex}) is gone")
    found += program_problems(record, observed.running)
    found += [
        f"the endpoint map does not lead {address} to endpoint {spec.id}"
        for address in spec.addresses
        if not observed.leads_here.get(address, False)
    ]
    return [*found, *observed.node_side]


def describe(spec: EndpointSpec) -> str:
    """Return an endpoint as errors and logs name it."""
    addresses = ", ".join(map(str, spec.addresses))
    return f"endpoint {spec.id} ({spec.attachment}, {addresses}, {format_mac(spec.pod_mac)})"
