"""What a client takes of an answer, as its system acknowledges it.

Rule: what this machine's system holds is not yet taken. So it is given little at once, and is asked what has arrived
where it tells that (Linux); elsewhere all that it took over counts as taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys

UNSENT = 128 * 1024
"""Bytes that the system takes over for a client before it can send them. By itself it takes megabytes, and no more
until a third of them is gone: what waits here would not move for minutes though a slow client reads all the time."""
# not every system has these
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_INFO = struct.Struct("=24xI92xQ16xI")
"""Of Linux's ``tcp_info``: segments not acknowledged, bytes acknowledged, bytes not sent."""


def limit_unsent(transport: asyncio.BaseTransport) -> None:
    """Have the system take over no more than ``UNSENT``."""
    sock = transport.get_extra_info("socket")
    if sock is not None and _NOTSENT_LOWAT is not None:
        with contextlib.suppress(OSError):  # a Unix socket does not have it
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT)


def taken_of(transport: asyncio.Transport) -> tuple[int, bool]:
    """A number that grows by the bytes that the other side takes, and whether any are left that it has not."""
    waiting = transport.get_write_buffer_size()
    taken, left = -waiting, waiting > 0
    sock = transport.get_extra_info("socket")
    if sock is not None and _TCP_INFO is not None:
        with contextlib.suppress(OSError, struct.error):  # on a Unix socket, or by an old Linux
            unacknowledged, acknowledged, unsent = _INFO.unpack(
                sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size)
            )
            taken += acknowledged
            if not transport.can_write_eof():  # over TLS more waits where it can't be seen, behind what is on its way
                left = left or unacknowledged > 0 or unsent > 0
    return taken, left
