"""A service on Sanic with handlers of every kind behind the decorator; settings come from the environment."""

from __future__ import annotations

import os
from typing import Any

from sanic import HTTPResponse, Request, Sanic, Websocket, json

from authix.sanic import SanicAuthix

app: Sanic[Any, Any] = Sanic("tests-sanic-service")
auth = SanicAuthix(app)


@app.get("/open")
async def open_to_all(_: Request) -> HTTPResponse:
    return json({"ready": auth.ready()}, 200 if auth.ready() else 503)


@app.route("/me/<name>", methods=["GET", "POST"])
@auth.required()
async def me(request: Request, name: str) -> HTTPResponse:
    route = request.route.name if request.route else ""
    return json({"subject": request.ctx.claims.subject, "name": name, "route": route})


@app.get("/admin")
@auth.required(roles=["admin"])
async def admin(_: Request) -> HTTPResponse:
    return json({"admin": True})


@app.get("/plain")
@auth.required()
def plain(request: Request) -> HTTPResponse:
    """Sanic takes handlers that are no coroutines, so the decorator does."""
    return json({"subject": request.ctx.claims.subject})


@auth.required()
async def ws(request: Request, socket: Websocket) -> None:
    await socket.send(request.ctx.claims.subject)


app.add_websocket_route(ws, "/ws")


if __name__ == "__main__":
    app.run("127.0.0.1", int(os.environ["PORT"]), single_process=True, access_log=False, motd=False)
