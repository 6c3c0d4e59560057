"""An ``Authix`` that runs in a thread of its own, with an event loop of its own.

Rule: one life begins and ends in one process. Whoever waits for it waits in another thread than its own, and for a
bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from authix.claims import Claims
from authix.errors import KeyUnknown, NotReady
from authix.runtime import Authix
from authix.streams import Cut, Stream

PATIENCE = 5.0
"""Seconds for which ``authenticate`` waits for a verifier that has just been started."""
_LOOK_EVERY = 0.01
_FETCH_WITHIN = 6.0  # the key source's own deadline comes first
_STOP_WITHIN = 10.0


class Life:
    """An ``Authix`` in one process and the thread it runs in."""

    def __init__(self, auth: Authix) -> None:
        self.auth = auth
        self.began = time.monotonic()
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def ours(self) -> bool:
        """Whether it began in this process; not every server that forks tells Python (uWSGI does not)."""
        return self._process == os.getpid()

    @property
    def running(self) -> bool:
        return self.ours and self.auth.running

    def begin(self) -> None:
        if self.auth.begin_stood_in():
            return
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=[started], name="authix", daemon=True)
        self._thread.start()
        started.result()

    def end(self) -> None:
        if self._loop is None or self._ending is None or self._thread is None:
            self.auth.end_stood_in()
            return
        with contextlib.suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._ending.set)
        if not self._within():
            self._thread.join(_STOP_WITHIN)

    def wait_ready(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while problems := self.auth.problems():
            if time.monotonic() > end:
                raise NotReady(f"not ready: {', '.join(problems)}")
            time.sleep(_LOOK_EVERY)

    def wait_out(self, error: NotReady | KeyUnknown) -> bool:
        """Wait for what may do away with ``error``. False: nothing will, or not soon."""
        if self._loop is None or self._within():
            return False
        if isinstance(error, KeyUnknown):
            if not self._refetch_keys(self._loop):
                return False
        else:
            left = self.began + PATIENCE - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(NotReady):  # said by what follows
                self.wait_ready(left)
        self.auth.decisions[error.code] -= 1  # a token is judged once, if only at the second try
        return True

    def watch(self, claims: Claims, cut: Cut) -> Callable[[], None]:
        """Have ``cut`` called when the token dies; returns what ends that.

        It is set in the loop that hears of logouts, so none can come in between.
        """
        streams, loop = self.auth.streams, self._loop
        if loop is None or self._within():
            return partial(streams.remove, streams.add(claims, cut))

        async def add() -> Stream:
            return streams.add(claims, cut)

        stream = asyncio.run_coroutine_threadsafe(add(), loop).result()

        def remove() -> None:
            with contextlib.suppress(RuntimeError):  # its loop has ended, and all streams with it
                loop.call_soon_threadsafe(streams.remove, stream)

        return remove

    def _refetch_keys(self, loop: asyncio.AbstractEventLoop) -> bool:
        asking = asyncio.run_coroutine_threadsafe(self.auth.refetch_keys(), loop)
        try:
            return asking.result(_FETCH_WITHIN)
        except TimeoutError:
            asking.cancel()
            return False

    def _within(self) -> bool:
        """Whether it is asked from its own thread: by a listener, or by a garbage collection there."""
        return threading.current_thread() is self._thread

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._live(started))
        except Exception as error:  # noqa: BLE001 - told to whoever started it
            if not started.done():
                started.set_exception(error)

    async def _live(self, started: Future[None]) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        async with self.auth:
            started.set_result(None)
            await self._ending.wait()
