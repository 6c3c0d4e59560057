"""Logs: readable on a console or one JSON object a line, on standard error.

Rule: a line says what happened and to what, never with a token; a request's line has its path without the query.
Requests' lines pass by ``logging``, whose machinery costs as much as a whole request, and are written together, at most
50 ms late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO

import msgspec

from authix import log_level
from authix.log_level import LEVELS

ACCESS = "authix.sidecar.access"
LATE = 0.05
"""Seconds that a request's line may wait for others."""

_encoder = msgspec.json.Encoder()


class AccessLog:
    """One line for each request."""

    def __init__(self, form: str, output: BinaryIO) -> None:
        self._json = form == "json"
        self._output = output
        self._lines: list[str] = []
        self._wanted = True

    def use_level(self, level: str) -> None:
        """Let nothing below ``level`` into any log; a request's line is of level info."""
        self._wanted = LEVELS.index(level) <= LEVELS.index("info")
        log_level.use(level)

    def tell(self, method: str, path: str, status: int, seconds: float, code: str, *, request_id: str) -> None:
        if not self._wanted:
            return
        ms = round(seconds * 1000, 1)
        more: dict[str, Any] = {"request_id": request_id}
        if self._json:
            more |= {"method": method, "path": path, "status": status, "ms": ms, "code": code}
            line = _json(time.time(), "info", ACCESS, "request", more)
        else:
            line = _console(time.time(), "info", ACCESS, f"{method} {path} {status} {ms} ms {code}", more)
        if not self._lines:
            asyncio.get_running_loop().call_later(LATE, self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        with contextlib.suppress(OSError):  # a log that nobody takes is no reason to fail a request
            self._output.write("".join(f"{line}\n" for line in lines).encode())
            self._output.flush()


def set_up(form: str, level: str = "info") -> AccessLog:
    """Send all logging from ``level`` on to standard error, as ``console`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(_json if form == "json" else _console))
    root = logging.getLogger()
    root.handlers = [handler]
    # a Kafka client repeats each second that a broker is away; the feed says it once, and with what follows from it
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    access = AccessLog(form, sys.stderr.buffer)
    access.use_level(level)
    return access


class _Formatter(logging.Formatter):
    def __init__(self, render: Callable[[float, str, str, str, dict[str, Any]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        more = {"request_id": record.request_id} if hasattr(record, "request_id") else {}
        if record.exc_info:
            more["exception"] = self.formatException(record.exc_info)
        return self._render(record.created, record.levelname.lower(), record.name, record.getMessage(), more)


def _console(created: float, level: str, logger: str, event: str, more: dict[str, Any]) -> str:
    named = f" request_id={more['request_id']}" if "request_id" in more else ""
    trace = f"\n{more['exception']}" if "exception" in more else ""
    return f"{_timestamp(created)} [{level:<9}] {event} [{logger}]{named}{trace}"


def _json(created: float, level: str, logger: str, event: str, more: dict[str, Any]) -> str:
    line = {"timestamp": _timestamp(created), "level": level, "logger": logger, "event": event, **more}
    return _encoder.encode(line).decode()


def _timestamp(created: float) -> str:
    whole = int(created)
    return f"{_second(whole)}.{int((created - whole) * 1_000_000):06}Z"


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
