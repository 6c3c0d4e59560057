"""The event loop that a sidecar runs on.

Rule: uvloop's, which moves the same bytes in less time (docs/adr/0016); asyncio's own where there is no uvloop, as on
Windows. Nothing else of the sidecar knows which one it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

_new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):
    import uvloop

    _new_event_loop = uvloop.new_event_loop


def run(job: Coroutine[Any, Any, None]) -> None:
    """Run ``job`` until it ends."""
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(job)
