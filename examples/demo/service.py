"""A small service that is protected twice over: by the sidecar in front of it, and on one route by the SDK itself.

Rule: ``/hello`` believes the sidecar's identity headers, so it must only be reachable through the sidecar (here: it
listens on loopback); ``/direct`` believes nobody and verifies the token itself.
"""

from __future__ import annotations

import logging
import os

from sanic import HTTPResponse, Request, Sanic, json

from authix.sanic import SanicAuthix

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

app = Sanic("demo-service", configure_logging=False)
app.config.MOTD = False
app.config.ACCESS_LOG = False
auth = SanicAuthix(app)


@app.get("/hello")
async def hello(request: Request) -> HTTPResponse:
    return json({"hello": request.headers.get("x-authix-subject"), "verified_by": "sidecar"})


@app.get("/direct")
@auth.required()
async def direct(request: Request) -> HTTPResponse:
    return json({"hello": request.ctx.claims.subject, "verified_by": "sdk"})


@app.get("/readyz")
async def readyz(_: Request) -> HTTPResponse:
    problems = auth.problems()
    return json({"ready": not problems, "problems": problems}, 503 if problems else 200)


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("DEMO_PORT", "8003")), single_process=True, access_log=False)
