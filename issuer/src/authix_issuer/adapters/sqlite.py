"""SQLite as an engine: one writer thread with group commit.

Rule: every write is a step in a transaction of the one writer thread; steps that wait together share one commit, and a
step's answer is given only after its commit is on disk (WAL, ``synchronous=FULL``). Reads have a thread of their own.
What was done together is told together, because to wake the event loop takes longer than a read. Nothing of SQLite ever
runs on the event loop's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
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
_Job = tuple[Step[Any], "asyncio.Future[Any]"]
_Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]


class _Lane:
    """A thread with a connection of its own. What waits for it together is run together, by ``run``."""

    def __init__(self, name: str, run: Callable[[sqlite3.Connection, list[_Job]], list[_Answer]]) -> None:
        self._name = name
        self._run = run
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()

    async def open(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Raises what ``connect`` raises, in the thread."""
        self._loop = asyncio.get_running_loop()
        opened = self._loop.create_future()
        self._thread = Thread(target=self._work, args=(connect, opened), name=self._name, daemon=True)
        self._thread.start()
        await opened

    async def ask(self, step: Step[T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((step, future))
        return await future

    async def close(self) -> None:
        """Returns when all that waits is done."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self, connect: Callable[[], sqlite3.Connection], opened: asyncio.Future[None]) -> None:
        try:
            connection = connect()
        except (sqlite3.Error, OSError, SettingsError) as error:
            self._tell([(opened, None, error)])
            return
        self._tell([(opened, None, None)])
        while (batch := self._next_batch()) is not None:
            try:
                answers = self._run(connection, batch)
            except Exception as error:  # noqa: BLE001 - without this thread nobody would ever be answered again
                answers = [(future, None, error) for _, future in batch]
            self._tell(answers)
        connection.close()

    def _tell(self, answers: list[_Answer]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and whoever asked with it
            self._loop.call_soon_threadsafe(_give, answers)

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


def _give(answers: list[_Answer]) -> None:
    for future, result, failure in answers:
        if future.done():  # whoever asked has gone away
            continue
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)


class Database:
    """One SQLite file, or ``:memory:``. ``schema`` is what each release has added; a file gets the steps it lacks."""

    def __init__(self, path: str, schema: Sequence[str]) -> None:
        self._path = path
        self._schema = schema
        self._writer = _Lane("sqlite-write", _commit)
        # a database in memory has but one connection
        self._reader = self._writer if path == MEMORY else _Lane("sqlite-read", _look)

    async def __aenter__(self) -> Self:
        """Raises ``SettingsError`` when the file can't be opened."""
        try:
            await self._writer.open(partial(self._connect, self._schema))
            if self._reader is not self._writer:
                await self._reader.open(self._connect)
        except (sqlite3.Error, OSError) as error:
            raise SettingsError(
                f"The database {self._path} can't be opened ({error}): mend AUTHIX_DATA_DIR or the store's URL."
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._writer.close()
        if self._reader is not self._writer:
            await self._reader.close()

    async def write(self, step: Step[T]) -> T:
        """Run ``step`` in a transaction; returns once it is durable. Raises ``StoreUnavailable``."""
        return await self._writer.ask(step)

    async def read(self, step: Step[T]) -> T:
        """Run ``step`` on what is committed. Raises ``StoreUnavailable``."""
        return await self._reader.ask(step)

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


def _commit(connection: sqlite3.Connection, batch: list[_Job]) -> list[_Answer]:
    """Run the batch in one transaction, a savepoint a job."""
    answers: list[_Answer] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for step, future in batch:
            answers.append((future, *_run(connection, step)))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):  # the next batch will tell
            connection.rollback()
        return [(future, None, _translated(error)) for _, future in batch]
    return answers


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


def _look(connection: sqlite3.Connection, batch: list[_Job]) -> list[_Answer]:
    """Run the batch outside of any transaction."""
    answers: list[_Answer] = []
    for step, future in batch:
        try:
            answers.append((future, step(connection), None))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to whoever asked
            answers.append((future, None, _translated(error)))
    return answers


def _translated(error: Exception) -> Exception:
    return StoreUnavailable(f"the database failed: {error}", "sqlite") if isinstance(error, sqlite3.Error) else error
