"""Where the installed `podlane` begins and ends: before the first import and after the last line.

A command lives for a tenth of a second, most of it imports. Looking for garbage among modules that are being loaded is
a tenth of that, and taking the interpreter apart at the end a fifth: neither is of use to who is about to end.
What is left to do then is done by hand: what was printed is written out.
"""

import gc
import os
import sys
from typing import NoReturn

# More objects than the imports make; a command that stays (`monitor`, `--watch`) does collect.
_OBJECTS = 200_000


def run() -> NoReturn:
    """Be the command."""
    gc.set_threshold(_OBJECTS)
    from cli.main import main

    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 141
    os._exit(code)
