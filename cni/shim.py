"""One call of the plugin, from environment and stdin to the JSON on stdout and the exit code.

    environment → stdin → configuration → verb → result or error

Whatever happens ends in what the specification wants: a result and 0, or one error object on stdout and 1. A
traceback is never shown; a bug of the plugin is code 100 with the exception's text. Nothing goes to stderr.

There are two plugins: `podlane`, whose verbs are here, and `podlane-ipam`, whose verbs are in ipam.py.
"""

import posix
import time

from cni import jsontext, spec
from cni.config import Config, parse
from cni.session import Session
from cni.spec import CniError, Environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PLUGIN, IPAM_PLUGIN = "podlane", "podlane-ipam"
STDIN, STDOUT = 0, 1
# A node's worth of valid attachments is some 20 KiB.
LONGEST_STDIN = 8 << 20


def run(library: list[str], plugin: str = PLUGIN) -> int:
    """Do what the environment asks for and return the exit code. `library`: where grpcio is found if it is needed."""
    call = Call(library, plugin)
    try:
        call.run()
    except CniError as error:
        return call.fail(error)
    except BaseException as error:  # noqa: BLE001 - the last resort: a runtime can't read a traceback
        text = f"{type(error).__name__}: {error}"
        return call.fail(CniError(spec.INTERNAL, f"the plugin failed, please report it: {text}", _where(error)))
    return 0


class Call:
    """What is known of the call so far: `version` for whatever has to be answered, the session once there is one."""

    __slots__ = ("_begin", "_library", "_plugin", "_session", "_version")

    def __init__(self, library: list[str], plugin: str) -> None:
        """Start the clock."""
        self._library = library
        self._plugin = plugin
        self._begin = time.monotonic()
        self._version = spec.NEWEST
        self._session: Session | None = None

    def run(self) -> None:
        """Read, check, do, answer. Raises CniError."""
        environment = Environment(posix.environ)
        if environment.verb == "VERSION":
            self._tell_versions()
            return
        document = parse(_read_stdin())
        if document.get("cniVersion") in spec.VERSIONS:
            self._version = document["cniVersion"]
        read: type[Config] = Config
        verbs = VERBS
        if self._plugin == IPAM_PLUGIN:
            from cni import ipam

            read, verbs = ipam.IpamConfig, ipam.VERBS
        self._session = session = Session(environment, read(document, environment.verb), self._library)
        session.began = self._begin
        verbs[environment.verb](session)
        self._log(None)

    def fail(self, error: CniError) -> int:
        """Print an error and return the exit code."""
        told = {"cniVersion": self._version, "code": error.code, "msg": error.message}
        if error.details:
            told["details"] = error.details
        try:  # noqa: SIM105 - importing contextlib costs 3 ms
            _write(told)
        except OSError:
            # Nobody reads it any more; the exit code still tells.
            pass
        self._log(error)
        return 1

    def _log(self, error: CniError | None) -> None:
        if self._session is not None and self._session.config.log_file:
            from cni import log

            log.write(self._session, self._begin, error)

    def _tell_versions(self) -> None:
        # A runtime puts the version it speaks on stdin; a person asks without, and must not be left waiting.
        asked: Any = None
        if not posix.isatty(STDIN):
            try:  # noqa: SIM105 - importing contextlib costs 3 ms
                asked = parse(_read_stdin()).get("cniVersion")
            except CniError:
                pass
        version = asked if asked in spec.VERSIONS else spec.NEWEST
        _write({"cniVersion": version, "supportedVersions": list(spec.VERSIONS)})


def _add(session: Session) -> None:
    from cni.add import Addition
    from cni.config import LinkConfig, chains

    document = session.config.document
    if chains(document):
        from cni.chain import ChainConfig, Chained

        behind = ChainConfig(document, session.environment)
        _finish_deletion(session, addresses=False)
        chained = Chained(session)
        perform(lambda: chained.follow(behind), chained.undo)
    else:
        asked = LinkConfig(document, session.environment)
        _finish_deletion(session)
        addition = Addition(session)
        perform(lambda: addition.run(asked), addition.undo)


def _finish_deletion(session: Session, *, addresses: bool = True) -> None:
    """Carry out what DEL has journalled of the same attachment; `addresses` False: they are another plugin's."""
    if session.is_journalled():
        from cni import journal

        journal.before_add(session, addresses=addresses)


def perform(work: "Callable[[], dict[str, Any]]", undo: "Callable[[], list[CniError]]") -> None:
    """Do what an ADD asks for and print the result; when either fails, undo it and raise the first error."""
    try:
        _answer(work())
    except BaseException as error:
        undone = undo()
        if isinstance(error, CniError) and undone:
            from cni.teardown import told

            error.details = f"{error.details}; undoing it failed too: {told(undone)}".removeprefix("; ")
        raise


def _delete(session: Session) -> None:
    from cni.delete import delete

    delete(session)


def _check(session: Session) -> None:
    from cni.check import check

    check(session)


def _status(session: Session) -> None:
    from cni.config import text
    from cni.status import status

    status(session, text(session.config.document, "pool"))


def _collect(session: Session) -> None:
    from cni.gc import collect

    collect(session)


VERBS = {"ADD": _add, "DEL": _delete, "CHECK": _check, "STATUS": _status, "GC": _collect}


def _read_stdin() -> bytes:
    chunks = []
    size = 0
    try:
        while chunk := posix.read(STDIN, 65536):
            chunks.append(chunk)
            size += len(chunk)
            if size > LONGEST_STDIN:
                raise CniError(spec.DECODE_FAILURE, f"stdin: more than {LONGEST_STDIN} bytes of configuration")
    except OSError as error:
        raise CniError(spec.IO_FAILURE, f"stdin can't be read: {error.strerror}") from None
    return b"".join(chunks)


def _answer(result: "dict[str, Any]") -> None:
    try:
        _write(result)
    except OSError as error:
        raise CniError(spec.IO_FAILURE, f"stdout: the result can't be written: {error.strerror}") from None


def _write(value: "dict[str, Any]") -> None:
    """Print one JSON object. Raises OSError."""
    rest = jsontext.dumps(value).encode() + b"\n"
    while rest:
        rest = rest[posix.write(STDOUT, rest) :]


def _where(error: BaseException) -> str:
    """Return file and line where an unforeseen exception was raised."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}" if step is not None else ""
