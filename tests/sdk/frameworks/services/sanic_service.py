"""The walk's service on Sanic's own server: ``sanic_service.py PORT WORKERS``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from sanic import HTTPResponse, Request, Sanic, Websocket, json
from sanic.response import BaseHTTPResponse

from authix import Claims, WhenStale
from authix.sanic import SanicAuthix

app: Sanic[Any, Any] = Sanic("walk")
auth = SanicAuthix(app)


def said(claims: Claims) -> HTTPResponse:
    return json({"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)})


@app.get("/open")
async def open_to_all(_: Request) -> HTTPResponse:
    return json({"ready": auth.ready()})


@app.get("/me")
@auth.required()
async def me(_: Request, claims: Claims) -> HTTPResponse:
    return said(claims)


@app.get("/admin")
@auth.required(roles=["admin"])
async def admin(_: Request, claims: Claims) -> HTTPResponse:
    return said(claims)


@app.get("/lax")
@auth.required(when_stale=WhenStale.ACCEPT)
async def lax(_: Request, claims: Claims) -> HTTPResponse:
    return said(claims)


@app.get("/events")
@auth.required()
async def events(request: Request, claims: Claims) -> None:
    response = await request.respond(content_type="text/event-stream")
    await response.send(f"data: {claims.subject}\n\n")
    while True:
        await asyncio.sleep(0.05)
        await response.send("data: tick\n\n")


@auth.required()
async def ws(_: Request, socket: Websocket, claims: Claims) -> None:
    await socket.send(claims.subject)
    async for message in socket:
        await socket.send(message)


app.add_websocket_route(ws, "/ws")


async def name_worker(_: Request, response: BaseHTTPResponse) -> None:
    response.headers["X-Worker"] = str(os.getpid())


app.register_middleware(name_worker, "response")


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), workers=int(sys.argv[2]), access_log=False, motd=False)
