"""Logs: structlog, JSON lines unless a person is watching, one canonical line per RPC (written by `edge.py`).

What is bound to the context (request id, attachment) appears on every line of that call.

The level can be changed while the process runs (`set_level`; `LogService` does it from outside). structlog makes a
class for each level, in which the methods below it do nothing, and a logger keeps its class for good. So all loggers
are of one class here, `_Logger`, and a change of the level gives that class another base: a line that isn't written
costs what it did before, one call of an empty function, and no line asks which level it is.
"""

import json
import logging
import sys

import structlog

from services.common.errors import InvalidArgument

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
"""The levels by name, from the one that says most."""

# Any class that isn't `object` will do as the first base: Python exchanges bases of one layout only.
_Logger = type("_Logger", (structlog.make_filtering_bound_logger(logging.INFO),), {})


class _Levels:
    """Of the process: what is in force, and what it began with."""

    now = configured = "info"


def configure(service: str, level: str, style: str) -> None:
    """Set up logging to stderr for this process.

    `level` is debug, info, warning or error; `style` is json, console or auto. Raises InvalidArgument.
    """
    if level not in LEVELS:
        raise InvalidArgument(f"log_level: {level!r} is none of {', '.join(LEVELS)}", key="log_level")
    if style not in {"auto", "json", "console"}:
        raise InvalidArgument(f"log_format: {style!r} is none of auto, json, console", key="log_format")
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    # json.dumps with options makes an encoder per line: a fifth of what a line costs.
    encoder = json.JSONEncoder(default=str)
    renderer = (
        structlog.dev.ConsoleRenderer()
        if console
        else structlog.processors.JSONRenderer(serializer=lambda event, **_: encoder.encode(event))
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=_Logger,
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    _Levels.configured = level
    set_level(level)


def level() -> str:
    """Return the name of the level from which on this process writes."""
    return _Levels.now


def configured_level() -> str:
    """Return the level that the process began with."""
    return _Levels.configured


def set_level(name: str) -> str:
    """Write from another level on, in all of the process, at once; return the one before.

    Raises InvalidArgument: there is no such level.
    """
    if name not in LEVELS:
        raise InvalidArgument(f"level: {name!r} is none of {', '.join(LEVELS)}", field="level")
    _Logger.__bases__ = (structlog.make_filtering_bound_logger(LEVELS[name]),)
    before, _Levels.now = _Levels.now, name
    return before


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module, named in each line."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return bound


def request_id() -> str:
    """Return the id of the call that is being worked for, empty when it is none."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
