"""Every way the issuer refuses.

Rule: errors of the domain, with a stable ``code``; they know nothing of HTTP (see the table in ``routes``), and none
holds a password, a token, a cookie or a key.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class IssuerError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "issuer_error"

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or self.code)
        self.reason = reason or self.code


class Reason(msgspec.Struct, frozen=True):
    """Why one field of the input is refused."""

    field: str
    code: str
    detail: str


class InputInvalid(IssuerError):
    """The input is understood but not acceptable; ``reasons`` says why, field by field."""

    code = "input_invalid"

    def __init__(self, *reasons: Reason) -> None:
        super().__init__("; ".join(reason.detail for reason in reasons))
        self.reasons = reasons


class BodyMalformed(IssuerError):
    """The request's body is not one JSON object."""

    code = "body_malformed"


class ContentTypeWrong(IssuerError):
    """The request's body is not declared as JSON."""

    code = "content_type_wrong"


class EmailTaken(IssuerError):
    """There already is an account with this email."""

    code = "email_taken"


class CredentialsWrong(IssuerError):
    """No account has this email and this password."""

    code = "credentials_wrong"


class RefreshTokenMissing(IssuerError):
    """No refresh token was sent."""

    code = "refresh_token_missing"


class RefreshTokenInvalid(IssuerError):
    """The refresh token is forged, or its session has ended."""

    code = "refresh_token_invalid"


class RefreshTokenReused(IssuerError):
    """A refresh token that had already been exchanged was used again: taken as theft, the session was ended."""

    code = "refresh_token_reused"


class FeedForbidden(IssuerError):
    """The revocation feed was asked for without its token."""

    code = "feed_token_wrong"


class Overloaded(IssuerError):
    """The queue of passwords to hash is full."""

    code = "overloaded"


class StoreUnavailable(IssuerError):
    """An engine did not answer or refused to write."""

    code = "store_unavailable"


class TopicUnavailable(IssuerError):
    """The logout topic did not confirm in time; what was to be published stays in the outbox."""

    code = "topic_unavailable"
