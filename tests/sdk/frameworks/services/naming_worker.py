"""ASGI middleware of the walk's services: every answer tells the process it is from."""

from __future__ import annotations

import os

from authix.asgi import Application, Message, Receive, Scope, Send

WORKER = str(os.getpid()).encode()


class NamingWorker:
    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"].endswith("response.start"):
                message["headers"] = [*message.get("headers", ()), (b"x-worker", WORKER)]
            await send(message)

        await self._app(scope, receive, sending)
