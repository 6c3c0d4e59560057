"""An exchange that begins by a decision, as those of the proxy port and of ``/verify`` do.

Rule: deciding is synchronous; only a token under an unknown key id waits, bounded, for one fetch of the key set, and
its client's body waits with it. An address over its limit of failures has no signature computed.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec

from authix import Authix
from authix.claims import Claims
from authix.errors import AuthixError, KeyUnknown, SignatureInvalid
from authix.freshness import WhenStale
from authix_sidecar.decide import A_TOKEN, ALLOWED, Policy, decide, every_path_needs, token_of
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.errors import SidecarError, TooManyFailures
from authix_sidecar.failures import Failures
from authix_sidecar.fields import lower, upstream_lines
from authix_sidecar.metrics import Metrics
from authix_sidecar.requests import RequestHead
from authix_sidecar.token_sources import TokenCookie
from authix_sidecar.waiting import WaitingExchange

logger = logging.getLogger("authix.sidecar.decisions")


class Judge(NamedTuple):
    """What decisions are made by."""

    auth: Authix
    metrics: Metrics
    policy: Policy = every_path_needs(A_TOKEN)
    cookie: TokenCookie | None = None
    """In which a token may come too."""
    failures: Failures | None = None
    """None: any number of wrong signatures, whoever sends them."""


class JudgedExchange(WaitingExchange):
    """Goes on with ``allow`` or ends with the refusal."""

    def __init__(self, judge: Judge, client: ClientConnection, request: RequestHead) -> None:
        super().__init__(client)
        self._judge = judge
        self._request = request
        self._needs = A_TOKEN

    def begin(self) -> None:
        self._client.attend(self)
        try:
            self._needs = self._judge.policy(self._request)
            if self._judge.cookie is not None and self._needs.token:
                self._request = self._with_cookie(self._judge.cookie)
            claims = self._decide()
        except KeyUnknown:
            self.wait_for(self._decide_after_a_fetch())
        except (AuthixError, SidecarError) as error:
            self._refuse(error)
        else:
            self._pass(claims)

    def _tell(self, code: str, more: str) -> None:
        request = self._request
        said = (request.method.decode(), request.path.decode(), code, more)
        logger.debug("%s %s: %s (%s)", *said, extra={"request_id": self._client.request_id.decode()})

    def allow(self, claims: Claims | None) -> None:
        """The request may pass; None: whoever sent it."""
        raise NotImplementedError

    def _with_cookie(self, cookie: TokenCookie) -> RequestHead:
        return cookie.into(self._request, scheme=self._client.scheme)

    def _client_address(self) -> bytes:
        """Of whom failures are counted."""
        return self._client.peer

    def _decide(self) -> Claims | None:
        auth, failures = self._judge.auth, self._judge.failures
        verify = auth.verify
        if failures is not None and failures.any_over and failures.over(self._client_address()):
            verify = self._verify_remembered
        return decide(self._request, self._needs, verify, auth.clock.now)

    def _verify_remembered(
        self, token: str, *, roles: frozenset[str] = frozenset(), when_stale: WhenStale | None = None
    ) -> Claims:
        if not self._judge.auth.verifier.remembers(token):
            raise TooManyFailures("too many tokens from this address had a wrong signature")
        return self._judge.auth.verify(token, roles=roles, when_stale=when_stale)

    async def _decide_after_a_fetch(self) -> None:
        try:
            # only for the key's sake; freshness is judged below, as this request needs it
            await self._judge.auth.authenticate(token_of(self._request), when_stale=WhenStale.ACCEPT)
            claims = self._decide()
        except AuthixError as error:
            self._refuse(error)
        else:
            self._pass(claims)

    def _pass(self, claims: Claims | None) -> None:
        self._judge.metrics.decisions[ALLOWED] += 1
        if logger.isEnabledFor(logging.DEBUG):
            self._tell(ALLOWED, claims.subject if claims is not None else "nobody")
        if not self._needs.passes_authorization:
            request = self._request
            kept = [field for field in request.fields if lower(field[0]) != b"authorization"]
            if self._judge.cookie is not None:
                kept = self._judge.cookie.taken_out(kept)
            passed = upstream_lines(kept, request.hop_by_hop)
            self._request = msgspec.structs.replace(request, fields=kept, passed=passed)
        self.allow(claims)

    def _refuse(self, error: AuthixError | SidecarError) -> None:
        self._judge.metrics.decisions[error.code] += 1
        if logger.isEnabledFor(logging.DEBUG):
            self._tell(error.code, error.reason)
        if isinstance(error, SignatureInvalid) and not error.known and self._judge.failures is not None:
            self._judge.failures.add(self._client_address())
        self._client.refuse(error)
