"""Judge an access token.

Rule: pure and synchronous; no I/O, time is an argument. Cache -> shape -> claims -> signature -> revocation ->
freshness. A cache hit skips only what can't change: times, revocation and freshness are judged every time.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from cachetools import LRUCache

from authix import errors, tokens
from authix.claims import Claims
from authix.errors import (
    AlgorithmRefused,
    AudienceWrong,
    ClaimError,
    ClaimMissing,
    FeedStale,
    IssuerWrong,
    KeyUnknown,
    NotReady,
    SignatureInvalid,
    TokenExpired,
    TokenNotYetValid,
    TokenRevoked,
)
from authix.events import Event, Heartbeat, KeyRevoked
from authix.freshness import Freshness, WhenStale
from authix.keys import AlgorithmName, KeySet
from authix.revocations import RevocationMap

CLAMP_AGE = 60
"""Oldest token, in seconds, that a stale verifier still accepts under the policy ``clamp``."""
CACHE_ENTRIES = 8192
"""Verified tokens that are remembered."""
CACHED_TOKEN_BYTES = 2048
"""Longest token that is remembered, so that the cache is bounded in bytes too."""
_LATEST = 100_000_000_000  # seconds; the year 5138, so that milliseconds are noticed
_VISIBLE = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_OURS = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "iat_us", "jti", "sid", "roles"})


class _Verified(NamedTuple):
    """A token that was found good under ``keys``, and the latest moment before which one of its claims forbids it."""

    keys: KeySet
    claims: Claims
    begins: tuple[float, str]


class Verifier:
    """Keys, revocations and freshness in memory, and the judgement over them.

    ``verify`` may be called from several threads; ``apply`` and ``use_keys`` from one.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        algorithms: frozenset[AlgorithmName] = frozenset({"ES256"}),
        leeway: float = 5,
        stale_after: float = 15,
        when_stale: WhenStale = WhenStale.REJECT,
        cache_entries: int = CACHE_ENTRIES,
    ) -> None:
        """``leeway`` and ``stale_after`` in seconds; ``cache_entries`` 0 remembers no token."""
        self.issuer = issuer
        self.audience = audience
        self.algorithms = algorithms
        self.leeway = leeway
        self.stale_after = stale_after
        self.when_stale = when_stale
        self.revocations = RevocationMap()
        self.freshness = Freshness()
        self._keys = KeySet()
        self._cache: LRUCache[str, _Verified] = LRUCache(cache_entries)
        self._cached_token_bytes = CACHED_TOKEN_BYTES if cache_entries else 0
        self._cache_lock = threading.Lock()

    @property
    def keys(self) -> KeySet:
        return self._keys

    def use_keys(self, keys: KeySet) -> None:
        """Replace the key set; tokens verified under the old one are judged anew. A revoked key does not come back."""
        self._keys = KeySet(key for key in keys if not self.revocations.revokes_key(key.key_id))

    def apply(self, event: Event, monotonic: float) -> None:
        """Take one event of the feed, in the feed's order, at ``monotonic`` seconds."""
        if isinstance(event, Heartbeat):
            self.freshness.observe(event, monotonic)
            return
        self.revocations.apply(event)
        if isinstance(event, KeyRevoked) and event.kid in self._keys:
            self.use_keys(self._keys)

    def verify(self, token: str, *, now: float, monotonic: float) -> Claims:
        """The claims of ``token`` at ``now`` (epoch seconds) and ``monotonic`` (seconds).

        Raises a ``TokenError`` when it is refused, ``NotReady`` or ``FeedStale`` when it can't be judged.
        """
        keys = self._keys
        with self._cache_lock:
            verified = self._cache.get(token)
        if verified is not None and verified.keys is keys:
            self._check_times(verified, now)
        else:
            verified = self._verify_anew(token, keys, now)
            if len(token) <= self._cached_token_bytes:
                with self._cache_lock:
                    self._cache[token] = verified
        self._check_revocation(verified.claims)
        self._check_freshness(verified.claims, now, monotonic)
        return verified.claims

    def _verify_anew(self, token: str, keys: KeySet, now: float) -> _Verified:
        parsed = tokens.parse(token)
        if parsed.algorithm not in self.algorithms:
            raise AlgorithmRefused("the token's algorithm is not a configured one")
        verified = self._read_claims(parsed.payload, parsed.key_id, keys)
        self._check_times(verified, now)
        key = keys.get(parsed.key_id)
        if key is None:
            if self.revocations.revokes_key(parsed.key_id):
                raise errors.KeyRevoked("the token's key was revoked")
            if not len(keys):
                raise NotReady("the issuer's keys are not yet here")
            raise KeyUnknown("no known key has the token's key id")
        if key.algorithm != parsed.algorithm:
            raise AlgorithmRefused("the token's algorithm is not its key's")
        if not key.verify(parsed.signing_input, parsed.signature):
            raise SignatureInvalid("the token's signature is wrong")
        return verified

    def _read_claims(self, payload: Mapping[str, Any], key_id: str, keys: KeySet) -> _Verified:
        if _required(payload, "iss") != self.issuer:
            raise IssuerWrong
        audience = _audience(_required(payload, "aud"))
        if self.audience not in audience:
            raise AudienceWrong
        expires_at, issued_at = _time(payload, "exp"), _time(payload, "iat")
        # Without iat_us the moment lies somewhere in iat's second; its start is the side that refuses more.
        issued_at_us = payload.get("iat_us", math.floor(issued_at) * 1_000_000)
        if type(issued_at_us) is not int or not 0 <= issued_at_us < _LATEST * 1_000_000:
            raise ClaimError("iat_us", "is not a whole number of microseconds since 1970")
        begins = [(issued_at, "iat"), (issued_at_us / 1_000_000, "iat_us")]
        if "nbf" in payload:
            begins.append((_time(payload, "nbf"), "nbf"))
        roles = payload.get("roles", [])
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise ClaimError("roles", "is not a list of strings")
        claims = Claims(
            subject=_name(payload, "sub"),
            session=_name(payload, "sid") if "sid" in payload else None,
            roles=frozenset(roles),
            issuer=self.issuer,
            audience=audience,
            issued_at_us=issued_at_us,
            expires_at=expires_at,
            token_id=_name(payload, "jti") if "jti" in payload else None,
            key_id=key_id,
            extra=MappingProxyType({name: value for name, value in payload.items() if name not in _OURS}),
        )
        return _Verified(keys, claims, max(begins))

    def _check_times(self, verified: _Verified, now: float) -> None:
        if now >= verified.claims.expires_at + self.leeway:
            raise TokenExpired
        moment, claim = verified.begins
        if moment > now + self.leeway:
            raise TokenNotYetValid(claim)

    def _check_revocation(self, claims: Claims) -> None:
        if self.revocations.revokes(subject=claims.subject, session=claims.session, issued_at_us=claims.issued_at_us):
            raise TokenRevoked("the user logged out after this token was issued")
        if self.revocations.has_forgotten(claims.issued_at_us):
            raise TokenExpired("has passed by the age of the revocations kept")

    def _check_freshness(self, claims: Claims, now: float, monotonic: float) -> None:
        age = self.freshness.age(monotonic)
        if age is None:
            raise NotReady("the revocation feed has not yet been replayed")
        if age <= self.stale_after or self.when_stale is WhenStale.ACCEPT:
            return
        if self.when_stale is WhenStale.CLAMP and now - claims.issued_at_us / 1_000_000 < CLAMP_AGE:
            return
        raise FeedStale("the revocation feed is too old to rule out a logout")


def _required(payload: Mapping[str, Any], claim: str) -> object:
    if claim not in payload:
        raise ClaimMissing(claim)
    return payload[claim]


def _audience(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ClaimError("aud", "is neither a string nor a list of strings")


def _time(payload: Mapping[str, Any], claim: str) -> float:
    value = _required(payload, claim)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise ClaimError(claim, "is not a number of seconds since 1970")
    return value


def _name(payload: Mapping[str, Any], claim: str) -> str:
    value = _required(payload, claim)
    if not isinstance(value, str) or _VISIBLE.fullmatch(value) is None:
        raise ClaimError(claim, "is not 1 to 128 visible ASCII characters")
    return value
