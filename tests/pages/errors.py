"""docs/errors.md: every class of error, what it is to gRPC, to the command and to a runtime, and what to do."""

import inspect
import textwrap

import grpc

from cli import exits
from cni import rpc, spec
from services.common import edge, errors
from tests.pages.parts import DOCS, prose, table

PAGE = DOCS / "errors.md"

# What a person does. A test holds that every class is here.
ADVICE: dict[type[errors.PodlaneError], str] = {
    errors.InvalidArgument: """Correct what the message names, in the request, the network configuration or
        podlane.toml; repeating it as it is never helps.""",
    errors.NotFound: "Look at what there is (`podlane endpoint list`, `podlane ipam list`); a DEL takes it for done.",
    errors.AlreadyExists: "Look who has it (the message says who), and remove that one or choose another.",
    errors.FailedPrecondition: """Do first what the message says. Where a program was refused it names the file with
        clang's or the verifier's words; what ran before still runs.""",
    errors.Exhausted: """Look at the numbers in the message: a pool needs ranges, a map another size or fewer rules
        ([metrics.md](metrics.md): `podlane_bpf_map_pressure`). Many pods that start at once are only to be waited
        for.""",
    errors.Unavailable: """`podlane node status`: start the service, or look into the log it names. Then the same
        request works; runtimes repeat it by themselves.""",
    errors.DeadlineExceeded: """Repeat it: all calls may be repeated. When it happens again, `podlane endpoint list`
        shows who waits, `podlane controllers --failing` what fails.""",
    errors.Internal: "A bug: the service's log has the incident's id and the traceback. Please report both.",
    errors.CorruptState: """Keep the file that the message names, move it away, and start again; a newer podlane's file
        needs that podlane.""",
}

_ABOVE = """
Every error of podlane is one sentence that says what failed, on which object, with which numbers, and what to do.
There are nine kinds. Written by `make docs` from `services/common/errors.py`, the tables of `services/common/edge.py`
and the plugin; a test fails when it isn't.

Over gRPC each comes with a `google.rpc.ErrorInfo`: `reason` is the kind, `domain` is `podlane`, `metadata` has the
facts of the sentence. The command prints the sentence on stderr. The plugin prints it as a CNI error object, whose
code is, as a rule, the one of this table; the next one has all of that.
"""
_ANSWERS = """
"No" means that nothing has happened: the runtime may repeat the call. After "yes" the plugin undoes the step.
"""


def classes() -> list[type[errors.PodlaneError]]:
    """Return the classes of errors in the order of their source, the base aside."""
    found = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.PodlaneError)]
    return [one for one in found if one is not errors.PodlaneError]


def cni_code(status: grpc.StatusCode) -> int:
    """Return the code that a runtime sees when a service answers with a status."""
    return rpc.CNI_CODES.get(status.value[0], spec.SERVICE_FAILURE)


def _rows() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind in classes():
        status = edge.CODES[kind]
        first = (kind.__doc__ or "").split("\n\n")[0]
        codes = (f"`{status.name}`", str(exits.code(kind(""))), str(cni_code(status)))
        rows.append((f"`{kind.__name__}`", first, *codes, ADVICE[kind]))
    return rows


def _block(document: str | None, begin: str) -> list[str]:
    """Return the lines of a docstring's table that begins with a word, up to an empty line, without indentation."""
    lines = inspect.cleandoc(document or "").splitlines()
    first = next(index for index, line in enumerate(lines) if line.strip().startswith(begin))
    last = next((index for index, line in enumerate(lines) if index > first and not line.strip()), len(lines))
    return ["```", *(line.removeprefix("    ") for line in lines[first:last]), "```"]


def page() -> str:
    """Return docs/errors.md."""
    titles = ("kind", "meaning", "gRPC", "`podlane` exits with", "CNI code", "what to do")
    lines = ["# Errors", "", *prose(_ABOVE), "", *table(titles, _rows())]
    lines += ["", "## Exit codes of the command", "", "```", *textwrap.dedent(exits.table()).splitlines(), "```"]
    lines += ["", "## What the plugin makes of a service's answer", ""]
    lines += [*_block(rpc.__doc__, "gRPC "), "", *prose(_ANSWERS)]
    lines += ["", "## CNI codes", "", *_block(spec.__doc__, "code ")]
    return "\n".join([*lines, ""])
