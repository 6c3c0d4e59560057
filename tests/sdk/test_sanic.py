"""What is Sanic's own: handlers of every kind behind the decorator, on its own server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
import websockets
from sanic import HTTPResponse, Request, Sanic, Websocket, text
from sanic.response import ResponseStream
from sanic.views import HTTPMethodView

from authix import Claims, WhenStale
from authix.sanic import SanicAuthix
from authix.testing import InProcessIssuer
from tests.programs import HOST

App = Sanic[Any, Any]
Serve = Callable[[], Awaitable[httpx.AsyncClient]]

OpenSocketOf = Callable[[Any, dict[str, str]], Awaitable[websockets.ClientConnection]]


@pytest.fixture
def tokens() -> Iterator[InProcessIssuer]:
    with InProcessIssuer(issuer="https://auth.example.com", audience="orders") as issuer:
        yield issuer


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(Sanic, "test_mode", True)  # or a process can have only one application
    app: App = Sanic("tests", configure_logging=False)
    app.config.MOTD = False
    return app


@pytest.fixture
def auth(app: App) -> SanicAuthix:
    return SanicAuthix(app, issuer="https://auth.example.com", audience="orders")


@pytest.fixture
async def serve(app: App) -> AsyncIterator[Serve]:
    """``await serve()``: a client of ``app`` as it is now."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin() -> httpx.AsyncClient:
            listening = stack.enter_context(socket.create_server((HOST, 0)))
            port = listening.getsockname()[1]
            server: Any = await app.create_server(sock=listening, return_asyncio_server=True, access_log=False)
            await server.startup()
            await server.before_start()
            await server.start_serving()
            await server.after_start()
            stack.push_async_callback(server.after_stop)
            stack.push_async_callback(server.close)
            stack.push_async_callback(server.before_stop)
            client = httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False, timeout=20)
            return await stack.enter_async_context(client)

        yield begin


@pytest.fixture
def open_socket_of(app: App, serve: Serve) -> OpenSocketOf:
    """``await open_socket_of(handler, headers)``: a WebSocket to that handler."""

    async def connect(handler: Any, headers: dict[str, str]) -> websockets.ClientConnection:
        app.add_websocket_route(handler, "/ws")
        url = str((await serve()).base_url.copy_with(scheme="ws", path="/ws"))
        return await websockets.connect(url, additional_headers=headers, proxy=None)

    return connect


def said(claims: Claims | None) -> HTTPResponse:
    return text(claims.subject if claims else "nobody")


async def test_the_verifier_runs_with_the_worker(
    app: App, auth: SanicAuthix, serve: Serve, tokens: InProcessIssuer
) -> None:
    app.add_route(auth.required()(lambda request: said(request.ctx.claims)), "/", name="me")
    assert not auth.running
    await serve()
    assert auth.running


async def test_handlers_of_every_kind_may_require_it(
    app: App, auth: SanicAuthix, serve: Serve, tokens: InProcessIssuer
) -> None:
    @app.get("/plain")
    @auth.required()
    def plain(request: Request) -> HTTPResponse:
        return said(request.ctx.claims)

    @app.route("/body/<name>", methods=["POST"])
    @auth.required()
    async def body(request: Request, name: str, user: Claims) -> HTTPResponse:
        route = request.route.name if request.route else ""
        assert (name, len(request.body), route) == ("x", 1000, f"{app.name}.body")
        return said(user)

    class View(HTTPMethodView):
        @auth.required()
        async def get(self, _: Request, claims: Claims) -> HTTPResponse:
            return said(claims)

    class Decorated(HTTPMethodView, attach=app, uri="/decorated"):
        decorators = [auth.required()]  # noqa: RUF012 - as Sanic reads it

        async def get(self, request: Request) -> HTTPResponse:
            return said(request.ctx.claims)

    app.add_route(View.as_view(), "/view")
    client = await serve()
    headers = tokens.issue("ada").headers
    for path, method in (("/plain", "GET"), ("/body/x", "POST"), ("/view", "GET"), ("/decorated", "GET")):
        content = b"x" * 1000 if method == "POST" else None
        refused = await client.request(method, path, content=content)
        assert (path, refused.status_code, refused.json()["code"]) == (path, 401, "token_missing")
        answer = await client.request(method, path, headers=headers, content=content)
        assert (path, answer.status_code, answer.text) == (path, 200, "ada")


async def test_a_route_may_have_its_own_policy_for_a_stale_feed(
    app: App, auth: SanicAuthix, serve: Serve, tokens: InProcessIssuer
) -> None:
    @app.get("/strict")
    @auth.required()
    async def strict(_: Request, claims: Claims) -> HTTPResponse:
        return said(claims)

    @app.get("/lax")
    @auth.required(when_stale=WhenStale.ACCEPT)
    async def lax(_: Request, claims: Claims) -> HTTPResponse:
        return said(claims)

    client, headers = await serve(), tokens.issue("ada").headers
    tokens.go_stale()
    assert [(await client.get(path, headers=headers)).status_code for path in ("/strict", "/lax")] == [503, 200]


@pytest.mark.parametrize(("end", "reason"), [("logout", "token_revoked"), ("expiry", "token_expired")])
async def test_a_socket_is_closed_at_once_whatever_its_handler_does(
    auth: SanicAuthix, open_socket_of: OpenSocketOf, tokens: InProcessIssuer, end: str, reason: str
) -> None:
    let_go = asyncio.Event()

    @auth.required()
    async def stubborn(_: Request, socket: Websocket) -> None:
        try:
            await socket.recv()
        finally:
            await let_go.wait()
            await socket.close()

    async with await open_socket_of(stubborn, tokens.issue("ada").headers) as connection:
        tokens.logout("ada") if end == "logout" else tokens.advance(400)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), 20)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, reason)
    let_go.set()


async def test_a_socket_that_could_not_be_refused_at_its_handshake_is_closed_after_it(
    auth: SanicAuthix, open_socket_of: OpenSocketOf
) -> None:
    @auth.required()
    async def judged(_: Request, socket: Websocket) -> None:
        await socket.send("secret")

    async def hidden(request: Request, socket: Websocket) -> None:
        """A decorator between the two that does not tell what it decorates."""
        await judged(request, socket)

    async with await open_socket_of(hidden, {}) as connection:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), 20)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "token_missing")


async def test_an_event_stream_of_either_style_ends_and_its_handler_is_cancelled(
    app: App, auth: SanicAuthix, serve: Serve, tokens: InProcessIssuer
) -> None:
    cancelled: list[str] = []

    async def tell(send: Callable[[str], Awaitable[None]], style: str) -> None:
        try:
            await send("data: 1\n\n")
            await asyncio.Event().wait()
        finally:
            cancelled.append(style)

    @app.get("/new")
    @auth.required()
    async def new(request: Request) -> None:
        response = await request.respond(headers={"Content-Type": "text/event-stream"})
        await tell(response.send, "/new")

    @app.get("/old")
    @auth.required()
    async def old(_: Request) -> ResponseStream:
        def stream(response: Any) -> Coroutine[Any, Any, None]:
            return tell(response.write, "/old")

        return ResponseStream(stream, content_type="text/event-stream")

    client = await serve()
    for path in ("/new", "/old"):
        async with client.stream("GET", path, headers=tokens.issue("ada").headers) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: 1"
            tokens.logout("ada")
            assert [line async for line in lines if line] == []
    assert cancelled == ["/new", "/old"]


async def test_a_plain_request_in_flight_is_let_finish(
    app: App, auth: SanicAuthix, serve: Serve, tokens: InProcessIssuer
) -> None:
    @app.get("/slow")
    @auth.required()
    async def slow(request: Request) -> None:
        response = await request.respond(content_type="text/plain")
        await response.send("begun, ")
        tokens.logout("ada")
        await asyncio.sleep(0)
        await response.send("done")

    client, headers = await serve(), tokens.issue("ada").headers
    assert (await client.get("/slow", headers=headers)).text == "begun, done"
    assert (await client.get("/slow", headers=headers)).json()["code"] == "token_revoked"


@pytest.mark.parametrize("prepared", ["", "text/plain"])
async def test_a_plain_request_may_end_with_its_token_too(
    app: App, auth: SanicAuthix, serve: Serve, tokens: InProcessIssuer, prepared: str
) -> None:
    @app.get("/slow")
    @auth.required()
    async def slow(request: Request, claims: Claims) -> None:
        if prepared:
            await request.respond(content_type=prepared)  # which sends nothing yet
        async with auth.until_revoked(claims):
            tokens.logout("ada")
            await asyncio.sleep(20)

    answer = await (await serve()).get("/slow", headers=tokens.issue("ada").headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


async def test_an_answer_that_has_begun_is_not_taken_for_a_refusal(
    app: App, auth: SanicAuthix, serve: Serve, tokens: InProcessIssuer
) -> None:
    @app.get("/slow")
    @auth.required()
    async def slow(request: Request, claims: Claims) -> None:
        response = await request.respond(content_type="text/plain")
        await response.send("begun")
        async with auth.until_revoked(claims):
            tokens.logout("ada")
            await asyncio.sleep(20)

    client = await serve()
    async with client.stream("GET", "/slow", headers=tokens.issue("ada").headers) as answer:
        given = answer.aiter_raw()
        assert await anext(given) == b"begun"
        assert [part async for part in given] == []
