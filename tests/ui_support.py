"""`podlane ui` as a process, for tests and pictures of the page."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def served(config_file: Path, *, before: Sequence[str] = (), listen: str = "127.0.0.1:0") -> Iterator[str]:
    """Run `podlane ui` and give its address; end it with Ctrl-C. `before` is put before the command."""
    argv = [*before, sys.executable, "-m", "cli", "--config", str(config_file), "ui", "--listen", listen]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"is shown on (\S+);", said)
        assert found is not None, said + process.stderr.read()
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=20)
        assert (process.returncode, rest.strip()) == (130, ""), (process.returncode, rest)
