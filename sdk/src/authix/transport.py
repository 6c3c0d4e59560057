"""How keys and the HTTP feed are asked for, by httpx.

Rule: nothing is trusted that was not named. The usual authorities are read once a process, and only when something is
asked for over https: there are some 150 of them, which takes tens of milliseconds and a megabyte or two. They are read
on the event loop, because two threads would read them twice.
"""

from __future__ import annotations

import ssl
from functools import cache

import httpx


class Transport(httpx.AsyncBaseTransport):
    """``tls``: whom to trust for https; None: the usual authorities."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        # its context has no authorities, so it would trust nobody
        self._plain = httpx.AsyncHTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._secure: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "https":
            return await self._plain.handle_async_request(request)
        if self._secure is None:
            self._secure = httpx.AsyncHTTPTransport(verify=self._tls or _usual_authorities())
        return await self._secure.handle_async_request(request)

    async def aclose(self) -> None:
        await self._plain.aclose()
        if self._secure is not None:
            await self._secure.aclose()


def client(tls: ssl.SSLContext | None, timeout: httpx.Timeout | float) -> httpx.AsyncClient:
    """A client that follows no redirect and heeds no variable of the environment."""
    return httpx.AsyncClient(transport=Transport(tls), timeout=timeout, trust_env=False, follow_redirects=False)


@cache
def _usual_authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)
