"""What a token's payload says, before anybody judges it.

Rule: a claim is of its type or an error that names it. What our issuer makes is read at once; whatever is spelled
otherwise is read claim by claim, to the same verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from authix.claims import ABSENT, Path, find
from authix.errors import ClaimError, ClaimMissing

LATEST = 100_000_000_000  # seconds; the year 5138, so that milliseconds are noticed
_VISIBLE = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_TEXT = frozenset({str})
_NUMBERS = frozenset({int, float})  # not bool
NO_OTHERS: Mapping[str, Any] = MappingProxyType({})
_OUR_ROLES = ("roles",)  # a list; elsewhere roles may be one text, as scope is
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class AsIssued(msgspec.Struct, gc=False):
    """A payload as our issuer spells it: these claims, in this order, and no other.

    To read it so takes half the time. Whatever is spelled otherwise is read claim by claim, to the same verdict.
    """

    iss: str
    sub: _Name
    aud: str
    iat: Annotated[int, msgspec.Meta(ge=0, lt=LATEST)]
    exp: Annotated[int, msgspec.Meta(ge=0, lt=LATEST)]
    iat_us: Annotated[int, msgspec.Meta(ge=0, lt=LATEST * 1_000_000)]
    jti: _Name
    sid: _Name
    roles: list[str]


_ISSUED = msgspec.json.Decoder(AsIssued)
_SPELL = msgspec.json.Encoder()


def read_as_issued(payload: bytes) -> AsIssued | None:
    """What it says when it is spelled exactly so; None: it may still be good, and takes the longer way."""
    try:
        said = _ISSUED.decode(payload)
        names = said.sub + said.sid + said.jti
        if names.isascii() and names.isprintable() and " " not in names and _SPELL.encode(said) == payload:
            return said
    except (ValueError, RecursionError):
        pass
    return None


def required(payload: Mapping[str, Any], claim: str) -> Any:
    if claim not in payload:
        raise ClaimMissing(claim)
    return payload[claim]


def audience_in(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and _TEXT.issuperset(map(type, value)):
        return tuple(value)
    raise ClaimError("aud", "is neither a string nor a list of strings")


def time_in(payload: Mapping[str, Any], claim: str) -> float:
    value: float = required(payload, claim)
    if type(value) not in _NUMBERS or not 0 <= value < LATEST:
        raise ClaimError(claim, "is not a number of seconds since 1970")
    return value


def name_at(payload: Mapping[str, Any], path: Path) -> str | None:
    value = payload.get(path[0], ABSENT) if len(path) == 1 else find(payload, path)
    if value is ABSENT:
        return None
    if not isinstance(value, str) or _VISIBLE.fullmatch(value) is None:
        raise ClaimError(".".join(path), "is not 1 to 128 visible ASCII characters")
    return value


def others(payload: Mapping[str, Any], taken: frozenset[str]) -> Mapping[str, Any]:
    if payload.keys() <= taken:
        return NO_OTHERS
    return MappingProxyType({name: value for name, value in payload.items() if name not in taken})


def roles_at(payload: Mapping[str, Any], paths: Iterable[Path]) -> frozenset[str]:
    found: list[str] = []
    for path in paths:
        value = find(payload, path)
        if isinstance(value, str) and path != _OUR_ROLES:
            value = [role for role in value.split(" ") if role]
        if value is ABSENT:
            continue
        if not isinstance(value, list) or not _TEXT.issuperset(map(type, value)):
            raise ClaimError(".".join(path), "is not a list of strings")
        found += value
    return frozenset(found)
