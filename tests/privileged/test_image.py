"""Images: what is loaded from one is the same program, with its own constants and its own maps."""

import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest

from services.loader import headers, libbpf, maps
from services.loader.blocking import Blocking
from services.loader.image import Images
from services.loader.libbpf import Fd
from services.loader.objects import Programs, VerifierError
from tests.bpf_support import PEER_V4, POD_ID, POD_V4, REDIRECT, SHOT, Datapath, compiled, constants

pytestmark = pytest.mark.privileged

ADDRESSES = constants()
V4_ONLY = constants(addresses=[ip_address(POD_V4)])


@pytest.fixture
async def images() -> AsyncIterator[Images]:
    blocking = Blocking()
    yield Images(blocking)
    await blocking.stop()


@pytest.fixture
def shared() -> Iterator[Mapping[str, Fd]]:
    fds = {name: one.create(headers.SIZES) for name, one in maps.DEFINITIONS.items()}
    yield fds
    for fd in fds.values():
        fd.close()


def described(programs: Programs) -> dict[str, tuple[bytes, int, int]]:
    """Return tag, instructions and processed instructions of each program."""
    infos = {name: libbpf.program_info(fd) for name, fd in programs.fds.items()}
    return {name: (info.tag, info.instructions, info.verified_instructions) for name, info in infos.items()}


def descriptors() -> int:
    """Return how many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_second_load_gives_the_same_programs_as_libbpf(images: Images, shared: Mapping[str, Fd]):
    with await images.load("t", compiled(), ADDRESSES, shared) as first:
        through_libbpf = described(first)
    assert images._images["t"] is not None

    with await images.load("t", compiled(), ADDRESSES, shared) as second:
        from_image = described(second)

    assert set(from_image) == {"from_container", "policy", "to_container"}
    assert from_image == through_libbpf


async def test_constants_of_each_load_are_its_own_and_the_verifier_knows_them(images: Images, shared: Mapping[str, Fd]):
    with await images.load("t", compiled(), ADDRESSES, shared) as first:
        both_families = described(first)

    with await images.load("t", compiled(), V4_ONLY, shared) as second:
        one_family = described(second)

    # Without an IPv6 address its code is dead, and the verifier takes it out.
    assert one_family["from_container"][1] < both_families["from_container"][1]


async def test_maps_of_each_load_are_its_own(images: Images):
    with Datapath() as datapath, Datapath() as other:
        other.allow_all()
        for one in (datapath, other):
            one.programs.close()
            one.programs = await images.load("t", compiled(), ADDRESSES, one.fds)
            one.call_policy.set(8, one.programs["policy"])
        from scapy.layers.inet import IP, TCP

        from tests.bpf_support import ETHER

        packet = ETHER / IP(src=POD_V4, dst=PEER_V4) / TCP(dport=80)

        verdicts = (datapath.send(packet).verdict, other.send(packet).verdict)

        assert verdicts == (SHOT, REDIRECT)
        assert datapath.metrics.dump()[0].endpoint_id == POD_ID
        assert other.metrics.dump() == []


async def test_a_load_that_the_image_cant_do_is_done_by_libbpf(images: Images, shared: Mapping[str, Fd]):
    with await images.load("t", compiled(), ADDRESSES, shared) as first:
        expected = described(first)
    image = images._images["t"]
    assert image is not None
    spoiled = {**image.instructions, "policy": bytes(len(image.instructions["policy"]))}
    images._images["t"] = dataclasses.replace(image, instructions=spoiled, places={**image.places, "policy": ()})

    with await images.load("t", compiled(), ADDRESSES, shared) as second:
        assert described(second) == expected


async def test_a_refusal_by_both_has_the_verifiers_log_and_leaves_no_descriptor(
    images: Images, shared: Mapping[str, Fd]
):
    with await images.load("t", compiled(), ADDRESSES, shared):
        pass
    before = descriptors()
    wrong = {**shared, maps.POLICY: shared[maps.CALL_POLICY]}

    with pytest.raises(VerifierError) as caught:
        await images.load("t", compiled(), ADDRESSES, wrong)

    assert caught.value.log
    assert descriptors() == before


async def test_an_object_with_a_map_of_its_own_always_goes_through_libbpf(images: Images, shared: Mapping[str, Fd]):
    """A map that libbpf makes for one load must not be that of another endpoint, too."""
    some = {name: fd for name, fd in shared.items() if name != maps.METRICS}

    for _ in range(2):
        with await images.load("t", compiled(), ADDRESSES, some) as programs:
            assert set(programs.fds) == {"from_container", "policy", "to_container"}

    assert images._images["t"] is None
