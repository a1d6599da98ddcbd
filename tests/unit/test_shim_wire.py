"""The shim's protobuf codec: its bytes are protobuf's own, for whatever the messages hold."""

import contextlib
from typing import Any

import pytest
from google.protobuf.message import Message as Protobuf
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import endpoint_pb2
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from cni import ipammessages, messages, rpc, wire
from cni.wire import Message
from tests.examples import examples

PAIRS: dict[Message, type[Protobuf]] = {
    messages.ATTACHMENT: types_pb2.Attachment,
    messages.POD: types_pb2.Pod,
    messages.IP_PREFIX: types_pb2.IpPrefix,
    messages.ROUTE: types_pb2.Route,
    messages.ASSIGNED_ADDRESS: types_pb2.AssignedAddress,
    messages.ALLOCATION: ipam_pb2.Allocation,
    messages.ALLOCATE_REQUEST: ipam_pb2.AllocateAddressesRequest,
    messages.ALLOCATE_RESPONSE: ipam_pb2.AllocateAddressesResponse,
    messages.RELEASE_REQUEST: ipam_pb2.ReleaseAddressesRequest,
    messages.RELEASE_RESPONSE: ipam_pb2.ReleaseAddressesResponse,
    messages.LIST_ALLOCATIONS_REQUEST: ipam_pb2.ListAllocationsRequest,
    messages.LIST_ALLOCATIONS_RESPONSE: ipam_pb2.ListAllocationsResponse,
    messages.OFFLOAD_SIZES: loader_pb2.OffloadSizes,
    messages.LINK: loader_pb2.Link,
    messages.CREATE_LINK_REQUEST: loader_pb2.CreateLinkRequest,
    messages.CREATE_LINK_RESPONSE: loader_pb2.CreateLinkResponse,
    messages.DELETE_LINK_REQUEST: loader_pb2.DeleteLinkRequest,
    messages.DELETE_LINK_RESPONSE: loader_pb2.DeleteLinkResponse,
    messages.LIST_LINKS_REQUEST: loader_pb2.ListLinksRequest,
    messages.LIST_LINKS_RESPONSE: loader_pb2.ListLinksResponse,
    messages.ENDPOINT: endpoint_pb2.Endpoint,
    messages.OPTION_SETTING: endpoint_pb2.OptionSetting,
    messages.CREATE_ENDPOINT_REQUEST: endpoint_pb2.CreateEndpointRequest,
    messages.CREATE_ENDPOINT_RESPONSE: endpoint_pb2.CreateEndpointResponse,
    messages.DELETE_ENDPOINT_REQUEST: endpoint_pb2.DeleteEndpointRequest,
    messages.DELETE_ENDPOINT_RESPONSE: endpoint_pb2.DeleteEndpointResponse,
    messages.CHECK_ENDPOINT_REQUEST: endpoint_pb2.CheckEndpointRequest,
    messages.CHECK_ENDPOINT_RESPONSE: endpoint_pb2.CheckEndpointResponse,
    messages.LIST_ENDPOINTS_REQUEST: endpoint_pb2.ListEndpointsRequest,
    messages.LIST_ENDPOINTS_RESPONSE: endpoint_pb2.ListEndpointsResponse,
    messages.HEALTH_REQUEST: health_pb2.HealthCheckRequest,
    messages.HEALTH_RESPONSE: health_pb2.HealthCheckResponse,
    ipammessages.ASSIGNED_ADDRESS: types_pb2.AssignedAddress,
    ipammessages.ALLOCATION: ipam_pb2.Allocation,
    ipammessages.ALLOCATE_REQUEST: ipam_pb2.AllocateAddressesRequest,
    ipammessages.ALLOCATE_RESPONSE: ipam_pb2.AllocateAddressesResponse,
    ipammessages.CONFIRM_REQUEST: ipam_pb2.ConfirmAllocationRequest,
    ipammessages.CONFIRM_RESPONSE: ipam_pb2.ConfirmAllocationResponse,
    ipammessages.RELEASE_REQUEST: ipam_pb2.ReleaseAddressesRequest,
    ipammessages.LIST_ALLOCATIONS_REQUEST: ipam_pb2.ListAllocationsRequest,
    ipammessages.LIST_ALLOCATIONS_RESPONSE: ipam_pb2.ListAllocationsResponse,
    ipammessages.POOL_RANGE: ipam_pb2.PoolRange,
    rpc._ERROR_INFO: error_details_pb2.ErrorInfo,
    rpc._STATUS: status_pb2.Status,
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    wire.TEXT: TEXT,
    wire.BYTES: st.binary(max_size=300),
    wire.FLAG: st.booleans(),
    wire.TEXTS: st.lists(TEXT, max_size=3),
    # protobuf promises no order of map entries; of keys of one length its runtime and the shim have the same.
    wire.TEXT_MAP: st.dictionaries(st.text("abcXYZ019.-/", min_size=5, max_size=5), TEXT, max_size=4),
}


def inner(protobuf: type[Protobuf], name: str) -> type[Protobuf]:
    """Return the class of a message field."""
    made = getattr(protobuf(), name)
    return type(made.add() if hasattr(made, "add") else made)


def number(protobuf: type[Protobuf], name: str) -> st.SearchStrategy[int]:
    """Return numbers that a field takes; enums are open, but negative ones nobody has."""
    field = protobuf.DESCRIPTOR.fields_by_name[name]
    bits = 64 if field.type == field.TYPE_UINT64 else 31 if field.type == field.TYPE_ENUM else 32
    return st.integers(0, (1 << bits) - 1)


def filled(protobuf: type[Protobuf]) -> st.SearchStrategy[bytes]:
    """Return any bytes of a message whose content doesn't matter here: one of its own text or number fields."""
    descriptor = protobuf.DESCRIPTOR.fields[0]
    if descriptor.type == descriptor.TYPE_STRING:
        return TEXT.map(lambda text: protobuf(**{descriptor.name: text}).SerializeToString())
    return st.just(b"")


def values(message: Message, protobuf: type[Protobuf]) -> st.SearchStrategy[dict[str, Any]]:
    """Return dicts of a message type's fields, each of them sometimes absent."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for _, name, kind, *of in message._fields:
        if kind == wire.NUMBER:
            fields[name] = number(protobuf, name)
        elif kind == wire.MESSAGE:
            fields[name] = values(of[0], inner(protobuf, name))
        elif kind == wire.MESSAGES:
            fields[name] = st.lists(values(of[0], inner(protobuf, name)), max_size=3)
        elif kind == wire.RAW:
            fields[name] = filled(inner(protobuf, name))
        elif kind == wire.RAWS:
            fields[name] = st.lists(filled(inner(protobuf, name)), max_size=3)
        else:
            fields[name] = SCALARS[kind]
    return st.fixed_dictionaries({}, optional=fields)


def as_protobuf(message: Message, protobuf: type[Protobuf], given_values: dict[str, Any]) -> Protobuf:
    """Build the same message with protobuf's own classes."""
    arguments: dict[str, Any] = {}
    for _, name, kind, *of in message._fields:
        if name not in given_values:
            continue
        value = given_values[name]
        if kind == wire.MESSAGE:
            value = as_protobuf(of[0], inner(protobuf, name), value)
        elif kind == wire.MESSAGES:
            value = [as_protobuf(of[0], inner(protobuf, name), one) for one in value]
        elif kind == wire.RAW:
            value = inner(protobuf, name).FromString(value)
        elif kind == wire.RAWS:
            value = [inner(protobuf, name).FromString(one) for one in value]
        arguments[name] = value
    return protobuf(**arguments)


def normal(message: Message, decoded: dict[str, Any]) -> dict[str, Any]:
    """Return a decoded message without what is at its default: what `values` would have had to say."""
    kept: dict[str, Any] = {}
    for _, name, kind, *of in message._fields:
        value = decoded[name]
        if kind == wire.MESSAGE and value is not None:
            kept[name] = normal(of[0], value)
        elif kind == wire.MESSAGES and value:
            kept[name] = [normal(of[0], one) for one in value]
        elif value or (kind == wire.RAW and value is not None):
            kept[name] = value
    return kept


def trimmed(message: Message, given_values: dict[str, Any]) -> dict[str, Any]:
    """Return values without those that proto3 doesn't send."""
    kept: dict[str, Any] = {}
    for _, name, kind, *of in message._fields:
        value = given_values.get(name)
        if kind == wire.MESSAGE and value is not None:
            kept[name] = trimmed(of[0], value)
        elif kind == wire.MESSAGES and value:
            kept[name] = [trimmed(of[0], one) for one in value]
        elif value or (kind == wire.RAW and value is not None):
            kept[name] = value
    return kept


@pytest.mark.parametrize("message", PAIRS, ids=lambda message: message.name)
@settings(max_examples=examples(40))
@given(data=st.data())
def test_bytes_are_those_of_protobuf_and_come_back_as_they_were(message: Message, data: st.DataObject):
    protobuf = PAIRS[message]
    chosen = data.draw(values(message, protobuf))

    encoded = message.encode(chosen)

    assert encoded == as_protobuf(message, protobuf, chosen).SerializeToString(deterministic=True)
    assert normal(message, message.decode(encoded)) == trimmed(message, chosen)


@pytest.mark.parametrize("message", PAIRS, ids=lambda message: message.name)
def test_every_field_has_the_number_and_kind_of_the_contract(message: Message):
    fields = PAIRS[message].DESCRIPTOR.fields_by_name
    for field_number, name, kind, *_ in message._fields:
        assert fields[name].number == field_number
        repeated = kind >= wire.TEXTS
        assert fields[name].is_repeated == repeated


def test_every_method_exists_with_its_messages():
    services = {
        file.DESCRIPTOR.package: file.DESCRIPTOR.services_by_name for file in (ipam_pb2, loader_pb2, endpoint_pb2)
    }
    methods = [value for value in vars(messages).values() if isinstance(value, messages.Method)]
    assert len(methods) == 10
    for method in methods:
        package, _, service = method.path.split("/")[1].rpartition(".")
        found = services[package][service].methods_by_name[method.name]
        assert (found.input_type.name, found.output_type.name) == (method.request.name, method.response.name)
        assert package == f"podlane.{method.service}.v1"


@given(st.dictionaries(TEXT, TEXT, max_size=5))
def test_any_labels_arrive(labels: dict[str, str]):
    encoded = messages.CREATE_ENDPOINT_REQUEST.encode({"labels": labels})

    assert dict(endpoint_pb2.CreateEndpointRequest.FromString(encoded).labels) == labels
    assert messages.CREATE_ENDPOINT_REQUEST.decode(encoded)["labels"] == labels


def test_fields_that_a_newer_service_added_are_skipped():
    newer = (
        b"\x92\x03\x03abc"  # 50: bytes
        b"\xa0\x03\xff\x01"  # 52: varint
        b"\xad\x03abcd"  # 53: 32 bits
        b"\xb1\x03abcdefgh"  # 54: 64 bits
    )
    known = messages.ATTACHMENT.encode({"network": "n"})

    assert messages.ATTACHMENT.decode(newer + known + newer)["network"] == "n"


def test_what_one_service_answered_reaches_the_next_with_its_unknown_fields():
    newer = loader_pb2.Link(host_ifname="lxc1").SerializeToString() + b"\x92\x03\x03abc"
    response = messages.CREATE_LINK_RESPONSE.decode(messages.CREATE_LINK_RESPONSE.encode({"link": newer}))

    request = messages.CREATE_ENDPOINT_REQUEST.encode({"link": response["link"]})

    assert newer in request
    assert endpoint_pb2.CreateEndpointRequest.FromString(request).link.host_ifname == "lxc1"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\x0a", "end within a number"),
        (b"\x0a\x05abc", "end within field 1"),
        (b"\x80" * 11, "more than ten bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\x02\xff\xfe", "not UTF-8"),
        (b"\x15ab", "end within field 2"),
    ],
)
def test_damaged_bytes_are_named(data: bytes, named: str):
    with pytest.raises(wire.WireError, match=named):
        messages.ATTACHMENT.decode(data)


@given(st.binary(max_size=60))
def test_any_bytes_either_decode_or_raise_a_wire_error(data: bytes):
    with contextlib.suppress(wire.WireError):
        messages.ALLOCATE_RESPONSE.decode(data)


def test_two_decoded_messages_share_nothing():
    first = messages.LINK_STATUS.decode(b"")
    first["problems"].append("x")

    assert messages.LINK_STATUS.decode(b"")["problems"] == []
