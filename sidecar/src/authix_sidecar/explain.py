"""What a policy says to one request, and why.

Rule: the request is read and decided over by the very steps that the proxy port takes; only its token is made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from authix.claims import Claims
from authix.errors import AuthixError, RoleMissing
from authix_sidecar.decide import ALLOWED, Requirement, decide
from authix_sidecar.errors import RequestRefused
from authix_sidecar.policy import Route, Routes, host_name, segments_of
from authix_sidecar.policy_file import place
from authix_sidecar.requests import RequestHead, read_request


class Token(NamedTuple):
    """A good token."""

    roles: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = {}
    age: float = 0
    """Seconds since its issue moment."""


class Explanation(NamedTuple):
    lines: list[str]
    allowed: bool


def explain(policy: Routes, name: str, method: str, target: str, *, host: str, token: Token | None) -> Explanation:
    """What ``policy`` from the file ``name`` makes of a request; ``token`` None: it has none."""
    authorization = "" if token is None else "Authorization: Bearer made.up.here\r\n"
    # what of the command line is not UTF-8 is there as surrogates, and goes on the wire as the bytes that it was
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n".encode(errors="surrogateescape")
    lines = [f"{method} {target}, Host: {host}".encode(errors="surrogateescape").decode(errors="backslashreplace")]
    try:
        request = read_request(head)
    except RequestRefused as error:
        lines += [f"no route is asked: {error.reason}", f"answer: {error.status} {error.code}"]
        return Explanation(lines, allowed=False)
    route = policy.route(request)
    for other in policy.routes if route is None else policy.routes[: route.position - 1]:
        lines.append(f"  {place(name, other)}: {_why_not(other, request)}")
    needs = policy.unnamed if route is None else route.needs
    which = f"{name}: no route matches" if route is None else f"{place(name, route)} matches"
    lines += [which, f"needs: {_needs(needs)}"]
    if needs.when_stale is not None:
        lines.append(f"when logouts are not heard of: {needs.when_stale.value}")
    lines.append(f"the upstream {'gets' if needs.passes_authorization else 'does not get'} the Authorization field")
    code, status = _judged(request, needs, token)
    lines.append(f"answer: {code}" if code == ALLOWED else f"answer: {status} {code}")
    return Explanation(lines, allowed=code == ALLOWED)


def _judged(request: RequestHead, needs: Requirement, token: Token | None) -> tuple[str, int]:
    known = token or Token()

    def verify(_: str, *, roles: frozenset[str], **_more: object) -> Claims:
        if not roles <= known.roles:
            raise RoleMissing
        return Claims(
            subject="made-up",
            session=None,
            roles=known.roles,
            issuer="",
            audience=(),
            issued_at_us=-int(known.age * 1_000_000),
            expires_at=0,
            token_id=None,
            key_id="",
            extra=known.claims,
        )

    try:
        decide(request, needs, verify, lambda: 0.0)
    except AuthixError as error:
        return error.code, error.status
    return ALLOWED, 200


def _why_not(route: Route, request: RequestHead) -> str:
    if not any(shape.matches(segments_of(request.path)) for shape in route.shapes):
        return "another path"
    if not route.matches_method(request.method):
        return f"only for {', '.join(sorted(method.decode() for method in route.methods or ()))}"
    return f"another host than {host_name(request.host or b'').decode()}"


def _needs(needs: Requirement) -> str:
    if not needs.token:
        return "nothing, it is public"
    said = ["an access token"]
    if needs.roles:
        said.append(f"the roles {', '.join(sorted(needs.roles))}")
    for claim, allowed in needs.claims:
        said.append(f"{claim} = {' or '.join(sorted(msgspec.json.encode(value).decode() for _, value in allowed))}")
    if needs.max_age is not None:
        said.append(f"issued {needs.max_age} s ago or less")
    return ", ".join(said)
