"""Every way the issuer refuses.

Rule: errors of the domain, with a stable ``code``; they know nothing of HTTP (see the table in ``routes``), and none
holds a password, a token, a cookie or a key.
"""

from __future__ import annotations

from datetime import UTC, datetime
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


class FormMalformed(IssuerError):
    """The request's body is not a form that gives a token once."""

    code = "form_malformed"


class ContentTypeWrong(IssuerError):
    """The request's body is not declared as JSON."""

    code = "content_type_wrong"


class EmailTaken(IssuerError):
    """There already is an account with this email."""

    code = "email_taken"


class CredentialsWrong(IssuerError):
    """No account has this email and this password. ``subject`` is for the audit log alone."""

    code = "credentials_wrong"

    def __init__(self, reason: str, *, subject: str = "") -> None:
        super().__init__(reason)
        self.subject = subject


class PasswordWrong(IssuerError):
    """A change was to be confirmed by the account's password, and this is another one."""

    code = "password_wrong"


class AccountUnknown(IssuerError):
    """There is no such account, or no longer."""

    code = "account_unknown"


class AccountDisabled(IssuerError):
    """An administrator has disabled the account; said only to who knows its password."""

    code = "account_disabled"


class AccountBusy(IssuerError):
    """Others change the account at the same time; nothing was changed."""

    code = "account_busy"


class SelfLockout(IssuerError):
    """An administrator was about to take the administration from oneself."""

    code = "self_lockout"


class SessionUnknown(IssuerError):
    """There is no such session of this user, or no longer."""

    code = "session_unknown"


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


class IntrospectionForbidden(IssuerError):
    """Introspection was asked for without its token."""

    code = "introspection_token_wrong"


class IntrospectionOff(IssuerError):
    """This issuer has no introspection."""

    code = "introspection_off"


class OriginForbidden(IssuerError):
    """A page of an origin that is not listed had a browser send a request that may change something."""

    code = "origin_forbidden"


class TooManyRequests(IssuerError):
    """One address sent too many; ``retry_after`` says how many seconds to wait."""

    code = "too_many_requests"

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class TooManyAttempts(TooManyRequests):
    """Too many wrong passwords in a row for one account."""

    code = "too_many_attempts"


class Overloaded(IssuerError):
    """The queue of passwords to hash is full."""

    code = "overloaded"


class StoreUnavailable(IssuerError):
    """An engine did not answer or refused to write; ``engine`` is its kind, where it is not about several."""

    code = "store_unavailable"

    def __init__(self, reason: str = "", engine: str = "") -> None:
        super().__init__(reason)
        self.engine = engine


class TopicUnavailable(IssuerError):
    """The logout topic did not confirm in time; what was to be published stays in the outbox."""

    code = "topic_unavailable"


class KeyUnknown(IssuerError):
    """No signing key has this id."""

    code = "key_unknown"


class KeyNotReady(IssuerError):
    """The next signing key is not known to verifiers for long enough; ``ready_us`` is when it is."""

    code = "key_not_ready"

    def __init__(self, ready_us: int) -> None:
        moment = datetime.fromtimestamp(ready_us / 1_000_000, UTC).isoformat(timespec="seconds")
        super().__init__(f"verifiers may not know the next key before {moment}; rotate then, or `now` all the same")
        self.ready_us = ready_us


class KeysTooMany(IssuerError):
    """The ring of signing keys is full until retired ones are gone."""

    code = "keys_too_many"
