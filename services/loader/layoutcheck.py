"""The layouts of `bpf/lib/*.h` against Python's, by an object's BTF. Pure.

Asked when a template is read and by a test without root: a field that moves or changes its size in C stops the loader
with a sentence instead of corrupting maps, and so does an enum that is not the same on both sides.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum

from services.common.errors import Internal
from services.loader import conntrack, event, layout
from services.loader.btf import Btf, Field
from services.loader.model import Direction
from services.loader.refusal import DropReason, SourceFile

# What BTF must say: struct → its fields in order. Sizes follow from the struct.Struct's codes.
_STRUCTS: Mapping[str, tuple[struct.Struct, tuple[str, ...]]] = {
    "endpoint_key": (layout.ENDPOINT_KEY, ("address", "family")),
    "endpoint_value": (layout.ENDPOINT_VALUE, ("ifindex", "lxc_id", "flags", "identity", "pod_mac", "host_mac")),
    "ipcache_value": (layout.IPCACHE_VALUE, ("reserved", "lxc_id", "flags", "identity", "node")),
    "underlay": (layout.UNDERLAY, ("ifindex", "overlay_ifindex", "address")),
    "policy_key": (layout.POLICY_KEY, ("prefix_length", "identity", "direction", "protocol", "port")),
    "policy_value": (layout.POLICY_VALUE, ("flags", "reserved", "packets", "bytes")),
    "prefix_key": (layout.PREFIX_KEY, ("prefix_length", "family", "address")),
    "metrics_key": (layout.METRICS_KEY, ("endpoint_id", "reason", "direction")),
    "metrics_value": (layout.METRICS_VALUE, ("packets", "bytes")),
    "conntrack_key": (
        conntrack.KEY,
        ("local", "remote", "local_port", "remote_port", "endpoint_id", "protocol", "family"),
    ),
    "conntrack_value": (
        conntrack.VALUE,
        ("expires", "allowed", "direction", "seen", "told", "opened", "packets", "bytes"),
    ),
    "packet": (
        event.PACKET,
        (
            "time",
            "where",
            "event",
            "point",
            "peer_id",
            "length",
            "source_identity",
            "destination_identity",
            "line",
            "file",
            "has_ports",
            "source",
            "destination",
            "source_port",
            "destination_port",
            "protocol",
            "flags",
            "from_stack",
            "conntrack",
            "to",
            "l4_offset",
            "l4",
            "extension",
            "policy_key",
            "prefix_key",
            "verdict",
            "to_group",
            "opens",
            "passes",
            "hop_limit",
            "by_stack",
            "padding",
            "allowed",
            "flow",
            "unused",
            "quoted",
            "not_sent",
        ),
    ),
}
_ENUMS: Mapping[str, tuple[str, type[IntEnum]]] = {
    "drop_reason": ("DROP_", DropReason),
    "conntrack_state": ("CONNTRACK_", conntrack.ConntrackState),
    "event_type": ("EVENT_", event.EventType),
    "source_file": ("SOURCE_", SourceFile),
    "trace_point": ("TRACE_", event.TracePoint),
    "traffic_direction": ("DIRECTION_", Direction),
}


def differences(btf: Btf, *, whole: bool = True) -> list[str]:
    """Return what this loader and an object's BTF disagree about, one sentence each.

    `whole` False: a struct that the object's programs have no use for need not be there.
    """
    found = []
    for name, (packer, names) in _STRUCTS.items():
        if not whole and not btf.has_struct(name):
            continue
        theirs, ours = btf.struct(name), (packer.size, _fields(packer, names))
        if theirs != ours:
            found.append(f"struct {name} is {_spell(*theirs)} in C and {_spell(*ours)} in Python")
    for name, (prefix, enum) in _ENUMS.items():
        _, values = btf.enum(name)
        wanted = {prefix + member.name: member.value for member in enum}
        if values != wanted:
            odd = sorted(set(values.items()) ^ set(wanted.items()))
            found.append(f"enum {name} differs between C and Python in {', '.join(f'{key}={at}' for key, at in odd)}")
    return found


def check(btf: Btf, object_name: str) -> None:
    """Raise Internal when an object's layouts are not the ones of this loader."""
    found = differences(btf, whole=False)
    if found:
        raise Internal(f"object {object_name} doesn't fit this loader: {'; '.join(found)}", object=object_name)


def _fields(packer: struct.Struct, names: tuple[str, ...]) -> list[Field]:
    offset, fields = 0, []
    for name, code in zip(names, _codes(packer.format), strict=True):
        size = struct.calcsize("=" + code)
        fields.append(Field(name, offset, size))
        offset += size
    return fields


def _codes(text: str) -> list[str]:
    """Split `=16sI` into `16s`, `I`."""
    codes, digits = [], ""
    for letter in text.lstrip("="):
        if letter.isdigit():
            digits += letter
            continue
        codes.append(digits + letter)
        digits = ""
    return codes


def _spell(size: int, fields: list[Field]) -> str:
    return f"{size} bytes ({', '.join(f'{field.name} {field.size} at {field.offset}' for field in fields)})"
