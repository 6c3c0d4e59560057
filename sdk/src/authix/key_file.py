"""The last good key set, on disk.

Rule: who may write this file may forge tokens, so one that others may write is refused. It is used only while it is
young enough that every key revoked since is told again by the feed's replay. Whatever is wrong with it, the verifier
goes on without; nothing here raises.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path

import msgspec

from authix.errors import SourceError
from authix.events import LOG_WINDOW, MAX_LEEWAY
from authix.keys import MAX_DOCUMENT, KeySet

logger = logging.getLogger("authix.keys")

MAX_AGE = LOG_WINDOW - MAX_LEEWAY
"""Oldest file, in seconds, that is used: the feed tells a revoked key for a minute longer."""


class _Saved(msgspec.Struct):
    """What the file, a JWK Set (RFC 7517), says besides ``keys``."""

    issuer: str
    source: str
    confirmed_at: int


class KeyFile:
    """The keys of ``issuer`` from the URL ``source``, in the file ``path``."""

    def __init__(self, path: str, *, issuer: str, source: str) -> None:
        self._path = Path(path)
        self._issuer = issuer
        self._source = source
        self._told = False

    def read(self, now: float) -> KeySet | None:
        """The saved keys, or None where there are none to be used at ``now`` (epoch seconds)."""
        try:
            document = self._read()
            saved = msgspec.json.decode(document, type=_Saved)
            if (saved.issuer, saved.source) != (self._issuer, self._source):
                raise SourceError("its keys are another issuer's or from elsewhere")
            if not -MAX_LEEWAY <= now - saved.confirmed_at <= MAX_AGE:
                raise SourceError("it is too old, and a key may have been revoked since")
            keys = KeySet.from_json(document)
        except FileNotFoundError:
            return None
        except (OSError, SourceError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            logger.warning("keys %s: not used: %s", self._path, _why(error))
            return None
        logger.info("keys %s: %d in the file of the last good keys", self._path, len(keys))
        return keys

    def write(self, keys: KeySet, now: float) -> None:
        """Save ``keys``, which their source has confirmed at ``now`` (epoch seconds)."""
        saved = msgspec.structs.asdict(_Saved(self._issuer, self._source, int(now)))
        try:
            self._replace_by(msgspec.json.encode({**saved, "keys": [key.jwk() for key in keys]}))
        except OSError as error:
            if not self._told:
                logger.warning("keys %s: can't be written: %s", self._path, _why(error))
            self._told = True

    def _read(self) -> bytes:
        with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - by its descriptor
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SourceError("it is no file")
            if found.st_uid not in {os.geteuid(), 0}:
                raise SourceError("another user owns it and could have put in keys of theirs: remove it")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise SourceError("others may write it and could have put in keys of theirs: remove it")
            document = file.read(MAX_DOCUMENT + 1)
        if len(document) > MAX_DOCUMENT:
            raise SourceError("it is over 256 KiB")
        return document

    def _replace_by(self, document: bytes) -> None:
        """In one step, so that nobody reads half of it; readable by its owner only."""
        descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - by its descriptor
                file.write(document)
            Path(temporary).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
