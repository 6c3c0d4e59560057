"""The walk's service on aiohttp's own server: ``aiohttp_service.py PORT WORKERS``."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys

from aiohttp import web

from authix import Claims, WhenStale
from authix.aiohttp import CLAIMS, AiohttpAuthix

routes = web.RouteTableDef()
auth = AiohttpAuthix()


def said(claims: Claims) -> web.Response:
    return web.json_response({"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)})


@routes.get("/open")
async def open_to_all(_: web.Request) -> web.Response:
    return web.json_response({"ready": auth.ready()})


@routes.get("/me")
@auth.required()
async def me(request: web.Request) -> web.Response:
    return said(request[CLAIMS])


@routes.get("/admin")
@auth.required(roles=["admin"])
async def admin(request: web.Request) -> web.Response:
    return said(request[CLAIMS])


@routes.get("/lax")
@auth.required(when_stale=WhenStale.ACCEPT)
async def lax(request: web.Request) -> web.Response:
    return said(request[CLAIMS])


@routes.get("/events")
@auth.required()
async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(f"data: {request[CLAIMS].subject}\n\n".encode())
    while True:
        await asyncio.sleep(0.05)
        await response.write(b"data: tick\n\n")


@routes.get("/ws")
@auth.required()
async def ws(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(request[CLAIMS].subject)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def name_worker(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Worker"] = str(os.getpid())


def serve(port: int) -> None:
    app = web.Application()
    app.add_routes(routes)
    app.on_response_prepare.append(name_worker)
    auth.install(app)
    web.run_app(app, host="127.0.0.1", port=port, reuse_port=True, access_log=None, shutdown_timeout=1)


if __name__ == "__main__":
    at, workers = int(sys.argv[1]), int(sys.argv[2])
    for _ in range(workers - 1):
        multiprocessing.Process(target=serve, args=[at], daemon=True).start()
    serve(at)
