"""One line of JSON per call, appended to `logFile`. Without that key nothing is written anywhere.

    {"time": …, "verb": "ADD", "attachment": {…}, "ms": 5.1, "steps": [["CreateLink", 1.2, "ok"], …], "code": 0, …}

`logLevel` error writes only the calls that failed, debug adds environment and configuration. A log that can't be
written never fails a call: a pod's network is worth more.
"""

import posix
import time

from cni import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.session import Session
    from cni.spec import CniError


def write(session: "Session", begin: float, error: "CniError | None") -> None:
    """Append the line of a call that began at `begin` (time.monotonic())."""
    level, path = session.config.log_level, session.config.log_file
    if level == "error" and error is None:
        return
    line = {
        "time": round(time.time(), 3),
        "verb": session.environment.verb,
        "attachment": session.attachment,
        "ms": round((time.monotonic() - begin) * 1e3, 3),
        "steps": session.steps,
        "code": error.code if error else 0,
        "msg": error.message if error else "",
    }
    if level == "debug":
        variables = {key.decode("utf-8", "replace"): value for key, value in session.environment.variables.items()}
        line["environment"] = {
            key: value.decode("utf-8", "replace") for key, value in variables.items() if key.startswith("CNI_")
        }
        line["config"] = session.config.document
    try:
        # One write to a file opened for appending: lines of concurrent calls don't mix.
        file = posix.open(path, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC, 0o640)
        try:
            posix.write(file, jsontext.dumps(line).encode() + b"\n")
        finally:
            posix.close(file)
    except OSError:
        return
