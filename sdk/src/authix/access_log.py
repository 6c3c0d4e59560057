"""The line of each request in a program's log, and the two forms of any line: for Authix's own programs.

Rule: a request's line passes by ``logging``, whose machinery costs as much as a whole request, and is written together
with others, at most 50 ms late. Its path is one that may be told: no query, nothing that a client made up as a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import lru_cache
from typing import Any, BinaryIO

import msgspec

LATE = 0.05
"""Seconds that a request's line may wait for others."""

_encoder = msgspec.json.Encoder()
_Request = tuple[float, str, str, int, float, str, str]
"""What ``tell`` was told, and when."""


class AccessLog:
    """One line of level info for each request, in the name of ``logger``; ``form`` is ``console`` or ``json``."""

    def __init__(self, form: str, output: BinaryIO, logger: str) -> None:
        self._json = form == "json"
        self._output = output
        self._logger = logging.getLogger(logger)
        self._told: list[_Request] = []

    def tell(self, method: str, path: str, status: int, seconds: float, code: str, *, request_id: str) -> None:
        if not self._logger.isEnabledFor(logging.INFO):
            return
        if not self._told:
            asyncio.get_running_loop().call_later(LATE, self.flush)
        self._told.append((time.time(), method, path, status, seconds, code, request_id))

    def flush(self) -> None:
        told, self._told = self._told, []
        with contextlib.suppress(OSError):  # a log that nobody takes is no reason to fail a request
            self._output.write("".join([f"{self._line(request)}\n" for request in told]).encode())
            self._output.flush()

    def _line(self, told: _Request) -> str:
        created, method, path, status, seconds, code, request_id = told
        ms, name = round(seconds * 1000, 1), self._logger.name
        if not self._json:
            event = f"{method} {path} {status} {ms} ms {code}"
            return console_line(created, "info", name, event, {"request_id": request_id})
        more = {"request_id": request_id, "method": method, "path": path, "status": status, "ms": ms, "code": code}
        return json_line(created, "info", name, "request", more)


def console_line(created: float, level: str, logger: str, event: str, more: dict[str, Any]) -> str:
    """A line to read; ``more`` may have a ``request_id`` and an ``exception``."""
    named = f" request_id={more['request_id']}" if "request_id" in more else ""
    trace = f"\n{more['exception']}" if "exception" in more else ""
    return f"{_timestamp(created)} [{level:<9}] {event} [{logger}]{named}{trace}"


def json_line(created: float, level: str, logger: str, event: str, more: dict[str, Any]) -> str:
    """A line as one JSON object."""
    line = {"timestamp": _timestamp(created), "level": level, "logger": logger, "event": event, **more}
    return _encoder.encode(line).decode()


def _timestamp(created: float) -> str:
    whole = int(created)
    return f"{_second(whole)}.{int((created - whole) * 1_000_000):06}Z"


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
