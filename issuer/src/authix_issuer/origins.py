"""Browsers on other origins: which may write here, and which may read the answers.

Rule: a request that may change something comes from this origin, from a listed one or from no browser at all. What a
browser says of itself decides it: ``Sec-Fetch-Site``, else ``Origin``; a request with neither is no browser's of today,
and no other page made it. A listed origin is told so by its exact name, never by ``*``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OWN = frozenset({"same-origin", "none"})  # none: the user's own doing, such as a bookmark
_PORTS = {"http": 80, "https": 443}
_EXPOSED = "Authorization, Retry-After"
_SENT = "Authorization, Content-Type"
_MAX_AGE = "600"  # the longest that every browser keeps a preflight is 2 h; a changed list holds sooner


class Origins:
    """``issuer`` is the issuer's URL, ``listed`` the other origins that its API is for."""

    def __init__(self, issuer: str, listed: Iterable[str]) -> None:
        self._listed = frozenset(listed)
        self._allowed = self._listed | {origin_of(issuer)}

    def may_write(self, origin: Sequence[str], site: Sequence[str]) -> bool:
        """Whether a request with these ``Origin`` and ``Sec-Fetch-Site`` fields may change something."""
        if not origin and not site:
            return True
        if len(origin) > 1 or len(site) > 1 or "null" in origin:
            return False
        return (bool(site) and site[0] in _OWN) or (bool(origin) and origin[0] in self._allowed)

    def headers(self, origin: Sequence[str], *, public: bool) -> dict[str, str]:
        """What lets a page of this ``Origin`` read an answer; ``public`` ones may be read by every page."""
        if self.is_listed(origin):
            return {
                "Access-Control-Allow-Origin": origin[0],
                "Access-Control-Allow-Credentials": "true",
                "Access-Control-Expose-Headers": _EXPOSED,
            }
        return {"Access-Control-Allow-Origin": "*"} if public else {}

    def preflight(self, origin: Sequence[str], methods: str) -> dict[str, str]:
        """What lets a page of this listed ``Origin`` send a request with one of ``methods``."""
        return self.headers(origin, public=False) | {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": _SENT,
            "Access-Control-Max-Age": _MAX_AGE,
        }

    def is_listed(self, origin: Sequence[str]) -> bool:
        return len(origin) == 1 and origin[0] in self._listed

    @property
    def vary(self) -> bool:
        """Whether answers differ by ``Origin``."""
        return bool(self._listed)


def origin_of(url: str) -> str:
    """The origin of an http(s) URL as a browser spells it (RFC 6454, 6.2)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in {None, _PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
