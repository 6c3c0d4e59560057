"""Judge an access token.

Rule: pure and synchronous; no I/O, time is an argument. Cache -> shape -> claims -> signature -> revocation ->
freshness. A cache hit skips only what can't have changed: times and freshness are judged every time, and so is
revocation, unless nothing was written since where it would stand. A signature found wrong is remembered too, and skips
only computing it again.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from cachetools import FIFOCache

from authix import errors, tokens
from authix.claims import OURS, ClaimPaths, Claims
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
from authix.payloads import LATEST, NO_OTHERS, audience_in, name_at, others, read_as_issued, required, roles_at, time_in
from authix.recent import Recent
from authix.revocations import MAX_ENTRIES, Place, RevocationMap

CLAMP_AGE = 60
"""Oldest token, in seconds, that a stale verifier still accepts under the policy ``clamp``."""
CACHE_ENTRIES = 8192
"""Verified tokens that are remembered."""
CACHED_TOKEN_BYTES = 2048
"""Longest token that is remembered, so that the cache is bounded in bytes too.

With ``CACHE_ENTRIES`` tokens and what they say that is 13 MiB of usual ones (0.5 KiB each) and 35 MiB of the longest;
at the very worst, from an issuer that fills them with empty lists, 210 MiB.
"""
WRONG_ENTRIES = 1024
"""Tokens with a wrong signature that are remembered, each by 16 bytes: whoever sends bad ones chooses their length."""
_WRONG = "the token's signature is wrong"
_REGISTERED = frozenset({"iss", "aud", "exp", "nbf", "iat", "iat_us"})


class _Times(msgspec.Struct, gc=False):
    """From when until when (leeway included) a token says that it is good."""

    begins: float
    ends: float
    begins_by: str
    """The claim that forbids it for longest."""

    def check(self, now: float) -> None:
        """Raises ``TokenExpired`` or ``TokenNotYetValid``."""
        if now >= self.ends:
            raise TokenExpired
        if now < self.begins:
            raise TokenNotYetValid(self.begins_by)


class _Verified(_Times, gc=False):
    """A token that was found good, and what it says."""

    claims: Claims
    place: Place
    clean_at: int = -1
    """The mark of its place when nothing was found there. A lookup among a million waits for memory."""


class _Era(NamedTuple):
    """A key set and the tokens verified under it, in one: no token outlives the keys it was verified under."""

    keys: KeySet
    verified: Recent[str, _Verified]
    """Looked at without a lock and added to under it."""
    wrong: FIFOCache[bytes, _Times]
    """By digest, those whose signature is wrong; likewise."""


class _Counts:
    """Of its own, since whatever is set on a verifier is looked at first."""

    __slots__ = ("any_wrong", "known", "signatures")

    def __init__(self) -> None:
        self.known = 0
        self.signatures = 0
        self.any_wrong = False
        """Whether there ever was a token that is wrong: as long as there is peace, none is looked for."""


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
        token_types: frozenset[str] = frozenset({"at+jwt"}),
        claims: ClaimPaths = OURS,
        feed: bool = True,
        max_revocations: int = MAX_ENTRIES,
        cache_entries: int = CACHE_ENTRIES,
    ) -> None:
        """``leeway`` and ``stale_after`` in seconds; ``cache_entries`` 0 remembers no token, good or bad.

        ``token_types`` are the accepted ``typ`` (``none`` for a header without), ``claims`` tells where a token says
        what. ``feed=False`` is for an issuer that tells no logouts: freshness is not judged.
        """
        self._cache_entries = cache_entries
        self._cached_token_bytes = CACHED_TOKEN_BYTES if cache_entries else 0
        self._wrong_entries = WRONG_ENTRIES if cache_entries else 0
        self._cache_lock = threading.Lock()
        self._begin_era(KeySet())
        self.issuer = issuer
        self.audience = audience
        self.algorithms = algorithms
        self.leeway = leeway
        self.stale_after = stale_after
        self.when_stale = when_stale
        self.feed = feed
        self.types = token_types | {f"application/{name}" for name in token_types}
        self.paths = OURS if claims == OURS else claims
        self._taken = _REGISTERED | {path[0] for path in claims.all() if len(path) == 1}
        self.revocations = RevocationMap(max_revocations)
        self.freshness = Freshness()
        self._counts = _Counts()

    if not TYPE_CHECKING:  # or a type checker would let any name be set

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if not name.startswith("_"):
                self._begin_era(self.keys)  # what was verified under another setting is judged anew

    @property
    def signatures(self) -> int:
        """How many signatures were computed: of tokens that were not remembered."""
        return self._counts.signatures

    @property
    def known(self) -> int:
        """How many tokens were remembered, good or bad, so that no signature was computed."""
        return self._counts.known

    @property
    def keys(self) -> KeySet:
        return self._era.keys

    def use_keys(self, keys: KeySet) -> None:
        """Replace the key set; tokens verified under another are judged anew. A revoked key does not come back."""
        found = KeySet(key for key in keys if not self.revocations.revokes_key(key.key_id))
        if found.to_json() != self.keys.to_json():
            self._begin_era(found)

    def apply(self, event: Event, monotonic: float) -> bool:
        """Take one event, in the feed's order, at ``monotonic`` seconds; whether it revokes anything new."""
        if isinstance(event, Heartbeat):
            self.freshness.observe(event, monotonic)
            return False
        news = self.revocations.apply(event)
        if isinstance(event, KeyRevoked) and event.kid in self.keys:
            self.use_keys(self.keys)
        return news

    def verify(self, token: str, *, now: float, monotonic: float, when_stale: WhenStale | None = None) -> Claims:
        """The claims of ``token`` at ``now`` (epoch seconds) and ``monotonic`` (seconds).

        ``when_stale`` is the policy of this call; None: the verifier's own. Raises a ``TokenError`` when the token is
        refused, ``NotReady`` or ``FeedStale`` when it can't be judged.
        """
        era = self._era
        try:
            verified = era.verified.get(token)
        except TypeError:  # it can't be looked up; what it is instead of a text is said by what follows
            verified = None
        if verified is None:
            verified = self._verify_anew(token, era, now)
        else:
            self._counts.known += 1
            if not verified.begins <= now < verified.ends:
                verified.check(now)
        claims = verified.claims
        mark = verified.place.mark()
        if mark != verified.clean_at:
            self._judge_revocation(claims)
            verified.clean_at = mark
        age = self.freshness.age(monotonic)
        if age is None or age > self.stale_after:
            self._judge_stale(claims, age, now, when_stale or self.when_stale)
        return claims

    def remembers(self, token: str) -> bool:
        """Whether ``token`` was found good and is kept, so that ``verify`` would not compute its signature."""
        return token in self._era.verified

    def _begin_era(self, keys: KeySet) -> None:
        self._era = _Era(keys, Recent(self._cache_entries), FIFOCache(self._wrong_entries))

    def _verify_anew(self, token: str, era: _Era, now: float) -> _Verified:
        if self._counts.any_wrong and (wrong := _found_wrong(token, era)) is not None:
            wrong.check(now)
            self._counts.known += 1
            raise SignatureInvalid(_WRONG, known=True)
        parts = tokens.take_apart(token, self.types)
        if parts.algorithm not in self.algorithms:
            raise AlgorithmRefused("the token's algorithm is not a configured one")
        verified = self._read_claims(parts.payload, parts.key_id)
        if not verified.begins <= now < verified.ends:
            verified.check(now)
        key = era.keys.get(parts.key_id)
        if key is None:
            if self.revocations.revokes_key(parts.key_id):
                raise errors.KeyRevoked("the token's key was revoked")
            if not len(era.keys):
                raise NotReady("the issuer's keys are not yet here")
            raise KeyUnknown("no known key has the token's key id")
        if key.algorithm != parts.algorithm:
            raise AlgorithmRefused("the token's algorithm is not its key's")
        if not key.verify(parts.signing_input, parts.signature):
            self._remember_wrong(token, verified, era)
            raise SignatureInvalid(_WRONG)
        with self._cache_lock:
            self._counts.signatures += 1
            if len(token) <= self._cached_token_bytes:
                era.verified.keep(token, verified)
        return verified

    def _remember_wrong(self, token: str, times: _Times, era: _Era) -> None:
        with self._cache_lock:
            self._counts.signatures += 1
            self._counts.any_wrong = True
            if self._wrong_entries:
                era.wrong[_digest(token)] = _Times(times.begins, times.ends, times.begins_by)

    def _read_claims(self, payload: bytes, key_id: str) -> _Verified:
        said = self.paths is OURS and read_as_issued(payload)
        if not said or said.iss != self.issuer or said.aud != self.audience:
            return self._read_any_claims(tokens.json_object(payload), key_id)
        claims = Claims(
            subject=said.sub,
            session=said.sid,
            roles=frozenset(said.roles),
            issuer=said.iss,
            audience=(said.aud,),
            issued_at_us=said.iat_us,
            expires_at=said.exp,
            token_id=said.jti,
            key_id=key_id,
            extra=NO_OTHERS,
        )
        begins: tuple[float, str] = (said.iat_us / 1_000_000, "iat_us")
        if said.iat > begins[0]:
            begins = (said.iat, "iat")
        place = self.revocations.place_of(said.sub, said.sid)
        return _Verified(begins[0] - self.leeway, said.exp + self.leeway, begins[1], claims, place)

    def _read_any_claims(self, payload: Mapping[str, Any], key_id: str) -> _Verified:
        if required(payload, "iss") != self.issuer:
            raise IssuerWrong
        audience = audience_in(required(payload, "aud"))
        if self.audience not in audience:
            raise AudienceWrong
        expires_at, issued_at = time_in(payload, "exp"), time_in(payload, "iat")
        # Without iat_us the moment lies somewhere in iat's second; its start is the side that refuses more.
        issued_at_us = payload["iat_us"] if "iat_us" in payload else math.floor(issued_at) * 1_000_000
        if type(issued_at_us) is not int or not 0 <= issued_at_us < LATEST * 1_000_000:
            raise ClaimError("iat_us", "is not a whole number of microseconds since 1970")
        moments = [(issued_at, "iat"), (issued_at_us / 1_000_000, "iat_us")]
        if "nbf" in payload:
            moments.append((time_in(payload, "nbf"), "nbf"))
        subject = name_at(payload, self.paths.subject)
        if subject is None:
            raise ClaimMissing(".".join(self.paths.subject))
        claims = Claims(
            subject=subject,
            session=name_at(payload, self.paths.session),
            roles=roles_at(payload, self.paths.roles),
            issuer=self.issuer,
            audience=audience,
            issued_at_us=issued_at_us,
            expires_at=expires_at,
            token_id=name_at(payload, self.paths.token_id),
            key_id=key_id,
            extra=others(payload, self._taken),
        )
        begins, begins_by = max(moments)
        place = self.revocations.place_of(claims.subject, claims.session)
        return _Verified(begins - self.leeway, expires_at + self.leeway, begins_by, claims, place)

    def _judge_revocation(self, claims: Claims) -> None:
        revocations, issued_at_us = self.revocations, claims.issued_at_us
        if revocations.revokes(subject=claims.subject, session=claims.session, issued_at_us=issued_at_us):
            raise TokenRevoked("the user logged out after this token was issued")
        if revocations.has_forgotten(issued_at_us):
            raise TokenExpired("has passed by the age of the revocations kept")

    def _judge_stale(self, claims: Claims, age: float | None, now: float, when_stale: WhenStale) -> None:
        if not self.feed:
            return
        if age is None:
            raise NotReady("the revocation feed has not yet been replayed")
        if when_stale is WhenStale.ACCEPT:
            return
        if when_stale is WhenStale.CLAMP and now - claims.issued_at_us / 1_000_000 < CLAMP_AGE:
            return
        raise FeedStale("the revocation feed is too old to rule out a logout")


def _found_wrong(token: str, era: _Era) -> _Times | None:
    try:
        return era.wrong.get(_digest(token)) if len(token) <= tokens.MAX_BYTES else None
    except (AttributeError, TypeError, UnicodeEncodeError):  # what it is instead of a token is said by what follows
        return None
    except KeyError:  # another thread had it make room amid the look
        return None


def _digest(token: str) -> bytes:
    """Of the whole token, which has one spelling; to hit a good one's would take 2**128 tries."""
    return hashlib.blake2b(token.encode("ascii"), digest_size=16).digest()
