"""Between messages about probes and values. As messages.py."""

from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.loader import model
from services.loader.event import WITH_PORTS
from services.loader.probe import Outcome
from services.loader.probepacket import Probe


def read_probe(message: pb.ProbeEndpointRequest) -> tuple[Probe, model.Direction]:
    """Return the packet to ask about, and its direction."""
    source = wire.read_address(message.source, "source")
    destination = wire.read_address(message.destination, "destination")
    if source.version != destination.version:
        raise InvalidArgument(
            f"destination: {destination} is not of the family of the source {source}", field="destination"
        )
    for name, largest in (("protocol", 0xFF), ("port", 0xFFFF)):
        if getattr(message, name) > largest:
            raise InvalidArgument(f"{name}: {getattr(message, name)} is more than {largest}", field=name)
    if message.port and message.protocol not in WITH_PORTS:
        raise InvalidArgument(f"port: protocol {message.protocol} has none", field="port")
    return Probe(source, destination, message.protocol, message.port), _direction(message)


def _direction(message: pb.ProbeEndpointRequest) -> model.Direction:
    try:
        direction = model.Direction(message.direction)
    except ValueError:
        raise InvalidArgument("direction: ingress or egress is needed", field="direction") from None
    if message.forwarded and direction is model.Direction.EGRESS:
        raise InvalidArgument("forwarded: what the endpoint sends was not forwarded before", field="forwarded")
    return direction


def write_outcome(outcome: Outcome) -> pb.ProbeEndpointResponse:
    """Return the message of what the programs did."""
    return pb.ProbeEndpointResponse(
        passed=outcome.passed,
        endpoint_id=outcome.endpoint_id,
        direction=pb.TrafficDirection.ValueType(outcome.direction),
        reason=outcome.reason,
        source=outcome.place,
        source_identity=outcome.source_identity,
        destination_identity=outcome.destination_identity,
    )
