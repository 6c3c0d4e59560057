"""Django REST framework: authentication by access token, a permission for roles, and refusals as everywhere else.

Rule: ``request.user`` is a ``TokenUser``, which is in no database, and ``request.auth`` the claims. A request without
a token is left to the other authentication classes and the permissions. Refusals have our status and Retry-After in
any case, and a 401 our challenge; with ``EXCEPTION_HANDLER = "authix.rest_framework.exception_handler"`` also our body,
and a missing role our challenge. What combined permissions (``|``, ``&``, ``~``) refuse is the framework's own 403.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.http import HttpResponseBase
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, NotAuthenticated, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from authix.bearer import apart, bearer_token, challenge
from authix.claims import Claims
from authix.django import refused, verifier
from authix.errors import AuthixError, RoleMissing, TokenError, TokenMissing, Unavailable
from authix.freshness import WhenStale

if TYPE_CHECKING:
    from rest_framework.views import APIView


class TokenUser:
    """Who the token is of."""

    is_authenticated = True
    is_anonymous = False
    is_active = True

    def __init__(self, claims: Claims) -> None:
        self.claims = claims

    @property
    def pk(self) -> str:
        """The subject; what throttling counts by."""
        return self.claims.subject

    id = pk
    username = pk

    @property
    def roles(self) -> frozenset[str]:
        return self.claims.roles

    def __str__(self) -> str:
        return self.claims.subject

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenUser) and other.pk == self.pk

    def __hash__(self) -> int:
        return hash(self.pk)


class Refused(APIException):
    """An error of ours on its way through the framework."""

    def __init__(self, error: AuthixError) -> None:
        super().__init__(error.reason, error.code)
        self.error = error
        self.status_code = error.status
        if isinstance(error, Unavailable):
            self.wait = error.retry_after
        elif isinstance(error, TokenError | RoleMissing):
            self.auth_header = challenge(error)


class AccessTokenAuthentication(BaseAuthentication):
    """For ``DEFAULT_AUTHENTICATION_CLASSES`` or a view's ``authentication_classes``.

    A subclass may have another ``when_stale``, the policy for views that go on while the feed is stale.
    """

    when_stale: ClassVar[WhenStale | None] = None

    def authenticate(self, request: Request) -> tuple[TokenUser, Claims] | None:
        try:
            token = bearer_token(apart(request.META.get("HTTP_AUTHORIZATION")))
            claims = verifier().authenticate(token, when_stale=self.when_stale)
        except TokenMissing:
            return None
        except (TokenError, Unavailable) as error:
            raise Refused(error) from None
        return TokenUser(claims), claims

    def authenticate_header(self, _: Request) -> str:
        return challenge(TokenMissing())


def has_roles(*roles: str) -> type[BasePermission]:
    """A permission class for users who have all of ``roles``; it combines with others (``|``, ``&``, ``~``)."""
    needed = frozenset(roles)

    class HasRoles(BasePermission):
        message = "the user lacks a role that this needs"
        code = RoleMissing.code

        def has_permission(self, request: Request, _: APIView) -> bool:
            claims = request.auth
            return isinstance(claims, Claims) and needed <= claims.roles

        def has_object_permission(self, request: Request, view: APIView, _: Any) -> bool:
            return self.has_permission(request, view)  # the inherited one is always true, and so its ``~`` never

    return HasRoles


def exception_handler(error: Exception, context: dict[str, Any]) -> HttpResponseBase | None:
    """Answers refusals with the body that they have in every framework, and all else as the framework does."""
    from rest_framework import views  # noqa: PLC0415 - it imports this module, if the settings do

    if isinstance(error, NotAuthenticated) and getattr(error, "auth_header", None) == challenge(TokenMissing()):
        error = Refused(TokenMissing("no access token was sent"))
    elif isinstance(error, PermissionDenied) and error.get_codes() == RoleMissing.code:
        error = Refused(RoleMissing(str(error.detail)))
    if not isinstance(error, Refused):
        return views.exception_handler(error, context)
    views.set_rollback()
    return refused(error.error)
