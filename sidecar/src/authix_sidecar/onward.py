"""The feed, passed on to the SDKs of this pod or node, so that the issuer and Kafka serve one of them.

Rule: it is the issuer's feed in form and meaning: a newcomer is shown all that is alive, then what comes; a heartbeat
stands after everything it vouches for, and says how old this sidecar's own knowledge is. One who resumes from a cursor
that is no longer remembered is a newcomer, and one who can't keep up is cut off, never skipped over. A sidecar that had
to forget a logout (its map was full) passes nothing on.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Iterator

import msgspec

from authix import Authix, sse
from authix.bearer import bearer_token
from authix.errors import AuthixError
from authix.events import (
    LOG_WINDOW,
    Heartbeat,
    KeyRevoked,
    Revocation,
    SessionRevoked,
    Snapshot,
    UserRevoked,
    encode_event,
)
from authix.revocations import Part
from authix.settings import is_loopback, leads_here
from authix_sidecar.decide import ALLOWED
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.errors import FeedForbidden, FeedIncomplete
from authix_sidecar.exchanges import Exchange
from authix_sidecar.requests import RequestHead
from authix_sidecar.waiting import WaitingExchange

REMEMBERED = 20_000
"""Events from which a follower may resume."""
REMEMBERED_FOR = 60.0
"""Seconds for which they are kept for those who left, when nobody follows."""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
_NO_STORE = ("Cache-Control", "no-store")
_PASSED_ON = frozenset({b"forwarded", b"via", b"x-forwarded-for"})


class OnwardFeed:
    """What followers are given; ``hear`` takes each revocation, ``tick`` is called about once a second."""

    def __init__(self, auth: Authix, *, token: str) -> None:
        """Without a ``token`` it is for this machine alone."""
        self.followers: set[Follower] = set()
        self.auth = auth
        self._token = token
        self._epoch = secrets.token_hex(8)
        self._recent: list[bytes] = []
        self._dropped = 0
        self._wanted_until = 0.0
        self._subject_of: dict[str, tuple[str, int]] = {}  # by session id: subject and until
        auth.on_revoked(self.hear)

    @property
    def end(self) -> int:
        """The number of the next event."""
        return self._dropped + len(self._recent)

    def begin(self, client: ClientConnection, request: RequestHead) -> None:
        """Answer a request for the feed."""
        try:
            self._check(client, request)
        except (FeedForbidden, FeedIncomplete) as error:
            client.refuse(error)
            return
        lines = {name.lower(): value for name, value in request.fields}
        if sse.CONTENT_TYPE.encode("ascii") in lines.get(b"accept", b""):
            Follower(self, client).begin(request, lines.get(b"last-event-id", b"").decode("latin-1"))
        else:
            SnapshotExchange(self, client).begin()

    def hear(self, event: Revocation) -> None:
        """Pass on a revocation that the verifier already knows."""
        if isinstance(event, SessionRevoked):
            self._subject_of.pop(event.sid, None)  # to stand at the end again
            self._subject_of[event.sid] = event.sub, event.until
        if not self.followers and time.monotonic() > self._wanted_until:
            self._dropped += len(self._recent) + 1
            self._recent.clear()
            return
        self._recent.append(sse.encode(encode_event(event), self.cursor(self.end + 1)))
        if len(self._recent) >= 2 * REMEMBERED:
            del self._recent[:REMEMBERED]
            self._dropped += REMEMBERED
        for follower in tuple(self.followers):
            follower.pump()

    def tick(self) -> None:
        """Send a heartbeat to whoever has all that came before it."""
        now = time.time()
        while self._subject_of and self._subject_of[oldest := next(iter(self._subject_of))][1] < now:
            del self._subject_of[oldest]
        for follower in tuple(self.followers):
            if self.incomplete:
                follower.drain()
            else:
                follower.beat()

    def leave(self, follower: Follower) -> None:
        """One less; it may come again."""
        if follower in self.followers:
            self.followers.discard(follower)
            self._wanted_until = time.monotonic() + REMEMBERED_FOR

    @property
    def incomplete(self) -> bool:
        """Whether a logout that still matters was forgotten."""
        coarse_us = self.auth.verifier.revocations.coarse_us
        return coarse_us is not None and coarse_us / 1_000_000 > time.time() - LOG_WINDOW

    def since(self, number: int) -> bytes | None:
        """The events from ``number`` on; None when one of them is no longer remembered."""
        if number < self._dropped:
            return None
        return b"".join(self._recent[number - self._dropped :])

    def cursor(self, number: int) -> str:
        """Of one who has all events before ``number``."""
        return f"{self._epoch}.{number}"

    def number_of(self, cursor: str) -> int | None:
        """The next event for one with ``cursor``; None for a newcomer."""
        epoch, _, number = cursor.partition(".")
        if epoch != self._epoch or not (number.isascii() and number.isdigit() and len(number) < 18):
            return None
        return int(number) if self._dropped <= int(number) <= self.end else None

    def heartbeat(self) -> Heartbeat | None:
        """How old the knowledge here is; None before there is any."""
        age, complete_us = self.auth.freshness, self.auth.verifier.freshness.complete_until_us
        if age is None:
            return None
        return Heartbeat(at_us=complete_us + max(0, round(age * 1_000_000)), complete_until_us=complete_us)

    def events(self, part: Part) -> Iterator[Revocation]:
        """The revocations of a part of the map."""
        for key, since_us, until in part.entries:
            if part.kind == "user":
                yield UserRevoked(sub=key, since_us=since_us, until=until)
            elif part.kind == "key":
                yield KeyRevoked(kid=key, until=until)
            elif key in self._subject_of:
                yield SessionRevoked(sub=self._subject_of[key][0], sid=key, since_us=since_us, until=until)

    def _check(self, client: ClientConnection, request: RequestHead) -> None:
        if self._token:
            try:
                given = bearer_token([value.decode("latin-1") for value in request.authorization])
            except AuthixError:
                given = ""
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise FeedForbidden("the revocation feed needs its bearer token (AUTHIX_FEED_TOKEN)")
        elif not _is_local(client, request):
            raise FeedForbidden("beyond this machine the revocation feed needs AUTHIX_FEED_TOKEN")
        if self.incomplete:
            raise FeedIncomplete("this sidecar's map of logouts was full; follow the issuer's feed")


def _is_local(client: ClientConnection, request: RequestHead) -> bool:
    """Whether it is of this machine, by its address and by the name that it was called by (see DNS rebinding)."""
    passed_on = _PASSED_ON & {name.lower() for name, _ in request.fields}
    called = b"//" + (request.host or b"")
    return not passed_on and is_loopback(client.peer.decode("ascii")) and leads_here(called.decode("ascii"))


class Follower(Exchange):
    """One who is given the feed as it goes on."""

    def __init__(self, feed: OnwardFeed, client: ClientConnection) -> None:
        self._feed = feed
        self._client = client
        self._parts: Iterator[Part] | None = None
        self._next = 0
        self._slow = False
        self._pumping = False

    def begin(self, request: RequestHead, cursor: str) -> None:
        self._client.attend(self)
        self._client.begin_answer(200)
        self._client.code = ALLOWED
        self._client.keep_alive(possible=False)
        self._client.send(_HEAD)
        if request.method == b"HEAD":
            self._client.break_off()
            return
        number = self._feed.number_of(cursor)
        if number is None:
            self._parts = self._feed.auth.verifier.revocations.parts()
        self._next = self._feed.end if number is None else number
        self._feed.followers.add(self)
        self.pump()
        self.beat()

    def pump(self) -> None:
        """Send on what there is, as far as it is taken."""
        if self._slow or self._pumping or self not in self._feed.followers:
            return
        if self._parts is not None:
            part = next(self._parts, None)
            if part is not None:
                self._pumping = True
                self._client.send(b"".join(sse.encode(encode_event(event)) for event in self._feed.events(part)))
                asyncio.get_running_loop().call_soon(self._pump_on)  # so that others have their turn
                return
            self._parts = None
        events = self._feed.since(self._next)
        if events is None:
            self.drain()
            return
        self._next = self._feed.end
        if events:
            self._client.send(events)

    def beat(self) -> None:
        """Send a heartbeat, if all before it was sent."""
        self.pump()
        up_to_date = self._parts is None and self._next == self._feed.end and not self._slow
        if not up_to_date or self not in self._feed.followers:
            return
        heartbeat = self._feed.heartbeat()
        if heartbeat is not None:
            self._client.send(sse.encode(encode_event(heartbeat), self._feed.cursor(self._next)))

    def _pump_on(self) -> None:
        self._pumping = False
        self.pump()
        if self._parts is None:
            self.beat()

    def client_slow(self) -> None:
        self._slow = True

    def client_ready(self) -> None:
        self._slow = False
        self.pump()

    def client_ended(self) -> bool:
        return False

    def client_lost(self) -> None:
        self._feed.leave(self)

    def drain(self) -> None:
        if self in self._feed.followers:
            self._client.break_off()


class SnapshotExchange(WaitingExchange):
    """One who is given what is alive now, as one document."""

    def __init__(self, feed: OnwardFeed, client: ClientConnection) -> None:
        super().__init__(client)
        self._feed = feed

    def begin(self) -> None:
        self._client.attend(self)
        self.wait_for(self._answer())

    async def _answer(self) -> None:
        heartbeat, cursor = self._feed.heartbeat(), self._feed.cursor(self._feed.end)
        if heartbeat is None:
            self._client.refuse(FeedIncomplete("this sidecar does not yet know all logouts"))
            return
        revocations: list[Revocation] = []
        for part in self._feed.auth.verifier.revocations.parts():
            revocations += self._feed.events(part)
            await asyncio.sleep(0)
        body = msgspec.json.encode(Snapshot(cursor, heartbeat, revocations))
        self._client.answer(200, (("Content-Type", "application/json"), _NO_STORE), body, ALLOWED)
