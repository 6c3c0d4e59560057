"""The open streams: tunnels and answers that are still going on, by the user they were opened for.

Rule: a stream lives no longer than the token that opened it would be accepted. A revocation that covers the token cuts
it at once, expiry cuts it by a timer; and since a logout may have come in while the upstream thought about its answer,
the token is looked at again when the stream is added.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from authix.claims import Claims
from authix.errors import AuthixError, KeyRevoked, TokenExpired, TokenRevoked
from authix.events import KeyRevoked as KeyRevokedEvent
from authix.events import Revocation, SessionRevoked, UserRevoked
from authix.verifier import Verifier

logger = logging.getLogger("authix.sidecar.streams")

Cut = Callable[[AuthixError], None]


class Stream:
    """One open stream; ``cut`` ends it."""

    __slots__ = ("claims", "cut", "timer")

    def __init__(self, claims: Claims, cut: Cut) -> None:
        self.claims = claims
        self.cut = cut
        self.timer: asyncio.TimerHandle | None = None


class OpenStreams:
    """Cuts streams by ``apply``, which takes the feed's revocations after the verifier has."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._by_subject: dict[str, set[Stream]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_subject.values()))

    def add(self, claims: Claims, cut: Cut) -> Stream:
        """Keep a stream opened for ``claims`` until ``remove``. Raises ``TokenError`` when the token has died since."""
        self._check(claims)
        stream = Stream(claims, cut)
        self._by_subject.setdefault(claims.subject, set()).add(stream)
        self._watch_expiry(stream)
        return stream

    def remove(self, stream: Stream) -> None:
        if stream.timer is not None:
            stream.timer.cancel()
        streams = self._by_subject.get(stream.claims.subject)
        if streams is not None:
            streams.discard(stream)
            if not streams:
                del self._by_subject[stream.claims.subject]

    def apply(self, event: Revocation) -> None:
        """Cut every stream whose token ``event`` revokes. Does not raise."""
        if isinstance(event, UserRevoked | SessionRevoked):
            concerned = tuple(self._by_subject.get(event.sub, ()))
        else:
            concerned = tuple(stream for streams in self._by_subject.values() for stream in streams)
        for stream in concerned:
            claims = stream.claims
            match event:
                case UserRevoked(since_us=since) if claims.issued_at_us <= since:
                    self._cut(stream, TokenRevoked("the user logged out"))
                case SessionRevoked(sid=sid, since_us=since) if claims.session == sid and claims.issued_at_us <= since:
                    self._cut(stream, TokenRevoked("the user logged out"))
                case KeyRevokedEvent(kid=kid) if claims.key_id == kid:
                    self._cut(stream, KeyRevoked("the token's key was revoked"))

    def _check(self, claims: Claims) -> None:
        revocations = self._verifier.revocations
        if revocations.revokes(
            subject=claims.subject, session=claims.session, issued_at_us=claims.issued_at_us
        ) or revocations.has_forgotten(claims.issued_at_us):
            raise TokenRevoked("the user logged out")
        if revocations.revokes_key(claims.key_id):
            raise KeyRevoked("the token's key was revoked")
        if self._life_left(claims) <= 0:
            raise TokenExpired

    def _life_left(self, claims: Claims) -> float:
        return claims.expires_at + self._verifier.leeway - time.time()

    def _watch_expiry(self, stream: Stream) -> None:
        left = self._life_left(stream.claims)
        if left <= 0:
            self._cut(stream, TokenExpired())
            return
        # looked at again at least once a minute, because the wall clock may be set
        stream.timer = asyncio.get_running_loop().call_later(min(left, 60), self._watch_expiry, stream)

    def _cut(self, stream: Stream, why: AuthixError) -> None:
        self.remove(stream)
        try:
            stream.cut(why)
        except Exception:
            logger.exception("a stream could not be cut")
