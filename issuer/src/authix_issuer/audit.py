"""The audit log: who did what to which account, session or key, when, from where, and what came of it.

Rule: one event is one JSON object on one line, appended by one write, so that processes that share a file interleave
whole lines. It holds ids, never a secret and never an email address. A log that can't be written stops the start. One
that fails later (a full disk, a pipe that nobody reads) stops nothing: else whoever fills the disk could keep a stolen
session from being logged out and a lost key from being revoked. The loss is told once as an error, counted, and put on
record when it is over.
"""

# ruff: noqa: S105 - names of events
from __future__ import annotations

import errno
import logging
import os
import select
import sys
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from authix.errors import SettingsError

logger = logging.getLogger("authix.issuer")

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
"""Of commands, whose answer is what goes to standard output."""
OFF: Final = "off"
OK: Final = "ok"
"""The outcome of what was done; of what was refused it is the error's code."""
_STREAMS = {STDOUT: 1, STDERR: 2}
_PATIENCE = 200  # milliseconds for a reader that is slow for a moment; the issuer stands still for as long
_LONGEST = 256  # characters of a text; a whole line stays below PIPE_BUF, so that writers to one pipe keep apart too


class Event(StrEnum):
    """Everything that is put on record; docs/audit.md says when each is."""

    USER_REGISTERED = "user.registered"
    USER_DELETED = "user.deleted"
    LOGIN = "login"
    LOGOUT = "logout"
    SESSION_ENDED = "session.ended"
    SESSION_DISPLACED = "session.displaced"
    SESSION_REUSED = "session.reused"
    TOKEN_REVOKED = "token.revoked"
    PASSWORD_CHANGED = "password.changed"
    EMAIL_CHANGED = "email.changed"
    ADMIN_REFUSED = "admin.refused"
    ADMIN_USER_CREATED = "admin.user.created"
    ADMIN_USER_DISABLED = "admin.user.disabled"
    ADMIN_USER_ENABLED = "admin.user.enabled"
    ADMIN_USER_DELETED = "admin.user.deleted"
    ADMIN_USER_LOGGED_OUT = "admin.user.logged_out"
    ADMIN_PASSWORD_SET = "admin.password.set"
    ADMIN_ROLES_SET = "admin.roles.set"
    ADMIN_CLAIMS_SET = "admin.claims.set"
    ADMIN_SESSION_ENDED = "admin.session.ended"
    KEY_ADDED = "key.added"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    SECRET_ROTATED = "secret.rotated"
    AUDIT_RESUMED = "audit.resumed"


class Caller(NamedTuple):
    """Who asks, as far as the connection tells. It may be written as it came: the log cuts and cleans it."""

    address: str = ""
    agent: str = ""
    """The User-Agent."""
    actor: str = ""
    """Who acts, where it is not the subject itself: an administrator's id, or ``cli``."""
    request_id: str = ""
    """That of the request, where there is one."""


NOBODY: Final = Caller()


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    time: datetime
    event: Event
    outcome: str
    subject: str
    session: str
    actor: str
    address: str
    agent: str
    request_id: str
    details: dict[str, str | int]


class Audit:
    """The log at ``target``: ``stdout``, ``stderr``, ``off``, or a file's path, which may be rotated by renaming it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._descriptor = -1
        self._file: os.stat_result | None = None
        """What the descriptor is open at; None where it is no file that may be moved."""
        self._torn = False
        self.lost = 0
        """Lines that are lost since it can't be written."""
        self.counts: Counter[tuple[str, ...]] = Counter()
        """What was put on record, written or not, by event, outcome and the scope of what ends sessions."""

    def __enter__(self) -> Self:
        """Open it. Raises ``SettingsError`` when it can't be written."""
        if self._target == STDOUT and sys.stdout is None:  # its number then belongs to the next file that was opened
            raise SettingsError("AUTHIX_AUDIT=stdout can't be written, for it is closed: name a file, or off.")
        try:
            if self._target in _STREAMS:
                self._descriptor = os.dup(_STREAMS[self._target])
            elif self._target != OFF:
                self._descriptor, self._file = _open(self._target)
        except OSError as error:
            raise SettingsError(
                f"AUTHIX_AUDIT={self._target} can't be written ({error.strerror}): name a file that can, stdout or off."
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def record(
        self,
        event: Event,
        outcome: str,
        caller: Caller,
        *,
        subject: str = "",
        session: str = "",
        **details: str | int,
    ) -> None:
        """Put an event on record; ``outcome`` is ``ok`` or an error's code. A failure is logged and never raised."""
        self.counts[event.value, outcome, str(details.get("scope", ""))] += 1
        if self._target == OFF:
            return
        try:
            if self.lost:
                self._write(_entry(Event.AUDIT_RESUMED, OK, Caller(), details={"lost": self.lost}))
                logger.warning("the audit log is written again; %d of its lines are lost", self.lost)
                self.lost = 0
            self._write(_entry(event, outcome, caller, subject=subject, session=session, details=details))
        except OSError as problem:
            if not self.lost:
                logger.error("the audit log can't be written (%s); lines are lost until it can", problem.strerror)  # noqa: TRY400 - the reason is all that its trace would tell
            self.lost += 1

    def _write(self, entry: _Entry) -> None:
        if self._file is not None and _is_moved(self._target, self._file):
            opened = _open(self._target)
            os.close(self._descriptor)
            (self._descriptor, self._file), self._torn = opened, False
        # To set the descriptor to never block would set it for everybody else who has it, too.
        if not _takes_a_line(self._descriptor, 0 if self.lost else _PATIENCE):
            raise BlockingIOError(errno.EAGAIN, "nobody reads what was written before")
        line = b"\n" * self._torn + msgspec.json.encode(entry) + b"\n"
        written = os.write(self._descriptor, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(0, "only a part of a line was taken")


def _entry(
    event: Event,
    outcome: str,
    caller: Caller,
    *,
    subject: str = "",
    session: str = "",
    details: dict[str, str | int],
) -> _Entry:
    return _Entry(
        time=datetime.now(UTC),
        event=event,
        outcome=outcome,
        subject=_plain(subject),
        session=_plain(session),
        actor=_plain(caller.actor),
        address=_plain(caller.address),
        agent=_plain(caller.agent),
        request_id=_plain(caller.request_id),
        details={name: _plain(value) if isinstance(value, str) else value for name, value in details.items()},
    )


def _plain(text: str) -> str:
    """What of ``text`` shows, and not too much of it: nothing that ends a line, moves a cursor or is no Unicode."""
    if text.isprintable() and len(text) <= _LONGEST:
        return text
    return "".join(filter(str.isprintable, text[: 2 * _LONGEST]))[:_LONGEST]


def _open(path: str) -> tuple[int, os.stat_result]:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return descriptor, os.fstat(descriptor)


def _takes_a_line(descriptor: int, within: int) -> bool:
    """Whether a line can be written without waiting for a reader, ``within`` this many milliseconds at the latest."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(within))


def _is_moved(path: str, file: os.stat_result) -> bool:
    """Whether ``path`` is no longer the file that is open: rotated away, or removed."""
    try:
        return not os.path.samestat(os.stat(path), file)  # noqa: PTH116 - once for each event
    except FileNotFoundError:
        return True
