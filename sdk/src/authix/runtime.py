"""A running verifier: the pure ``Verifier`` with its keys, its feed and its clock.

Rule: nothing starts before ``start``; ``verify`` only reads memory. ``authenticate`` is the same but may wait, bounded,
for one key fetch when a key id is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from authix.claims import Claims
from authix.errors import KeyUnknown, RoleMissing, SettingsError
from authix.events import Event, Heartbeat, KeyRevoked, Revocation
from authix.fallback import Feed, Feeds
from authix.feed import HttpFeed
from authix.freshness import WhenStale
from authix.key_source import HttpKeySource
from authix.keys import AlgorithmName
from authix.settings import FeedUrl, VerifierSettings, load
from authix.verifier import Verifier

logger = logging.getLogger("authix")

_EVICT_EVERY = 1.0
_PATIENCE_AT_LEAST = 2.0  # heartbeats come once a second


class Authix:
    """Verifies access tokens locally and follows the issuer's logouts.

    Use it as ``async with Authix(...) as auth``. Settings not given come from the environment (``AUTHIX_ISSUER``, …);
    raises ``SettingsError`` when one is missing or wrong.
    """

    def __init__(
        self,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        keys: str | None = None,
        feed: str | None = None,
        feed_token: str | None = None,
        allow_http: bool | None = None,
        algorithms: frozenset[AlgorithmName] | None = None,
        leeway: int | None = None,
        stale_after: int | None = None,
        when_stale: WhenStale | None = None,
        settings: VerifierSettings | None = None,
    ) -> None:
        self.settings = settings or load(
            VerifierSettings,
            arguments={
                "issuer": issuer,
                "audience": audience,
                "keys": keys,
                "feed": feed,
                "feed_token": feed_token,
                "allow_http": allow_http,
                "algorithms": algorithms,
                "leeway": leeway,
                "stale_after": stale_after,
                "when_stale": when_stale,
            },
        )
        self.verifier = Verifier(
            issuer=self.settings.issuer,
            audience=self.settings.audience,
            algorithms=self.settings.algorithms,
            leeway=self.settings.leeway,
            stale_after=self.settings.stale_after,
            when_stale=self.settings.when_stale,
        )
        self.on_revoked: list[Callable[[Revocation], None]] = []
        """Called with each revocation after the verifier knows it; must not raise."""
        self._key_source = HttpKeySource(self.settings.keys_url, use=self.verifier.use_keys)
        self._feeds = Feeds(
            [partial(_open_feed, feed, self.settings) for feed in self.settings.feeds],
            take=self._take,
            patience=max(_PATIENCE_AT_LEAST, self.settings.stale_after / 3),
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to fetch keys and follow the feed; does not wait for them (see ``ready``)."""
        if self.running:
            raise RuntimeError("this Authix is already running")
        jobs = (self._key_source.keep_fresh(), self._feeds.follow(), self._evict())
        self._tasks = [asyncio.create_task(job) for job in jobs]
        for task in self._tasks:
            task.add_done_callback(_report)

    @property
    def running(self) -> bool:
        """Whether it was started, and neither stopped nor left behind by an event loop that ended."""
        return any(not task.done() for task in self._tasks)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def verify(self, token: str, *, roles: frozenset[str] = frozenset()) -> Claims:
        """The claims of ``token``, from memory alone.

        Raises a ``TokenError`` when it is refused, ``RoleMissing`` when its user lacks one of ``roles``, ``NotReady``
        or ``FeedStale`` when it can't be judged now.
        """
        claims = self.verifier.verify(token, now=time.time(), monotonic=time.monotonic())
        if not roles <= claims.roles:
            raise RoleMissing("the user lacks a role that this needs")
        return claims

    async def authenticate(self, token: str, *, roles: frozenset[str] = frozenset()) -> Claims:
        """As ``verify``, but an unknown key id may wait for one fetch of the key set (5 s at most)."""
        try:
            return self.verify(token, roles=roles)
        except KeyUnknown:
            if not await self._key_source.refetch():
                raise
            return self.verify(token, roles=roles)

    @property
    def freshness(self) -> float | None:
        """Seconds by which the knowledge of logouts may be old; None before the feed was replayed."""
        return self.verifier.freshness.age(time.monotonic())

    @property
    def feeds_in_use(self) -> tuple[str, ...]:
        """The URLs of the feeds that are followed now: the preferred one, and others while those before are stale."""
        return self._feeds.in_use

    def problems(self) -> list[str]:
        """Why this verifier can't serve now, as codes: ``keys_missing``, ``feed_replaying``, ``feed_stale``."""
        age, found = self.freshness, []
        if not len(self.verifier.keys):
            found.append("keys_missing")
        if age is None:
            found.append("feed_replaying")
        elif age > self.settings.stale_after:
            found.append("feed_stale")
        return found

    def ready(self) -> bool:
        """Whether keys are here and the feed has been replayed and is fresh."""
        return not self.problems()

    def _take(self, event: Event) -> None:
        if isinstance(event, KeyRevoked) and event.kid in self.verifier.keys:
            self._key_source.ask()
        self.verifier.apply(event, time.monotonic())
        if not isinstance(event, Heartbeat):
            for tell in self.on_revoked:
                tell(event)

    async def _evict(self) -> None:
        while True:
            more = self.verifier.revocations.evict(time.time())
            await asyncio.sleep(0 if more else _EVICT_EVERY)


def _open_feed(feed: FeedUrl, settings: VerifierSettings, take: Callable[[Event], None]) -> Feed:
    if not feed.topic:
        return HttpFeed(feed.url, token=settings.feed_token, take=take)
    try:
        from authix.kafka_feed import KafkaFeed  # noqa: PLC0415 - an extra: only for those who use it
    except ModuleNotFoundError:
        raise SettingsError(
            f"AUTHIX_FEED names {feed.url}, and aiokafka is not installed: pip install 'authix[kafka]'."
        ) from None
    return KafkaFeed(feed.url, feed.servers, feed.topic, options=settings.kafka_options(), take=take)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a part of the verifier stopped; its knowledge will go stale", exc_info=error)
