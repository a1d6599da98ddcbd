"""How messages look to people and scripts."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import endpoint_pb2
from podlane.ipam.v1 import ipam_pb2

from cli.present import age, duration, enum_name, plain, show_table


def test_addresses_times_and_enums_are_spelled_out():
    allocation = ipam_pb2.Allocation(
        addresses=[
            types_pb2.AssignedAddress(
                address=types_pb2.IpPrefix(address=types_pb2.IpAddress(packed=b"\x0a\xf4\x00\x05"), length=32)
            )
        ],
        state=ipam_pb2.ALLOCATION_STATE_RESERVED,
        created=Timestamp(seconds=0, nanos=500_000_000),
    )

    told = plain(allocation)

    assert told["addresses"] == [{"address": "10.244.0.5/32"}]
    assert told["state"] == "reserved"
    assert told["created"] == "1970-01-01T00:00:00.500000Z"
    assert "confirmed" not in told
    assert told["endpoint_id"] == 0


def test_maps_bytes_and_hardware_addresses_are_readable():
    endpoint = endpoint_pb2.Endpoint(labels={"b": "2", "a": "1"})
    endpoint.link.pod_mac.packed = bytes.fromhex("020000001234")

    told = plain(endpoint)

    assert list(told["labels"].items()) == [("a", "1"), ("b", "2")]
    assert told["link"]["pod_mac"] == "02:00:00:00:12:34"


def test_an_enum_value_of_a_newer_service_is_shown_as_its_number():
    enum = endpoint_pb2.DESCRIPTOR.enum_types_by_name["EndpointState"]

    assert enum_name(enum, endpoint_pb2.ENDPOINT_STATE_WAITING_TO_REGENERATE) == "waiting-to-regenerate"
    assert enum_name(enum, 99) == "99"


@pytest.mark.parametrize(
    ("seconds", "told"), [(-3, "0s"), (5, "5s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d")]
)
def test_ages_read_as_kubectl_writes_them(seconds: float, told: str):
    assert age(seconds) == told


def test_tables_are_aligned_and_an_empty_one_says_so(capsys: pytest.CaptureFixture[str]):
    show_table(("A", "LONG"), [("1", "2"), ("333", "4")], "none")
    show_table(("A",), [], "none")

    assert capsys.readouterr().out == "A    LONG\n1    2\n333  4\nnone\n"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0us"),
        (0.00085, "850us"),
        (0.0029, "2.9ms"),
        (0.9994, "999ms"),
        (1.3, "1.3s"),
        (60, "60s"),
        (119.9, "120s"),
        (600, "10m"),
    ],
)
def test_a_duration_has_the_unit_that_keeps_it_short(seconds: float, told: str):
    assert duration(seconds) == told
