"""The refresh token's cookie.

Rule: the profile is a setting, never guessed from a request. ``secure`` binds the cookie to this host over https
(``__Host-``, RFC 6265bis); ``development`` is for plain http on this machine only.
"""

from __future__ import annotations

from sanic import HTTPResponse, Request
from sanic.cookies.request import parse_cookie

from authix_issuer.errors import RefreshTokenInvalid, RefreshTokenMissing


class RefreshCookie:
    def __init__(self, profile: str) -> None:
        secure = profile == "secure"
        self.name = "__Host-authix_refresh" if secure else "authix_refresh"
        self._attributes = f"Path=/; {'Secure; ' * secure}HttpOnly; SameSite=Strict"

    def read(self, request: Request) -> str:
        """The refresh token. Raises ``RefreshTokenMissing``, or ``RefreshTokenInvalid`` when there are several."""
        # Not ``request.cookies``: that takes ``__Secure-<name>``, which a neighbouring host may set, for ours.
        found = parse_cookie("; ".join(request.headers.getall("cookie", []))).get(self.name, [])
        if not found:
            raise RefreshTokenMissing("no refresh token was sent")
        if len(found) > 1:
            raise RefreshTokenInvalid("more than one refresh token was sent")
        return found[0]

    def find(self, request: Request) -> str:
        """The same, or nothing where it raises."""
        try:
            return self.read(request)
        except (RefreshTokenMissing, RefreshTokenInvalid):
            return ""

    def write(self, response: HTTPResponse, token: str, life: int) -> None:
        """Set the cookie for ``life`` seconds."""
        response.headers.add("Set-Cookie", f"{self.name}={token}; {self._attributes}; Max-Age={life}")

    def clear(self, response: HTTPResponse) -> None:
        self.write(response, '""', 0)
