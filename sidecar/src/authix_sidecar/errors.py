"""Every way the sidecar itself says no, beside the SDK's errors over tokens.

Rule: each error has a stable ``code``, the status it is answered with and a sentence; none holds a header's value.
"""

from __future__ import annotations

from typing import ClassVar

from authix.bearer import PROBLEM_JSON, Refusal, problem, refusal
from authix.errors import AuthixError, RoleMissing, TokenError, Unavailable


class SidecarError(Exception):
    """Base of all errors of this program."""

    code: ClassVar[str] = "sidecar_error"
    status: ClassVar[int] = 500

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RequestRefused(SidecarError):
    """The request can't be read in one way only; nothing of it is forwarded and its connection ends."""

    code = "request_malformed"
    status = 400


class HeadTooLarge(RequestRefused):
    """Over 16 KiB or 100 fields."""

    code = "head_too_large"
    status = 431


class VersionRefused(RequestRefused):
    """Neither HTTP/1.0 nor HTTP/1.1."""

    code = "version_refused"
    status = 505


class MethodRefused(RequestRefused):
    """CONNECT, TRACE, or a method unknown to HTTP."""

    code = "method_refused"


class TargetRefused(RequestRefused):
    """The target is not in origin form (RFC 9112, 3.2.1)."""

    code = "target_refused"


class PathNotCanonical(RequestRefused):
    """The path has another spelling that an upstream might take it for."""

    code = "path_not_canonical"


class HostRefused(RequestRefused):
    """Not exactly one ``Host`` that names a host."""

    code = "host_refused"


class FramingRefused(RequestRefused):
    """``Content-Length`` or ``Transfer-Encoding`` leaves room for two readings of the body's end."""

    code = "framing_refused"


class BodyMalformed(RequestRefused):
    """The chunked body is not of RFC 9112's form."""

    code = "body_malformed"


class ExpectationRefused(RequestRefused):
    """``Expect`` asks for something other than ``100-continue``."""

    code = "expectation_refused"
    status = 417


class RequestTooSlow(RequestRefused):
    """Head or body did not arrive in time."""

    code = "request_too_slow"
    status = 408


class FeedForbidden(SidecarError):
    """The revocation feed needs its token."""

    code = "feed_forbidden"
    status = 403


class FeedIncomplete(SidecarError):
    """This sidecar can't vouch for all logouts."""

    code = "feed_incomplete"
    status = 503


class UpstreamError(SidecarError):
    """The upstream gave no answer that can be passed on."""

    code = "upstream_error"
    status = 502


class UpstreamUnreachable(UpstreamError):
    """No connection could be made; the request was not sent."""

    code = "upstream_unreachable"
    status = 503


class UpstreamBroken(UpstreamError):
    """The connection broke, or what came over it is no HTTP answer."""

    code = "upstream_broken"


class UpstreamTimeout(UpstreamError):
    """The answer did not begin in time."""

    code = "upstream_timeout"
    status = 504


class TokenTooOld(TokenError):
    """The token is good but was issued longer ago than the route's ``max_age``; a refreshed one will do."""

    code = "token_too_old"


class ClaimRefused(RoleMissing):
    """The token is good but lacks a claim, or a value of it, that the route needs."""

    code = "claim_refused"


class OriginalRefused(SidecarError):
    """A proxy asks ``/verify`` without saying in one way only about which request."""

    code = "original_refused"
    status = 403


class PeerRefused(SidecarError):
    """Who asks ``/verify`` is not listed in ``AUTHIX_TRUSTED_PEERS``."""

    code = "peer_refused"
    status = 403


class CrossSiteRefused(SidecarError):
    """The token came in a cookie, and nothing shows that a page of the same origin sent it."""

    code = "cross_site_refused"
    status = 403


class TooManyFailures(Unavailable):
    """A token's signature is not computed, because too many from this client were wrong just now."""

    code = "too_many_failures"
    status = 429


def refusal_of(error: AuthixError | SidecarError) -> Refusal:
    """The HTTP answer for ``error``."""
    if isinstance(error, AuthixError):
        return refusal(error)
    headers = [("Content-Type", PROBLEM_JSON), ("Cache-Control", "no-store")]
    if isinstance(error, UpstreamUnreachable):
        headers.append(("Retry-After", "1"))
    return Refusal(error.status, tuple(headers), problem(error.status, error.code, error.reason))
