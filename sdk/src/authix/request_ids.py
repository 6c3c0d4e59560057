"""The id under which a request is found in the logs of all that took part in it: for Authix's own programs.

Rule: the ``X-Request-Id`` that came is taken where it is one short plain word, so that it forges no line of a log and
no token hides in it; else the id of the trace that ``traceparent`` names (W3C Trace Context, level 1); else there is
none yet, and whoever asks makes one.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Sequence
from typing import Final

HEADER: Final = "X-Request-Id"
_PROCESS = secrets.token_hex(10)
_count = itertools.count(1)
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,64}")
# All zeros is no id, ff is no version; a later version than 00 may have more behind
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def accepted(ids: Sequence[str], traceparents: Sequence[str]) -> str:
    """The id to take from all fields of these two names; empty where one has to be made."""
    if len(ids) == 1 and _SAFE.fullmatch(ids[0]):
        return ids[0]
    return trace_id(traceparents)


def new_id() -> str:
    """One that no other process has, and that takes no time to make."""
    return f"{_PROCESS}{next(_count):012x}"


def trace_id(traceparents: Sequence[str]) -> str:
    """The id of the trace that the fields name; empty unless there is exactly one and it is well-formed."""
    match = _TRACEPARENT.fullmatch(traceparents[0]) if len(traceparents) == 1 else None
    if match is None or (match[1] == "00" and match[3] is not None):
        return ""
    return match[2]
