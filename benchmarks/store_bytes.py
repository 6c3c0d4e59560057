"""What one session and one logout take in a real Redis, and one account in MongoDB: bytes each.

Redis: how much more ``used_memory`` it has after so many, which holds all that belongs to them (a session's hash, the
user's set of sessions; a logout's entry in the log, and the user's last moment), beside ``MEMORY USAGE`` of the hash
alone. MongoDB: the document as it goes to the server; its storage compresses it, and each index comes on top.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import secrets
import tempfile
import time
from pathlib import Path

import bson

from authix_issuer.adapters.mongo import _document
from authix_issuer.adapters.redis_pipeline import RedisEngine
from authix_issuer.adapters.redis_sessions import RedisSessions
from authix_issuer.ports import Device, Grants, Logout, NewSession, Presented, Scope, User
from benchmarks.report import machine
from tests.late_verifier import subject
from tests.servers.redis import RedisServer

AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
HASH = "$argon2id$v=19$m=19456,t=2,p=1$" + "x" * 22 + "$" + "x" * 43
AT_ONCE = 500


def used(redis: RedisServer) -> int:
    told = dict(line.split(":", 1) for line in redis.cli("INFO", "memory").splitlines() if ":" in line)
    return int(told["used_memory"])


async def fill(redis: RedisServer, count: int) -> dict[str, float]:
    """Bytes of each."""
    found: dict[str, float] = {}
    async with RedisEngine(redis.url) as engine:
        store = RedisSessions(engine)
        grants, device = Grants(("member",)), Device(AGENT, "203.0.113.77")
        presented = [
            Presented(secrets.token_urlsafe(16), subject(number), hashlib.sha256(bytes([number % 256])).digest())
            for number in range(count)
        ]

        async def log_in(who: Presented) -> None:
            new = NewSession(who.session, who.subject, grants, who.secret_hash or b"", 28 * 86_400_000_000)
            await store.open(new._replace(device=device))

        async def log_out(who: Presented) -> Logout | None:
            return await store.close(who, Scope.OTHERS)

        await store.tick()
        before = used(redis)
        for begin in range(0, count, AT_ONCE):
            await asyncio.gather(*map(log_in, presented[begin : begin + AT_ONCE]))
        found["session"] = (used(redis) - before) / count
        some = redis.cli("--scan", "--pattern", "*:session:*").partition("\n")[0]
        found["session, its hash alone"] = int(redis.cli("MEMORY", "USAGE", some))
        before = used(redis)
        for begin in range(0, count, AT_ONCE):  # the session stays, so that only the logout is counted
            done = await asyncio.gather(*map(log_out, presented[begin : begin + AT_ONCE]))
            await store.published([revocation for revocation in done if revocation is not None])
        found["logout"] = (used(redis) - before) / count
    return found


def account() -> int:
    """Bytes of a document."""
    email = "a.name.of.some.length@example.com"
    user = User(subject(1), email, email, HASH, ("member",), created_us=time.time_ns() // 1000)
    return len(bson.encode(_document(user)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20_000)
    count = parser.parse_args().sessions
    print(f"store_bytes: {machine()}; {count:,} sessions, one role, the User-Agent of a browser")
    found: dict[str, float] = {"account": account()}
    if missing := RedisServer.missing():
        print(f"  Redis not measured: {missing}")
    else:
        with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as redis:
            found |= asyncio.run(fill(redis, count))
    for what, size in found.items():
        print(f"  {what:25} {size:7,.0f} bytes")


if __name__ == "__main__":
    main()
