"""A running verifier: the pure ``Verifier`` with its keys, its feed and its clock.

Rule: nothing starts before ``start``; ``verify`` only reads memory. ``authenticate`` is the same but may wait, bounded,
for one key fetch when a key id is unknown.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from types import TracebackType
from typing import NamedTuple, Protocol, Self, Unpack

from authix import observe
from authix.claims import Claims
from authix.errors import AuthixError, KeyUnknown, NotReady, RoleMissing, SettingsError
from authix.events import Event, Heartbeat, KeyRevoked, Revocation, SessionRevoked, Take, UserRevoked
from authix.fallback import Feed, Feeds, FeedState
from authix.feed import HttpFeed
from authix.freshness import WhenStale
from authix.key_file import KeyFile
from authix.key_source import HttpKeySource
from authix.observe import ACCEPTED
from authix.settings import load
from authix.streams import OpenStreams, UntilRevoked
from authix.verifier import Verifier
from authix.verifier_settings import FeedUrl, VerifierOptions, VerifierSettings

logger = logging.getLogger("authix")

_EVICT_EVERY = 1.0
_LOOK_EVERY = 0.02
_PATIENCE_AT_LEAST = 2.0  # heartbeats come once a second


class Clock(NamedTuple):
    """Where a verifier has its times from, both in seconds."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class StandIn(Protocol):
    """What plays issuer, feed and clock in a service's tests (see ``authix.testing``)."""

    clock: Clock

    def attach(self, auth: Authix) -> None:
        """Give ``auth``, which knows nothing yet, keys and events."""

    def detach(self, auth: Authix) -> None:
        """Give ``auth`` nothing more."""


stand_in: StandIn | None = None
"""In its place nothing reaches out to the network; None outside of tests."""


class Authix:
    """Verifies access tokens locally and follows the issuer's logouts.

    Use it as ``async with Authix(...) as auth``; ``SyncAuthix`` is the same for programs without an event loop.
    Settings not given come from the environment (``AUTHIX_ISSUER``, …); raises ``SettingsError`` when one is missing or
    wrong.
    """

    def __init__(self, *, settings: VerifierSettings | None = None, **options: Unpack[VerifierOptions]) -> None:
        self.settings = settings or load(VerifierSettings, arguments=options)
        self.clock = Clock()
        self.decisions: Counter[str] = Counter()
        """How often tokens were judged, by the error's code or ``accepted``."""
        self.listeners: list[Callable[[Revocation], None]] = []
        """Those of ``on_revoked``."""
        self._stood_in = False
        self.replay_seconds: float | None = None
        """How long it took from the start until all logouts that count were known; None before."""
        self._began = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._know_nothing()
        instances.add(self)

    def on_revoked(self, listener: Callable[[Revocation], None]) -> Callable[[], None]:
        """Have ``listener`` called with each revocation, after the verifier knows it; returns what ends that.

        The replay at the start tells the revocations that are still alive.
        """
        self.listeners.append(listener)
        return partial(self.listeners.remove, listener)

    async def start(self) -> None:
        """Begin to fetch keys and follow the feed; does not wait for them (see ``wait_ready``)."""
        if self.running:
            raise RuntimeError("this Authix is already running")
        self._leave_abandoned()
        _tell_prometheus()
        self._began = self.clock.monotonic()
        if self.begin_stood_in():
            return
        jobs = [self._key_source.keep_fresh(), self._evict()]
        if self.settings.feeds:
            jobs.append(self._feeds.follow())
        else:
            logger.warning("AUTHIX_FEED=none: logouts are not heard of, and every token is good until it expires")
        self._tasks = [asyncio.create_task(job) for job in jobs]
        for task in self._tasks:
            task.add_done_callback(_report)

    def begin_stood_in(self) -> bool:
        """Begin anew with the stand-in where there is one; False: there is none."""
        if stand_in is None:
            return False
        self.clock, self._stood_in = stand_in.clock, True
        self._began = self.clock.monotonic()
        self._know_nothing()
        stand_in.attach(self)
        return True

    @property
    def running(self) -> bool:
        """Whether it was started, and neither stopped nor left behind by an event loop that ended."""
        return self._stood_in or any(not task.done() and not _is_abandoned(task) for task in self._tasks)

    async def stop(self) -> None:
        self.end_stood_in()
        self._leave_abandoned()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def end_stood_in(self) -> None:
        """End the life that began with a stand-in, and forget all that it said."""
        if self._stood_in:
            self.clock, self._stood_in = Clock(), False
            self._know_nothing()
            if stand_in is not None:
                stand_in.detach(self)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def wait_ready(self, timeout: float = 30) -> None:  # noqa: ASYNC109 - it raises an error of ours
        """Wait until it is ready. Raises ``NotReady`` with the reasons after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while problems := self.problems():
            if time.monotonic() > end:
                raise NotReady(f"not ready: {', '.join(problems)}")
            await asyncio.sleep(_LOOK_EVERY)

    def verify(self, token: str, *, roles: frozenset[str] = frozenset(), when_stale: WhenStale | None = None) -> Claims:
        """The claims of ``token``, from memory alone. ``when_stale`` is the policy of this call, if not the set one.

        Raises a ``TokenError`` when it is refused, ``RoleMissing`` when its user lacks one of ``roles``, ``NotReady``
        or ``FeedStale`` when it can't be judged now.
        """
        try:
            claims = self._judge(token, roles, when_stale)
        except AuthixError as error:
            self.decisions[error.code] += 1
            raise
        self.decisions[ACCEPTED] += 1
        return claims

    async def authenticate(
        self, token: str, *, roles: frozenset[str] = frozenset(), when_stale: WhenStale | None = None
    ) -> Claims:
        """As ``verify``, but an unknown key id may wait for one fetch of the key set (5 s at most)."""
        try:
            claims = await self._verify_or_fetch(token, roles, when_stale)
        except AuthixError as error:
            observe.refused(error)
            raise
        observe.accepted(claims)
        return claims

    async def refetch_keys(self) -> bool:
        """Fetch the key set because a key id is unknown, and wait for it (5 s at most); False: not now."""
        return not self._stood_in and await self._key_source.refetch()

    def recheck(self, claims: Claims) -> None:
        """Look at a verified token again, in work that takes longer than a request.

        Raises ``TokenRevoked``, ``KeyRevoked`` or ``TokenExpired``. See ``until_revoked`` for one that waits.
        """
        self.streams.check(claims)

    def until_revoked(self, claims: Claims) -> UntilRevoked:
        """The time until the token behind ``claims`` is revoked or expires, for WebSockets, SSE and long work.

        ``async with auth.until_revoked(claims):`` cancels the block then and raises ``TokenRevoked``, ``KeyRevoked`` or
        ``TokenExpired`` in its place; ``await auth.until_revoked(claims)`` returns that error.
        """
        return UntilRevoked(self.streams, claims)

    @property
    def freshness(self) -> float | None:
        """Seconds by which the knowledge of logouts may be old; None before the feed was replayed, or without one."""
        return self.verifier.freshness.age(self.clock.monotonic())

    @property
    def keys_age(self) -> float | None:
        """Seconds since the issuer last told the keys in use; None before it first did."""
        confirmed_at = self._key_source.confirmed_at
        return None if confirmed_at is None else time.monotonic() - confirmed_at

    @property
    def feeds_in_use(self) -> tuple[str, ...]:
        """The URLs of the feeds that are followed now: the preferred one, and others while those before are stale."""
        return self._feeds.in_use

    @property
    def feed_states(self) -> tuple[FeedState, ...]:
        """How each feed does, in order of preference."""
        return self._feeds.states

    def problems(self) -> list[str]:
        """Why this verifier can't serve now, as codes: ``keys_missing``, ``feed_replaying``, ``feed_stale``."""
        age, found = self.freshness, []
        if not len(self.verifier.keys):
            found.append("keys_missing")
        if not self.settings.feeds:
            return found
        if age is None:
            found.append("feed_replaying")
        elif age > self.settings.stale_after:
            found.append("feed_stale")
        return found

    def ready(self) -> bool:
        """Whether keys are here and the feed has been replayed and is fresh."""
        return not self.problems()

    def take(self, *events: Event) -> None:
        """Take events of the feed, in the feed's order."""
        monotonic, verifier = self.clock.monotonic(), self.verifier
        merge, watched = verifier.revocations.apply, bool(self.listeners) or len(self.streams) > 0
        for event in events:
            if type(event) is UserRevoked or type(event) is SessionRevoked:  # nearly all; a replay may have a million
                news = merge(event)
            else:
                if isinstance(event, KeyRevoked) and event.kid in verifier.keys:
                    self._key_source.ask()
                news = verifier.apply(event, monotonic)
            if news and watched and not isinstance(event, Heartbeat):
                self.streams.apply(event)
                self._tell(event)
        if self.replay_seconds is None and self.freshness is not None:
            self.replay_seconds = monotonic - self._began

    def _tell(self, event: Revocation) -> None:
        for tell in tuple(self.listeners):
            try:
                tell(event)
            except Exception:
                logger.exception("a listener of on_revoked failed")

    def _leave_abandoned(self) -> None:
        abandoned = [task for task in self._tasks if _is_abandoned(task)]
        if abandoned:
            _abandoned.extend(abandoned)
            self._tasks = [task for task in self._tasks if task not in abandoned]
            self._know_nothing()  # keys and feed have what belongs to that event loop

    def _know_nothing(self) -> None:
        settings = self.settings
        self.replay_seconds = None
        self.verifier = verifier = Verifier(
            issuer=settings.issuer,
            audience=settings.audience,
            algorithms=settings.algorithms,
            leeway=settings.leeway,
            stale_after=settings.stale_after,
            when_stale=settings.when_stale,
            token_types=settings.token_types,
            claims=settings.claims,
            feed=bool(settings.feeds),
            max_revocations=settings.max_revocations,
        )
        self.streams = OpenStreams(verifier, now=self.clock.now, monotonic=self.clock.monotonic)
        self._key_source = HttpKeySource(
            settings.keys_url,
            use=verifier.use_keys,
            kept=lambda: verifier.keys,
            issuer=settings.issuer,
            allow_http=settings.allow_http,
            tls=settings.tls(),
            file=_key_file(settings),
        )
        self._feeds = Feeds(
            [partial(_open_feed, feed, settings) for feed in settings.feeds],
            take=self.take,
            patience=max(_PATIENCE_AT_LEAST, settings.stale_after / 3),
        )

    async def _verify_or_fetch(self, token: str, roles: frozenset[str], when_stale: WhenStale | None) -> Claims:
        try:
            return self.verify(token, roles=roles, when_stale=when_stale)
        except KeyUnknown as error:
            if not await self.refetch_keys():
                raise
            self.decisions[error.code] -= 1  # judged once, if only at the second try
            return self.verify(token, roles=roles, when_stale=when_stale)

    def _judge(self, token: str, roles: frozenset[str], when_stale: WhenStale | None) -> Claims:
        claims = self.verifier.verify(
            token, now=self.clock.now(), monotonic=self.clock.monotonic(), when_stale=when_stale
        )
        if not roles <= claims.roles:
            raise RoleMissing("the user lacks a role that this needs")
        return claims

    async def _evict(self) -> None:
        while True:
            more = self.verifier.revocations.evict(time.time())
            await asyncio.sleep(0 if more else _EVICT_EVERY)


instances: weakref.WeakSet[Authix] = weakref.WeakSet()
"""Those that exist, for what looks at all of them: metrics and the test kit."""

_abandoned: list[asyncio.Task[None]] = []
"""Never let go: to be put away, they would close their connections, and have no event loop for that."""


@cache
def _tell_prometheus() -> None:
    if importlib.util.find_spec("prometheus_client") is not None:
        from authix import metrics  # noqa: PLC0415 - only for those who have it

        metrics.register(lambda: instances)


def _key_file(settings: VerifierSettings) -> KeyFile | None:
    path = settings.keys_cache
    return KeyFile(path, issuer=settings.issuer, source=settings.keys_url) if path else None


def _open_feed(feed: FeedUrl, settings: VerifierSettings, take: Take) -> Feed:
    if not feed.topic:
        return HttpFeed(feed.url, token=settings.feed_token, take=take, tls=settings.tls())
    try:
        from authix.kafka_feed import KafkaFeed  # noqa: PLC0415 - an extra: only for those who use it
    except ModuleNotFoundError:
        raise SettingsError(
            f"AUTHIX_FEED names {feed.url}, and aiokafka is not installed: pip install 'authix[kafka]'."
        ) from None
    return KafkaFeed(feed.url, feed.servers, feed.topic, options=settings.kafka_options(), take=take)


def _is_abandoned(task: asyncio.Task[None]) -> bool:
    """Whether its event loop was closed amid it: it never goes on, and can't even be cancelled."""
    return not task.done() and task.get_loop().is_closed()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a part of the verifier stopped; its knowledge will go stale", exc_info=error)
