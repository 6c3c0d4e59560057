"""What an operator sees of decisions: a log line for a refusal, attributes of the current OpenTelemetry span.

Rule: a code and the subject (a random id, not a name), never the token. OpenTelemetry is told only where its API is
installed, and decides by itself whether a span is recorded.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from authix.claims import Claims
from authix.errors import AuthixError

ACCEPTED = "accepted"
"""Stands among the codes of errors for a token that was good."""

logger = logging.getLogger("authix.decisions")

_trace: Any = None
try:
    _trace = import_module("opentelemetry.trace")
except ModuleNotFoundError:
    logger.debug("OpenTelemetry is not installed")


def accepted(claims: Claims) -> None:
    """Tell that a request was let through."""
    # https://opentelemetry.io/docs/specs/semconv/registry/attributes/enduser/
    _tell_span({"authix.decision": ACCEPTED, "enduser.pseudo.id": claims.subject})


def refused(error: AuthixError) -> None:
    """Tell that a request was refused, and why."""
    logger.info("refused: %s (%s)", error.code, error.reason)
    _tell_span({"authix.decision": error.code})


def _tell_span(attributes: dict[str, str]) -> None:
    if _trace is not None and (span := _trace.get_current_span()).is_recording():
        span.set_attributes(attributes)
