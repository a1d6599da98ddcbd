"""What a service process leaves out: modules that its libraries import if they can and it never uses.

structlog imports rich for pretty tracebacks, asyncio imports ssl for TLS, hashlib loads OpenSSL for hashes that Python
has itself. Each of these imports is optional in its library ("except ImportError"), and together they are 8 MiB and
50 ms of every service. `shed` must run before the first of those libraries is imported, so only `__main__.py` calls
it. What is lost: nothing here speaks TLS through asyncio; gRPC brings its own.
"""

import sys

_UNUSED = ("rich", "ssl", "_hashlib")


def shed() -> None:
    """Make the unused modules unimportable in this process."""
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # None is how Python spells "not importable"
