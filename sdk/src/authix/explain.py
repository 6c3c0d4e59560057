"""Why a verifier would accept or refuse a token.

Rule: the verdict is the verifier's own, and so is that on each claim: what failed is mended in a copy, signed with a
key made for it, and judged again, so that all that is wrong is told at once. The token is sent nowhere, and its
signature shown nowhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from authix import errors, tokens
from authix.claims import Claims
from authix.errors import AuthixError, ClaimError, TokenError, TokenMalformed, TokenTypeWrong
from authix.keys import KeySet, VerificationKey
from authix.tokens import base64url_decode, base64url_encode, json_object
from authix.verifier import Verifier

OK, REFUSED, UNKNOWN = "ok", "refused", "unknown"
ACCEPTED_CODE, REFUSED_CODE, UNKNOWN_CODE = 0, 1, 2
"""Exit codes."""

_TIMES = {"iat": 1, "exp": 1, "nbf": 1, "auth_time": 1, "iat_us": 1_000_000}
_STEPS = {"iss": "issuer", "aud": "audience", "iat": "times", "iat_us": "times", "exp": "times", "nbf": "times"}
_ROUNDS = 16  # more than there are claims that can be wrong


class Step(NamedTuple):
    """One thing that was looked at; ``code`` where it failed."""

    name: str
    status: str
    reason: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.status:<9}{self.name:<12}{self.code + ': ' if self.code else ''}{self.reason}"


class Explanation(NamedTuple):
    """``header`` and ``payload`` are unverified, and None where they can't be read."""

    header: Mapping[str, Any] | None
    payload: Mapping[str, Any] | None
    steps: list[Step]
    verdict: Step
    exit_code: int

    def lines(self, now: float) -> Iterator[str]:
        for name, members in (("header", self.header), ("claims, as the token has them", self.payload)):
            yield name
            if members is None:
                yield "  can't be read"
            for member, value in (members or {}).items():
                yield f"  {_shown(member)}: {_shown(value)}{_when(member, value, now)}"
        yield "steps"
        yield from (f"  {step}" for step in self.steps)
        yield "verdict"
        yield f"  {self.verdict.status}" + (
            f": {self.verdict.code}: {self.verdict.reason}" if self.verdict.code else ""
        )


def explain(
    verifier: Verifier, token: str, *, now: float, monotonic: float, trouble: Mapping[str, str] | None = None
) -> Explanation:
    """What ``verifier`` makes of ``token``. ``trouble`` may say why ``keys`` and ``feed`` are not here."""
    trouble = trouble or {}
    try:
        verifier.verify(token, now=now, monotonic=monotonic)
        verdict, exit_code = Step("verdict", "accepted", ""), ACCEPTED_CODE
    except TokenError as error:
        verdict, exit_code = Step("verdict", REFUSED, error.reason, error.code), REFUSED_CODE
    except AuthixError as error:
        verdict, exit_code = Step("verdict", "can't be judged now", error.reason, error.code), UNKNOWN_CODE
    parts = token.split(".") if len(token) <= tokens.MAX_BYTES else []
    header, payload = (_object(part) for part in parts[:2]) if len(parts) == 3 else (None, None)
    steps = [
        _shape(token),
        *(_header(verifier, token, header, trouble) if header is not None else ()),
        *(_claims(verifier, payload, now, monotonic, trouble) if payload is not None else ()),
    ]
    return Explanation(header, payload, steps, verdict, exit_code)


def _shape(token: str) -> Step:
    try:
        json_object(tokens.take_apart(token).payload)
    except TokenTypeWrong:  # found before its other segments were looked at
        _, body, tail = token.split(".")
        return _shape(f"{_segment({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 'x'})}.{body}.{tail}")
    except errors.HeaderRefused as error:
        return Step("shape", REFUSED, error.reason, error.code)
    except TokenError as error:
        parts = token.count(".") + 1
        counted = "" if parts == 3 else f" (of {parts} segments, not 3)"
        return Step("shape", REFUSED, error.reason + counted, error.code)
    return Step("shape", OK, "three base64url segments, the first two of them JSON objects")


def _header(verifier: Verifier, token: str, header: Mapping[str, Any], trouble: Mapping[str, str]) -> Iterator[Step]:
    kind, algorithm, key_id = header.get("typ", tokens.NO_TYPE), header.get("alg"), header.get("kid")
    accepted = ", ".join(sorted(name for name in verifier.types if "/" not in name))
    if isinstance(kind, str) and kind in verifier.types:
        yield Step("type", OK, f"{_shown(kind)} is accepted")
    else:
        reason = f"typ is {_shown(header.get('typ'))}, and AUTHIX_TOKEN_TYPES accepts {accepted}"
        yield Step("type", REFUSED, reason, TokenTypeWrong.code)
    if isinstance(algorithm, str) and algorithm in verifier.algorithms:
        yield Step("algorithm", OK, f"{algorithm} is accepted")
    else:
        configured = ", ".join(sorted(verifier.algorithms))
        reason = f"alg is {_shown(algorithm)}, and AUTHIX_ALGORITHM accepts {configured}"
        yield Step("algorithm", REFUSED, reason, errors.AlgorithmRefused.code)
    key = verifier.keys.get(key_id) if isinstance(key_id, str) else None
    if key is not None:
        yield Step("key id", OK, f"is one of the issuer's {len(verifier.keys)}")
        yield _signature(key, token, algorithm)
        return
    if isinstance(key_id, str) and verifier.revocations.revokes_key(key_id):
        yield Step("key id", REFUSED, "the key was revoked", errors.KeyRevoked.code)
    elif not len(verifier.keys):
        yield Step("key id", UNKNOWN, trouble.get("keys", "the issuer's keys are not here"), errors.NotReady.code)
    else:
        known = ", ".join(_shown(key.key_id) for key in verifier.keys)
        yield Step("key id", REFUSED, f"no key has it; the issuer's are {known}", errors.KeyUnknown.code)
    yield Step("signature", UNKNOWN, "its key is not here")


def _signature(key: VerificationKey, token: str, algorithm: object) -> Step:
    if algorithm != key.algorithm:
        reason = f"the key is for {key.algorithm} only"
        return Step("signature", REFUSED, reason, errors.AlgorithmRefused.code)
    signed, _, signature = token.rpartition(".")
    try:
        if key.verify(signed.encode(), base64url_decode(signature)):
            return Step("signature", OK, "is the key's over header and claims")
    except (TokenMalformed, UnicodeEncodeError):
        pass
    reason = "is not the key's over header and claims: they were changed, or another key with this id signed them"
    return Step("signature", REFUSED, reason, errors.SignatureInvalid.code)


def _claims(
    verifier: Verifier, payload: Mapping[str, Any], now: float, monotonic: float, trouble: Mapping[str, str]
) -> Iterator[Step]:
    probe, copy = _Probe(verifier, now, monotonic), _kept(verifier, payload)
    wrong: dict[str, ClaimError] = {}
    claims: Claims | None = None
    for _ in range(_ROUNDS):
        try:
            claims = probe.judge(copy)
            break
        except ClaimError as error:
            wrong[error.claim] = error
            _mend(verifier, copy, error.claim, now)
        except TokenError:
            break
    for name, good in _GOOD.items():
        found = [error for claim, error in wrong.items() if _STEPS.get(claim, "claims") == name]
        yield from (
            Step(name, REFUSED, error.reason + _beside(verifier, payload, error), error.code) for error in found
        )
        if not found:
            yield Step(name, OK, good) if claims else Step(name, UNKNOWN, "could not be looked at")
    subject, session = ".".join(verifier.paths.subject), ".".join(verifier.paths.session)
    if claims is None or wrong.keys() & {"iat", "iat_us", subject, session}:
        yield Step("revocation", UNKNOWN, "whose and how old the token is can't be read")
    else:
        yield _revocation(probe, copy, trouble)
    yield _freshness(probe, copy if claims else None, trouble)


_GOOD = {
    "issuer": "iss is the expected one",
    "audience": "aud names the expected one",
    "times": "it has begun and has not expired",
    "claims": "subject and all else are as they must be",
}


def _revocation(probe: _Probe, payload: Mapping[str, Any], trouble: Mapping[str, str]) -> Step:
    try:
        probe.judge(payload, revocations=True)
    except TokenError as error:
        return Step("revocation", REFUSED, error.reason, error.code)
    if not probe.like.feed:
        return Step("revocation", UNKNOWN, "AUTHIX_FEED=none: logouts are not heard of")
    if probe.like.freshness.age(probe.monotonic) is None:
        return Step("revocation", UNKNOWN, trouble.get("feed", "the feed has not yet been replayed"))
    return Step("revocation", OK, "no logout after it was issued is known")


def _freshness(probe: _Probe, payload: Mapping[str, Any] | None, trouble: Mapping[str, str]) -> Step:
    if not probe.like.feed:
        return Step("freshness", OK, "is not asked for: AUTHIX_FEED=none")
    age = probe.like.freshness.age(probe.monotonic)
    if age is None:
        reason = trouble.get("feed", "the feed has not yet been replayed")
        return Step("freshness", UNKNOWN, reason, errors.NotReady.code)
    if payload is not None:
        try:
            probe.judge(payload, freshness=True)
        except AuthixError as error:
            return Step("freshness", UNKNOWN, f"{error.reason}: it is {age:.1f} s old", error.code)
    return Step("freshness", OK, f"the feed is {age:.1f} s old")


class _Probe:
    """Judges claims as the verifier ``like`` does, whoever signed them."""

    def __init__(self, like: Verifier, now: float, monotonic: float) -> None:
        self.like = like
        self.now = now
        self.monotonic = monotonic
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = VerificationKey(self._key.public_key())

    def judge(self, payload: Mapping[str, Any], *, revocations: bool = False, freshness: bool = False) -> Claims:
        like = self.like
        verifier = Verifier(
            issuer=like.issuer,
            audience=like.audience,
            leeway=like.leeway,
            stale_after=like.stale_after,
            when_stale=like.when_stale,
            claims=like.paths,
            feed=freshness,
            cache_entries=0,
        )
        verifier.use_keys(KeySet([self._public]))
        if revocations:
            verifier.revocations = like.revocations
        if freshness:
            verifier.freshness = like.freshness
        header = {"alg": "ES256", "typ": "at+jwt", "kid": self._public.key_id}
        signed = f"{_segment(header)}.{_segment(payload)}"
        signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), self._key)
        token = f"{signed}.{base64url_encode(signature)}"
        return verifier.verify(token, now=self.now, monotonic=self.monotonic)


def _kept(verifier: Verifier, payload: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of what is judged; a number that JSON can't spell is as wrong as none."""
    names = {*_STEPS, *(path[0] for path in verifier.paths.all())}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in payload.items()
        if name in names
    }


def _mend(verifier: Verifier, payload: dict[str, Any], claim: str, now: float) -> None:
    """Put something good in the place of ``claim``."""
    good: dict[str, Any] = {"iss": verifier.issuer, "aud": verifier.audience, "iat": int(now), "exp": int(now) + 60}
    if claim in good:
        payload[claim] = good[claim]
        return
    for path in verifier.paths.all():
        if ".".join(path) == claim:
            payload.pop(path[0], None)
            if path == verifier.paths.subject:
                subject: Any = "x"
                for name in reversed(path[1:]):
                    subject = {name: subject}
                payload[path[0]] = subject
            return
    payload.pop(claim, None)


def _beside(verifier: Verifier, payload: Mapping[str, Any], error: ClaimError) -> str:
    """What is in the token's place and what was expected there."""
    expected = {"iss": ("AUTHIX_ISSUER", verifier.issuer), "aud": ("AUTHIX_AUDIENCE", verifier.audience)}
    if error.claim not in expected or error.claim not in payload:
        return ""
    setting, value = expected[error.claim]
    return f": it is {_shown(payload[error.claim])}, and {setting} is {_shown(value)}"


def _object(segment: str) -> Mapping[str, Any] | None:
    try:
        return json_object(base64url_decode(segment))
    except TokenMalformed:
        return None


def _segment(content: Mapping[str, Any]) -> str:
    return base64url_encode(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())


def _shown(value: object) -> str:
    return json.dumps(value)  # in ASCII, so that it can't play with the terminal


def _when(claim: str, value: object, now: float) -> str:
    """A time as people read it."""
    if claim not in _TIMES or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    try:
        seconds = value / _TIMES[claim]
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    apart = timedelta(seconds=abs(round(now - seconds)))
    return f" = {moment:%Y-%m-%d %H:%M:%S} UTC, " + (f"{apart} ago" if seconds <= now else f"in {apart}")
