"""LogService: from which level on this process writes, changed while it runs. `edge.Server` has every service answer it
beside its own.
"""

from typing import Any

import grpc
from podlane.common.v1 import log_pb2 as pb
from podlane.common.v1 import log_pb2_grpc

from services.common import telemetry
from services.common.errors import InvalidArgument

NAME = pb.DESCRIPTOR.services_by_name["LogService"].full_name
QUIET = frozenset({"GetLevel"})

_LEVELS = {
    "debug": pb.LOG_LEVEL_DEBUG,
    "info": pb.LOG_LEVEL_INFO,
    "warning": pb.LOG_LEVEL_WARNING,
    "error": pb.LOG_LEVEL_ERROR,
}
_NAMES = {number: name for name, number in _LEVELS.items()}
_log = telemetry.logger("log")


def register(server: grpc.aio.Server) -> None:
    """Serve the level of this process."""
    log_pb2_grpc.add_LogServiceServicer_to_server(LogServicer(), server)


class LogServicer(log_pb2_grpc.LogServiceServicer):
    """The RPCs of log.proto. The level is the process's, so there is nothing to hold."""

    async def GetLevel(  # noqa: N802 - the name that grpc calls
        self, _request: pb.GetLevelRequest, _context: Any
    ) -> pb.GetLevelResponse:
        """Show the level."""
        return pb.GetLevelResponse(level=_LEVELS[telemetry.level()], configured=_LEVELS[telemetry.configured_level()])

    async def SetLevel(  # noqa: N802 - the name that grpc calls
        self, request: pb.SetLevelRequest, _context: Any
    ) -> pb.SetLevelResponse:
        """Change the level, and say so in the log as far as either level lets that be said."""
        name = _NAMES.get(request.level)
        if name is None:
            raise InvalidArgument(f"level: {request.level} is none of {', '.join(_LEVELS)}", field="level")
        before = telemetry.level()
        telemetry.set_level(min(before, name, key=telemetry.LEVELS.__getitem__))
        _log.warning("log level", before=before, now=name, until="the process ends")
        telemetry.set_level(name)
        return pb.SetLevelResponse(before=_LEVELS[before])
