"""ControllerService: what the registry knows, as messages. Every service answers it beside its own.

A `build()` lists `NAME` among its server's names, calls `register`, and logs the methods of `QUIET` quietly.
"""

import asyncio
import math
from typing import Any

import grpc
from podlane.common.v1 import controllers_pb2 as pb
from podlane.common.v1 import controllers_pb2_grpc

from services.common import wire
from services.common.controller import Controller
from services.common.controller_status import Outcome, Result
from services.common.controllers import Registry
from services.common.errors import NotFound

NAME = pb.DESCRIPTOR.services_by_name["ControllerService"].full_name
QUIET = frozenset({"ListControllers"})

_RESULTS = {
    Result.SUCCESS: pb.CONTROLLER_RESULT_SUCCESS,
    Result.FAILURE: pb.CONTROLLER_RESULT_FAILURE,
    Result.CANCELLED: pb.CONTROLLER_RESULT_CANCELLED,
}
# Controllers that are written before other calls get their turn.
_CHUNK = 100


def register(registry: Registry, server: grpc.aio.Server) -> None:
    """Serve a process's controllers."""
    controllers_pb2_grpc.add_ControllerServiceServicer_to_server(ControllerServicer(registry), server)


class ControllerServicer(controllers_pb2_grpc.ControllerServiceServicer):
    """The RPCs of controllers.proto."""

    def __init__(self, registry: Registry) -> None:
        """Serve what `registry` holds."""
        self._registry = registry

    async def ListControllers(  # noqa: N802 - the name that grpc calls
        self, request: pb.ListControllersRequest, _context: Any
    ) -> pb.ListControllersResponse:
        """Show the controllers that are asked for."""
        response = pb.ListControllersResponse()
        for number, controller in enumerate(tuple(self._registry), 1):
            if _wanted(controller, request):
                response.controllers.append(_write(controller, outcomes=request.outcomes))
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        return response

    async def TriggerController(  # noqa: N802 - the name that grpc calls
        self, request: pb.TriggerControllerRequest, _context: Any
    ) -> pb.TriggerControllerResponse:
        """Run a controller now."""
        controller = self._registry.find(request.resource, request.name)
        if controller is None:
            raise NotFound(
                f"there is no controller {request.name!r} of {request.resource!r} (ListControllers shows all)",
                resource=request.resource,
                name=request.name,
            )
        controller.trigger()
        return pb.TriggerControllerResponse()


def _wanted(controller: Controller, request: pb.ListControllersRequest) -> bool:
    return (
        request.resource in {"", controller.resource}
        and request.name in {"", controller.name}
        and (not request.failing or controller.failing or controller.hanging)
    )


def _write(controller: Controller, *, outcomes: bool) -> pb.Controller:
    return pb.Controller(
        resource=controller.resource,
        name=controller.name,
        uuid=controller.uuid,
        state=_state(controller),
        configuration=_write_configuration(controller),
        status=_write_status(controller),
        outcomes=map(_write_outcome, controller.status.history) if outcomes else (),
    )


def _state(controller: Controller) -> pb.ControllerState.ValueType:
    if controller.hanging:
        return pb.CONTROLLER_STATE_HANGING
    if controller.failing:
        return pb.CONTROLLER_STATE_FAILING
    return pb.CONTROLLER_STATE_RUNNING if controller.running_since else pb.CONTROLLER_STATE_OK


def _write_configuration(controller: Controller) -> pb.ControllerConfiguration:
    parameters = controller.parameters
    return pb.ControllerConfiguration(
        group=controller.group,
        interval_ms=_milliseconds(parameters.interval),
        interval_jitter_ms=_milliseconds(parameters.interval * parameters.interval_jitter),
        retry=parameters.retry,
        retry_base_ms=_milliseconds(parameters.retry_base),
        retry_cap_ms=_milliseconds(parameters.retry_cap),
        cancel_on_update=parameters.cancel_on_update,
        stop_function=parameters.stop is not None,
        alarm_ms=_milliseconds(parameters.alarm) if parameters.alarm != math.inf else 0,
    )


def _write_status(controller: Controller) -> pb.ControllerStatus:
    status = controller.status
    times = {
        "last_success": status.last_success,
        "last_failure": status.last_failure,
        "running_since": controller.running_since,
        "next_run": controller.next_run,
    }
    return pb.ControllerStatus(
        success_count=status.successes,
        failure_count=status.failures,
        consecutive_failure_count=status.consecutive_failures,
        last_error=status.last_error,
        last_duration_us=round(status.last_duration * 1e6),
        coalesced_count=status.coalesced,
        **{name: wire.write_time(time) for name, time in times.items() if time},
    )


def _write_outcome(outcome: Outcome) -> pb.ControllerOutcome:
    return pb.ControllerOutcome(
        result=_RESULTS[outcome.result],
        finished=wire.write_time(outcome.finished),
        duration_us=round(outcome.duration * 1e6),
        error=outcome.error,
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1e3)
