"""An access token that comes in a cookie, and what a browser must show for it.

Rule: a cookie is looked at only where its name is set and the request has no ``Authorization``. Exactly one of that
name counts, over all ``Cookie`` fields; of two nobody knows which one is whose. A browser also sends it for whoever
makes it send anything, so a request that may change something (any method but GET, HEAD and OPTIONS, an upgrade, a
method override, a method that is unknown) must prove its origin before its token is looked at: by
``Sec-Fetch-Site: same-origin``, without that field by one ``Origin`` equal to the scheme, host and port it was sent to,
or by an ``Origin`` that is listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from authix.errors import TokenMalformed
from authix.settings import shown
from authix_sidecar import fields
from authix_sidecar.errors import CrossSiteRefused
from authix_sidecar.fields import Field
from authix_sidecar.origins import Origin, origins
from authix_sidecar.requests import RequestHead, is_host

_COOKIE = frozenset({b"cookie"})
_SITE = b"sec-fetch-site"
_PROOFS = frozenset({b"origin", _SITE})
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
# the last two are what is left of a WebSocket's handshake behind a proxy that drops hop-by-hop fields
_UPGRADES = frozenset({b"upgrade", b"sec-websocket-key", b"sec-websocket-version"})
_TOKEN = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")


class TokenCookie:
    """The cookie called ``name``, for pages of the service itself and of ``listed`` origins."""

    def __init__(self, name: str, listed: Iterable[Origin] = ()) -> None:
        self._name = name.encode("ascii")
        self._listed = frozenset(listed)

    def into(self, request: RequestHead, *, scheme: bytes | None, method_known: bool = True) -> RequestHead:
        """``request`` with the cookie's token as if it were its ``Authorization``; what goes upstream stays as it is.

        ``scheme`` is the one the client used; None: neither that nor the host is known. Raises ``TokenMalformed`` or
        ``CrossSiteRefused``.
        """
        if request.authorization:
            return request
        found = self._in(fields.noted(request.fields, _COOKIE).get(b"cookie", ()))
        if not found:
            return request
        if not (method_known and _changes_nothing(request)) and not self._proven(request, scheme):
            raise CrossSiteRefused("with the token in a cookie, this must come from a page of the same origin")
        if len(found) > 1:
            raise TokenMalformed("more than one cookie with an access token was sent")
        if _TOKEN.fullmatch(found[0]) is None:
            raise TokenMalformed("the cookie does not hold an access token")
        return msgspec.structs.replace(request, authorization=[b"Bearer " + found[0]])

    def taken_out(self, found: Iterable[Field]) -> list[Field]:
        """``found`` without the cookie; the others stay as they are."""
        kept = []
        for name, value in found:
            if fields.lower(name) == b"cookie":
                pairs = value.split(b";")
                others = [pair for pair in pairs if _split(pair)[0] != self._name]
                if len(others) < len(pairs):
                    rest = b";".join(others).strip(b" \t")
                    if rest:
                        kept.append((name, rest))
                    continue
            kept.append((name, value))
        return kept

    def _in(self, values: Iterable[bytes]) -> list[bytes]:
        pairs = (_split(pair) for value in values for pair in value.split(b";"))
        return [value for name, value in pairs if name == self._name]

    def _proven(self, request: RequestHead, scheme: bytes | None) -> bool:
        proofs = fields.noted(request.fields, _PROOFS)
        if proofs.get(_SITE) == [b"same-origin"]:
            return True
        named = proofs.get(b"origin", ())
        origin = _origin(named[0]) if len(named) == 1 else None
        if origin is None:
            return False
        if origin in self._listed:
            return True
        own = None if scheme is None or request.host is None else _origin(b"%b://%b" % (scheme, request.host))
        return _SITE not in proofs and origin == own


def _split(pair: bytes) -> tuple[bytes, bytes]:
    name, _, value = pair.partition(b"=")
    return name.strip(b" \t"), value.strip(b" \t")


def _changes_nothing(request: RequestHead) -> bool:
    return request.method in _SAFE and not any(
        fields.lower(name) in _UPGRADES or fields.overrides_method(name) for name, _ in request.fields
    )


@lru_cache(maxsize=1024)
def _origin(value: bytes) -> Origin | None:
    """None for what is none, such as ``null``."""
    if not is_host(value.partition(b"://")[2]):
        return None
    try:
        (found,) = origins(value.decode("ascii"))
    except ValueError:
        return None
    return found


def cookie_name(value: str) -> str:
    """A cookie's name (RFC 6265, 4.1.1)."""
    if not value.isascii() or not fields.is_token(value.encode()):
        raise ValueError(f"must be a cookie's name such as __Host-access, not {value!r}")
    return value


def page_origins(value: str) -> tuple[Origin, ...]:
    """Origins of pages, with commas between."""
    found = tuple(_origin(part.strip().encode()) for part in value.split(","))
    known = tuple(origin for origin in found if origin is not None)
    if len(known) < len(found):
        raise ValueError(f"must be origins such as https://app.example.com, comma-separated, not {shown(value)}")
    return known
