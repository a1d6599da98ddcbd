"""Logs: structlog, JSON lines unless a person is watching, one canonical line per RPC (written by `edge.py`).

What is bound to the context (request id, attachment) appears on every line of that call.
"""

import json
import logging
import sys

import structlog

from services.common.errors import InvalidArgument

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(service: str, level: str, style: str) -> None:
    """Set up logging to stderr for this process.

    `level` is debug, info, warning or error; `style` is json, console or auto. Raises InvalidArgument.
    """
    if level not in _LEVELS:
        raise InvalidArgument(f"log_level: {level!r} is none of {', '.join(_LEVELS)}", key="log_level")
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
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module, named in each line."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return bound
