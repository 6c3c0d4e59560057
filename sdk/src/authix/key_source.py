"""Fetch the issuer's key set and keep it.

Rule: the request path never waits for a known key. A refresh runs ahead of expiry; a failed one keeps the old keys;
unknown key ids cause at most one fetch per cool-down, counted by attempt, whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple

import httpx
import msgspec

from authix import transport
from authix.errors import SourceError
from authix.key_file import KeyFile
from authix.keys import MAX_DOCUMENT, KeySet
from authix.settings import is_plain, url

logger = logging.getLogger("authix.keys")

TIMEOUT = 5.0
"""Seconds that one fetch may take in all."""
COOL_DOWN = 30.0
"""Seconds between two fetches caused by unknown key ids."""
_SAVE_EVERY = 60.0  # unless the keys change
_REFRESH_AT_LEAST, _REFRESH_AT_MOST = 1.0, 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 30.0
_LONGEST_FIRST_PAUSE = 1.0  # nothing can be verified yet
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])", re.ASCII | re.IGNORECASE)
_FORESEEN = (httpx.HTTPError, SourceError, TimeoutError)


class _Metadata(msgspec.Struct):
    issuer: str = ""
    jwks_uri: str = ""


class _Answer(NamedTuple):
    body: bytes
    etag: str
    life: float
    """Seconds that it is good for."""


class _Document:
    """Something behind a URL. ``answer`` is the last one that was good."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: _Answer | None = None

    async def ask(self, client: httpx.AsyncClient) -> _Answer:
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        if self.answer is not None and self.answer.etag:
            headers["If-None-Match"] = self.answer.etag
        async with client.stream("GET", self.url, headers=headers) as response:
            max_age = _MAX_AGE.search(response.headers.get("cache-control", ""))
            life = float(max_age[1]) if max_age else 300.0
            if response.status_code == httpx.codes.NOT_MODIFIED and self.answer is not None and self.answer.etag:
                return self.answer._replace(life=life)
            if response.status_code != httpx.codes.OK:
                raise SourceError(f"answered {response.status_code}")
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    raise SourceError("is over 256 KiB")
            etag = response.headers.get("etag", "")
        return _Answer(body, etag if etag.isascii() else "", life)  # a header can't carry another back


class HttpKeySource:
    """A JWK Set, PEM or the issuer's metadata behind a URL. ``use`` gets every new key set."""

    def __init__(
        self,
        url: str,
        *,
        use: Callable[[KeySet], None],
        kept: Callable[[], KeySet] | None = None,
        issuer: str = "",
        allow_http: bool = False,
        tls: ssl.SSLContext | None = None,
        file: KeyFile | None = None,
        cool_down: float = COOL_DOWN,
        timeout: float = TIMEOUT,
    ) -> None:
        """``issuer``: whom metadata must be of. ``allow_http``: they may lead over plain http to another machine.

        ``kept`` tells what ``use`` made of the last set: only that is saved in ``file``. None: all of it.
        """
        self.url = url
        self.attempts = 0
        """Fetches begun so far."""
        self.confirmed_at: float | None = None
        """When the source last told the keys that are in use (``time.monotonic``); None before it first did."""
        self._use = use
        self._kept = kept
        self._cool_down = cool_down
        self._timeout = timeout
        self._last_asked = float("-inf")
        self._issuer = issuer
        self._allow_http = allow_http
        self._tls = tls
        self._named = self._asking = _Document(url)
        self._told: _Document | None = None
        self._keys: KeySet | None = None
        self._document: bytes | None = None
        self._file = file
        self._saved: KeySet | None = None
        self._saved_at = float("-inf")
        self._saving: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._pending: asyncio.Future[None] | None = None

    async def keep_fresh(self) -> None:
        """Fetch for ever: ahead of expiry, after a failure, and when asked."""
        due, pause = float("-inf"), _FIRST_PAUSE
        self._asked = asyncio.Event()
        try:
            await self._begin_from_file()
            async with transport.client(self._tls, self._timeout) as client:
                while True:
                    self._asked.clear()
                    pending = self._pending
                    early = pending is not None and time.monotonic() < due
                    try:
                        due = await self._fetch(client) + time.monotonic()
                        pause = _FIRST_PAUSE
                        self._save()
                    except Exception as error:  # noqa: BLE001 - whatever went wrong, the keys stay and the next try may do
                        self._report(error)
                        if not early:  # or unknown key ids would cause more than the one fetch
                            due = time.monotonic() + pause
                            pause = min(pause * 2, _LONGEST_PAUSE if self._keys else _LONGEST_FIRST_PAUSE)
                    if pending is not None:
                        self._release()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(due - time.monotonic()):
                            await self._asked.wait()
        finally:
            self._release()
            if self._saving is not None:
                self._saving.cancel()

    def ask(self) -> None:
        """Fetch now rather than when the next refresh is due."""
        self._asked.set()

    async def refetch(self) -> bool:
        """Ask for a fetch because a key id is unknown, and wait for its end (5 s at most); many askers share one.

        False when none was made because the last asked-for attempt is within the cool-down.
        """
        if self._pending is None:
            now = time.monotonic()
            if now - self._last_asked < self._cool_down:
                return False
            self._last_asked = now
            self._pending = asyncio.get_running_loop().create_future()
            self.ask()
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._pending)
        except TimeoutError:
            return False
        return True

    async def _begin_from_file(self) -> None:
        if self._file is not None and self._keys is None:
            keys = await asyncio.to_thread(self._file.read, time.time())
            if keys is not None:
                self._use(keys)
                self._keys = keys

    async def _fetch(self, client: httpx.AsyncClient) -> float:
        """Fetch once; returns the seconds until the next refresh."""
        self.attempts += 1
        async with asyncio.timeout(self._timeout):
            self._asking = self._named
            answer = await self._named.ask(client)
            uri = self._checked(answer.body)
            if uri:
                self._named.answer = answer
                if self._told is None or self._told.url != uri:
                    self._told = _Document(uri)
                self._asking = self._told
                answer = await self._told.ask(client)
        if answer.body != self._document:
            keys = _read(answer.body)
            self._use(keys)
            self._keys, self._document = keys, answer.body
            logger.info("keys %s: %d in the set", self._asking.url, len(keys))
        self._asking.answer = answer
        self.confirmed_at = time.monotonic()
        return min(max(answer.life * 0.75, _REFRESH_AT_LEAST), _REFRESH_AT_MOST)

    def _checked(self, document: bytes) -> str:
        """The URL of the key set where ``document`` is the issuer's metadata (OIDC Discovery 1.0, RFC 8414)."""
        try:
            metadata = msgspec.json.decode(document, type=_Metadata)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        uri = metadata.jwks_uri
        if uri and metadata.issuer != self._issuer:
            raise SourceError(f"the metadata is of the issuer {metadata.issuer!r}, and {self._issuer!r} is configured")
        try:
            if uri and url(uri.partition("?")[0].rstrip("/")) and is_plain(uri) and not self._allow_http:
                raise SourceError("the metadata's jwks_uri is plain http beyond this machine")
        except ValueError:
            raise SourceError("the metadata's jwks_uri is no https URL") from None
        return uri

    def _save(self) -> None:
        """Save the keys in a thread of their own, unless the last one is still at it."""
        now = time.monotonic()
        # a cache on the way may still tell a key for long after it was revoked
        keys = self._keys if self._kept is None else self._kept()
        if self._file is None or keys is None or (keys is self._saved and now - self._saved_at < _SAVE_EVERY):
            return
        if self._saving is None or self._saving.done():
            self._saved, self._saved_at = keys, now
            self._saving = asyncio.create_task(asyncio.to_thread(self._file.write, keys, time.time()))

    def _release(self) -> None:
        if self._pending is not None and not self._pending.done():
            self._pending.set_result(None)
        self._pending = None

    def _report(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        trace = None if isinstance(error, _FORESEEN) else error
        logger.warning("keys %s: %s; trying again", self._asking.url, reason, exc_info=trace)


def _read(document: bytes) -> KeySet:
    return KeySet.from_pem(document) if document.startswith(b"-----BEGIN ") else KeySet.from_json(document)
