"""A test kit for services: the issuer, its feed and the clock, in the process of the tests.

Rule: no network and no sleeping. While an ``InProcessIssuer`` is installed, every ``Authix`` and ``SyncAuthix`` that
starts has its keys, its events and its time from it; all else is what runs in production. A logout has been heard by
all of them when ``logout`` returns.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Collection, Iterable
from importlib import import_module
from types import TracebackType
from typing import Any, Self

import jwt

from authix import runtime, threaded
from authix.claims import OURS, ClaimPaths, names
from authix.claims import Path as ClaimPath
from authix.events import Event, Heartbeat, KeyRevoked, Revocation, SessionRevoked, UserRevoked, keep_until
from authix.keys import ALGORITHMS, AlgorithmName, KeySet, PrivateKey, VerificationKey, new_private_key
from authix.runtime import Authix, Clock
from authix.verifier_settings import VerifierSettings

ACCESS_TTL = 300
"""Seconds for which a token lives, unless said otherwise."""
ISSUER, AUDIENCE = "https://issuer.test", "tests"
"""Stand in tokens where neither a verifier nor the environment names others."""
_STALE = 1_000_000.0  # seconds; over any bound


class Token(str):
    """An access token, as text; and what a test wants of it."""

    __slots__ = ("session", "subject")

    subject: str
    session: str

    @property
    def headers(self) -> dict[str, str]:
        """The request headers that carry it."""
        return {"Authorization": f"Bearer {self}"}


class InProcessIssuer:
    """Signs tokens, logs users out, rotates keys, lets the feed go stale and the time pass.

    ``with InProcessIssuer() as issuer:`` installs it; in pytest take the fixture ``authix_tokens``. Tokens carry the
    issuer and the audience of the verifiers that exist, unless you name others here.
    """

    def __init__(
        self, *, issuer: str | None = None, audience: str | None = None, algorithm: AlgorithmName | None = None
    ) -> None:
        self.clock = Clock(now=lambda: self._now, monotonic=lambda: self._monotonic)
        self._issuer, self._audience, self._algorithm = issuer, audience, algorithm
        self._attached: dict[Authix, None] = {}  # a set that keeps their order
        self._count = itertools.count(1)
        self._begin()

    def install(self) -> None:
        """Stand in for the network, until ``uninstall``. One that runs already is taken over."""
        if runtime.stand_in is not None:
            raise RuntimeError("an InProcessIssuer is installed already")
        runtime.stand_in = self
        for auth in tuple(runtime.instances):
            if auth.running:
                auth.begin_stood_in()

    def uninstall(self) -> None:
        """Leave; whoever had it for an issuer must start again."""
        runtime.stand_in = None
        attached, self._attached = self._attached, {}
        for auth in attached:
            auth.end_stood_in()

    def reset(self) -> None:
        """Forget all logouts and keys and begin at the present time, as newly made."""
        self._begin()
        attached, self._attached = self._attached, {}
        for auth in attached:
            auth.begin_stood_in()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()

    def issue(
        self,
        sub: str = "user-1",
        *,
        roles: Collection[str] = (),
        sid: str | None = None,
        expires_in: float = ACCESS_TTL,
        **claims: Any,
    ) -> Token:
        """An access token for ``sub``: of a new session unless ``sid`` names one, good for ``expires_in`` seconds.

        ``claims`` are further ones, or replace those that the issuer would set: ``iss``, ``aud``, ``iat_us``, …; None
        leaves one out.
        """
        sid = sid or f"session-{next(self._count)}"
        moment_us = self._tick()
        iat = moment_us // 1_000_000
        payload: dict[str, Any] = {
            "iss": claims.get("iss") or self._issuer_name(),
            "aud": self._audiences(),
            "iat": iat,
            "iat_us": moment_us,
            "exp": int(self._now + expires_in),
        }
        paths, kind = self._spelling(payload["iss"])
        _place(payload, paths.subject, sub)
        _place(payload, paths.session, sid)
        _place(payload, paths.token_id, f"token-{next(self._count)}")
        _place(payload, paths.roles[0], sorted(names(roles)))
        payload = {name: value for name, value in (payload | claims).items() if value is not None}
        algorithm = self._signs_with()
        key_id, key = self._signing_key(algorithm)
        token = Token(jwt.encode(payload, key, algorithm, headers={"kid": key_id, "typ": kind}))
        token.subject, token.session = sub, sid
        return token

    def logout(self, sub: str, *, sid: str | None = None) -> None:
        """Log ``sub`` out: every token issued before is refused, or with ``sid`` only those of that session."""
        moment_us = self._tick()
        until = keep_until(moment_us)
        self._announce(
            UserRevoked(sub=sub, since_us=moment_us, until=until)
            if sid is None
            else SessionRevoked(sub=sub, sid=sid, since_us=moment_us, until=until)
        )

    def rotate_keys(self) -> None:
        """Sign with a new key from now on; the old one stays in the key set."""
        self._renew_keys()

    def revoke_keys(self) -> None:
        """Revoke every key at once; new tokens are signed by a new one."""
        revoked = list(self._published)
        self._published.clear()
        for key_id in revoked:
            self._announce(KeyRevoked(kid=key_id, until=keep_until(self._tick())))
        self._renew_keys()

    def advance(self, seconds: float) -> None:
        """Let time pass: tokens grow old and expire; the feed stays fresh unless it was made stale."""
        self._now += seconds
        self._monotonic += seconds
        self._beat(self._attached)
        for auth in tuple(self._attached):
            auth.verifier.revocations.evict(self._now)
            auth.streams.expire()

    @property
    def now(self) -> float:
        """The time, in seconds since the epoch; it stands still but for ``advance``."""
        return self._now

    def go_stale(self) -> None:
        """Cut the feed and let it grow too old; logouts are not heard until ``recover``."""
        self._cut = True
        self._monotonic += _STALE

    def recover(self) -> None:
        """Let the feed catch up: what happened meanwhile is heard now."""
        self._cut = False
        unheard = self._unheard.copy()
        self._unheard.clear()
        self._tell(self._attached, unheard)

    def attach(self, auth: Authix) -> None:
        """Give ``auth`` the keys and all that happened (``Authix`` calls this when it starts)."""
        self._attached[auth] = None
        for algorithm in auth.settings.algorithms:
            self._signing_key(algorithm)
        auth.verifier.use_keys(KeySet(self._published.values()))
        heard = [event for event in self._log if event not in self._unheard]
        for event in (*heard, self._heartbeat()):
            auth.take(event)

    def detach(self, auth: Authix) -> None:
        """Tell ``auth`` nothing more (``Authix`` calls this when it stops)."""
        self._attached.pop(auth, None)

    def _begin(self) -> None:
        self._now = time.time()
        self._monotonic = time.monotonic()
        self._last_us = 0
        self._log: list[Revocation] = []
        self._unheard: list[Revocation] = []
        self._cut = False
        self._signing: dict[AlgorithmName, tuple[str, PrivateKey]] = {}
        self._published: dict[str, VerificationKey] = {}

    def _tick(self) -> int:
        self._last_us = max(int(self._now * 1_000_000), self._last_us + 1)
        return self._last_us

    def _announce(self, event: Revocation) -> None:
        self._log.append(event)
        if self._cut:
            self._unheard.append(event)
        else:
            self._tell(self._attached, [event])

    def _tell(self, whom: Iterable[Authix], events: Iterable[Event]) -> None:
        whom = tuple(whom)
        for event in events:
            for auth in whom:
                auth.take(event)
        self._beat(whom)

    def _beat(self, whom: Iterable[Authix]) -> None:
        if not self._cut:
            heartbeat = self._heartbeat()
            for auth in tuple(whom):  # one may end meanwhile, in another thread or by a garbage collection
                auth.take(heartbeat)

    def _heartbeat(self) -> Heartbeat:
        moment_us = self._tick()
        lag_us = int(_STALE * 1_000_000) if self._cut else 0  # to one that starts while the feed is cut
        return Heartbeat(at_us=moment_us, complete_until_us=moment_us - lag_us)

    def _publish_keys(self) -> None:
        for auth in tuple(self._attached):
            auth.verifier.use_keys(KeySet(self._published.values()))

    def _renew_keys(self) -> None:
        algorithms = tuple(self._signing)
        self._signing.clear()
        for algorithm in algorithms:
            self._signing_key(algorithm)

    def _signing_key(self, algorithm: AlgorithmName) -> tuple[str, PrivateKey]:
        if algorithm not in self._signing:
            private = new_private_key(algorithm)
            public = VerificationKey(private.public_key())
            self._signing[algorithm] = public.key_id, private
            self._published[public.key_id] = public
            self._publish_keys()
        return self._signing[algorithm]

    def _signs_with(self) -> AlgorithmName:
        if self._algorithm is not None:
            return self._algorithm
        accepted = [settings.algorithms for settings in _settings()]
        return next((name for name in ALGORITHMS if all(name in names for names in accepted)), ALGORITHMS[0])

    def _spelling(self, issuer: object) -> tuple[ClaimPaths, str | None]:
        """Where tokens of ``issuer`` say what, and their ``typ``, as its verifiers (if none, as all) expect it."""
        every = _settings()
        its = [settings for settings in every if settings.issuer == issuer] or every
        expected = {(settings.claims, settings.token_types) for settings in its}
        paths, types = expected.pop() if len(expected) == 1 else (OURS, frozenset({"at+jwt"}))
        kind = "at+jwt" if "at+jwt" in types else min(types)
        return paths, None if kind == "none" else kind

    def _issuer_name(self) -> str:
        if self._issuer is not None:
            return self._issuer
        names = {settings.issuer for settings in _settings()}
        if len(names) > 1:
            raise RuntimeError("there are verifiers of several issuers: say InProcessIssuer(issuer=…) or issue(iss=…)")
        return names.pop() if names else os.environ.get("AUTHIX_ISSUER", ISSUER)

    def _audiences(self) -> list[str]:
        if self._audience is not None:
            return [self._audience]
        names = {settings.audience for settings in _settings()}
        return sorted(names) or [os.environ.get("AUTHIX_AUDIENCE", AUDIENCE)]


def _settings() -> list[VerifierSettings]:
    """Of the verifiers that exist, started or not; a Django project's is made by its first request, or here."""
    django = sys.modules.get("django.conf")
    if django is not None and django.settings.configured and hasattr(django.settings, "AUTHIX"):
        import_module("authix.django").verifier()
    return [*(auth.settings for auth in runtime.instances), *(auth.settings for auth in threaded.instances)]


def _place(payload: dict[str, Any], path: ClaimPath, value: object) -> None:
    for name in path[:-1]:
        payload = payload.setdefault(name, {})
    payload[path[-1]] = value
