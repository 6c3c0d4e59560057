"""Fetch the issuer's key set and keep it.

Rule: the request path never waits for a known key. A refresh runs ahead of expiry; a failed one keeps the old keys;
unknown key ids cause at most one fetch per cool-down, counted by attempt, whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable

import httpx

from authix.errors import SourceError
from authix.keys import KeySet

logger = logging.getLogger("authix.keys")

TIMEOUT = 5.0
"""Seconds that one fetch may take in all."""
COOL_DOWN = 30.0
"""Seconds between two fetches caused by unknown key ids."""
MAX_DOCUMENT = 256 * 1024
_REFRESH_AT_LEAST, _REFRESH_AT_MOST = 1.0, 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 30.0
_LONGEST_FIRST_PAUSE = 1.0  # nothing can be verified yet
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])", re.ASCII | re.IGNORECASE)
_FORESEEN = (httpx.HTTPError, SourceError, TimeoutError)


class HttpKeySource:
    """A JWK Set behind a URL. ``use`` gets every new key set."""

    def __init__(
        self, url: str, *, use: Callable[[KeySet], None], cool_down: float = COOL_DOWN, timeout: float = TIMEOUT
    ) -> None:
        self.url = url
        self.attempts = 0
        """Fetches begun so far."""
        self._use = use
        self._cool_down = cool_down
        self._timeout = timeout
        self._last_asked = float("-inf")
        self._document: bytes | None = None
        self._etag = ""
        self._asked = asyncio.Event()
        self._pending: asyncio.Future[None] | None = None

    async def keep_fresh(self) -> None:
        """Fetch for ever: ahead of expiry, after a failure, and when asked."""
        pause = _FIRST_PAUSE
        self._asked = asyncio.Event()
        try:
            async with httpx.AsyncClient(timeout=self._timeout, trust_env=False, follow_redirects=False) as client:
                while True:
                    self._asked.clear()
                    pending = self._pending
                    try:
                        wait = await self._fetch(client)
                        pause = _FIRST_PAUSE
                    except Exception as error:  # noqa: BLE001 - whatever went wrong, the keys stay and the next try may do
                        self._report(error)
                        wait = pause
                        pause = min(pause * 2, _LONGEST_PAUSE if self._document else _LONGEST_FIRST_PAUSE)
                    if pending is not None:
                        self._release()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._asked.wait()
        finally:
            self._release()

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

    async def _fetch(self, client: httpx.AsyncClient) -> float:
        """Fetch once; returns the seconds until the next refresh."""
        self.attempts += 1
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        if self._etag:
            headers["If-None-Match"] = self._etag
        async with asyncio.timeout(self._timeout), client.stream("GET", self.url, headers=headers) as response:
            if response.status_code == httpx.codes.OK:
                await self._read(response)
            elif response.status_code != httpx.codes.NOT_MODIFIED or not self._etag:
                raise SourceError(f"answered {response.status_code}")
            max_age = _MAX_AGE.search(response.headers.get("cache-control", ""))
        life = float(max_age[1]) if max_age else 300.0
        return min(max(life * 0.75, _REFRESH_AT_LEAST), _REFRESH_AT_MOST)

    async def _read(self, response: httpx.Response) -> None:
        document = b""
        async for chunk in response.aiter_raw():
            document += chunk
            if len(document) > MAX_DOCUMENT:
                raise SourceError("the key set is over 256 KiB")
        if document != self._document:
            keys = KeySet.from_json(document)
            self._use(keys)
            self._document = document
            logger.info("keys %s: %d in the set", self.url, len(keys))
        etag = response.headers.get("etag", "")
        self._etag = etag if etag.isascii() else ""  # a header can't carry another back

    def _release(self) -> None:
        if self._pending is not None and not self._pending.done():
            self._pending.set_result(None)
        self._pending = None

    def _report(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        trace = None if isinstance(error, _FORESEEN) else error
        logger.warning("keys %s: %s; trying again", self.url, reason, exc_info=trace)
