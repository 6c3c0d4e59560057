"""The signing keys of a running issuer: kept up with the store, advanced when due, rotated and revoked by hand.

Rule: every change is one write of the whole ring by compare-and-set, so of many replicas one makes it and the others
see it. Requests use the keys in hand and never wait for a store; one that is away stops no signing. A revocation is
written into the ring first, and then announced in the revocation log; the ring remembers what is not announced yet, and
any issuer announces it. What the log says is revoked is dropped at once, even before the ring can be read. All moments
are the session store's: the one clock that also dates the tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from authix.errors import SettingsError
from authix.keys import AlgorithmName, KeySet
from authix_issuer import key_ring
from authix_issuer.audit import OK, Audit, Caller, Event
from authix_issuer.errors import IssuerError, KeyUnknown, StoreUnavailable
from authix_issuer.key_ring import MAX_KEYS, KeyState, Policy, Ring, RingKey
from authix_issuer.key_seal import KeySeal, new_key
from authix_issuer.keys import Document, SigningKey, SigningKeys, in_use
from authix_issuer.ports import KeptRing, KeyStore, Logout, RevocationLog

logger = logging.getLogger("authix.issuer.keys")

LOOK_EVERY = 5.0
"""Seconds between two looks at the store, at most."""
_LOOKS_A_NOTICE = 10
_ATTEMPTS = 20
_UNSEEN = KeptRing(-1, b"")

Step = Callable[[Ring, int], Ring]
"""From a ring and the moment to the ring that shall be."""


class KeyReport(NamedTuple):
    """What an administrator sees of a key; moments in µs, 0 where they are open."""

    id: str
    algorithm: AlgorithmName
    state: KeyState
    since_us: int
    until_us: int
    announced: bool
    """Whether a revocation stands in the revocation log, so that verifiers hear of it."""


class LiveKeys:
    """``revoked`` is called with each revocation that was announced, once it is durable."""

    def __init__(
        self,
        store: KeyStore,
        log: RevocationLog,
        seal: KeySeal,
        policy: Policy,
        audit: Audit,
        *,
        revoked: Callable[[Logout], None],
    ) -> None:
        self._store = store
        self._log = log
        self._seal = seal
        self._policy = policy
        self._audit = audit
        self._revoked = revoked
        self._every = min(LOOK_EVERY, policy.notice_us / 1_000_000 / _LOOKS_A_NOTICE)
        self._followers: list[Callable[[KeySet], None]] = []
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._kept, self._ring, self._by_previous = _UNSEEN, Ring(), False
        self._heard: set[str] = set()
        self._shown = Ring()
        self._in_use = SigningKeys(None, KeySet())
        self.problem: str | None = None
        """Why the keys can't be kept up now."""
        self._full = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises ``SettingsError`` when the master secret is not the one that sealed the keys."""
        await self.look()
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def signing(self) -> SigningKey:
        return self._in_use.signing

    @property
    def published(self) -> KeySet:
        return self._in_use.published

    @property
    def jwks(self) -> Document:
        return self._in_use.jwks

    @property
    def pem(self) -> Document:
        return self._in_use.pem

    @property
    def in_hand(self) -> tuple[KeyReport, ...]:
        """Every key as it was seen last, the oldest first; asks no store."""
        return tuple(self._report(key) for key in self._ring.keys)

    def follow(self, use: Callable[[KeySet], None]) -> None:
        """Have ``use`` called with the published keys, now and whenever they change."""
        self._followers.append(use)
        use(self.published)

    def heard(self, key_id: str) -> None:
        """The revocation log says that this key is revoked: drop it now, and look at the store for the rest."""
        self._heard.add(key_id)
        self._show()
        self._wake.set()

    async def list(self) -> tuple[KeyReport, ...]:
        """Every key, the oldest first. Raises ``StoreUnavailable`` when the key store does not answer."""
        await self._change(lambda ring, _: ring, Caller(), timed=False)
        return tuple(self._report(key) for key in self._ring.keys)

    async def rotate(self, caller: Caller, *, now: bool = False) -> KeyReport:
        """Let the next key sign; ``now`` does not wait until every verifier can know it.

        Raises ``KeyNotReady``, ``KeysTooMany`` or ``StoreUnavailable``.
        """

        def step(ring: Ring, now_us: int) -> Ring:
            ring = key_ring.advance(ring, now_us, self._policy, new_key)
            return key_ring.rotate(ring, now_us, self._policy, new_key, force=now)

        with self._on_record(Event.KEY_ROTATED, caller):
            await self._change(step, caller)
        with contextlib.suppress(StoreUnavailable):  # it is done; only its moments are not yet known
            await self._settle()
        (signing,) = self._ring.of(KeyState.SIGNING)
        return self._report(signing)

    async def revoke(self, key_id: str, caller: Caller) -> KeyReport:
        """Withdraw a key for ever: its tokens are refused everywhere, and if it signed, the next one does at once.

        Again is no error. Raises ``KeyUnknown`` or ``StoreUnavailable``. It is announced within this call where the
        session store answers, else by whichever issuer reaches it first.
        """

        def step(ring: Ring, _: int) -> Ring:
            return key_ring.revoke(ring, key_id, self._policy, new_key)

        with self._on_record(Event.KEY_REVOKED, caller, key=key_id):
            await self._change(step, caller, timed=False)
        with contextlib.suppress(StoreUnavailable):  # the ring remembers it
            await self.look()
        key = self._ring.get(key_id)
        if key is None:  # announced, and so old that it was forgotten just now
            raise KeyUnknown("there is no key with this id")
        return self._report(key)

    async def look(self) -> None:
        """Take over what others changed, do what is due, announce what is not yet announced."""
        await self._settle()
        await self._announce()

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.look()
                self._tell(None)
            except Exception as error:  # noqa: BLE001 - whatever it is: without this task no key would ever change
                self._tell(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._wake.wait()

    async def _settle(self) -> None:
        """Until nothing is due; what one step began is dated by the one after it."""
        while await self._change(lambda ring, now_us: key_ring.advance(ring, now_us, self._policy, new_key), Caller()):
            pass

    async def _announce(self) -> None:
        waiting = [key.id for key in self._ring.of(KeyState.REVOKED) if not key.announced]
        for key_id in waiting:
            if key_id not in self._heard:  # else the log has it already
                self._revoked(await self._log.revoke_key(key_id))
        if waiting:
            await self._change(lambda ring, _: key_ring.announced(ring, waiting), Caller(), timed=False)
            await self._settle()

    async def _change(self, step: Step, caller: Caller, *, timed: bool = True) -> bool:
        """Bring the ring in the store to what ``step`` makes of it; whether that was a change.

        A step that asks for no moment (``timed=False``) does not need the session store.
        """
        async with self._changing:
            for _ in range(_ATTEMPTS):
                await self._load()
                now_us = (await self._log.tick()).at_us if timed else 0
                ring = await asyncio.to_thread(step, self._ring, now_us)  # a key may have to be made
                if ring == self._ring and not self._by_previous:
                    return False
                kept = self._seal.seal(ring, self._kept.version + 1)
                if await self._store.save(kept):
                    self._record(self._ring, ring, caller)
                    self._use(kept, ring, by_previous=False)
                    return True
        raise StoreUnavailable("the key store is written by too many at once")

    async def _load(self) -> None:
        kept = await self._store.load()
        if kept.version < self._kept.version:
            raise StoreUnavailable(
                "the key store holds an older ring than was seen before; restart every issuer after it was restored"
            )
        if kept != self._kept:
            try:
                ring, by_previous = self._seal.unseal(kept)
            except SettingsError:
                if self._kept is _UNSEEN:
                    raise
                raise StoreUnavailable("the keys were sealed anew under a master secret that is not set here") from None
            self._use(kept, ring, by_previous=by_previous)

    def _use(self, kept: KeptRing, ring: Ring, *, by_previous: bool) -> None:
        self._kept, self._ring, self._by_previous = kept, ring, by_previous
        # A key that is not in the ring was revoked and forgotten, or it comes with a later ring, and revoked.
        self._heard = {key.id for key in ring.keys if key.id in self._heard and not key.announced}
        self._show()

    def _show(self) -> None:
        """Make ready what requests use: the ring in hand without what the log has revoked."""
        ring = self._ring
        for key_id in self._heard:
            ring = key_ring.without(ring, key_id, self._policy)
        if ring == self._shown:
            return
        self._shown, self._in_use = ring, in_use(ring)
        for use in self._followers:
            use(self.published)

    def _report(self, key: RingKey) -> KeyReport:
        until_us = key_ring.until_us(self._ring, key, self._policy)
        return KeyReport(key.id, key.algorithm, key.state, key.since_us, until_us, key.announced)

    def _record(self, before: Ring, after: Ring, caller: Caller) -> None:
        """Put on record what the write that has just won did."""
        if self._by_previous:
            self._audit.record(Event.SECRET_ROTATED, OK, caller)
        known = {key.id: key.state for key in before.keys}
        for key in after.keys:
            was = known.get(key.id)
            if was is None:
                self._audit.record(Event.KEY_ADDED, OK, caller, key=key.id, algorithm=key.algorithm)
            if key.state is not was and key.state in _ON_RECORD:
                self._audit.record(_ON_RECORD[key.state], OK, caller, key=key.id, algorithm=key.algorithm)

    @contextlib.contextmanager
    def _on_record(self, event: Event, caller: Caller, **details: str) -> Iterator[None]:
        """Put on record that it was refused, or could not be done."""
        try:
            yield
        except IssuerError as error:
            self._audit.record(event, error.code, caller, **details)
            raise

    def _tell(self, error: Exception | None) -> None:
        """Say it once when keys can't be kept up, and once when they can again."""
        problem = None if error is None else str(error) or type(error).__name__
        unforeseen = None if isinstance(error, IssuerError) else error
        if problem and (unforeseen or not self.problem):
            logger.error("the signing keys in hand go on, but can't be kept up: %s", problem, exc_info=unforeseen)
        elif self.problem and not problem:
            logger.info("the signing keys are kept up again")
        self.problem = problem
        full = len(self._ring.keys) >= MAX_KEYS
        if full and not self._full:
            logger.warning("%d signing keys are published; none is rotated until old ones are gone", MAX_KEYS)
        self._full = full


_ON_RECORD = {KeyState.SIGNING: Event.KEY_ROTATED, KeyState.REVOKED: Event.KEY_REVOKED}
