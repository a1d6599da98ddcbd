"""How long this call has taken so far, for whoever asks `podlane endpoint why-slow`.

Times are those of CLOCK_MONOTONIC, in microseconds: the services' processes have the same clock, so what each of them
measures can be put together. When this process began, the kernel tells in hundredths of a second; its own CPU time says
how long ago that was at least, and the later of the two is taken: it may have been up to 10 ms earlier, never later.
"""

import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.messages import Method
    from cni.session import Session
    from cni.wire import Values

# proc_pid_stat(5): `starttime` is field 22, the 20th behind the name in parentheses, in ticks since the machine booted.
# Asking sysconf for their number would cost 20 us, and it is this one on all machines that podlane is for.
STARTTIME, TICKS_PER_SECOND = 19, 100
# A W3C traceparent.
LONGEST_CONTEXT = 55


class Stopwatch:
    """Measures the steps of one ADD. `addition` is what CreateEndpoint is told of them."""

    __slots__ = ("_began", "_session", "addition")

    def __init__(self, session: "Session") -> None:
        """Take what is over: the interpreter's start."""
        self._session = session
        self._began = began = process_began()
        self.addition: Values = {"began_us": int(began * 1e6), "started_us": int((session.began - began) * 1e6)}
        context = session.environment.variables.get(b"TRACEPARENT")
        if context:
            self.addition["traceparent"] = context[:LONGEST_CONTEXT].decode("ascii", "ignore")

    def call(self, step: str, method: "Method", request: "Values") -> "Values":
        """Call a service, as `session.call` does, and measure it. `step` is `addresses` or `link`."""
        begin = time.monotonic()
        answer = self._session.call(method, request)
        addition = self.addition
        addition[f"{step}_at_us"] = int((begin - self._began) * 1e6)
        addition[f"{step}_us"] = int((time.monotonic() - begin) * 1e6)
        addition["link" if step == "link" else "ipam"] = answer["phases"]
        return answer


def process_began() -> float:
    """Return when this process began, as time.monotonic() would have said it."""
    ago = time.process_time()
    try:
        fd = posix.open("/proc/self/stat", posix.O_RDONLY)
        try:
            text = posix.read(fd, 1024)
        finally:
            posix.close(fd)
        ticks = int(text[text.rindex(b")") + 2 :].split()[STARTTIME])
        ago = max(ago, time.clock_gettime(time.CLOCK_BOOTTIME) - (ticks + 1) / TICKS_PER_SECOND)
    except (OSError, ValueError, IndexError):
        # Without /proc its CPU time is all there is to go by.
        pass
    return time.monotonic() - ago
