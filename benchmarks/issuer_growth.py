"""Does the cost of a refresh, or of a verification, grow with what is there? And do two workers do twice the work?

Redis is filled by a script of its own with sessions as the issuer opens them, byte for byte but for their names.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import statistics
import time
from pathlib import Path

from redis import Redis

from authix import Verifier
from authix.events import Heartbeat
from authix.keys import KeySet, VerificationKey
from authix_issuer.adapters.redis_sessions import SHARDS
from benchmarks.issuer_load import CONNECTIONS, Measured, measure, middle
from benchmarks.issuer_peers import Authix, Session
from benchmarks.results import Figure, Results, bars
from benchmarks.verify import AUDIENCE, ISSUER, mint
from tests.late_verifier import logouts
from tests.servers.redis import RedisServer

FILL = """
local count, begin, shards = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local fields = cjson.decode(ARGV[4])
local now = redis.call('TIME')[1] * 1000000
local expires = string.format('%.0f', now + 2419200 * 1000000)
local gone = string.format('%.0f', (now + 2426400 * 1000000) / 1000)
for number = begin, begin + count - 1 do
    local subject = string.format('%032x', number)
    local session = string.format('%022x', number)
    local shard = '{authix:' .. number % shards .. '}:'
    local row = {}
    for name, value in pairs(fields) do
        table.insert(row, name)
        table.insert(row, name == 'subject' and subject or name == 'expires_us' and expires or value)
    end
    redis.call('HSET', shard .. 'session:' .. session, unpack(row))
    redis.call('PEXPIREAT', shard .. 'session:' .. session, gone)
    redis.call('ZADD', shard .. 'subject:' .. subject, expires, session)
    redis.call('PEXPIREAT', shard .. 'subject:' .. subject, gone)
end
return count
"""
AT_ONCE = 5000
TOKENS = 1000


def fill(redis: RedisServer, begin: int, end: int) -> None:
    """Let there be the sessions of so many more users."""
    with Redis(port=redis.port) as connection:
        some = next(connection.scan_iter("*:session:*", count=1000))
        fields = dict(connection.hgetall(some)) | {b"secret_hash": b"x" * 32}  # the only one that is no text
        template = json.dumps({name.decode("ascii"): value.decode("utf-8") for name, value in fields.items()})
        script = connection.register_script(FILL)
        connection.config_set("appendonly", "no")  # what fills it need not outlive a crash
        for first in range(begin, end, AT_ONCE):
            script(args=[min(AT_ONCE, end - first), first, SHARDS, template])
        connection.config_set("appendonly", "yes")
        while any(connection.info("persistence")[f"aof_rewrite_{state}"] for state in ("in_progress", "scheduled")):
            time.sleep(0.1)


def refreshes(authix: Authix, users: int, sessions_each: int) -> list[Session]:
    """So many sessions, of a user each or of fewer with several each."""
    kept: list[Session] = []
    emails = [f"{secrets.token_hex(8)}@example.com" for _ in range(users // sessions_each)]
    measure(authix.port, authix.processes, [authix.register(email) for email in emails])
    talks = [authix.login(email, kept) for _ in range(sessions_each) for email in emails]
    measure(authix.port, authix.processes, talks)
    return kept


def run(results: Results, folder: Path, *, rounds: int, users: int, many: int) -> None:
    few = 1000
    with contextlib.ExitStack() as stack:
        small, large = (Authix("cheapest", workers=1) for _ in range(2))
        double = Authix("cheapest", workers=2)
        for name, each in (("small", small), ("large", large), ("double", double)):
            each.start(stack, folder / f"growth-{name}", service=False)
        kinds = {
            f"{few:,} users, 1 session each": (small, refreshes(small, users, 1)),
            f"{few:,} users, 5 sessions each": (small, refreshes(small, users, 5)),
            f"{many:,} users, 1 session each": (large, refreshes(large, users, 1)),
            f"{many:,} users, 5 sessions each": (large, refreshes(large, users, 5)),
            "2 workers": (double, refreshes(double, users, 1)),
        }
        fill(small.redis, 0, few)
        began = time.perf_counter()
        fill(large.redis, 0, many)
        results.note(f"Filling Redis with {many:,} sessions took {time.perf_counter() - began:.0f} s.")
        found: dict[str, list[Measured]] = {kind: [] for kind in kinds}
        for number in range(-1, rounds):
            for kind, (authix, sessions) in kinds.items():
                talks = [authix.refresh(session, 20) for session in sessions]
                clients = CONNECTIONS * (
                    2 if authix is double else 1
                )  # as many a worker: what comes together is cheaper
                measured = measure(authix.port, authix.processes, talks, engines=authix.engines, connections=clients)
                if number >= 0:
                    found[kind].append(measured)
    medians = {kind: middle(those) for kind, those in found.items()}
    for kind, one in medians.items():
        results.figure(Figure("refresh", kind, one.micros, one.rate, one.p50, one.p99, one.engine_micros))
    micros = {kind: one.micros for kind, one in medians.items()}
    results.plots["growth"] = bars("CPU of a refresh", "µs", {kind: {"issuer": each} for kind, each in micros.items()})
    first, *others, last = medians
    for kind in others:
        change = abs(medians[kind].micros / medians[first].micros - 1) * 100
        results.goal(f"refresh, {kind}: CPU away from that of {first}", change, "%", 10)
    if (os.cpu_count() or 1) >= 2:
        gain = 2 * medians[first].micros / medians[last].micros
        results.goal("refresh: what 2 workers do by CPU, times 1 worker", gain, "x", 1.8, at_most=False)
    verifier(results, many, rounds)


def verifier(results: Results, many: int, rounds: int) -> None:
    """CPU time of a verification, with so many logouts known and with none, in one process and on the same tokens."""
    key, tokens = mint("ES256", TOKENS * (rounds + 1))
    verifiers = {count: _verifier(key, count) for count in (0, many)}
    found: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        new = tokens[number * TOKENS : (number + 1) * TOKENS]
        for kind, those in (("new", new), ("cached", new * 20)):
            for count, verifier in verifiers.items():
                began = time.process_time()
                for token in those:
                    verifier.verify(token, now=time.time(), monotonic=time.monotonic())
                found.setdefault((kind, count), []).append((time.process_time() - began) / len(those) * 1e6)
    for kind in ("new", "cached"):
        none, all_of_them = (statistics.median(found[kind, count][1:]) for count in verifiers)
        results.note(
            f"Verifying a {kind} token: {none:.2f} µs with no logout known, {all_of_them:.2f} µs with {many:,}."
        )
        results.goal(
            f"verify, {kind} token, {many:,} logouts: CPU above that with none", (all_of_them / none - 1) * 100, "%", 10
        )


def _verifier(key: VerificationKey, count: int) -> Verifier:
    algorithms = frozenset({key.algorithm})
    verifier = Verifier(issuer=ISSUER, audience=AUDIENCE, algorithms=algorithms, stale_after=3600)
    verifier.use_keys(KeySet([key]))
    for event in logouts(count):
        verifier.apply(event, monotonic=0)
    verifier.apply(Heartbeat(at_us=1, complete_until_us=1), monotonic=time.monotonic())
    return verifier
