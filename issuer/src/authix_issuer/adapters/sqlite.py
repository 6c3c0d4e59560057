"""SQLite as an engine: one writer thread with group commit.

Rule: every write is a step in a transaction of the one writer thread; steps that wait together share one commit, and a
step's answer is given only after its commit is on disk (WAL, ``synchronous=FULL``). Reads have a thread of their own.
Nothing of SQLite ever runs on the event loop's time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from authix.errors import SettingsError
from authix_issuer.errors import StoreUnavailable
from authix_issuer.findings import Finding, judge
from authix_issuer.lanes import Answer, Job, Lane, Step, one_by_one

T = TypeVar("T")

MEMORY = ":memory:"
_MAX_BATCH = 512
_NEWER = "was written by a newer Authix: run that one, or restore a backup from before the upgrade."
_MEND = "mend AUTHIX_DATA_DIR or the store's URL."
_Step = Step[sqlite3.Connection, T]
_Job = Job[sqlite3.Connection]


class Database:
    """One SQLite file, or ``:memory:``. ``schema`` is what each release has added; a file gets the steps it lacks."""

    def __init__(self, path: str, schema: Sequence[str]) -> None:
        self._path = path
        self._schema = schema
        self._writer = Lane("sqlite-write", _commit, most=_MAX_BATCH)
        # a database in memory has but one connection
        self._reader = self._writer if path == MEMORY else Lane("sqlite-read", _look, most=_MAX_BATCH)

    async def __aenter__(self) -> Self:
        """Raises ``SettingsError`` when the file can't be opened."""
        try:
            await self._writer.start(partial(self._connect, self._schema), sqlite3.Connection.close)
            if self._reader is not self._writer:
                await self._reader.start(self._connect, sqlite3.Connection.close)
        except (sqlite3.Error, OSError) as error:
            raise SettingsError(f"The database {self._path} can't be opened ({error}): {_MEND}") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._writer.close()
        if self._reader is not self._writer:
            await self._reader.close()

    async def write(self, step: _Step[T]) -> T:
        """Run ``step`` in a transaction; returns once it is durable. Raises ``StoreUnavailable``."""
        return await self._writer.ask(step)

    async def read(self, step: _Step[T]) -> T:
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


def examine_sqlite(subject: str, path: str, schema: Sequence[str]) -> Finding:
    """What a start would say of the file at ``path``, which is neither made nor changed."""
    wrong = "" if path == MEMORY else _problem(Path(path), schema)
    return judge(subject, not wrong, path, wrong)


def _problem(path: Path, schema: Sequence[str]) -> str:
    """Why the file can't be opened or made; empty if it can."""
    try:
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder} is no folder that can be written: {_MEND}"
        if not path.exists():
            return ""
        if not path.is_file():
            return f"{path} can't be opened (it is no file): {_MEND}"
        if not os.access(path, os.R_OK | os.W_OK):
            return f"{path} can't be read and written: {_MEND}"
        return f"{path} {_NEWER}" if _steps_taken(path) > len(schema) else ""
    except (sqlite3.Error, OSError) as error:
        return f"{path} can't be opened ({error}): {_MEND}"


def _steps_taken(path: Path) -> int:
    """The file's ``user_version``. Raises ``sqlite3.Error`` if it is no database."""
    # Even a reader would make the side files that are not there; without them the file holds all that was committed.
    sides = all(path.with_name(f"{path.name}{end}").exists() for end in ("-wal", "-shm"))
    url = f"{path.absolute().as_uri()}?mode=ro{'' if sides else '&immutable=1'}"
    with contextlib.closing(sqlite3.connect(url, uri=True)) as connection:
        taken: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return taken


def _bring_up_to_date(connection: sqlite3.Connection, schema: Sequence[str]) -> None:
    """Take the steps that the file lacks; ``user_version`` counts those it has. All or none, whoever else opens it."""
    connection.execute("BEGIN IMMEDIATE")
    taken: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if taken > len(schema):
        raise SettingsError(f"The database {_NEWER}")
    for step in schema[taken:]:
        for statement in step.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(schema)}")
    connection.execute("COMMIT")


def _commit(connection: sqlite3.Connection, batch: list[_Job]) -> list[Answer]:
    """Run the batch in one transaction, a savepoint a job."""
    answers: list[Answer] = []
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


def _run(connection: sqlite3.Connection, step: _Step[T]) -> tuple[T | None, Exception | None]:
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


def _look(connection: sqlite3.Connection, batch: list[_Job]) -> list[Answer]:
    """Run the batch outside of any transaction."""
    answers = one_by_one(connection, batch)
    return [(future, answer, failure and _translated(failure)) for future, answer, failure in answers]


def _translated(error: Exception) -> Exception:
    return StoreUnavailable(f"the database failed: {error}", "sqlite") if isinstance(error, sqlite3.Error) else error
