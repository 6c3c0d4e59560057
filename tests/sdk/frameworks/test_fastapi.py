"""What is FastAPI's own: the security scheme in the docs page, lifespans, other middleware, applications in others."""

# no `annotations` from __future__: FastAPI must see those that name a variable of a function

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
import websockets
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.middleware.cors import CORSMiddleware

from authix import Claims, WhenStale
from authix.fastapi import FastAPIAuthix
from authix.testing import InProcessIssuer

Serve = Callable[..., Awaitable[str]]


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=20)


def with_me(app: FastAPI, auth: FastAPIAuthix) -> FastAPI:
    @app.get("/me")
    async def me(user: Annotated[Claims, Depends(auth.required())]) -> str:
        return user.subject

    return app


def test_the_docs_page_offers_to_authorize(tokens: InProcessIssuer) -> None:
    app = FastAPI()
    auth = FastAPIAuthix(app)
    with_me(app, auth)

    @app.get("/admin")
    async def admin(_: Annotated[Claims, Depends(auth.required(roles=["admin"]))]) -> None: ...

    @app.get("/open")
    async def open_to_all() -> None: ...

    page: dict[str, Any] = app.openapi()
    schemes = page["components"]["securitySchemes"]
    assert [(scheme["type"], scheme["scheme"], scheme["bearerFormat"]) for scheme in schemes.values()] == [
        ("http", "bearer", "JWT")
    ]
    [name] = schemes
    assert [page["paths"][path]["get"].get("security") for path in ("/me", "/admin", "/open")] == [
        [{name: []}],
        [{name: []}],
        None,
    ]


async def test_it_lives_beside_the_applications_own_lifespan(serve: Serve, tokens: InProcessIssuer) -> None:
    seen = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append("started")
        yield {"pool": "of connections"}

    app = FastAPI(lifespan=lifespan)
    auth = FastAPIAuthix(app)
    async with client_of(await serve(with_me(app, auth))) as client:
        assert auth.running
        assert (await client.get("/me", headers=tokens.issue("ada").headers)).json() == "ada"
    assert seen == ["started"]


async def test_a_browser_may_read_a_refusal_through_cors(serve: Serve, tokens: InProcessIssuer) -> None:
    for cors_first in (True, False):
        app, auth = FastAPI(), FastAPIAuthix()
        if not cors_first:
            auth.install(app)
        app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example.com"])
        if cors_first:
            auth.install(app)
        async with client_of(await serve(with_me(app, auth))) as client:
            answer = await client.get("/me", headers={"Origin": "https://shop.example.com"})
            assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
            assert answer.headers["access-control-allow-origin"] == "https://shop.example.com"


async def test_a_whole_router_may_require_it(serve: Serve, tokens: InProcessIssuer) -> None:
    app = FastAPI()
    auth = FastAPIAuthix(app)
    router = APIRouter(dependencies=[Depends(auth.required(roles=["admin"], when_stale=WhenStale.ACCEPT))])

    @router.get("/reports")
    def reports() -> str:
        return "all"

    app.include_router(router)
    async with client_of(await serve(app)) as client:
        admin = tokens.issue("eve", roles=["admin", "reader"])
        assert (await client.get("/reports")).status_code == 401
        assert (await client.get("/reports", headers=tokens.issue("ada").headers)).status_code == 403
        assert (await client.get("/reports", headers=admin.headers)).json() == "all"
        tokens.go_stale()
        assert (await client.get("/reports", headers=admin.headers)).json() == "all"


async def test_the_scopes_of_a_security_are_roles_that_it_needs(serve: Serve, tokens: InProcessIssuer) -> None:
    app = FastAPI()
    auth = FastAPIAuthix(app)
    reader = auth.required(roles=["reader"])

    @app.get("/admin")
    async def admin(user: Annotated[Claims, Security(reader, scopes=["admin"])]) -> str:
        return user.subject

    async def current_user(user: Annotated[Claims, Depends(reader)]) -> str:
        return user.subject

    @app.get("/through")
    async def through(
        reading: Annotated[Claims, Depends(reader)], user: Annotated[str, Security(current_user, scopes=["admin"])]
    ) -> str:
        return f"{reading.subject} {user}"

    @app.get("/reports")
    async def reports(user: Annotated[Claims, Security(reader)]) -> str:
        return user.subject

    async with client_of(await serve(app)) as client:
        for roles, statuses in (
            ([], [403, 403, 403]),
            (["reader"], [403, 403, 200]),
            (["admin"], [403, 403, 403]),
            (["reader", "admin"], [200, 200, 200]),
        ):
            headers = tokens.issue("ada", roles=roles).headers
            paths = ("/admin", "/through", "/reports")
            assert [(await client.get(path, headers=headers)).status_code for path in paths] == statuses
        assert (await client.get("/admin", headers=tokens.issue("ada").headers)).json()["code"] == "role_missing"


async def test_a_mounted_application_answers_the_same(serve: Serve, tokens: InProcessIssuer) -> None:
    app, inner = FastAPI(), FastAPI()
    auth = FastAPIAuthix(app)
    auth.install(inner)
    app.mount("/inner", with_me(inner, auth))

    @inner.websocket("/ws")
    async def ws(socket: WebSocket, user: Annotated[Claims, Depends(auth.required())]) -> None:
        await socket.accept()
        await socket.send_text(user.subject)
        await socket.receive_text()

    url = await serve(app, timeout_graceful_shutdown=1)
    async with client_of(url) as client:
        assert (await client.get("/inner/me")).json()["code"] == "token_missing"
        token = tokens.issue("ada")
        assert (await client.get("/inner/me", headers=token.headers)).json() == "ada"
        async with websockets.connect(
            f"{url.replace('http', 'ws')}/inner/ws", additional_headers=token.headers, proxy=None
        ) as socket:
            assert await socket.recv() == "ada"
            tokens.logout("ada")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "token_revoked")


async def test_one_that_was_not_installed_lets_nobody_through(serve: Serve, tokens: InProcessIssuer) -> None:
    app, auth = FastAPI(), FastAPIAuthix()
    async with auth, client_of(await serve(with_me(app, auth))) as client:
        assert (await client.get("/me", headers=tokens.issue("ada").headers)).status_code == 500
