"""Logs: readable on a console or one JSON object a line.

Rule: a line says what happened and to what, never with a password, a token, a cookie or a key. What is bound to the
context, such as the id of the request, stands in every line.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

import structlog

from authix import log_level
from authix.access_log import AccessLog
from authix.errors import SettingsError

ACCESS = "authix.issuer.access"
request_id: ContextVar[str] = ContextVar("authix_request_id", default="")
"""Of the request for whose sake something is done."""


def set_up(form: str, level: str = "info") -> AccessLog:
    """Send all logging from ``level`` on to standard error, as ``console`` or ``json``."""
    shared: list[structlog.typing.Processor] = [
        _name_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    log_level.use(level)
    # PyMongo at debug tells whole documents, hashes of passwords among them.
    for name in ("httpx", "httpcore", "pymongo", "sanic.root", "sanic.server"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It says each second that a broker is away; the relay and the feed say it once, and with what follows from it.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("sanic.error").addFilter(_not_told)
    return AccessLog(form, sys.stderr.buffer, ACCESS)


def _name_request(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if name := request_id.get():
        event.setdefault("request_id", name)
    return event


def _not_told(record: logging.LogRecord) -> bool:
    """A wrong setting is told by the command line in one sentence; Sanic's stack trace of it would bury that."""
    return record.exc_info is None or not isinstance(record.exc_info[1], SettingsError)
