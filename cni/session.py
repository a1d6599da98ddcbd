"""One call of the plugin: whom it is about, which services it may ask, until when, and how long each step took."""

import posix
import time

from cni import rpc
from cni.spec import IO_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.config import Config
    from cni.messages import Method
    from cni.spec import Environment
    from cni.wire import Values

# What a step of a teardown gets even if the call's own time is over.
LEAST_SECONDS = 10.0
# A file's name has 255 bytes (NAME_MAX), and these are characters, 15 of which may take more than a byte.
LONGEST_NAME = 180


class Session:
    """`attachment` as the contract has it; `steps` are (method, milliseconds, outcome) in order; `began`: when the
    plugin's own code did, by time.monotonic().
    """

    __slots__ = ("_deadline", "_library", "attachment", "began", "config", "environment", "request_id", "steps")

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
        self.began = time.monotonic()
        self._deadline = time.monotonic() + config.timeout
        # The services write it into their logs.
        self.request_id = f"cni-{environment.verb}-{environment.container_id[:12]}"

    def allow_one_more(self) -> None:
        """Give the next step its least time, whatever the ones before it have used."""
        self._deadline = max(self._deadline, time.monotonic() + LEAST_SECONDS)

    def allow(self, seconds: float) -> None:
        """Let the next step take so long, whatever the call's own time is."""
        self._deadline = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Return the time that is left, negative when it is over."""
        return self._deadline - time.monotonic()

    @property
    def entry(self) -> str:
        """Where a deletion of the attachment is journalled by this plugin."""
        return self.entry_of(self.attachment, addresses_only=self.config.addresses_only)

    def entry_of(self, attachment: "Values", *, addresses_only: bool = False) -> str:
        """Return the path of an attachment's entry in the deletion journal (journal.py).

        `~` is in no network's and no container's name, `/` in no interface's, and a network's name is never empty.
        """
        name = f"{attachment['network']}~{attachment['container_id']}~{attachment['ifname']}"
        if len(name) > LONGEST_NAME:
            import hashlib

            name = f"long~{hashlib.sha256(name.encode()).hexdigest()}"
        return f"{self.config.journal}/{'~' if addresses_only else ''}{name}.json"

    def is_journalled(self, entry: str = "") -> bool:
        """Return whether an entry is in the journal, by default this plugin's of the attachment.

        Raises CniError when that can't be told.
        """
        path = entry or self.entry
        try:
            posix.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise CniError(IO_FAILURE, f"journalDir: {path} can't be looked at: {error.strerror}") from None
        return True

    def note(self, step: str, begin: float, outcome: str) -> None:
        """Write a step that began at `begin` (time.monotonic()) down for the log."""
        self.steps.append((step, round((time.monotonic() - begin) * 1e3, 3), outcome))

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
                self.request_id,
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
            self.note(method.name, begin, outcome)
