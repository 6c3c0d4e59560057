"""The request that another proxy asks ``/verify`` about.

Rule: where a policy is set, the proxy must say in exactly one way which method and which raw request target it was
asked for, and, where a route names a host, which host; each name once. Whoever asks must be listed in
``AUTHIX_TRUSTED_PEERS``, for whoever may name the request may choose what it needs. The ways:

========================  ==========================  ====================  =========================
way                       method                      target                host
========================  ==========================  ====================  =========================
set in its configuration  ``X-Original-Method``       ``X-Original-URI``    ``X-Original-Host``
(nginx, HAProxy)
its own forward auth      ``X-Forwarded-Method``      ``X-Forwarded-Uri``   ``X-Forwarded-Host``
(Traefik, Caddy)
Envoy's ``ext_authz``     the request's own           what follows          the request's own
                                                      ``/verify``           ``Host``
========================  ==========================  ====================  =========================

Two ways at once are refused, since one of them may be the client's. So are half a way, a second field of a name, and
what the proxy port would refuse: such a target, method or host could not be what the upstream is sent. All of that is
answered 403, because to nginx anything but 200, 401 and 403 is a failure of its own.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from authix_sidecar import fields
from authix_sidecar.errors import OriginalRefused, RequestRefused
from authix_sidecar.requests import RequestHead, read_request
from authix_sidecar.targets import path_of

VERIFY = b"/verify"

_WAYS = (
    (b"x-original-method", b"x-original-uri", b"x-original-host"),
    (b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-host"),
)
_NAMES = frozenset(name for way in _WAYS for name in way)


def asks_to_verify(path: bytes) -> bool:
    return path == VERIFY or path.startswith(VERIFY + b"/")


def original_of(request: RequestHead, *, by_host: bool) -> RequestHead:
    """The request that ``request`` asks about, with the token of both.

    ``by_host``: the policy asks for its host. Raises ``OriginalRefused``.
    """
    said = fields.noted(request.fields, _NAMES)
    ways = [way for way in _WAYS if way[0] in said or way[1] in said]
    behind = request.target[len(VERIFY) :]
    if behind.startswith(b"/"):
        if ways:
            raise OriginalRefused("the original request is named by the path and by fields: one must do")
        return msgspec.structs.replace(request, target=behind, path=request.path[len(VERIFY) :])
    if len(ways) != 1:
        raise OriginalRefused(
            "the original request is not named in exactly one way: by X-Original-Method and X-Original-URI, by "
            "X-Forwarded-Method and X-Forwarded-Uri, or by the path behind /verify"
        )
    method, target, host = (said.get(name, []) for name in ways[0])
    if not by_host:
        host = [b"unnamed"]
    if not len(method) == len(target) == len(host) == 1:
        raise OriginalRefused("the original request's method, target or host is not named exactly once")
    try:
        path = path_of(target[0])
        _check(method[0], host[0])
    except RequestRefused as error:
        raise OriginalRefused(f"the original request would be refused: {error.reason}") from None
    return msgspec.structs.replace(request, method=method[0], target=target[0], path=path, host=host[0])


@lru_cache(maxsize=1024)
def _check(method: bytes, host: bytes) -> None:
    """Refuse what is no method or no host; neither holds a line's end, since they come from fields."""
    read_request(b"%b / HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, host))
