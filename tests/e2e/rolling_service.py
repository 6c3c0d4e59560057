"""The service behind the sidecars of ``test_rolling_restart.py``: it says who asks, and has streams without an end."""

from __future__ import annotations

import asyncio
import itertools
import os

from sanic import HTTPResponse, Request, Sanic, Websocket, json

app = Sanic("rolling-service", configure_logging=False)
app.config.MOTD = False
app.config.ACCESS_LOG = False


@app.route("/hello", methods=["GET", "POST"])
async def hello(request: Request) -> HTTPResponse:
    return json({"subject": request.headers.get("x-authix-subject"), "body": request.body.decode()})


@app.get("/events")
async def events(request: Request) -> None:
    response = await request.respond(content_type="text/event-stream")
    for number in itertools.count():
        await response.send(f"data: {number}\n\n")
        await asyncio.sleep(0.05)


@app.websocket("/echo")  # type: ignore[untyped-decorator]  # Sanic has no type for it
async def echo(_: Request, socket: Websocket) -> None:
    async for message in socket:
        await socket.send(message)


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]), single_process=True, access_log=False)
