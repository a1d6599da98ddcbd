"""Which mount is on top of a directory."""

from pathlib import Path

import pytest

from services.common.errors import NotFound
from services.loader import bpffs

BPF = "31 24 0:27 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700"
TMPFS = "32 31 0:28 / /sys/fs/bpf rw - tmpfs tmpfs rw"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([], False),
        ([BPF], True),
        ([BPF, TMPFS], False),
        ([TMPFS, BPF], True),
        (["24 1 0:22 / /sys rw - sysfs sysfs rw"], False),
    ],
)
def test_the_last_mount_of_a_directory_decides(mounts: list[str], expected: bool) -> None:
    assert bpffs.is_bpffs(Path("/sys/fs/bpf"), "\n".join(mounts)) is expected


def test_blanks_are_escaped_as_the_kernel_escapes_them() -> None:
    assert bpffs.is_bpffs(Path("/a b"), r"31 24 0:27 / /a\040b rw - bpf bpf rw")


def test_a_directory_that_isnt_there_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"node\.bpffs"):
        bpffs.needed(tmp_path / "nowhere")
