"""What a service process leaves out: modules that its libraries import if they can and it never uses.

structlog imports rich for pretty tracebacks, asyncio imports ssl for TLS, hashlib loads OpenSSL for hashes that Python
has itself. Each of these imports is optional in its library ("except ImportError"), and together they are 8 MiB and
50 ms of every service. What is lost: nothing here speaks TLS through asyncio; gRPC brings its own.

prometheus_client as a package imports its HTTP servers and with them ssl, 4 MiB that it can't do without. Its modules
stand alone: `metrics.py` imports the ones that count, from a package whose own first file was never run.

protobuf imports its implementation in Python beside the one in C (upb) that is used: half of its import's time and
1.4 MiB. It refers to that module only where it is the implementation.

gRPC's core writes lines of its own on stderr for each handshake that fails, once a second while a certificate is wrong.
What they say is in the error that the call raises, and that is said once.

gRPC's core has two ways of waiting for sockets. The newer one, its default, hands each event to a pool of threads of
its own; the older one waits in the thread that wakes asyncio anyhow. A call over a Unix socket is 12 % less CPU and
half the context switches with that (1.55 instead of 1.8 ms for both ends of an empty call, on a slow machine). Both are
in the library, chosen by the names of experiments; a release that doesn't know these ignores them.

`shed` must run before the first of those libraries is imported, so a process calls it first of all.
"""

import importlib.util
import os
import sys
from types import ModuleType

from google.protobuf.internal import api_implementation

_UNUSED = ("rich", "ssl", "_hashlib")
_HOLLOW = ("prometheus_client",)
EXPERIMENTS = "-event_engine_client,-event_engine_listener"
"""The older way for both ends."""
_SPARE = "google.protobuf.internal.python_message"


def shed() -> None:
    """Make the unused modules unimportable in this process, and the hollow packages nothing but their modules."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # None is how Python spells "not importable"
    for name in _HOLLOW:
        spec = importlib.util.find_spec(name)
        if spec is not None:
            sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    if api_implementation.Type() != "python":
        sys.modules.setdefault(_SPARE, ModuleType(_SPARE))
