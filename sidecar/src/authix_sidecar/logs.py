"""Logs: readable on a console or one JSON object a line, on standard error.

Rule: a line says what happened and to what, never with a token; a request's line has its path without the query.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from authix import log_level
from authix.access_log import AccessLog, console_line, json_line

ACCESS = "authix.sidecar.access"


def set_up(form: str, level: str = "info") -> AccessLog:
    """Send all logging from ``level`` on to standard error, as ``console`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(json_line if form == "json" else console_line))
    root = logging.getLogger()
    root.handlers = [handler]
    # a Kafka client repeats each second that a broker is away; the feed says it once, and with what follows from it
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    log_level.use(level)
    return AccessLog(form, sys.stderr.buffer, ACCESS)


class _Formatter(logging.Formatter):
    def __init__(self, render: Callable[[float, str, str, str, dict[str, Any]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        more = {"request_id": record.request_id} if hasattr(record, "request_id") else {}
        if record.exc_info:
            more["exception"] = self.formatException(record.exc_info)
        return self._render(record.created, record.levelname.lower(), record.name, record.getMessage(), more)
