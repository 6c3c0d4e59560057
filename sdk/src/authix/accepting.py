"""What has connected when a program ends: for Authix's own programs.

Rule: whoever has connected is accepted before the port is closed, because to the client it is a connection like any
other, and its request would be lost. uvloop accepts one connection each turn of the event loop.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Iterable
from typing import Final

WITHIN: Final = 0.5
"""Seconds after which those that still come are left to others."""
_TURNS = 4
"""Of the event loop, until a protocol has heard of its connection."""


async def accept_all(listeners: Iterable[socket.socket]) -> None:
    """Let the event loop accept all that wait at ``listeners``, which it serves."""
    waiting, end = select.poll(), time.monotonic() + WITHIN
    for listener in listeners:
        if listener.fileno() >= 0:  # it is not closed yet
            waiting.register(listener, select.POLLIN)
    while waiting.poll(0) and time.monotonic() < end:
        await asyncio.sleep(0)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
