"""The walk's service on Starlette: ``uvicorn starlette_service:app``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from authix import Authix, Claims, WhenStale
from authix.asgi import AuthixMiddleware
from tests.sdk.frameworks.services.naming_worker import NamingWorker

auth = Authix()


async def open_to_all(_: Request) -> JSONResponse:
    return JSONResponse({"ready": auth.ready()})


async def me(request: Request) -> JSONResponse:
    claims: Claims = request.scope["authix.claims"]
    return JSONResponse({"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)})


async def events(request: Request) -> StreamingResponse:
    async def tell() -> AsyncIterator[str]:
        yield f"data: {request.scope['authix.claims'].subject}\n\n"
        while True:
            await asyncio.sleep(0.05)
            yield "data: tick\n\n"

    return StreamingResponse(tell(), media_type="text/event-stream")


async def ws(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.scope["authix.claims"].subject)
    async for message in socket.iter_text():
        await socket.send_text(message)


app = Starlette(
    routes=[
        Route("/open", open_to_all),
        Route("/me", me),
        Route("/admin", me, middleware=[Middleware(AuthixMiddleware, auth=auth, roles=["admin"])]),
        Route("/lax", me),
        Route("/events", events),
        WebSocketRoute("/ws", ws),
    ],
    middleware=[
        Middleware(NamingWorker),
        Middleware(AuthixMiddleware, auth=auth, public=["/open"], when_stale={"/lax": WhenStale.ACCEPT}),
    ],
)
