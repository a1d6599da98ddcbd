"""One call of the plugin: whom it is about, which services it may ask, until when, and how long each step took."""

import time

from cni import rpc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.config import Config
    from cni.messages import Method
    from cni.spec import Environment
    from cni.wire import Values

# What a step of a teardown gets even if the call's own time is over.
LEAST_SECONDS = 10.0


class Session:
    """`attachment` as the contract has it; `steps` are (method, milliseconds, outcome) in order."""

    __slots__ = ("_deadline", "_library", "_request_id", "attachment", "config", "environment", "steps")

    def __init__(self, environment: "Environment", config: "Config", library: list[str]) -> None:
        """Start the clock. `library` are the directories where grpcio is found."""
        self.environment = environment
        self.config = config
        self.attachment: Values = {
            "network": config.network,
            "container_id": environment.container_id,
            "ifname": environment.ifname,
        }
        self.steps: list[tuple[str, float, str]] = []
        self._library = library
        self._deadline = time.monotonic() + config.timeout
        # The services write it into their logs.
        self._request_id = f"cni-{environment.verb}-{environment.container_id[:12]}"

    def allow_one_more(self) -> None:
        """Give the next step its least time, whatever the ones before it have used."""
        self._deadline = max(self._deadline, time.monotonic() + LEAST_SECONDS)

    def call(self, method: "Method", values: "Values") -> "Values":
        """Call a service; see rpc.call. Raises rpc.StepFailed."""
        begin = time.monotonic()
        outcome = "ok"
        try:
            response = rpc.call(
                self.config.sockets[method.service],
                method,
                values,
                self._deadline,
                self._request_id,
                library=self._library,
            )
        except rpc.StepFailed as failed:
            outcome = failed.message
            raise
        else:
            if response["detour"]:
                outcome = f"ok, by grpcio: {response['detour']}"
            return response
        finally:
            self.steps.append((method.name, round((time.monotonic() - begin) * 1e3, 3), outcome))
