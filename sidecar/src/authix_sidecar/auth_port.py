"""The auth port: forward auth for other proxies, and what probes and scrapers ask.

Rule: ``/verify`` judges the ``Authorization`` of the request itself by the same decision as the proxy port; its answers
must not be cached, because a cache cannot see a logout. Where identities are signed, one is always set, empty for
nobody, so that none can be taken from the client. Without a policy it needs a good token, whoever asks and
whatever for; with one it judges the request that the proxy was asked for (see ``forward_auth``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from authix.bearer import PROBLEM_JSON, problem
from authix.claims import Claims
from authix.errors import AuthixError
from authix_sidecar import rewrite
from authix_sidecar.decide import ALLOWED
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.errors import OriginalRefused, PeerRefused, RequestRefused, SidecarError
from authix_sidecar.forward_auth import asks_to_verify, original_of
from authix_sidecar.identity import FIELD, KEYS_AGE, Identities
from authix_sidecar.judged import Judge, JudgedExchange
from authix_sidecar.live_policy import LivePolicy
from authix_sidecar.metrics import CONTENT_TYPE
from authix_sidecar.onward import OnwardFeed
from authix_sidecar.requests import RequestHead
from authix_sidecar.siblings import Siblings
from authix_sidecar.token_sources import TokenCookie
from authix_sidecar.waiting import WaitingExchange

_NO_STORE = ("Cache-Control", "no-store")
_NUMBERS = (("Content-Type", CONTENT_TYPE), _NO_STORE)


class Verification(JudgedExchange):
    """One forward-auth request."""

    def __init__(
        self, judge: Judge, client: ClientConnection, request: RequestHead, identities: Identities | None
    ) -> None:
        super().__init__(judge, client, request)
        self._identities = identities

    def allow(self, claims: Claims | None) -> None:
        headers = [*rewrite.identity(claims), _NO_STORE]
        if self._identities is not None:
            headers.append((FIELD, self._identities.of(claims) if claims is not None else ""))
        self._client.answer(200, headers, b"", ALLOWED)

    def _with_cookie(self, cookie: TokenCookie) -> RequestHead:
        # what stands here is how the proxy came, not its client; nor is the method the client's without a policy
        return cookie.into(self._request, scheme=None, method_known=isinstance(self._judge.policy, LivePolicy))

    def _refuse(self, error: AuthixError | SidecarError) -> None:
        super()._refuse(OriginalRefused(error.reason) if isinstance(error, RequestRefused) else error)


class Scrape(WaitingExchange):
    """One who is told the numbers of all workers."""

    def __init__(self, siblings: Siblings, client: ClientConnection) -> None:
        super().__init__(client)
        self._siblings = siblings

    def begin(self) -> None:
        self._client.attend(self)
        self.wait_for(self._answer())

    async def _answer(self) -> None:
        self._client.answer(200, _NUMBERS, await self._siblings.text(), ALLOWED)


class AuthPort:
    """Answers the requests of the auth port."""

    def __init__(
        self,
        judge: Judge,
        onward: OnwardFeed,
        *,
        is_trusted: Callable[[bytes], bool],
        identities: Identities | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        """``is_trusted`` says whether the proxy at an address may tell which request it was asked for."""
        self._judge = judge
        self._onward = onward
        self._is_trusted = is_trusted
        self._identities = identities
        self._siblings = siblings

    def begin(self, client: ClientConnection, request: RequestHead, _: bytes) -> None:
        if asks_to_verify(request.path):
            self._verify(client, request)
        elif request.path not in {b"/livez", b"/readyz", b"/metrics", b"/revocations", b"/identity_keys"}:
            here = "/verify, /livez, /readyz, /metrics, /revocations and /identity_keys"
            _problem(client, 404, "not_found", f"here are {here}")
        elif request.method not in {b"GET", b"HEAD"}:
            _problem(client, 405, "method_not_allowed", "only GET and HEAD are", headers=(("Allow", "GET, HEAD"),))
        elif request.path == b"/livez":
            _status(client, "alive")
        elif request.path == b"/revocations":
            self._onward.begin(client, request)
        elif request.path == b"/identity_keys":
            self._show_keys(client)
        elif request.path == b"/metrics" and self._siblings is not None:
            Scrape(self._siblings, client).begin()
        elif request.path == b"/metrics":
            client.answer(200, _NUMBERS, self._judge.metrics.text(), ALLOWED)
        elif reasons := self._judge.auth.problems():
            _problem(client, 503, "not_ready", "this sidecar can't judge tokens now", reasons=reasons, **self._feeds())
        else:
            _status(client, "ready", **self._feeds())

    def _verify(self, client: ClientConnection, request: RequestHead) -> None:
        policy = self._judge.policy
        if isinstance(policy, LivePolicy):
            try:
                if not self._is_trusted(client.peer):
                    raise PeerRefused("whoever asks here must be listed in AUTHIX_TRUSTED_PEERS")
                request = original_of(request, by_host=policy.by_host)
            except (OriginalRefused, PeerRefused) as error:
                self._judge.metrics.decisions[error.code] += 1
                client.refuse(error)
                return
        Verification(self._judge, client, request, self._identities).begin()

    def _show_keys(self, client: ClientConnection) -> None:
        if self._identities is None:
            _problem(client, 404, "not_found", "no identities are signed here: AUTHIX_IDENTITY_KEY is not set")
        else:
            age = ("Cache-Control", f"public, max-age={KEYS_AGE}")
            client.answer(200, (("Content-Type", "application/jwk-set+json"), age), self._identities.jwks, ALLOWED)

    def _feeds(self) -> dict[str, Any]:
        """Which feeds are followed, and which of them in vain: a word for each. No URL, it may say too much."""
        feeds = self._judge.auth.feed_states
        return {
            "feeds": [{**feed._asdict(), "age": feed.age and round(feed.age, 3)} for feed in feeds],
            "degraded": [f"{feed.kind}_feed_stale" for feed in feeds if feed.stale],
        }


def _status(client: ClientConnection, status: str, **more: object) -> None:
    headers = (("Content-Type", "application/json"), _NO_STORE)
    client.answer(200, headers, msgspec.json.encode({"status": status, **more}), ALLOWED)


def _problem(
    client: ClientConnection,
    status: int,
    code: str,
    detail: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    **more: object,
) -> None:
    headers = (("Content-Type", PROBLEM_JSON), _NO_STORE, *headers)
    client.answer(status, headers, problem(status, code, detail, **more), code)
