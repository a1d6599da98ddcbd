"""libbpf.py and objects.py against the real kernel: maps, pins, information, loads that fail, descriptors."""

import errno
import gc
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition, Internal
from services.loader import libbpf, objects, pathmaps
from services.loader.flows import Flows
from services.loader.libbpf import BpfError, Fd, MapType, ProgramInfo
from services.loader.objects import VerifierError
from tests.bpf_support import Datapath, compiled, constants

pytestmark = pytest.mark.privileged


@pytest.fixture
def hash_map() -> Iterator[Fd]:
    with libbpf.map_create(MapType.HASH, "test_hash", 4, 8, 10_000, flags=libbpf.NO_PREALLOC) as fd:
        yield fd


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpffs of this test's own."""
    mount = tmp_path / "bpf"
    mount.mkdir()
    subprocess.run(["mount", "-t", "bpf", "none", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def test_an_entry_is_written_read_and_removed_and_absence_is_no_error(hash_map: Fd) -> None:
    assert libbpf.map_lookup(hash_map, key(1), 8) is None
    libbpf.map_update(hash_map, key(1), b"12345678")
    assert libbpf.map_lookup(hash_map, key(1), 8) == b"12345678"
    assert [libbpf.map_delete(hash_map, key(1)), libbpf.map_delete(hash_map, key(1))] == [True, False]


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 10_000])
def test_batches_of_any_size_come_back_whole(hash_map: Fd, count: int) -> None:
    entries = {key(i): key(i) * 2 for i in range(count)}
    libbpf.map_update_batch(hash_map, list(entries.items()))

    assert dict(libbpf.map_entries(hash_map, 4, 8)) == entries


def test_an_lpm_trie_takes_batches_too() -> None:
    with libbpf.map_create(MapType.LPM_TRIE, "test_lpm", 8, 8, 9000, flags=libbpf.NO_PREALLOC) as trie:
        entries = {key(32) + key(i): key(i) * 2 for i in range(9000)}
        libbpf.map_update_batch(trie, list(entries.items()))
        assert dict(libbpf.map_entries(trie, 8, 8)) == entries
        libbpf.map_delete_batch(trie, list(entries))
        assert libbpf.map_entries(trie, 8, 8) == []


def test_a_batch_removal_passes_over_what_is_gone(hash_map: Fd) -> None:
    libbpf.map_update_batch(hash_map, [(key(i), bytes(8)) for i in range(0, 9000, 2)])
    libbpf.map_delete_batch(hash_map, [key(i) for i in range(9000)])

    assert libbpf.map_entries(hash_map, 4, 8) == []


def test_a_full_map_says_so_with_the_call_and_the_maps_name() -> None:
    with libbpf.map_create(MapType.HASH, "tiny", 4, 8, 2) as tiny:
        with pytest.raises(BpfError, match="bpf_map_update_batch of 5 on tiny") as caught:
            libbpf.map_update_batch(tiny, [(key(i), bytes(8)) for i in range(5)])
        assert caught.value.errno == errno.E2BIG


def test_map_information_is_what_was_asked_for(hash_map: Fd) -> None:
    info = libbpf.map_info(hash_map)

    assert (info.name, info.type, info.key_size, info.value_size, info.max_entries, info.flags) == (
        "test_hash",
        MapType.HASH,
        4,
        8,
        10_000,
        libbpf.NO_PREALLOC,
    )


def test_a_pin_keeps_an_object_and_gives_it_back(hash_map: Fd, bpffs: Path) -> None:
    libbpf.map_update(hash_map, key(1), b"12345678")
    libbpf.object_pin(hash_map, bpffs / "kept")

    with libbpf.object_get(bpffs / "kept") or pytest.fail("nothing is pinned") as again:
        assert libbpf.map_info(again).id == libbpf.map_info(hash_map).id
        assert libbpf.map_lookup(again, key(1), 8) == b"12345678"


def test_nothing_pinned_is_none_and_a_taken_name_is_an_error(hash_map: Fd, bpffs: Path) -> None:
    assert libbpf.object_get(bpffs / "absent") is None
    libbpf.object_pin(hash_map, bpffs / "taken")
    with pytest.raises(BpfError, match=r"bpf_obj_pin on test_hash at .*/taken: File exists"):
        libbpf.object_pin(hash_map, bpffs / "taken")


def test_a_pinned_map_of_another_size_is_refused_and_kept(bpffs: Path) -> None:
    with pathmaps.Endpoints.open(bpffs / "endpoints", {"ENDPOINTS_MAP_SIZE": 10}):
        pass
    with pytest.raises(FailedPrecondition, match="10 entries, which this loader can't use"):
        pathmaps.Endpoints.open(bpffs / "endpoints", {"ENDPOINTS_MAP_SIZE": 20})
    with pathmaps.Endpoints.open(bpffs / "endpoints", {"ENDPOINTS_MAP_SIZE": 10}):
        pass


@pytest.mark.parametrize(("value_size", "entries"), [(40, 4096), (56, 8192)], ids=["layout", "size"])
def test_a_pinned_map_of_flows_that_does_not_fit_is_replaced(bpffs: Path, value_size: int, entries: int) -> None:
    """Its flows come again by themselves; programs that use the old one keep it."""
    pin, sizes = bpffs / "conntrack", {"CONNTRACK_MAP_SIZE": 4096}
    with libbpf.map_create(MapType.LRU_HASH, "older", 40, value_size, entries) as older:
        libbpf.object_pin(older, pin)
        with Flows.open(pin, sizes) as flows, Flows.open(pin, sizes) as again:
            ids = [libbpf.map_info(one).id for one in (older, flows.fd, again.fd)]
            assert libbpf.map_info(flows.fd).value_size == 56

    assert ids[0] != ids[1] == ids[2]


def verified(*turned: str) -> dict[str, ProgramInfo]:
    """Return what the kernel says of the programs of a shape."""
    with Datapath(compiled(*turned)) as datapath:
        return {name: libbpf.program_info(fd) for name, fd in datapath.programs.fds.items()}


def test_program_information_tells_the_cost_of_verification() -> None:
    info = verified()

    assert info.keys() == {"from_container", "policy", "to_container"}
    assert all(one.name == name and one.id and len(one.tag) == 8 for name, one in info.items())


# The budget: 0.7 microseconds each, for every endpoint that is created.
@pytest.mark.parametrize(
    ("turned", "most"),
    [((), 2800), (("drop-notify",), 2720), (("trace", "policy-verdict"), 3200), (("conntrack",), 1740)],
)
def test_the_verifier_has_little_to_do(turned: tuple[str, ...], most: int) -> None:
    assert sum(one.verified_instructions for one in verified(*turned).values()) < most


def test_equal_constants_give_equal_tags_and_others_do_not() -> None:
    """The tag is over the instructions before they are rewritten, where constants are map reads: shapes differ."""
    with Datapath() as one, Datapath() as same, Datapath(compiled("source-ip-verification")) as other:
        tags = [libbpf.program_info(each.programs["from_container"]).tag for each in (one, same, other)]

    assert tags[0] == tags[1] != tags[2]


def test_a_program_is_found_by_its_id_until_nobody_holds_it() -> None:
    with Datapath() as datapath:
        ident = libbpf.program_info(datapath.programs["policy"]).id
        with libbpf.program_by_id(ident) or pytest.fail("it is loaded") as again:
            assert libbpf.program_info(again).name == "policy"
    assert libbpf.program_by_id(0xFFFFFFF) is None


def test_constants_make_dead_branches_vanish() -> None:
    """Without an IPv6 address the program is the smaller: that is what .rodata is for."""
    with Datapath() as both, Datapath(addresses=[]) as none:
        sizes = [libbpf.program_info(each.programs["from_container"]).instructions for each in (both, none)]

    assert sizes[1] < sizes[0] / 3


def test_an_unknown_constant_or_a_wrong_length_is_refused_before_the_kernel_sees_it() -> None:
    with pytest.raises(Internal, match="no constant endpoint_colour; it has endpoint_chained, endpoint_has_ipv4,"):
        objects.load(compiled(), {**constants(), "endpoint_colour": 1}, {})
    with pytest.raises(Internal, match="constant endpoint_ipv4 of object bpf_lxc has 4 bytes, not 3"):
        objects.load(compiled(), {**constants(), "endpoint_ipv4": b"abc"}, {})


BAD_PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int wild(struct __sk_buff *skb)
{
	return *(char *)(long)skb->data;
}
char LICENSE[] SEC("license") = "GPL";
"""


def clang(source: str) -> bytes:
    argv = ["clang", "-target", "bpf", "-g", "-O2", "-idirafter", "/usr/include/x86_64-linux-gnu", "-x", "c", "-c", "-"]
    return subprocess.run([*argv, "-o", "-"], input=source.encode(), capture_output=True, check=True).stdout


def test_a_rejected_program_says_why_in_one_line_and_keeps_the_whole_log() -> None:
    code, _ = objects.read(clang(BAD_PROGRAM), "bad")

    with pytest.raises(VerifierError) as caught:
        objects.load(code, {}, {})

    assert str(caught.value).startswith("the kernel refused wild of object bad: R1 offset is outside of the packet")
    assert "Permission denied" in str(caught.value)
    assert "R1=pkt(r=0)" in caught.value.log
    assert "libbpf: prog 'wild'" in caught.value.log


def test_rejections_in_several_threads_keep_their_logs_apart() -> None:
    codes = [objects.read(clang(BAD_PROGRAM.replace("wild", f"wild{n}")), f"bad{n}")[0] for n in range(4)]
    logs: dict[int, str] = {}

    def load(number: int) -> None:
        try:
            objects.load(codes[number], {}, {})
        except VerifierError as error:
            logs[number] = error.log

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number, log in logs.items():
        assert f"prog 'wild{number}'" in log
        assert not any(f"prog 'wild{other}'" in log for other in range(4) if other != number)
    assert len(logs) == 4


def test_what_is_no_object_is_refused_with_its_name() -> None:
    with pytest.raises(Internal, match="object junk can't be read"):
        objects.read(b"not an ELF file", "junk")


def test_a_load_leaves_no_descriptor_behind_whether_it_works_or_not() -> None:
    bad, _ = objects.read(clang(BAD_PROGRAM), "bad")
    with Datapath():
        pass
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with Datapath():
            pass
        with pytest.raises(VerifierError):
            objects.load(bad, {}, {})

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_forgotten_descriptor_is_closed_with_a_warning() -> None:
    number = libbpf.map_create(MapType.ARRAY, "forgotten", 4, 4, 1)
    held = number.fileno()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del number
        gc.collect()

    assert [str(one.message) for one in caught] == [f"<Fd {held} forgotten> was never closed"]


def test_a_closed_descriptor_is_named_in_the_error() -> None:
    fd = libbpf.map_create(MapType.ARRAY, "gone", 4, 4, 1)
    fd.close()
    fd.close()

    with pytest.raises(ValueError, match="the descriptor of gone is closed"):
        libbpf.map_lookup(fd, key(0), 4)
