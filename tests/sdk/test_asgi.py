"""The ASGI middleware behind a real uvicorn: who is let through, how a refusal looks, and when the verifier runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import websockets
from sanic import HTTPResponse, Sanic, text
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from authix import Authix, Claims, TokenExpired, WhenStale
from authix.asgi import AuthixMiddleware
from authix.testing import InProcessIssuer
from tests.programs import IssuerProgram, bearer, login, register

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint, Serve

Soon = Callable[..., Awaitable[None]]
OpenTo = Callable[..., Awaitable[httpx.AsyncClient]]
Scope = MutableMapping[str, Any]


async def whoami(request: Request) -> JSONResponse:
    claims: Claims | None = request.scope.get("authix.claims")
    return JSONResponse({"subject": claims and claims.subject})


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.scope["authix.claims"].subject)
    await socket.close()


def service(auth: Authix, **settings: Any) -> Starlette:
    routes = [Route("/{path:path}", whoami, methods=["GET", "POST"]), WebSocketRoute("/ws", echo)]
    return Starlette(routes=routes, middleware=[Middleware(AuthixMiddleware, auth=auth, **settings)])


@pytest.fixture
async def ready(authority: Authority, serve: Serve, soon: Soon) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service whose verifier is ready; /public is public."""
    auth = authority.auth()
    url = await serve(service(auth, public=["/public"]))
    await soon(auth.ready, "the verifier is ready")
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
        yield client


class TestRequests:
    async def test_a_good_token_is_let_through_with_its_claims(self, ready: httpx.AsyncClient, mint: Mint) -> None:
        for scheme in ("Bearer", "bearer", "BEARER"):
            answer = await ready.get("/", headers={"Authorization": f"{scheme} {mint.fresh(sub='ada')}"})
            assert (answer.status_code, answer.json()) == (200, {"subject": "ada"})

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
    async def test_no_token_is_a_challenge_without_an_error(self, ready: httpx.AsyncClient, method: str) -> None:
        answer = await ready.request(method, "/")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="authix"'
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        if method != "HEAD":
            problem = answer.json()
            assert (problem["status"], problem["code"], problem["title"]) == (401, "token_missing", "Unauthorized")

    async def test_a_bad_token_is_a_challenge_with_its_reason(self, ready: httpx.AsyncClient, mint: Mint) -> None:
        answer = await ready.get("/", headers=bearer(mint.fresh(aud="others")))
        assert answer.status_code == 401
        assert answer.json()["code"] == "audience_wrong"
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith('Bearer realm="authix", error="invalid_token", error_description="')
        assert answer.json()["detail"] == "claim 'aud' does not name this audience"

    async def test_exactly_one_header_with_exactly_one_token_counts(self, ready: httpx.AsyncClient, mint: Mint) -> None:
        token, basic = mint.fresh(), "Basic dXNlcjpwYXNz"
        forms = {
            "token_missing": [[], [basic], [token], [f"BearerX {token}"], [f"Bearer\t{token}"]],
            "token_malformed": [
                *(["Bearer"], [f"Bearer  {token}"], [f"Bearer {token} x"], [f"Bearer {token},Bearer {token}"]),
                *(
                    [f"Bearer {token}\xe9"],
                    [f"Bearer {token}"] * 2,
                    [f"Bearer {token}", basic],
                    [basic, f"Bearer {token}"],
                ),
            ],
        }
        for code, headers in ((code, headers) for code, many in forms.items() for headers in many):
            answer = await ready.get("/", headers=[(b"Authorization", value.encode("latin-1")) for value in headers])
            assert (headers, answer.status_code, answer.json()["code"]) == (headers, 401, code)

    async def test_a_public_path_is_that_path_alone(self, ready: httpx.AsyncClient) -> None:
        for path in ("/public", "/public?x=1", "/public?x=%63"):
            assert (path, await status_of(ready, path)) == (path, 200)
        others = ("/", "/public/", "//public", "/PUBLIC", "/public/x", "/public;x", "/x/../public", "/public%00")
        for path in (*others, "/publi%63", "/public%2f", "/%2fpublic", "/public%20", "/./public"):
            assert (path, await status_of(ready, path)) == (path, 401)

    async def test_a_public_path_opens_no_other_where_the_application_routes_on_the_raw_path(
        self, authority: Authority, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Sanic, "test_mode", True)  # or a process can have only one application
        app: Sanic[Any, Any] = Sanic("raw", configure_logging=False)
        app.config.MOTD = False

        async def route_name(request: Any, _: str = "") -> HTTPResponse:
            return text(request.route.name)

        routes = {"health": "/orders/health", "umlaut": "/größe", "order": "/orders/<_>", "top": "/<_>"}
        for name, path in routes.items():
            app.add_route(route_name, path, name=name)
        auth = authority.auth()
        url = await serve(AuthixMiddleware(app, auth=auth, public=["/orders/health", "/größe"]))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            for path, name in (("/orders/health", "health"), ("/orders/health?x=%2F", "health"), ("/größe", "umlaut")):
                assert (await client.get(path)).text == f"raw.{name}"
            others = (
                "/orders/%68ealth",
                "/orders%2Fhealth",
                "/orders%2fhealth",
                "/gr%c3%b6%c3%9fe",
                "/%67r%C3%B6%C3%9Fe",
            )
            for path in others:
                assert (path, await status_of(client, path)) == (path, 401)

    async def test_a_public_path_needs_no_raw_path_of_the_server(self, authority: Authority) -> None:
        async with authority.auth() as auth:
            for raw in ({}, {"raw_path": None}):
                sent: list[int] = []

                async def send(message: Any, sent: list[int] = sent) -> None:
                    sent.append(message["status"])

                async def app(_: Scope, __: Any, send: Any) -> None:
                    await send({"type": "http.response.start", "status": 204})

                scope: Scope = {"type": "http", "path": "/public", "headers": [], **raw}
                await AuthixMiddleware(app, auth=auth, public=["/public"])(scope, nothing, send)
                assert sent == [204]

    async def test_a_public_path_has_no_claims_even_with_a_token(self, ready: httpx.AsyncClient, mint: Mint) -> None:
        assert (await ready.get("/public", headers=bearer(mint.fresh()))).json() == {"subject": None}

    async def test_all_of_the_roles_are_needed(
        self, authority: Authority, mint: Mint, serve: Serve, soon: Soon
    ) -> None:
        auth = authority.auth()
        url = await serve(service(auth, roles=["admin", "reader"]))
        await soon(auth.ready, "the verifier is ready")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.get("/", headers=bearer(mint.fresh(roles=["reader"])))
            assert (answer.status_code, answer.json()["code"]) == (403, "role_missing")
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
            assert (await client.get("/", headers=bearer(mint.fresh(roles=["reader", "admin"])))).status_code == 200

    async def test_the_claims_are_where_the_token_was_judged(
        self, authority: Authority, mint: Mint, serve: Serve, soon: Soon
    ) -> None:
        auth = authority.auth()

        def copying(app: Any) -> Any:
            async def called(scope: Scope, receive: Any, send: Any) -> None:
                await app(dict(scope), receive, send)

            return called

        only_admins = [Middleware(AuthixMiddleware, auth=auth, roles=["admin"])]
        app = Starlette(routes=[Route("/admin", whoami, middleware=only_admins)])
        url = await serve(AuthixMiddleware(copying(app), auth=auth, public=["/admin"]))
        await soon(auth.ready, "the verifier is ready")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.get("/admin", headers=bearer(mint.fresh(sub="ada", roles=["admin"])))
            assert (answer.status_code, answer.json()) == (200, {"subject": "ada"})

    async def test_before_it_is_ready_it_asks_to_come_back(
        self, authority: Authority, mint: Mint, serve: Serve, soon: Soon
    ) -> None:
        authority.answers_for_keys.clear()
        auth = authority.auth()
        url = await serve(service(auth))
        await soon(lambda: auth.problems() == ["keys_missing"], "the feed is here")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.get("/", headers=bearer(mint.fresh()))
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
            assert answer.headers["retry-after"] == "1"
            assert "www-authenticate" not in answer.headers
            assert (await client.get("/")).status_code == 401, "a missing token is refused all the same"


class TestWebSockets:
    async def test_a_good_token_opens_one(self, ready: httpx.AsyncClient, mint: Mint) -> None:
        headers = bearer(mint.fresh(sub="ada"))
        async with websockets.connect(ws(ready), additional_headers=headers, proxy=None) as socket:
            assert await socket.recv() == "ada"

    async def test_no_token_is_refused_at_the_handshake(self, ready: httpx.AsyncClient) -> None:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(ws(ready), proxy=None)
        response = refused.value.response
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer realm="authix"'
        assert json.loads(response.body or b"")["code"] == "token_missing"

    @pytest.mark.parametrize("extensions", [{}, {"extensions": None}, {"extensions": {"tls": {}}}])
    async def test_a_server_that_can_not_refuse_with_an_answer_closes(
        self, authority: Authority, extensions: Scope
    ) -> None:
        """Closing before accepting is a 403 at the handshake."""
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async with authority.auth() as auth:
            scope = {"type": "websocket", "path": "/ws", "headers": [], **extensions}
            await AuthixMiddleware(never, auth=auth)(scope, nothing, send)
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": "token_missing"}]


class TestTheTokensEnd:
    """What goes on for longer than a request ends with its token."""

    @pytest.fixture
    def tokens(self) -> Iterator[InProcessIssuer]:
        with InProcessIssuer(issuer="https://auth.example.com", audience="orders") as issuer:
            yield issuer

    @pytest.fixture
    def auth(self) -> Authix:
        return Authix(issuer="https://auth.example.com", audience="orders")

    @pytest.fixture
    def open_to(self, auth: Authix, serve: Serve) -> Callable[..., Awaitable[httpx.AsyncClient]]:
        """``await open_to(Route(…), …)``: a client of a service with these routes."""

        async def begin(*routes: BaseRoute, **settings: Any) -> httpx.AsyncClient:
            guarded = [Middleware(AuthixMiddleware, auth=auth, **settings)]
            url = await serve(Starlette(routes=routes, middleware=guarded), timeout_graceful_shutdown=1)
            return httpx.AsyncClient(base_url=url, trust_env=False, timeout=20)

        return begin

    @pytest.mark.parametrize("end", ["logout", "expiry", "revoked key"])
    async def test_an_open_socket_is_closed_with_the_reason(
        self, open_to: OpenTo, tokens: InProcessIssuer, end: str
    ) -> None:
        async with await open_to(WebSocketRoute("/ws", idle)) as client:
            token = tokens.issue("ada")
            async with websockets.connect(ws(client), additional_headers=token.headers, proxy=None) as socket:
                assert await socket.recv() == "ada"
                match end:
                    case "logout":
                        tokens.logout("ada")
                    case "expiry":
                        tokens.advance(400)
                    case _:
                        tokens.revoke_keys()
                reason = {"logout": "token_revoked", "expiry": "token_expired"}.get(end, "key_revoked")
                assert await closed(socket) == (4401, reason)

    async def test_it_is_closed_at_once_whatever_the_application_does_with_its_end(
        self, open_to: OpenTo, tokens: InProcessIssuer
    ) -> None:
        cancelled, let_go, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def stubborn(socket: WebSocket) -> None:
            await socket.accept()
            try:
                await socket.receive_text()
            except asyncio.CancelledError:
                cancelled.set()
                await socket.send_text("a last secret")
                await let_go.wait()
                with pytest.raises(WebSocketDisconnect) as disconnected:
                    await socket.receive_text()
                assert disconnected.value.code == 4401
                finished.set()
            finally:
                await socket.close(1000)

        async with await open_to(WebSocketRoute("/ws", stubborn)) as client:
            token = tokens.issue("ada")
            async with websockets.connect(ws(client), additional_headers=token.headers, proxy=None) as socket:
                tokens.logout("ada")
                assert await closed(socket) == (4401, "token_revoked")
            await asyncio.wait_for(cancelled.wait(), 20)
            let_go.set()
            await asyncio.wait_for(finished.wait(), 20)

    async def test_one_that_the_application_has_closed_is_not_closed_again(
        self, auth: Authix, tokens: InProcessIssuer
    ) -> None:
        sent: list[str] = []

        async def leaving(_: Scope, __: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})
            tokens.logout("ada")
            await asyncio.sleep(20)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        headers = [(b"authorization", f"Bearer {tokens.issue('ada')}".encode())]
        await AuthixMiddleware(leaving, auth=auth)(
            {"type": "websocket", "path": "/", "headers": headers}, nothing, send
        )
        assert sent == ["websocket.accept", "websocket.close"]
        await auth.stop()

    async def test_before_it_is_accepted_it_is_refused(self, open_to: OpenTo, tokens: InProcessIssuer) -> None:
        async def late(socket: WebSocket) -> None:
            tokens.logout("ada")
            await asyncio.sleep(20)
            await socket.accept()

        async with await open_to(WebSocketRoute("/ws", late)) as client:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(ws(client), additional_headers=tokens.issue("ada").headers, proxy=None)
            assert refused.value.response.status_code == 401

    async def test_an_event_stream_ends_and_its_generator_is_closed(
        self, open_to: OpenTo, tokens: InProcessIssuer
    ) -> None:
        closed = asyncio.Event()

        async def events(_: Request) -> StreamingResponse:
            async def tell() -> AsyncIterator[str]:
                try:
                    yield "data: 1\n\n"
                    await asyncio.Event().wait()
                finally:
                    closed.set()

            return StreamingResponse(tell(), media_type="text/event-stream")

        async with await open_to(Route("/events", events)) as client:
            token = tokens.issue("ada")
            async with client.stream("GET", "/events", headers=token.headers) as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == "data: 1"
                tokens.logout("ada")
                assert [line async for line in lines if line] == []
            await asyncio.wait_for(closed.wait(), 20)
            assert (await client.get("/events", headers=token.headers)).json()["code"] == "token_revoked"

    async def test_one_that_would_begin_after_the_logout_is_refused(
        self, open_to: OpenTo, tokens: InProcessIssuer
    ) -> None:
        async def events(_: Request) -> StreamingResponse:
            tokens.logout("ada")
            return StreamingResponse(iter(["data: secret\n\n"]), media_type="Text/Event-Stream; charset=utf-8")

        async with await open_to(Route("/events", events)) as client:
            answer = await client.get("/events", headers=tokens.issue("ada").headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")

    async def test_a_plain_request_in_flight_is_let_finish(self, open_to: OpenTo, tokens: InProcessIssuer) -> None:
        async def slow(request: Request) -> StreamingResponse:
            async def tell() -> AsyncIterator[str]:
                yield "begun, "
                tokens.logout("ada")
                await asyncio.sleep(0)
                yield "done"

            return StreamingResponse(tell(), media_type="text/plain")

        async with await open_to(Route("/slow", slow)) as client:
            token = tokens.issue("ada")
            assert (await client.get("/slow", headers=token.headers)).text == "begun, done"
            assert (await client.get("/slow", headers=token.headers)).status_code == 401

    async def test_each_of_two_verifiers_ends_what_it_let_through(
        self, auth: Authix, serve: Serve, tokens: InProcessIssuer
    ) -> None:
        other = Authix(issuer="https://other.example.com", audience="orders")
        inner = [Middleware(AuthixMiddleware, auth=other)]
        app = Starlette(routes=[WebSocketRoute("/ws", idle, middleware=inner)])
        url = await serve(AuthixMiddleware(app, auth=auth, public=["/ws"]), timeout_graceful_shutdown=1)
        token = tokens.issue("ada", iss="https://other.example.com")
        async with websockets.connect(
            f"{url.replace('http', 'ws')}/ws", additional_headers=token.headers, proxy=None
        ) as socket:
            assert await socket.recv() == "ada"
            tokens.logout("ada")
            assert await closed(socket) == (4401, "token_revoked")
        await other.stop()

    async def test_a_plain_request_may_end_with_its_token_too(self, open_to: OpenTo, tokens: InProcessIssuer) -> None:
        async def slow(request: Request) -> JSONResponse:
            auth = request.app.user_middleware[0].kwargs["auth"]
            async with auth.until_revoked(request.scope["authix.claims"]):
                tokens.logout("ada")
                await asyncio.sleep(20)
            return JSONResponse({})

        async with await open_to(Route("/slow", slow)) as client:
            answer = await client.get("/slow", headers=tokens.issue("ada").headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]

    async def test_a_socket_whose_application_refuses_a_token_is_not_opened(
        self, auth: Authix, tokens: InProcessIssuer
    ) -> None:
        sent: list[Scope] = []

        async def failing(*_: Any) -> None:
            raise TokenExpired

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {tokens.issue()}".encode())]
        scope = {"type": "websocket", "path": "/", "headers": headers}
        await AuthixMiddleware(failing, auth=auth)(scope, nothing, send)
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": "token_expired"}]
        await auth.stop()

    @pytest.mark.parametrize("kind", ["http.response.start", "websocket.accept", "websocket.close"])
    async def test_an_error_of_the_applications_own_is_no_refusal_once_an_answer_has_begun(
        self, auth: Authix, tokens: InProcessIssuer, kind: str
    ) -> None:
        sent: list[str] = []

        async def failing(_: Scope, __: Any, send: Any) -> None:
            await send({"type": kind})
            raise TokenExpired

        async def send(message: Any) -> None:
            sent.append(message["type"])

        headers = [(b"authorization", f"Bearer {tokens.issue()}".encode())]
        scope = {"type": kind.partition(".")[0], "path": "/", "headers": headers}
        with pytest.raises(TokenExpired):
            await AuthixMiddleware(failing, auth=auth)(scope, nothing, send)
        assert sent == [kind]
        await auth.stop()

    @pytest.mark.parametrize("policy", [WhenStale.ACCEPT, {"/lax": WhenStale.ACCEPT}])
    async def test_a_path_may_have_its_own_policy_for_a_stale_feed(
        self, open_to: OpenTo, tokens: InProcessIssuer, policy: WhenStale | dict[str, WhenStale]
    ) -> None:
        async with await open_to(Route("/{path}", whoami), when_stale=policy) as client:
            headers = tokens.issue("ada").headers
            await client.get("/lax", headers=headers)
            tokens.go_stale()
            others = 503 if isinstance(policy, dict) else 200
            paths = ("/lax", "/strict", "/lax/")
            statuses = [(await client.get(path, headers=headers, follow_redirects=False)).status_code for path in paths]
            assert statuses[:2] == [200, others]
            assert statuses[2] == (503 if isinstance(policy, dict) else 307)

    @pytest.mark.parametrize(
        ("usual", "policy", "status"),
        [
            (WhenStale.REJECT, WhenStale.ACCEPT, 503),
            (WhenStale.CLAMP, WhenStale.ACCEPT, 503),
            (WhenStale.ACCEPT, WhenStale.REJECT, 503),
            (WhenStale.ACCEPT, WhenStale.ACCEPT, 200),
        ],
    )
    async def test_the_policy_of_a_path_does_not_weaken_that_of_another_spelling_of_it(
        self, serve: Serve, tokens: InProcessIssuer, usual: WhenStale, policy: WhenStale, status: int
    ) -> None:
        auth = Authix(issuer="https://auth.example.com", audience="orders", when_stale=usual)
        async with httpx.AsyncClient(base_url=await serve(service(auth, when_stale={"/some": policy}))) as client:
            headers = tokens.issue("ada").headers
            tokens.advance(120)
            await client.get("/some", headers=headers)
            tokens.go_stale()
            assert (await client.get("/so%6De", headers=headers)).status_code == status
            assert (await client.get("/some", headers=headers)).status_code == (
                200 if policy is WhenStale.ACCEPT else 503
            )


class TestLifespan:
    async def test_the_verifier_runs_while_the_application_does(self, authority: Authority) -> None:
        auth, seen = authority.auth(), []

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            seen.append(("before", auth.running))
            yield
            seen.append(("after", auth.running))

        app = Starlette(lifespan=lifespan, middleware=[Middleware(AuthixMiddleware, auth=auth)])
        async with running(app) as messages:
            seen.append(("during", auth.running))
        assert seen == [("before", False), ("during", True), ("after", True)]
        assert [message["type"] for message in messages] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert not auth.running

    async def test_it_does_not_start_for_an_application_that_fails_to(self, authority: Authority) -> None:
        auth = authority.auth()

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            app.state.what_is_missing()
            yield

        app = Starlette(lifespan=lifespan, middleware=[Middleware(AuthixMiddleware, auth=auth)])
        with pytest.raises(AttributeError, match="what_is_missing"):
            async with running(app):
                pass
        assert not auth.running
        assert authority.received == []

    @pytest.mark.parametrize("lifespan", ["auto", "off"])
    async def test_without_a_lifespan_it_starts_with_the_first_request(
        self, authority: Authority, mint: Mint, serve: Serve, soon: Soon, lifespan: str
    ) -> None:
        auth = authority.auth()

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            assert scope["type"] == "http", "it knows no lifespan"
            await JSONResponse({"subject": scope["authix.claims"].subject})(scope, receive, send)

        url = await serve(AuthixMiddleware(app, auth=auth), lifespan=lifespan)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            token = mint.fresh(sub="ada")
            assert (await client.get("/", headers=bearer(token))).status_code == 503
            await soon(auth.ready, "the verifier is ready")
            assert (await client.get("/", headers=bearer(token))).json() == {"subject": "ada"}
        await auth.stop()

    async def test_parts_of_an_application_may_share_one(
        self, authority: Authority, mint: Mint, serve: Serve, soon: Soon
    ) -> None:
        auth = authority.auth()
        admin = AuthixMiddleware(Starlette(routes=[Route("/", whoami)]), auth=auth, roles=["admin"])
        everyone = AuthixMiddleware(Starlette(routes=[Route("/", whoami)]), auth=auth)
        url = await serve(Starlette(routes=[Mount("/admin", admin), Mount("/all", everyone)]))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await client.get("/all/")
            await soon(auth.ready, "the verifier is ready")
            headers = bearer(mint.fresh())
            assert [(await client.get(path, headers=headers)).status_code for path in ("/all/", "/admin/")] == [
                200,
                403,
            ]
        await auth.stop()

    async def test_a_kind_of_connection_it_does_not_know_is_not_let_through(self, authority: Authority) -> None:
        with pytest.raises(ValueError, match="webtransport"):
            await AuthixMiddleware(never, auth=authority.auth())({"type": "webtransport"}, nothing, nothing)


async def test_a_logout_at_the_issuer_is_known_to_the_service_at_once(
    issuer: IssuerProgram, serve: Serve, soon: Soon
) -> None:
    auth = Authix(issuer=issuer.url, audience="tests")
    url = await serve(service(auth))
    await soon(auth.ready, "the verifier is ready")
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        with issuer.client() as ada, issuer.client() as bob:
            subject = register(ada, "ada@example.com")
            register(bob, "bob@example.com")
            token, other = login(ada, "ada@example.com"), login(bob, "bob@example.com")
            answer = await client.get("/", headers=bearer(token))
            assert (answer.status_code, answer.json()) == (200, {"subject": subject})

            assert ada.post("/logout").status_code == 204
            end = time.monotonic() + 20
            while (answer := await client.get("/", headers=bearer(token))).status_code == 200:
                assert time.monotonic() < end
            assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
            assert (await client.get("/", headers=bearer(other))).status_code == 200
            again = login(ada, "ada@example.com")
            assert (await client.get("/", headers=bearer(again))).status_code == 200
            assert (await client.get("/", headers=bearer(token))).status_code == 401


async def idle(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.scope["authix.claims"].subject)
    await asyncio.Event().wait()


async def closed(socket: websockets.ClientConnection) -> tuple[int, str]:
    """How the service closed it; fails on a message."""
    with pytest.raises(websockets.ConnectionClosed) as end:
        await asyncio.wait_for(socket.recv(), 20)
    assert end.value.rcvd is not None
    return end.value.rcvd.code, end.value.rcvd.reason


async def never(scope: Scope, receive: Any, send: Any) -> None:
    raise AssertionError("this was to be refused")


async def nothing(*_: Any) -> Any:
    raise AssertionError("nothing was to be said")


def ws(client: httpx.AsyncClient) -> str:
    return str(client.base_url.copy_with(scheme="ws", path="/ws"))


async def status_of(client: httpx.AsyncClient, path: str) -> int:
    """Without what a client would mend in the path."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Speak the lifespan protocol as a server does."""
    messages: list[dict[str, Any]] = []
    said, heard = asyncio.Event(), asyncio.Queue[dict[str, str]]()

    async def send(message: Any) -> None:
        messages.append(message)
        said.set()

    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, heard.get, send))
    heard.put_nowait({"type": "lifespan.startup"})
    await asyncio.wait([task, asyncio.create_task(said.wait())], return_when=asyncio.FIRST_COMPLETED)
    if messages and messages[0]["type"] == "lifespan.startup.complete":
        yield messages
    heard.put_nowait({"type": "lifespan.shutdown"})
    await task
