"""Sessions, their clocks and the revocation log in Redis.

Rule: a user's keys live on one of a fixed number of shards, and all keys of a shard carry its hash tag; so every step
is one script on one node, of Redis or of Redis Cluster. Each shard has a clock of its own. A moment is the id of its
entry in the log, so a position in the log is one moment a shard.

A Redis whose memory is full opens no session. All else goes on, above all logouts and the watermark: it needs little
memory, and what it takes is free again within the hour that the log keeps.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import zlib
from collections.abc import Callable, Iterable
from importlib.resources import files
from itertools import count
from typing import Any

import msgspec

from authix.errors import TokenMalformed
from authix.events import LOG_WINDOW, KeyRevoked, SessionRevoked, UserRevoked, keep_until
from authix.tokens import base64url_decode, base64url_encode
from authix_issuer.adapters.redis_pipeline import RedisEngine, Script
from authix_issuer.ports import (
    Device,
    Entry,
    Grants,
    Logout,
    NewSession,
    Opened,
    OpenSession,
    Presented,
    Reused,
    Rotated,
    Scope,
    Unsettled,
    Watermark,
    concerns,
)

SHARDS = 16
"""Never to be changed: it decides where a user's sessions are."""
_POSITION = struct.Struct(f">{SHARDS}Q")
_WINDOW_US = LOG_WINDOW * 1_000_000
_EVEN_WHEN_FULL = "#!lua flags=allow-oom\n"
_LEASE = Script(f"""{_EVEN_WHEN_FULL}
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
""")
_KEEP = Script(f"{_EVEN_WHEN_FULL}return redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])")
_RELEASE = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end")


class RedisSessions:
    """A ``SessionStore`` with its ``RevocationLog`` and ``Outbox``."""

    def __init__(self, engine: RedisEngine, namespace: str = "authix") -> None:
        """``namespace`` begins every key."""
        self._engine = engine
        self._namespace = namespace
        self._channel = f"{namespace}:appended"
        steps = files(__package__).joinpath("sessions.lua").read_text(encoding="utf-8")
        self._opening, self._script = Script(steps), Script(_EVEN_WHEN_FULL + steps)
        self._log_id = ""
        ours = secrets.token_hex(8)
        self._calls = (f"ended:{ours}-{number}" for number in count())

    async def open(self, session: NewSession, *, most: int = 0) -> Opened:
        subject, grants = session.subject, session.grants
        at_us, expires_us, ended = await self._on_session(
            "open",
            subject,
            session.id,
            session.secret_hash,
            msgspec.json.encode(grants),
            grants.version,
            session.life_us,
            session.idle_us,
            *session.device,
            most,
            keep_until(0),
            self._prefix(subject),
        )
        revocations = (
            SessionRevoked(sub=subject, sid=session_id.decode("ascii"), since_us=since_us, until=keep_until(since_us))
            for session_id, since_us in zip(ended[::2], ended[1::2], strict=True)
        )
        return Opened(at_us, expires_us, tuple(revocations))

    async def refresh(self, presented: Presented, counter: int, *, grace_us: int) -> Rotated | Reused | None:
        keep = keep_until(0)
        subject, session = presented.subject, presented.session
        secret_hash = presented.secret_hash or b""
        call = next(self._calls)
        answer = await self._on_session("refresh", subject, session, secret_hash, counter, grace_us, keep, call=call)
        match answer:
            case [b"rotated" | b"repeated" as kind, at_us, current, grants, expires_us]:
                given = msgspec.json.decode(grants, type=Grants)
                return Rotated(at_us, current, given, expires_us, repeated=kind == b"repeated")
            case [b"reused", at_us]:
                until = keep_until(at_us)
                return Reused(SessionRevoked(sub=subject, sid=session, since_us=at_us, until=until))
        return None

    async def close(self, presented: Presented, scope: Scope) -> Logout | None:
        keep = keep_until(0)
        subject, session = presented.subject, presented.session
        prefix = self._prefix(subject)
        secret_hash = presented.secret_hash or b""
        call = next(self._calls)
        at_us = await self._on_session("close", subject, session, secret_hash, scope, keep, prefix, call=call)
        if at_us is None:
            return None
        until = keep_until(at_us)
        if scope is Scope.SESSION:
            return SessionRevoked(sub=subject, sid=session, since_us=at_us, until=until)
        return UserRevoked(sub=subject, since_us=at_us, until=until)

    async def settle(self, subject: str, grants: Grants, unsettled: Unsettled) -> Logout:
        written, ending = msgspec.json.encode(grants), "end" if unsettled.end else "keep"
        at_us = await self._on_session(
            "settle",
            subject,
            "",
            self._prefix(subject),
            written,
            grants.version,
            ending,
            unsettled.keep,
            keep_until(0),
        )
        return UserRevoked(sub=subject, since_us=at_us, until=keep_until(at_us))

    async def is_live(self, presented: Presented, issued_us: int) -> bool:
        secret_hash = presented.secret_hash or b""
        live = await self._on_session("is_live", presented.subject, presented.session, secret_hash, issued_us)
        return bool(live)

    async def list_open(self, subject: str, limit: int) -> list[OpenSession]:
        found = await self._on_session("list_open", subject, "", self._prefix(subject), limit)
        return [
            OpenSession(
                session.decode("ascii"),
                int(opened_us),
                max(int(opened_us), int(rotated_us)),
                int(expires_us),
                Device(agent.decode("utf-8", "replace"), address.decode("utf-8", "replace")),
            )
            for session, opened_us, rotated_us, expires_us, agent, address in found
        ]

    async def tick(self) -> Watermark:
        answers = await self._on_every_shard("watermark")
        complete = min(int(t) for t, _ in answers)
        return Watermark(complete, complete)

    async def watermark(self) -> Watermark:
        lags, moments = [], []
        for t, oldest in await self._on_every_shard("watermark"):
            moments.append(t if oldest is None else oldest - 1)
            lags.append(t - moments[-1])
        # Clocks of two shards are never compared: the lag is the worst shard's, each measured on its own clock.
        complete = min(moments)
        return Watermark(complete + max(lags), complete)

    async def read(self, after: str | None, limit: int) -> list[Entry]:
        await self._know_log()
        positions = self._positions(after)
        share = max(1, limit // SHARDS)
        pages = await asyncio.gather(
            *(
                self._engine.call("XRANGE", self._key(shard, "log"), f"({position}-0", "+", "COUNT", share)
                for shard, position in enumerate(positions)
            )
        )
        entries: list[Entry] = []
        for shard, page in enumerate(pages):
            for revocation in map(_revocation, page[: limit - len(entries)]):
                positions[shard] = revocation.since_us
                entries.append(Entry(self._cursor(positions), revocation))
        return entries

    async def revoke_key(self, key_id: str) -> KeyRevoked:
        at_us = await self._on_shard(shard_of(key_id), "revoke_key", key_id, keep_until(0))
        return KeyRevoked(kid=key_id, at_us=at_us, until=keep_until(at_us))

    async def end(self) -> str:
        await self._know_log()
        clocks = await asyncio.gather(*(self._engine.call("GET", self._key(shard, "clock")) for shard in range(SHARDS)))
        return self._cursor([int(clock or 0) for clock in clocks])

    async def trim(self, limit: int) -> bool:  # noqa: ARG002 - Redis forgets by its own means, entry by entry
        await self._on_every_shard("watermark")
        return False

    async def size(self) -> int:
        sizes = await asyncio.gather(*(self._engine.call("XLEN", self._key(shard, "log")) for shard in range(SHARDS)))
        return sum(map(int, sizes))

    async def unpublished(self, *, age: float, limit: int) -> list[Logout]:
        pages = await self._on_every_shard("unpublished", round(age * 1_000_000), limit)
        return [_revocation(entry) for page in pages for entry in page]

    async def backlog(self) -> int:
        waiting = (self._engine.call("ZCARD", self._key(shard, "unpublished")) for shard in range(SHARDS))
        return sum(map(int, await asyncio.gather(*waiting)))

    async def published(self, revocations: Iterable[Logout]) -> None:
        by_shard: dict[int, list[int]] = {}
        for revocation in revocations:
            by_shard.setdefault(shard_of(concerns(revocation)), []).append(revocation.since_us)
        await asyncio.gather(
            *(
                self._engine.call("ZREM", self._key(shard, "unpublished"), *moments)
                for shard, moments in by_shard.items()
            )
        )

    async def trail(self) -> bytes | None:
        written: bytes | None = await self._engine.call("GET", f"{self._namespace}:trail")
        return written

    async def keep_trail(self, trail: bytes) -> None:
        await self._engine.run(_KEEP, [f"{self._namespace}:trail"], trail, LOG_WINDOW)

    async def lease(self, holder: str, seconds: float) -> bool:
        return bool(await self._engine.run(_LEASE, [f"{self._namespace}:relay-lease"], holder, round(seconds * 1000)))

    async def release(self, holder: str) -> None:
        await self._engine.run(_RELEASE, [f"{self._namespace}:relay-lease"], holder)

    async def follow(self, grown: Callable[[], None]) -> None:
        await self._engine.listen(self._channel, grown)

    async def check(self) -> None:
        await asyncio.gather(*(self._engine.call("EXISTS", self._key(shard, "clock")) for shard in range(SHARDS)))

    async def _on_session(
        self, step: str, subject: str, session: str, *arguments: str | bytes | int, call: str = ""
    ) -> Any:
        """``call`` is the key by which a step that can end the session is known, should it be sent again."""
        shard = shard_of(subject)
        names = ("clock", "log", "unpublished", f"subject:{subject}", f"session:{session}", f"revoked:{subject}")
        keys = [self._key(shard, name) for name in (*names, *filter(None, [call]))]
        script = self._opening if step == "open" else self._script
        return await self._engine.run(script, keys, step, _WINDOW_US, self._channel, subject, session, *arguments)

    def _prefix(self, subject: str) -> str:
        """Before the id of each session of ``subject``."""
        return self._key(shard_of(subject), "session:")

    async def _on_every_shard(self, step: str, *arguments: int) -> list[Any]:
        return await asyncio.gather(*(self._on_shard(shard, step, *arguments) for shard in range(SHARDS)))

    async def _on_shard(self, shard: int, step: str, *arguments: str | int) -> Any:
        keys = [self._key(shard, name) for name in ("clock", "log", "unpublished")]
        return await self._engine.run(self._script, keys, step, _WINDOW_US, self._channel, *arguments)

    def _key(self, shard: int, name: str) -> str:
        return f"{{{self._namespace}:{shard}}}:{name}"

    async def _know_log(self) -> None:
        if not self._log_id:
            key = f"{self._namespace}:log-id"
            if await self._engine.call("GET", key) is None:
                await self._engine.call("SET", key, secrets.token_hex(8), "NX")
            self._log_id = (await self._engine.call("GET", key)).decode("ascii")

    def _cursor(self, positions: list[int]) -> str:
        return f"{self._log_id}:{base64url_encode(_POSITION.pack(*positions))}"

    def _positions(self, cursor: str | None) -> list[int]:
        """The last moment read of each shard; zeros, the beginning, for a cursor that is not of this log."""
        name, _, packed = (cursor or "").partition(":")
        try:
            positions = base64url_decode(packed)
        except TokenMalformed:
            positions = b""
        if name != self._log_id or len(positions) != _POSITION.size:
            return [0] * SHARDS
        return list(_POSITION.unpack(positions))


def shard_of(subject: str) -> int:
    return zlib.crc32(subject.encode("utf-8")) % SHARDS


def _revocation(entry: Any) -> Logout:
    moment, flat = entry
    fields = dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat
    since_us, until = int(moment.partition(b"-")[0]), int(fields[b"until"])
    subject = fields[b"sub"].decode("ascii")
    if fields[b"kind"] == b"key":
        return KeyRevoked(kid=subject, at_us=since_us, until=until)
    if fields[b"kind"] == b"session":
        return SessionRevoked(sub=subject, sid=fields[b"sid"].decode("ascii"), since_us=since_us, until=until)
    return UserRevoked(sub=subject, since_us=since_us, until=until)
