"""Which roles and custom claims an account may have.

Rule: whatever is accepted here fits into every access token, as header and payload, and into every place that reads
one: roles are names that no list of names can take apart, claims are JSON that every language reads alike, and none of
them is one that a token, or an answer about a token, says something else with.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from authix_issuer.errors import InputInvalid, Reason

MAX_ROLES: Final = 64
MAX_BYTES: Final = 2048
"""Of the roles, and of the claims, as a token spells them: with both and a signature it stays below 7 KiB."""
MAX_DEPTH: Final = 8
"""Objects and lists in one another, the claims themselves included."""
MAX_NUMBER: Final = 2**53 - 1
"""Whole numbers beyond are not exact everywhere (RFC 8259, 6)."""
RESERVED: Final = frozenset(
    {
        *("iss", "sub", "aud", "exp", "nbf", "iat", "jti"),  # RFC 7519, 4.1
        *("sid", "roles", "iat_us"),  # ours
        *("client_id", "scope", "auth_time", "acr", "amr"),  # RFC 9068, 2.2
        *("act", "may_act", "cnf", "azp", "nonce", "events", "toe"),  # RFC 8693, 7800, OpenID Connect, RFC 8417
        *("active", "username", "token_type"),  # RFC 7662, 2.2
        *("alg", "kid", "typ", "cty", "crit", "b64", "jku", "jwk", "x5u", "x5c"),  # a header's (RFC 7519, 5.3)
    }
)
ROLE: Final = re.compile(r"[!#-$&-+\--\[\]-~]{1,64}", re.ASCII)  # a scope token (RFC 6749, 3.3) without ',' and '%'


def role_name(value: str) -> str:
    """Raises ``ValueError``."""
    if ROLE.fullmatch(value) is None:
        raise ValueError('must be 1 to 64 letters, digits or signs of ASCII, without spaces and , % " \\')
    return value


def read_roles(given: Iterable[str]) -> tuple[str, ...]:
    """Raises ``InputInvalid``."""
    roles = tuple(given)
    if len(roles) > MAX_ROLES or _size(roles) > MAX_BYTES:
        detail = f"there are more than {MAX_ROLES} roles, or more than {MAX_BYTES} bytes of them"
        raise InputInvalid(Reason("roles", "roles_too_many", detail))
    for role in roles:
        try:
            role_name(role)
        except ValueError as error:
            raise InputInvalid(Reason("roles", "role_malformed", f"each role {error}")) from None
    if len(set(roles)) < len(roles):
        raise InputInvalid(Reason("roles", "role_repeated", "a role is named twice"))
    return roles


def read_claims(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` are JSON values. Raises ``InputInvalid``."""
    claims = dict(given)
    if taken := sorted(RESERVED & claims.keys()):
        detail = f"{', '.join(taken)} can't be set: a token says something else with it"
        raise InputInvalid(Reason("claims", "claim_reserved", detail))
    if _is_deep(claims):
        raise InputInvalid(Reason("claims", "claims_too_deep", f"the claims are more than {MAX_DEPTH} levels deep"))
    if not _is_exact(claims):
        raise InputInvalid(Reason("claims", "claim_number", "a number is too large to be read alike everywhere"))
    if _size(claims) > MAX_BYTES:
        detail = (
            f"the claims are more than {MAX_BYTES} bytes, other letters than ASCII's counted as \\u and four digits"
        )
        raise InputInvalid(Reason("claims", "claims_too_large", detail))
    return claims


def _size(value: object) -> int:
    """In bytes, as JSON of ASCII alone spells it: no token is longer."""
    return len(json.dumps(value, separators=(",", ":")))


def _is_deep(claims: dict[str, Any]) -> bool:
    level: list[Any] = [claims]
    for _ in range(MAX_DEPTH):
        level = [member for container in level for member in _members(container)]
        level = [member for member in level if isinstance(member, dict | list)]
    return bool(level)


def _is_exact(value: object) -> bool:
    match value:
        case int():
            return abs(value) <= MAX_NUMBER
        case float():
            return math.isfinite(value)
        case dict() | list():
            return all(map(_is_exact, _members(value)))
    return True


def _members(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
