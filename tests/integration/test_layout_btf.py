"""Our layouts against the C declarations, through the BTF that clang writes. Needs clang, no privileges."""

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from services.common.errors import Internal
from services.loader import layoutcheck
from services.loader.btf import Btf
from services.loader.compile import Compiler, arguments

BPF = Path(__file__).resolve().parents[2] / "bpf"


def btf_of(sources: Path, source: str) -> Btf:
    argv = arguments(Compiler("clang", ""), sources, sources)
    argv[argv.index(str(sources / "bpf_lxc.c"))] = str(sources / source)
    content = subprocess.run(argv, check=True, capture_output=True).stdout
    section = ELFFile(io.BytesIO(content)).get_section_by_name(".BTF")
    assert section is not None
    return Btf(section.data())


@pytest.mark.parametrize("source", ["bpf_alignchecker.c", "bpf_lxc.c"])
def test_python_and_c_agree_about_every_struct_and_enum(source: str) -> None:
    assert layoutcheck.differences(btf_of(BPF, source), whole=source == "bpf_alignchecker.c") == []


@pytest.mark.parametrize(
    ("header", "old", "new", "words"),
    [
        ("packet.h", "direction;\n\t__u8 protocol;", "direction;\n\t__u16 protocol;", "struct policy_key is 16 bytes"),
        ("policy.h", "__u32 flags;\n\t__u32 reserved;", "__u32 reserved;\n\t__u32 flags;", "struct policy_value"),
        ("endpoints.h", "__u16 lxc_id;", "__u32 lxc_id;", "struct endpoint_value is 32 bytes"),
        ("ipcache.h", "__u16 flags;\n\t__u32 identity;", "__u32 identity;\n\t__u16 flags;", "struct ipcache_value"),
        ("ipcache.h", "__u32 overlay_ifindex;", "__u64 overlay_ifindex;", "struct underlay is 32 bytes"),
        ("endpoints.h", "__u32 family;", "__u64 family;", "struct endpoint_key is 24 bytes"),
        (
            "packet.h",
            "__u16 endpoint_id;\n\tenum drop",
            "__u32 endpoint_id;\n\tenum drop",
            "struct metrics_key is 8 bytes",
        ),
        ("packet.h", "__u32 family;\n\t/* IPv4: the first", "__u16 family;\n\t/* IPv4: the first", "struct prefix_key"),
        ("refusal.h", "DROP_POLICY = 133", "DROP_POLICY = 131", "DROP_POLICY=131"),
        ("refusal.h", "DROP_ARP_TARGET = 2,", "DROP_ARP_TARGET = 2, DROP_NEW = 99,", "DROP_NEW=99"),
        ("refusal.h", "SOURCE_ARP = 2", "SOURCE_ARP = 99", "SOURCE_ARP=99"),
        ("packet.h", "__u16 peer_id;", "__u32 peer_id;", "struct packet is 392 bytes"),
        ("packet.h", "__u64 not_sent[", "__u32 not_sent[", "struct packet is"),
        ("packet.h", "__u8 seen[2];", "__u8 seen[4];", "struct conntrack_value is 64 bytes"),
        ("packet.h", "CONNTRACK_REPLY = 3", "CONNTRACK_REPLY = 5", "CONNTRACK_REPLY=5"),
        ("packet.h", "EVENT_TRACE = 2", "EVENT_TRACE = 4", "EVENT_TRACE=4"),
        ("packet.h", "TRACE_TO_STACK = 4,", "TRACE_TO_STACK = 4, TRACE_LOST = 9,", "TRACE_LOST=9"),
    ],
)
def test_a_change_in_c_alone_is_found(tmp_path: Path, header: str, old: str, new: str, words: str) -> None:
    sources = tmp_path / "bpf"
    shutil.copytree(BPF, sources)
    text = (sources / "lib" / header).read_text()
    assert text.count(old) == 1
    (sources / "lib" / header).write_text(text.replace(old, new))

    with pytest.raises(Internal, match="doesn't fit this loader") as caught:
        layoutcheck.check(btf_of(sources, "bpf_alignchecker.c"), "bpf_alignchecker")

    assert words in str(caught.value)


def test_what_is_no_btf_is_refused() -> None:
    with pytest.raises(Internal, match="4 bytes are not BTF"):
        Btf(b"what")
