"""The walk's service on FastAPI: ``uvicorn fastapi_service:app``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from authix import Claims, WhenStale
from authix.fastapi import FastAPIAuthix
from tests.sdk.frameworks.services.naming_worker import NamingWorker

app = FastAPI()
auth = FastAPIAuthix(app)
app.add_middleware(NamingWorker)

User = Annotated[Claims, Depends(auth.required())]
Admin = Annotated[Claims, Depends(auth.required(roles=["admin"]))]
EvenStale = Annotated[Claims, Depends(auth.required(when_stale=WhenStale.ACCEPT))]


def said(claims: Claims) -> dict[str, Any]:
    return {"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)}


@app.get("/open")
async def open_to_all() -> dict[str, bool]:
    return {"ready": auth.ready()}


@app.get("/me")
async def me(user: User) -> dict[str, Any]:
    return said(user)


@app.get("/admin")
def admin(user: Admin) -> dict[str, Any]:
    return said(user)


@app.get("/lax")
async def lax(user: EvenStale) -> dict[str, Any]:
    return said(user)


@app.get("/events")
async def events(user: User) -> StreamingResponse:
    async def tell() -> AsyncIterator[str]:
        yield f"data: {user.subject}\n\n"
        while True:
            await asyncio.sleep(0.05)
            yield "data: tick\n\n"

    return StreamingResponse(tell(), media_type="text/event-stream")


@app.websocket("/ws")
async def ws(socket: WebSocket, user: User) -> None:
    await socket.accept()
    await socket.send_text(user.subject)
    async for message in socket.iter_text():
        await socket.send_text(message)
