"""Several worker processes behind one listening socket.

Rule: a worker that dies, however it dies, is replaced; one signal to this process ends them all, gracefully; and no
worker outlives this process. Workers share nothing but the socket, so a dead one can't have kept anything locked.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

logger = logging.getLogger("authix.issuer.workers")

Work = Callable[[socket.socket], None]
"""What a worker does: serve until SIGTERM. It must be importable, since each worker is a fresh interpreter."""

_QUICK = 5.0  # seconds; a worker that ends sooner hardly served
_TOO_MANY_QUICK = 5
_LOOK_EVERY = 0.2
_KILL_AFTER = 20.0


class Workers:
    def __init__(self, work: Work, listener: socket.socket, count: int) -> None:
        self._work = work
        self._listener = listener
        self._count = count
        self._running: dict[SpawnProcess, float] = {}
        self._stopping = threading.Event()

    def run(self) -> int:
        """Run until SIGINT or SIGTERM; returns the exit code, 1 when workers could not be kept running."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        quick = 0
        while not self._stopping.is_set():
            while len(self._running) < self._count:
                self._start()
            wait([process.sentinel for process in self._running], timeout=_LOOK_EVERY)
            for process in self._ended():
                quick = quick + 1 if time.monotonic() - self._running.pop(process) < _QUICK else 0
                if self._stopping.is_set():
                    continue
                logger.error("worker %s ended with exit code %s; starting another", process.pid, process.exitcode)
                if quick >= _TOO_MANY_QUICK:
                    logger.critical("workers end as soon as they start; giving up")
                    self._end_all()
                    return 1
        self._end_all()
        return 0

    def _start(self) -> None:
        process = multiprocessing.get_context("spawn").Process(target=self._work, args=(self._listener,))
        process.start()
        self._running[process] = time.monotonic()

    def _ended(self) -> list[SpawnProcess]:
        return [process for process in self._running if not process.is_alive()]

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _end_all(self) -> None:
        for process in self._running:
            process.terminate()
        end = time.monotonic() + _KILL_AFTER
        for process in self._running:
            process.join(max(0, end - time.monotonic()))
            if process.is_alive():
                logger.warning("worker %s did not end in time and is killed", process.pid)
                process.kill()
                process.join()


def end_with_parent() -> None:
    """In a worker, within its loop: take the parent's death, of which nothing else would tell, for a SIGTERM."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.remove_reader(parent.sentinel)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(parent.sentinel, end)
