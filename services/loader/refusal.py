"""Why the datapath drops packets, and where in its sources that was decided, by name; `bpf/lib/refusal.h`. Pure."""

from enum import IntEnum


class DropReason(IntEnum):
    """Why the datapath drops packets; `enum drop_reason`, without its prefix."""

    LINK_LOCAL_NOISE = 1
    ARP_TARGET = 2
    ARP_SENDER = 3
    ND_TARGET = 4
    ND_SENDER = 5
    IPV6_EXTENSIONS = 6
    INVALID_SOURCE_MAC = 130
    INVALID_SOURCE_IP = 132
    POLICY = 133
    INVALID_PACKET = 134
    UNKNOWN_L3 = 139
    NO_TUNNEL_KEY = 147
    UNROUTABLE = 151
    CONNTRACK_FULL = 155
    PORTS_MISSING = 157
    NO_TUNNEL_ENDPOINT = 160
    ENCAP_PROHIBITED = 170
    INVALID_IDENTITY = 171
    POLICY_DENY = 181
    ENDPOINT_NOT_READY = 203


class SourceFile(IntEnum):
    """The files of bpf/ that refuse packets; `enum source_file`, without its prefix."""

    BPF_LXC = 1
    ARP = 2
    L3 = 3
    ND = 4
    PARSE = 5
    POLICY = 6
    CONNTRACK = 7
    BPF_OVERLAY = 8
    OVERLAY = 9


def reason_text(reason: int) -> str:
    """Return a drop reason as people read it: `invalid source ip`. Unknown ones keep their number."""
    try:
        return DropReason(reason).name.lower().replace("_", " ")
    except ValueError:
        return f"reason {reason}"


def place_text(file: int, line: int) -> str:
    """Return where a refusal was made as an editor takes it: `bpf/lib/parse.h:65`. Unknown files keep their number."""
    try:
        name = SourceFile(file).name.lower()
    except ValueError:
        return f"file {file}:{line}"
    return f"bpf/{name}.c:{line}" if name.startswith("bpf_") else f"bpf/lib/{name}.h:{line}"
