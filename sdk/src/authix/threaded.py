"""A verifier for programs without an event loop of their own: Flask, Django, scripts.

Rule: one ``Authix`` runs in a background thread of each process, begun at the first use there, so a server that forks
its workers after loading the application (gunicorn --preload, uWSGI) gets one per worker. Nothing is taken along
through a fork: what the parent started is left as it lies, for its sockets are still the parent's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self, TypeVar, Unpack

from authix import observe, runtime
from authix.background import Life
from authix.claims import Claims
from authix.errors import AuthixError, KeyUnknown, NotReady, TokenError
from authix.events import Revocation
from authix.freshness import WhenStale
from authix.runtime import Authix
from authix.settings import load
from authix.streams import items_until
from authix.verifier_settings import VerifierOptions, VerifierSettings

T = TypeVar("T")


class SyncAuthix:
    """``Authix`` for threads instead of coroutines; same settings, same verdicts.

    Use it as ``with SyncAuthix(...) as auth``, or keep one for the life of the program: it starts by itself at the
    first use and ends with the process. Its methods may be called from any thread. Under gevent's or eventlet's patched
    threads it can't run.
    """

    def __init__(self, *, settings: VerifierSettings | None = None, **options: Unpack[VerifierOptions]) -> None:
        """Raises ``SettingsError`` when a setting is missing or wrong."""
        self.settings = settings or load(VerifierSettings, arguments=options)
        runtime.instances.discard(Authix(settings=self.settings))  # raises what each start would
        self._listeners: list[Callable[[Revocation], None]] = []
        self._lock = threading.Lock()
        self._life: Life | None = None
        self._finalizer: weakref.finalize[..., SyncAuthix] | None = None
        instances.add(self)

    def start(self) -> None:
        """Start in this process unless it runs; does not wait until it is ready (see ``wait_ready``)."""
        self._now_living()

    @property
    def running(self) -> bool:
        """Whether it was started in this process."""
        life = self._life
        return life is not None and life.running

    def stop(self) -> None:
        """End it in this process; the next use would start it again."""
        with self._lock:
            life = self._leave()
        if life is not None:
            life.end()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_ready(self, timeout: float = 30) -> None:
        """Wait until it is ready. Raises ``NotReady`` with the reasons after ``timeout`` seconds."""
        self._now_living().wait_ready(timeout)

    def verify(self, token: str, *, roles: frozenset[str] = frozenset(), when_stale: WhenStale | None = None) -> Claims:
        """The claims of ``token``, from memory alone; raises as ``Authix.verify`` does."""
        return self._now_living().auth.verify(token, roles=roles, when_stale=when_stale)

    def authenticate(
        self, token: str, *, roles: frozenset[str] = frozenset(), when_stale: WhenStale | None = None
    ) -> Claims:
        """As ``verify``, but waits where that helps.

        For a verifier that was started less than 5 s ago until it is ready, or for one fetch of the key set (5 s at
        most) when the key id is unknown.
        """
        life = self._now_living()
        judge = partial(life.auth.verify, token, roles=roles, when_stale=when_stale)
        with _telling() as accepted:
            try:
                return accepted(judge())
            except (NotReady, KeyUnknown) as error:
                if not life.wait_out(error):
                    raise
            return accepted(judge())

    async def authenticate_async(
        self, token: str, *, roles: frozenset[str] = frozenset(), when_stale: WhenStale | None = None
    ) -> Claims:
        """As ``authenticate``, for a coroutine: its event loop judges from memory, and only what waits does so in a
        thread.
        """
        life = self._now_living()
        judge = partial(life.auth.verify, token, roles=roles, when_stale=when_stale)
        with _telling() as accepted:
            try:
                return accepted(judge())
            except (NotReady, KeyUnknown) as error:
                if not await asyncio.to_thread(life.wait_out, error):
                    raise
            return accepted(judge())

    def recheck(self, claims: Claims) -> None:
        """Look at a verified token again, in work that takes longer than a request, such as a streamed answer.

        Raises ``TokenRevoked``, ``KeyRevoked`` or ``TokenExpired``.
        """
        self._now_living().auth.recheck(claims)

    def guard(self, claims: Claims, items: Iterable[T]) -> Iterator[T]:
        """``items``, for a streamed answer, while the token behind ``claims`` is good; then it ends, as a stream ends.

        It looks before each item, so a source that may be silent for long should give one now and then.
        """
        try:
            for item in items:
                try:
                    self.recheck(claims)
                except TokenError:
                    return
                yield item
        finally:
            if isinstance(items, Generator):
                items.close()

    async def guard_async(self, claims: Claims, items: AsyncIterable[T]) -> AsyncIterator[T]:
        """As ``guard``, for coroutines; it ends at once, even while it waits for the next item."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def cut(_: AuthixError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended.set)

        try:
            forget = await asyncio.to_thread(self.watch, claims, cut)
        except TokenError:
            return
        ending = asyncio.create_task(ended.wait())
        try:
            async with contextlib.aclosing(items_until(items, ending)) as found:
                async for item in found:
                    yield item
        finally:
            forget()
            ending.cancel()

    def watch(self, claims: Claims, cut: Callable[[AuthixError], None]) -> Callable[[], None]:
        """Have ``cut`` called in the background thread when the token behind ``claims`` is revoked or expires.

        Returns what ends that. Raises ``TokenError`` when the token has died since it was verified.
        """
        return self._now_living().watch(claims, cut)

    def on_revoked(self, listener: Callable[[Revocation], None]) -> Callable[[], None]:
        """Have ``listener`` called with each revocation, in the background thread; returns what ends that."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    @property
    def freshness(self) -> float | None:
        """Seconds by which the knowledge of logouts may be old; None before the feed was replayed."""
        return self._now_living().auth.freshness

    def problems(self) -> list[str]:
        """Why this verifier can't serve now, as codes: ``keys_missing``, ``feed_replaying``, ``feed_stale``."""
        return self._now_living().auth.problems()

    def ready(self) -> bool:
        """Whether keys are here and the feed has been replayed and is fresh."""
        return not self.problems()

    def _now_living(self) -> Life:
        life = self._life
        return self._begin() if life is None or not life.running else life

    def _begin(self) -> Life:
        with self._lock:
            life = self._life
            if life is not None and life.running:
                return life
            ended = self._leave()
            if ended is not None:
                ended.end()
            life = Life(Authix(settings=self.settings))
            life.auth.listeners = self._listeners
            life.begin()
            self._life = life
            self._finalizer = weakref.finalize(self, life.end)
            return life

    def _leave(self) -> Life | None:
        """Let go of its life, and return it unless it is another process's."""
        life, self._life = self._life, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if life is None or life.ours:
            return life
        _others.append(life)
        runtime.instances.discard(life.auth)
        return None

    def _forked(self) -> None:
        self._lock = threading.Lock()  # it may have been held by a thread that is not here
        self._leave()


instances: weakref.WeakSet[SyncAuthix] = weakref.WeakSet()
"""Those that exist."""
_others: list[Life] = []
"""What began in a parent process. Never let go: to be put away, its connections would speak to the other side."""


@contextlib.contextmanager
def _telling() -> Iterator[Callable[[Claims], Claims]]:
    def accepted(claims: Claims) -> Claims:
        observe.accepted(claims)
        return claims

    try:
        yield accepted
    except AuthixError as error:
        observe.refused(error)
        raise


def _all_forked() -> None:
    for auth in instances:
        auth._forked()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_all_forked)
