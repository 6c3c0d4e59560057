"""Flask: an extension whose decorator lets only verified requests through.

Rule: ``@auth.required()`` lets the view see ``current_claims``, or raises what the application answers by its error
handlers: ours, or its own for the same errors. A streamed answer ends at the logout if it goes through ``auth.guard``.
Settings come from ``app.config`` (``AUTHIX_ISSUER``, …), else from the environment; the verifier starts in each worker
process with the first request there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar, Unpack, cast

from flask import Flask, Response, current_app, request
from werkzeug.local import LocalProxy

from authix.bearer import apart, bearer_token, refusal
from authix.claims import Claims, names
from authix.errors import AuthixError, RoleMissing, TokenError, Unavailable
from authix.freshness import WhenStale
from authix.settings import load, named
from authix.threaded import SyncAuthix
from authix.verifier_settings import VerifierOptions, VerifierSettings

P = ParamSpec("P")
T = TypeVar("T")

EXTENSION = "authix"
_CLAIMS = "authix.claims"
_RULE = "authix_rule"


class _Rule(NamedTuple):
    """What a view requires."""

    roles: frozenset[str] = frozenset()
    when_stale: WhenStale | None = None


def _claims() -> Claims:
    claims: Claims | None = request.environ.get(_CLAIMS)
    if claims is None:
        raise RuntimeError("no access token was asked of this request")
    return claims


current_claims = cast("Claims", LocalProxy(_claims))
"""The claims of the request's token, of which one was asked; looking at it raises ``RuntimeError`` elsewhere."""


class FlaskAuthix:
    """``auth = FlaskAuthix(app)``, or ``auth.init_app(app)`` later and for several applications."""

    def __init__(
        self,
        app: Flask | None = None,
        *,
        everywhere: bool = False,
        public: Collection[str] = (),
        **options: Unpack[VerifierOptions],
    ) -> None:
        """``everywhere``: also what has no decorator needs a token, but for the endpoints named by ``public``.

        ``options`` are settings as for ``Authix``, and win over those of the application and the environment.
        """
        self._everywhere = everywhere
        self._public = names(public)
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Raises ``SettingsError`` when a setting is missing or wrong. The application's own error handlers stay."""
        given = {name: value for name, value in self._options.items() if value is not None}
        settings = load(VerifierSettings, arguments=named(VerifierSettings, app.config) | given)
        app.extensions[EXTENSION] = SyncAuthix(settings=settings)
        for kind in (TokenError, RoleMissing, Unavailable):
            if kind not in app.error_handler_spec[None][None]:
                app.register_error_handler(kind, _answer)
        if self._everywhere:
            app.before_request(self._judge_request)

    @property
    def verifier(self) -> SyncAuthix:
        """That of the current application."""
        return cast("SyncAuthix", current_app.extensions[EXTENSION])

    def required(
        self, *, roles: Collection[str] = (), when_stale: WhenStale | None = None
    ) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
        """Require a good access token whose user has all of ``roles``, of a view that may be a coroutine."""
        rule = _Rule(names(roles), when_stale)

        def decorate(view: Callable[P, Any]) -> Callable[P, Any]:
            @wraps(view)
            def judged(*args: P.args, **kwargs: P.kwargs) -> Any:
                self._judge(rule)
                return current_app.ensure_sync(view)(*args, **kwargs)

            setattr(judged, _RULE, rule)  # for the judgement before the request, with ``everywhere``
            return judged

        return decorate

    def guard(self, items: Iterable[T]) -> Iterator[T]:
        """The ``items`` of a streamed answer, which ends when the request's token is revoked or expires.

        It looks before each item, so a source that may be silent for long should give one now and then.
        """
        return self.verifier.guard(_claims(), items)

    def _judge(self, rule: _Rule) -> None:
        token = bearer_token(apart(request.headers.get("Authorization")))
        claims = self.verifier.authenticate(token, roles=rule.roles, when_stale=rule.when_stale)
        request.environ[_CLAIMS] = claims  # not in ``g``: requests share it where an application context was pushed

    def _judge_request(self) -> None:
        if request.endpoint in self._public:
            return
        if request.method == "OPTIONS" and getattr(request.url_rule, "provide_automatic_options", False):
            return  # Flask answers it; a browser's preflight brings no token
        view = current_app.view_functions.get(request.endpoint or "")
        self._judge(getattr(view, _RULE, _Rule()))


def _answer(error: AuthixError) -> Response:
    status, headers, body = refusal(error)
    return Response(body, status, dict(headers))
