"""SQLite as an engine: one writer thread with group commit.

Rule: every write is a step in a transaction of the one writer thread; steps that wait together share one commit, and a
step's answer is given only after its commit is on disk (WAL, ``synchronous=FULL``). Reads have a thread of their own.
Nothing of SQLite ever runs on the event loop's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

from authix.errors import SettingsError
from authix_issuer.errors import StoreUnavailable

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

MEMORY = ":memory:"
_MAX_BATCH = 512
_Job = tuple[Step[Any], "Future[Any]"]


class Database:
    """One SQLite file, or ``:memory:``. ``schema`` is what each release has added; a file gets the steps it lacks."""

    def __init__(self, path: str, schema: Sequence[str]) -> None:
        self._path = path
        self._schema = schema
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="sqlite-read")
        self._reading: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        """Raises ``SettingsError`` when the file can't be opened."""
        opened: Future[None] = Future()
        self._writer = Thread(target=self._write_for_ever, args=(opened,), name="sqlite-write", daemon=True)
        self._writer.start()
        try:
            await asyncio.wrap_future(opened)
            if self._path != MEMORY:
                self._reading = await asyncio.wrap_future(self._reader.submit(self._connect))
        except (sqlite3.Error, OSError) as error:
            raise SettingsError(
                f"The database {self._path} can't be opened ({error}): mend AUTHIX_DATA_DIR or the store's URL."
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        if self._reading is not None:
            await asyncio.wrap_future(self._reader.submit(self._reading.close))
        self._reader.shutdown()

    async def write(self, step: Step[T]) -> T:
        """Run ``step`` in a transaction; returns once it is durable. Raises ``StoreUnavailable``."""
        future: Future[T] = Future()
        self._jobs.put((step, future))
        return await asyncio.wrap_future(future)

    async def read(self, step: Step[T]) -> T:
        """Run ``step`` on what is committed. Raises ``StoreUnavailable``."""
        connection = self._reading
        if connection is None:  # a database in memory has but one connection
            return await self.write(step)
        return await asyncio.wrap_future(self._reader.submit(_guarded, step, connection))

    async def check(self) -> None:
        """Return when the file can be locked for writing. Raises ``StoreUnavailable``."""
        await self.write(lambda connection: connection.execute("SELECT 1").fetchone())

    def _connect(self, schema: Sequence[str] = ()) -> sqlite3.Connection:
        if self._path != MEMORY:
            path = Path(self._path)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # SQLite would let others read it; its side files take the mode from it
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            if schema:
                _bring_up_to_date(connection, schema)
        except (sqlite3.Error, SettingsError):
            connection.close()
            raise
        return connection

    def _write_for_ever(self, opened: Future[None]) -> None:
        try:
            connection = self._connect(self._schema)
        except (sqlite3.Error, OSError, SettingsError) as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        while (batch := self._next_batch()) is not None:
            _commit(connection, batch)
        connection.close()

    def _next_batch(self) -> list[_Job] | None:
        """All jobs that wait, at least one; None after the last."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            try:
                job = self._jobs.get_nowait() if len(batch) < _MAX_BATCH else None
            except Empty:
                return batch
            if job is None and len(batch) < _MAX_BATCH:
                self._jobs.put(None)
        return batch or None


def _bring_up_to_date(connection: sqlite3.Connection, schema: Sequence[str]) -> None:
    """Take the steps that the file lacks; ``user_version`` counts those it has. All or none, whoever else opens it."""
    connection.execute("BEGIN IMMEDIATE")
    taken: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if taken > len(schema):
        raise SettingsError(
            "The database was written by a newer Authix: run that one, or restore a backup from before the upgrade."
        )
    for step in schema[taken:]:
        for statement in step.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(schema)}")
    connection.execute("COMMIT")


def _commit(connection: sqlite3.Connection, batch: list[_Job]) -> None:
    """Run the batch in one transaction, a savepoint a job, and only then give the answers."""
    answers: list[tuple[Future[Any], Any, BaseException | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for step, future in batch:
            answers.append((future, *_run(connection, step)))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):  # the next batch will tell
            connection.rollback()
        answers = [(future, None, _translated(error)) for _, future in batch]
    for future, result, failure in answers:
        if future.set_running_or_notify_cancel():
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)


def _run(connection: sqlite3.Connection, step: Step[T]) -> tuple[T | None, Exception | None]:
    """The step's answer or its failure, which undoes this step alone."""
    connection.execute("SAVEPOINT step")
    try:
        answer, failure = step(connection), None
    except Exception as error:
        if not connection.in_transaction:  # on a full disk SQLite itself gives up the whole transaction
            raise
        connection.execute("ROLLBACK TO step")
        answer, failure = None, _translated(error)
    connection.execute("RELEASE step")
    return answer, failure


def _guarded(step: Step[T], connection: sqlite3.Connection) -> T:
    try:
        return step(connection)
    except sqlite3.Error as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    return StoreUnavailable(f"the database failed: {error}", "sqlite") if isinstance(error, sqlite3.Error) else error
