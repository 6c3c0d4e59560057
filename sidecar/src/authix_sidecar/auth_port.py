"""The auth port: forward auth for other proxies, and what probes and scrapers ask.

Rule: ``/verify`` judges the ``Authorization`` of the request itself, whatever its method, by the same decision as the
proxy port; its answers must not be cached, because a cache cannot see a logout.
"""

from __future__ import annotations

import msgspec

from authix.bearer import PROBLEM_JSON, problem
from authix.claims import Claims
from authix_sidecar import rewrite
from authix_sidecar.decide import ALLOWED
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.judged import Judge, JudgedExchange
from authix_sidecar.metrics import CONTENT_TYPE
from authix_sidecar.requests import RequestHead

VERIFY = b"/verify"
_NO_STORE = ("Cache-Control", "no-store")


class Verification(JudgedExchange):
    """One forward-auth request."""

    def allow(self, claims: Claims | None) -> None:
        self._client.answer(200, (*rewrite.identity(claims), _NO_STORE), b"", ALLOWED)


class AuthPort:
    """Answers the requests of the auth port."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def begin(self, client: ClientConnection, request: RequestHead, _: bytes) -> None:
        if request.path == VERIFY:
            Verification(self._judge, client, request).begin()
        elif request.path not in {b"/livez", b"/readyz", b"/metrics"}:
            _problem(client, 404, "not_found", "here are /verify, /livez, /readyz and /metrics")
        elif request.method not in {b"GET", b"HEAD"}:
            _problem(client, 405, "method_not_allowed", "only GET and HEAD are", headers=(("Allow", "GET, HEAD"),))
        elif request.path == b"/livez":
            _status(client, "alive")
        elif request.path == b"/metrics":
            headers = (("Content-Type", CONTENT_TYPE), _NO_STORE)
            client.answer(200, headers, self._judge.metrics.text(), ALLOWED)
        elif reasons := self._judge.auth.problems():
            _problem(client, 503, "not_ready", "this sidecar can't judge tokens now", reasons=reasons)
        else:
            _status(client, "ready")


def _status(client: ClientConnection, status: str) -> None:
    headers = (("Content-Type", "application/json"), _NO_STORE)
    client.answer(200, headers, msgspec.json.encode({"status": status}), ALLOWED)


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
