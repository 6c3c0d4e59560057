"""The end of one direction of a connection.

Rule: the other direction goes on, except over TLS, which has no half. A peer may have reset the connection a moment
ago without this being known here yet; then there is nothing left to end gently.
"""

from __future__ import annotations

import asyncio


def write_end(transport: asyncio.Transport) -> None:
    """Send nothing more through ``transport``."""
    if not transport.can_write_eof():
        transport.close()
        return
    try:
        transport.write_eof()
    except OSError:  # asyncio passes on that the socket is no longer connected
        transport.abort()
