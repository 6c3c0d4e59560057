"""Sanic: a decorator that lets only verified requests through.

Rule: ``@auth.required()`` puts the claims into ``request.ctx.claims`` or answers the refusal; the verifier runs with
the application's worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from functools import wraps
from inspect import isawaitable
from typing import Any, Concatenate, ParamSpec, cast

from sanic import HTTPResponse, Request, Sanic

from authix.bearer import bearer_token, refusal
from authix.errors import AuthixError
from authix.runtime import Authix

P = ParamSpec("P")
Handler = Callable[Concatenate[Request, P], Any]
Judged = Callable[Concatenate[Request, P], Coroutine[Any, Any, Any]]


class SanicAuthix(Authix):
    """An ``Authix`` that lives with a Sanic application: ``auth = SanicAuthix(app)``; settings as for ``Authix``."""

    def __init__(self, app: Sanic[Any, Any], **settings: Any) -> None:
        super().__init__(**settings)
        app.before_server_start(self._start_with)
        app.after_server_stop(self._stop_with)

    def required(self, *, roles: Collection[str] = ()) -> Callable[[Handler[P]], Judged[P]]:
        """Require a good access token whose user has all of ``roles``.

        Sanic shakes hands before it calls a websocket handler, so there a refusal closes the new connection at once.
        """
        needed = frozenset(roles)

        def decorate(handler: Handler[P]) -> Judged[P]:
            @wraps(handler)
            async def judged(request: Request, *args: P.args, **kwargs: P.kwargs) -> Any:
                try:
                    token = bearer_token(request.headers.getall("authorization", []))
                    request.ctx.claims = await self.authenticate(token, roles=needed)
                except AuthixError as error:
                    status, headers, body = refusal(error)
                    return HTTPResponse(body, status, dict(headers))
                answer = handler(request, *args, **kwargs)
                return await answer if isawaitable(answer) else answer

            return cast("Judged[P]", judged)

        return decorate

    async def _start_with(self, _: Sanic[Any, Any]) -> None:
        await self.start()

    async def _stop_with(self, _: Sanic[Any, Any]) -> None:
        await self.stop()
