"""The datapath's sources with two switches that are refused: one by the verifier, one by clang."""

import shutil
from pathlib import Path

BPF = Path(__file__).resolve().parents[1] / "bpf"

VERIFIER_REFUSES, CLANG_REFUSES = "debug", "policy-accounting"
CLANG_SAYS = "no accounting today"


def refusing(directory: Path) -> Path:
    """Copy the sources into `directory` so that these options can't be built, and return where they are."""
    copy = directory / "bpf"
    shutil.copytree(BPF, copy)
    source = copy / "bpf_lxc.c"
    wild = "#ifdef ENABLE_DEBUG\n\t*(volatile char *)(long)skb->mark = 1;\n#endif\n"
    broken = f"#ifdef ENABLE_POLICY_ACCOUNTING\n#error {CLANG_SAYS}\n#endif\n"
    head = "int to_container(struct __sk_buff *skb)\n{\n"
    text = source.read_text()
    assert head in text
    source.write_text(text.replace(head, head + wild) + broken)
    return copy
