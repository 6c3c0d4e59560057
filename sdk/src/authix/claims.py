"""What a verified token says, and where it says it.

Rule: ``Claims`` exist only behind a checked signature; what was merely parsed is called payload.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from authix.errors import ClaimError

Path = tuple[str, ...]
"""Where something stands in a token: names from the outermost object inwards."""
ABSENT: Final = object()


class Claims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The verified claims of an access token (RFC 9068, plus ``sid``, ``roles`` and ``iat_us``)."""

    subject: str
    """``sub``: the user's id."""
    session: str | None
    """``sid``: the session that the token belongs to."""
    roles: frozenset[str]
    """``roles``: what the user may do, as of the issue moment."""
    issuer: str
    """``iss``"""
    audience: tuple[str, ...]
    """``aud``"""
    issued_at_us: int
    """``iat_us``: the issue moment in microseconds on the session store's clock; ``iat`` where a token lacks it."""
    expires_at: float
    """``exp``, in seconds since the epoch."""
    token_id: str | None
    """``jti``"""
    key_id: str
    """``kid`` of the header: the key that signed."""
    extra: Mapping[str, Any]
    """Every other claim, as it stood in the token. Whoever presents this token again may get this very mapping: it
    can't be changed, but the lists and objects in it can, and must not be."""

    def __reduce__(self) -> tuple[Any, ...]:
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        return _said, (said | {"extra": dict(self.extra)},)  # the view that guards it can't be pickled

    def __hash__(self) -> int:
        # not over extra, which may hold lists; these tell one token from another
        return hash((self.issuer, self.subject, self.session, self.token_id, self.issued_at_us))


def _said(said: dict[str, Any]) -> Claims:
    return Claims(**said | {"extra": MappingProxyType(said["extra"])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimPaths:
    """Where a token says what: other issuers have names of their own."""

    subject: Path = ("sub",)
    session: Path = ("sid",)
    token_id: Path = ("jti",)
    roles: tuple[Path, ...] = (("roles",),)
    """What stands at any of these. Elsewhere than at ``roles`` it may be one text with spaces, as ``scope`` is."""

    def all(self) -> Iterator[Path]:
        yield from (self.subject, self.session, self.token_id, *self.roles)


OURS: Final = ClaimPaths()


def names(given: Collection[str]) -> frozenset[str]:
    """Roles or paths that a program names. Raises ``TypeError`` for one text, which would be taken letter by letter."""
    if isinstance(given, str):
        raise TypeError(f"expected a collection of names, not one text: [{given!r}]")
    return frozenset(given)


def find(payload: Mapping[str, Any], path: Path) -> object:
    """What stands there, or ``ABSENT``. Raises ``ClaimError`` where the way there is not through objects."""
    found: object = payload
    for name in path:
        if not isinstance(found, dict):
            raise ClaimError(".".join(path), "is not in an object")
        if name not in found:
            return ABSENT
        found = found[name]
    return found
