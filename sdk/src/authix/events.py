"""The revocation events: the wire form of the logout topic and of every feed.

Rule: one JSON object an event. A release may only add optional fields; readers ignore unknown fields and unknown types,
but a known type that can't be read is an error, because skipping it would lose a logout.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Protocol

import msgspec

from authix.errors import SourceError

VERSION: Final = 1
MAX_LEEWAY: Final = 60
"""The largest clock leeway, in seconds, that a verifier may be given."""
MARGIN: Final = 60
"""Seconds that a revocation is kept beyond the life and leeway of the tokens it covers."""
MAX_TOKEN_LIFE: Final = 3600
"""The longest life, in seconds, that an issuer may give an access token."""
LOG_WINDOW: Final = MAX_TOKEN_LIFE + MAX_LEEWAY + MARGIN
"""Seconds after which every token that a revocation could concern is dead."""

Subject = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Moment = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class UserRevoked(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="user"):
    """Every token of ``sub`` issued at or before ``since_us`` is refused, until all of them are dead anyway."""

    v: Literal[1] = VERSION
    sub: Subject
    since_us: Moment
    until: Moment


class SessionRevoked(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="session"):
    """Every token of session ``sid`` issued at or before ``since_us`` is refused."""

    v: Literal[1] = VERSION
    sub: Subject
    sid: Subject
    since_us: Moment
    until: Moment


class KeyRevoked(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="key"):
    """Every token signed by ``kid`` is refused."""

    v: Literal[1] = VERSION
    kid: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    at_us: Moment | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="since_us")
    until: Moment

    @property
    def since_us(self) -> int:
        """Where it stands among the revocations; 0 where nobody said. Every token of the key is refused."""
        return 0 if self.at_us is msgspec.UNSET else self.at_us


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="heartbeat"):
    """A watermark: every revocation with ``since_us <= complete_until_us`` stands before it."""

    v: Literal[1] = VERSION
    at_us: Moment
    complete_until_us: Moment


Revocation = UserRevoked | SessionRevoked | KeyRevoked
Event = Revocation | Heartbeat


class Take(Protocol):
    """Takes events in the order of their feed; many at a time in a replay."""

    def __call__(self, *events: Event) -> None: ...


class Snapshot(msgspec.Struct, frozen=True):
    """All live revocations at one moment, and the cursor from which the live feed goes on."""

    cursor: str
    heartbeat: Heartbeat
    revocations: list[Revocation]


class _Kind(msgspec.Struct):
    type: str


_KINDS = frozenset({"user", "session", "key", "heartbeat"})
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_event: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_kind = msgspec.json.Decoder(_Kind)
_encoder = msgspec.json.Encoder()


def encode_event(event: Event) -> bytes:
    return _encoder.encode(event)


def decode_event(data: bytes) -> Event | None:
    """The event in ``data``; None for a type this release does not know.

    Raises ``SourceError`` for anything else that can't be read.
    """
    try:
        return _event.decode(data)
    except _UNREADABLE as error:
        try:
            known = _kind.decode(data).type in _KINDS
        except _UNREADABLE:
            known = True
        if known:
            raise SourceError(f"a revocation event can't be read: {error}") from None
        return None


def keep_until(since_us: int) -> int:
    """The epoch second after which a revocation of ``since_us`` covers only dead tokens.

    Of the longest life that a token can have been given, not of today's: it may have been shortened a moment ago.
    """
    return -(-since_us // 1_000_000) + LOG_WINDOW
