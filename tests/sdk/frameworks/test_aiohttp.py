"""What is aiohttp's own: the middleware, views, applications in others, and handlers that do not want to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from authix.aiohttp import CLAIMS, AiohttpAuthix
from authix.testing import InProcessIssuer

OpenTo = Callable[[web.Application], Awaitable[TestClient[web.Request, web.Application]]]


@pytest.fixture
async def open_to() -> AsyncIterator[OpenTo]:
    """``await open_to(app)``: a client of it."""
    clients = []

    async def begin(app: web.Application) -> TestClient[web.Request, web.Application]:
        client = TestClient(TestServer(app))
        clients.append(client)
        await client.start_server()
        return client

    yield begin
    for client in clients:
        await client.close()


async def me(request: web.Request) -> web.Response:
    return web.Response(text=request[CLAIMS].subject if CLAIMS in request else "nobody")


async def code_of(answer: aiohttp.ClientResponse) -> tuple[int, str]:
    return answer.status, (await answer.json(content_type="application/problem+json"))["code"]


async def test_the_middleware_requires_it_of_all_but_the_public_paths(open_to: OpenTo, tokens: InProcessIssuer) -> None:
    auth = AiohttpAuthix()
    app = web.Application(middlewares=[auth.middleware(public=["/open"], roles=["reader"])])
    auth.install(app)
    app.router.add_get("/open", me)
    app.router.add_get("/me", me)
    client = await open_to(app)
    assert await (await client.get("/open")).text() == "nobody"
    for path in ("/me", "/not-there", "/open/"):
        assert await code_of(await client.get(path)) == (401, "token_missing")
    assert await code_of(await client.get("/me", headers=tokens.issue("ada").headers)) == (403, "role_missing")
    good = tokens.issue("ada", roles=["reader"]).headers
    assert await (await client.get("/me", headers=good)).text() == "ada"
    assert (await client.get("/not-there", headers=good)).status == 404


async def test_a_public_path_opens_no_other_route(open_to: OpenTo, tokens: InProcessIssuer) -> None:
    auth = AiohttpAuthix()
    app = web.Application(middlewares=[auth.middleware(public=["/orders/health", "/größe"])])
    auth.install(app)
    app.router.add_get("/orders/health", me)
    app.router.add_get("/größe", me)
    app.router.add_delete("/{id}", me)
    client = await open_to(app)
    for path in ("/orders/health", "/orders/%68ealth", "/gr%C3%B6%C3%9Fe"):
        assert await (await client.get(URL(path, encoded=True))).text() == "nobody"
    for path in ("/orders%2Fhealth", "/orders%2fhealth", "/orders%252Fhealth"):
        assert await code_of(await client.delete(URL(path, encoded=True))) == (401, "token_missing")


async def test_views_and_methods_may_require_it(open_to: OpenTo, tokens: InProcessIssuer) -> None:
    app = web.Application()
    auth = AiohttpAuthix(app)

    class View(web.View):
        @auth.required()
        async def get(self) -> web.StreamResponse:
            return await me(self.request)

    class Handlers:
        @auth.required()
        async def get(self, request: web.Request) -> web.StreamResponse:
            return await me(request)

    app.router.add_view("/view", View)
    app.router.add_get("/method", Handlers().get)
    client = await open_to(app)
    for path in ("/view", "/method"):
        assert await code_of(await client.get(path)) == (401, "token_missing")
        assert await (await client.get(path, headers=tokens.issue("ada").headers)).text() == "ada"


async def test_it_holds_for_an_application_in_another(open_to: OpenTo, tokens: InProcessIssuer) -> None:
    app, inner = web.Application(), web.Application()
    auth = AiohttpAuthix(app)
    inner.router.add_get("/me", auth.required()(me))
    app.add_subapp("/inner", inner)
    client = await open_to(app)
    token = tokens.issue("ada")
    assert await (await client.get("/inner/me", headers=token.headers)).text() == "ada"
    tokens.logout("ada")
    assert await code_of(await client.get("/inner/me", headers=token.headers)) == (401, "token_revoked")


async def test_one_that_was_not_installed_lets_nobody_through(open_to: OpenTo, tokens: InProcessIssuer) -> None:
    app, auth = web.Application(), AiohttpAuthix()
    app.router.add_get("/me", auth.required()(me))
    async with auth:
        assert (await (await open_to(app)).get("/me", headers=tokens.issue("ada").headers)).status == 500


@pytest.mark.parametrize(("end", "reason"), [("logout", "token_revoked"), ("expiry", "token_expired")])
async def test_a_socket_is_closed_at_once_whatever_its_handler_does(
    open_to: OpenTo, tokens: InProcessIssuer, end: str, reason: str
) -> None:
    app = web.Application()
    auth = AiohttpAuthix(app)
    let_go, over = asyncio.Event(), asyncio.Event()

    @auth.required()
    async def stubborn(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        try:
            await socket.receive()
        finally:
            await let_go.wait()
            await socket.close()
            over.set()
        return socket

    app.router.add_get("/ws", stubborn)
    client = await open_to(app)
    async with client.ws_connect("/ws", headers=tokens.issue("ada").headers) as socket:
        tokens.logout("ada") if end == "logout" else tokens.advance(400)
        message = await socket.receive(timeout=20)
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4401, reason)
    let_go.set()
    await asyncio.wait_for(over.wait(), 20)


async def test_a_plain_request_in_flight_is_let_finish(open_to: OpenTo, tokens: InProcessIssuer) -> None:
    app = web.Application()
    auth = AiohttpAuthix(app)

    @auth.required()
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(b"begun, ")
        tokens.logout("ada")
        await asyncio.sleep(0)
        await response.write(b"done")
        return response

    app.router.add_get("/slow", slow)
    client = await open_to(app)
    headers = tokens.issue("ada").headers
    assert await (await client.get("/slow", headers=headers)).text() == "begun, done"
    assert (await client.get("/slow", headers=headers)).status == 401


@pytest.mark.parametrize("begun", ["", "begun"])
async def test_a_plain_request_may_end_with_its_token_too(open_to: OpenTo, tokens: InProcessIssuer, begun: str) -> None:
    auth = AiohttpAuthix()
    app = web.Application(middlewares=[auth.middleware()])
    auth.install(app)

    @auth.required()
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        async with auth.until_revoked(request[CLAIMS]):
            if begun:
                await response.prepare(request)
                await response.write(b"begun")
            tokens.logout("ada")
            await asyncio.sleep(20)
        return response

    app.router.add_get("/slow", slow)
    client = await open_to(app)
    answer = await client.get("/slow", headers=tokens.issue("ada").headers)
    if begun:
        assert await answer.content.readexactly(5) == b"begun"
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    else:
        assert await code_of(answer) == (401, "token_revoked")
