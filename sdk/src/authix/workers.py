"""Several worker processes of one program: for Authix's own programs, no part of what a service uses.

Rule: a worker that dies, however it dies, is replaced; one signal to this process ends them all, gracefully, and a
second one hurries them; no worker outlives this process. Workers share nothing that a dead one could have kept locked.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import NamedTuple

logger = logging.getLogger("authix.workers")

Work = Callable[[int], None]
"""What a worker does, given its number from 1 on: serve until SIGTERM. It must be importable, since each worker is a
fresh interpreter."""

_QUICK = 5.0  # seconds; a worker that ends sooner hardly served
_TOO_MANY_QUICK = 5
_LOOK_EVERY = 0.2
_KILL_AFTER = 20.0


class _Worker(NamedTuple):
    number: int
    began: float

    @property
    def is_quick(self) -> bool:
        return time.monotonic() - self.began < _QUICK


class Workers:
    def __init__(
        self,
        work: Work,
        count: int,
        *,
        pass_on: Collection[signal.Signals] = (),
        look: Callable[[], None] = lambda: None,
        ending: Callable[[], None] = lambda: None,
        kill_after: float = _KILL_AFTER,
    ) -> None:
        """``pass_on``: the signals that every worker is given too; it unblocks them when it is ready to take them.

        ``look`` is called a few times a second, ``ending`` once before the workers are told to end, ``kill_after``
        seconds from which on they have no more time.
        """
        self._work = work
        self._count = count
        self._pass_on = pass_on
        self._look = look
        self._ending = ending
        self._kill_after = kill_after
        self._running: dict[SpawnProcess, _Worker] = {}
        self._stopping = threading.Event()

    def run(self) -> int:
        """Run until SIGINT or SIGTERM; returns the exit code, 1 when workers could not be kept running."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        for number in self._pass_on:
            signal.signal(number, self._pass)
        quick, wait_until = 0, 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= wait_until:
                for missing in set(range(1, self._count + 1)) - {worker.number for worker in self._running.values()}:
                    self._start(missing)
            wait([process.sentinel for process in self._running], timeout=_LOOK_EVERY)
            self._look()
            for process in self._ended():
                quick = quick + 1 if self._running.pop(process).is_quick else 0
                if self._stopping.is_set():
                    continue
                logger.error("worker %s ended with exit code %s; starting another", process.pid, process.exitcode)
                if quick >= _TOO_MANY_QUICK:
                    if all(worker.is_quick for worker in self._running.values()):
                        logger.critical("workers end as soon as they start; giving up")
                        self._end_all()
                        return 1
                    wait_until = time.monotonic() + _QUICK  # the others serve
        self._end_all()
        return 0

    def _start(self, number: int) -> None:
        process = multiprocessing.get_context("spawn").Process(target=self._work, args=(number,))
        # one that comes before the worker can take it waits, as a child begins with its parent's mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._pass_on)
        try:
            process.start()
            self._running[process] = _Worker(number, time.monotonic())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _ended(self) -> list[SpawnProcess]:
        return [process for process in self._running if not process.is_alive()]

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            for process in tuple(self._running):
                process.terminate()
        self._stopping.set()

    def _pass(self, number: int, _frame: FrameType | None) -> None:
        for process in tuple(self._running):
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def _end_all(self) -> None:
        self._ending()
        for process in self._running:
            process.terminate()
        end = time.monotonic() + self._kill_after
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
