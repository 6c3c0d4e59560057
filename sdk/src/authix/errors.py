"""Every way a token, a setting or a source can be refused.

Rule: one tree; each error has a stable ``code`` for programs and a sentence for people, and neither ever holds a
token, a key or any other secret. ``status`` is the HTTP answer an integration gives.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound="AuthixError")


class AuthixError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "authix_error"
    status: ClassVar[int] = 500

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or self.code)
        self.reason = reason or self.code

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception is made anew from its text, which is not what the kinds below are made from
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[E], args: tuple[Any, ...]) -> E:
    return kind.__new__(kind, *args)


class SettingsError(AuthixError):
    """A setting is missing or wrong; the text holds one sentence for each."""

    code = "settings_invalid"


class TokenError(AuthixError):
    """The token is refused: the caller is not authenticated (RFC 6750 ``invalid_token``)."""

    code = "token_invalid"
    status = 401


class TokenMissing(TokenError):
    """No token was sent."""

    code = "token_missing"


class TokenMalformed(TokenError):
    """Not three canonical base64url segments holding JSON objects (RFC 7515, RFC 8725)."""

    code = "token_malformed"


class TokenTooLarge(TokenError):
    """Longer than 8 KiB."""

    code = "token_too_large"


class AlgorithmRefused(TokenError):
    """``alg`` is not a configured algorithm, or not the one its key is for (RFC 8725, 3.1)."""

    code = "algorithm_refused"


class HeaderRefused(TokenError):
    """``crit`` or ``b64`` is present: extensions this verifier does not have (RFC 7515, 4.1.11; RFC 7797)."""

    code = "header_refused"


class TokenTypeWrong(TokenError):
    """``typ`` is not ``at+jwt`` (RFC 9068, 2.1)."""

    code = "token_type_wrong"


class KeyUnknown(TokenError):
    """No key of the key set has the token's ``kid``."""

    code = "key_unknown"


class KeyRevoked(TokenError):
    """The token's key was revoked."""

    code = "key_revoked"


class SignatureInvalid(TokenError):
    """The signature does not belong to header, payload and key."""

    code = "signature_invalid"

    def __init__(self, reason: str = "", *, known: bool = False) -> None:
        super().__init__(reason)
        self.known = known
        """Whether it was remembered that it is wrong, so that it did not have to be computed."""


class ClaimError(TokenError):
    """A claim is missing or not what it must be; ``claim`` names it."""

    code = "claim_invalid"

    def __init__(self, claim: str, reason: str) -> None:
        super().__init__(f"claim {claim!r} {reason}")
        self.claim = claim


class ClaimMissing(ClaimError):
    """A required claim is absent."""

    code = "claim_missing"

    def __init__(self, claim: str) -> None:
        super().__init__(claim, "is missing")


class IssuerWrong(ClaimError):
    """``iss`` is not exactly the configured issuer."""

    code = "issuer_wrong"

    def __init__(self) -> None:
        super().__init__("iss", "is not the expected issuer")


class AudienceWrong(ClaimError):
    """``aud`` does not hold the configured audience."""

    code = "audience_wrong"

    def __init__(self) -> None:
        super().__init__("aud", "does not name this audience")


class TokenExpired(ClaimError):
    """``exp`` has passed."""

    code = "token_expired"

    def __init__(self, reason: str = "has passed") -> None:
        super().__init__("exp", reason)


class TokenNotYetValid(ClaimError):
    """``nbf`` or ``iat`` lies in the future by more than the leeway."""

    code = "token_not_yet_valid"

    def __init__(self, claim: str) -> None:
        super().__init__(claim, "lies in the future")


class TokenRevoked(TokenError):
    """The user or the session logged out after this token was issued."""

    code = "token_revoked"


class RoleMissing(AuthixError):
    """The token is good but its user lacks a required role (RFC 6750 ``insufficient_scope``)."""

    code = "role_missing"
    status = 403


class Unavailable(AuthixError):
    """This verifier can't judge now; the caller may try again after ``retry_after`` seconds."""

    code = "unavailable"
    status = 503
    retry_after: ClassVar[int] = 1


class NotReady(Unavailable):
    """Keys are not yet here, or the feed has not yet been replayed."""

    code = "not_ready"


class FeedStale(Unavailable):
    """The revocation feed is older than allowed, so a logout could have been missed."""

    code = "feed_stale"


class SourceError(AuthixError):
    """A key set or feed could not be read: unreachable, refused or not understood."""

    code = "source_error"
