"""Threads that work for the event loop.

Rule: jobs are begun in the order in which they came, by whichever thread of a lane is free. What a thread did together
is told together, because to wake the event loop takes longer than a short job.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")
Step = Callable[[S], T]
Job = tuple[Step[S, Any], "asyncio.Future[Any]"]
Answer = tuple["asyncio.Future[Any]", Any, Exception | None]


class Lane(Generic[S]):
    """Threads, each with something of its own, such as a connection. ``most`` jobs are done together, by ``run``."""

    def __init__(
        self, name: str, run: Callable[[S, list[Job[S]]], list[Answer]], *, threads: int = 1, most: int = 1
    ) -> None:
        self._name = name
        self._run = run
        self._most = most
        self._number = threads
        self._threads: list[Thread] = []
        self._jobs: SimpleQueue[Job[S] | None] = SimpleQueue()

    async def start(self, begin: Callable[[], S], end: Callable[[S], object] = lambda _: None) -> None:
        """Have each thread ``begin`` with what it needs, and ``end`` with it. Raises what ``begin`` raises."""
        self._loop = asyncio.get_running_loop()
        for number in range(self._number):
            begun = self._loop.create_future()
            name = f"{self._name}-{number}" if self._number > 1 else self._name
            thread = Thread(target=self._work, args=(begin, end, begun), name=name, daemon=True)
            thread.start()
            await begun
            self._threads.append(thread)

    async def ask(self, step: Step[S, T]) -> T:
        """What ``step`` returns or raises."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((step, future))
        return await future

    async def close(self) -> None:
        """Returns when all that waits is done."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self, begin: Callable[[], S], end: Callable[[S], object], begun: asyncio.Future[None]) -> None:
        try:
            own = begin()
        except Exception as error:  # noqa: BLE001 - it is told to whoever starts the lane
            self._tell([(begun, None, error)])
            return
        self._tell([(begun, None, None)])
        while (batch := self._next_batch()) is not None:
            try:
                answers = self._run(own, batch)
            except Exception as error:  # noqa: BLE001 - without this thread nobody would ever be answered again
                answers = [(future, None, error) for _, future in batch]
            self._tell(answers)
        end(own)

    def _tell(self, answers: list[Answer]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and whoever asked with it
            self._loop.call_soon_threadsafe(_give, answers)

    def _next_batch(self) -> list[Job[S]] | None:
        """Jobs that wait, at least one; None after the last."""
        batch: list[Job[S]] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == self._most:
                return batch
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch
            if job is None:
                self._jobs.put(None)
        return batch or None


def one_by_one(own: S, batch: list[Job[S]]) -> list[Answer]:
    """Do these jobs but those whose askers have gone away."""
    return [(future, *_outcome(step, own)) for step, future in batch if not future.cancelled()]


def _outcome(step: Step[S, T], own: S) -> tuple[T | None, Exception | None]:
    try:
        return step(own), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told to whoever asked
        return None, error


def _give(answers: list[Answer]) -> None:
    for future, result, failure in answers:
        if future.done():  # whoever asked has gone away
            continue
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)
