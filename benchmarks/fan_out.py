"""A logout on its way to 100, 1,000 and 10,000 verifiers that follow the issuer's HTTP feed, a sidecar's, or Kafka.

All verifiers are in this process, each on TCP connections of its own: SDK verifiers, each with an access token that it
has accepted, and readers, which parse every event and do nothing with it. Programs share the machine's cores, so a
figure of many followers is of both sides at work. "Answered" is counted from the answer to the logout, "asked" from its
request. "A heartbeat" and "a logout" are CPU µs of whoever is followed (the issuer, the sidecar, the broker) for one
event to one follower: what is used beyond the same without followers. Reads at most 20 s of heartbeats and so many
logouts for each number.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvloop

from authix import Authix, AuthixError
from benchmarks.http_readers import HttpReader
from benchmarks.kafka_readers import KafkaReader
from benchmarks.report import compiled_python, cpu_seconds, machine
from tests.late_verifier import resident
from tests.programs import HOST, IssuerProgram, SidecarProgram, login, register
from tests.servers.kafka import KafkaServer

FOLLOWERS = (100, 1_000, 10_000)
ON_KAFKA = (50, 100, 200, 400)
KAFKA_READERS = (1_000, 3_000, 5_000, 10_000)
"""Followers in all; 10,000 are more than a broker on the same two cores can tell once a second."""
BEHIND_SIDECAR = (100, 300, 1_000)
FEEDS = ("http", "sidecar", "kafka")
VERIFIERS = 100
AT_ONCE = 50
"""Connections that are being made."""
QUIET = 5.0
"""Seconds for which only heartbeats come."""
HEARD_WITHIN = 60.0


class Moments(NamedTuple):
    """Of one logout, on the machine's clock."""

    asked: float
    answered: float
    refused: list[float]
    """At the SDK verifiers."""
    heard: list[float]
    """At the readers."""


class Crowd:
    """Those who follow."""

    def __init__(self) -> None:
        self.verifiers: list[Authix] = []
        self.readers: list[HttpReader | KafkaReader] = []
        self._token = ""
        self._refused: list[float] = []
        self._heard: list[float] = []
        self._all = asyncio.Event()

    def __len__(self) -> int:
        return len(self.verifiers) + len(self.readers)

    @property
    def received(self) -> int:
        """Bytes that came to the readers."""
        return sum(reader.received for reader in self.readers)

    def add(self, verifier: Authix) -> None:
        verifier.on_revoked(lambda _: self._judge(verifier))
        self.verifiers.append(verifier)

    def heard(self) -> None:
        self._heard.append(time.monotonic())
        self._look()

    def close(self) -> None:
        for reader in self.readers:
            reader.close()

    async def through(self, client: LoggingOut) -> Moments:
        """One logout, until all have heard of it."""
        self._token = await client.log_in()
        for verifier in self.verifiers:
            verifier.verify(self._token)
        self._refused, self._heard = [], []
        self._all.clear()
        asked, answered = await client.log_out()
        self._look()  # there may be none
        async with asyncio.timeout(HEARD_WITHIN):
            await self._all.wait()
        return Moments(asked, answered, self._refused, self._heard)

    def _judge(self, verifier: Authix) -> None:
        try:
            verifier.verify(self._token)
        except AuthixError:
            self._refused.append(time.monotonic())
            self._look()

    def _look(self) -> None:
        if len(self._refused) == len(self.verifiers) and len(self._heard) >= len(self.readers):
            self._all.set()


class LoggingOut:
    """A user in a process of her own, who is not held up by the followers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def log_in(self) -> str:
        """An access token."""
        return (await self._say("log in")).strip()

    async def log_out(self) -> tuple[float, float]:
        """When that was asked for, and when it was answered."""
        asked, answered = map(float, (await self._say("log out")).split())
        return asked, answered

    async def _say(self, what: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n".encode())
        return (await self._process.stdout.readline()).decode()


@asynccontextmanager
async def logging_out(url: str) -> AsyncIterator[LoggingOut]:
    run = [sys.executable, "-m", "benchmarks.fan_out", "--user", url]
    process = await asyncio.create_subprocess_exec(*run, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield LoggingOut(process)
    finally:
        process.kill()
        await process.wait()


def be_user(url: str) -> None:
    """Log in and out as the lines on standard input say."""
    email = f"{secrets.token_hex(8)}@example.com"
    with httpx.Client(base_url=url, timeout=HEARD_WITHIN, trust_env=False) as client:
        register(client, email)
        for line in sys.stdin:
            if line.strip() == "log in":
                print(login(client, email), flush=True)
            else:
                asked = time.monotonic()
                assert client.post("/logout").status_code == 204
                print(asked, time.monotonic(), flush=True)


async def follow_http(crowd: Crowd, port: int, count: int) -> None:
    """``count`` more readers of the feed."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with slots:
            crowd.readers.append(await HttpReader.connect(port, crowd.heard))

    await asyncio.gather(*(one() for _ in range(count)))


async def follow_kafka(crowd: Crowd, kafka: KafkaServer, count: int) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with slots:
            crowd.readers.append(await KafkaReader.connect(kafka.port, "authix.logout", crowd.heard))

    await asyncio.gather(*(one() for _ in range(count)))


async def verify(crowd: Crowd, parts: AsyncExitStack, count: int, **settings: Any) -> None:
    """``count`` more verifiers of the SDK."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with slots:
            verifier = await parts.enter_async_context(Authix(**settings))
            await verifier.wait_ready(HEARD_WITHIN)
            crowd.add(verifier)

    await asyncio.gather(*(one() for _ in range(count)))


class Used(NamedTuple):
    """CPU seconds."""

    server: float
    here: float

    @classmethod
    def now(cls, pid: int) -> Used:
        if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == "java":  # its threads come and go
            return cls(cpu_seconds(pid), time.process_time())
        # to the ns: clock ticks are too coarse for a heartbeat to a hundred
        threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
        return cls(sum(int(file.read_text(encoding="ascii").split()[0]) for file in threads) / 1e9, time.process_time())

    def since(self, before: Used) -> Used:
        return Used(self.server - before.server, self.here - before.here)


class Costs(NamedTuple):
    """CPU seconds of the server: a second of heartbeats, and a login with its logout."""

    second: float
    logout: float


async def measure(crowd: Crowd, client: LoggingOut, pid: int, logouts: int, bare: Costs | None) -> Costs:
    """Print a line, unless nobody follows."""
    gc.collect()
    gc.freeze()
    memory = {"server": rss(pid), "here": resident()}
    before, began, received = Used.now(pid), time.monotonic(), crowd.received
    await asyncio.sleep(QUIET)
    spent = time.monotonic() - began
    quiet, quiet_bytes = Used.now(pid).since(before), (crowd.received - received) / spent
    before, began, received = Used.now(pid), time.monotonic(), crowd.received
    moments = [await crowd.through(client) for _ in range(logouts)]
    busy = Used.now(pid).since(before)
    lasted = time.monotonic() - began
    each = (busy.server - quiet.server / spent * lasted) / logouts
    costs = Costs(quiet.server / spent, each)
    if bare is None:
        return costs
    count, readers = len(crowd), max(len(crowd.readers), 1)
    event_bytes = (crowd.received - received - quiet_bytes * lasted) / logouts / readers
    refused = [(at - each.answered) * 1000 for each in moments for at in each.refused]
    asked = [(at - each.asked) * 1000 for each in moments for at in each.refused]
    heard = [(at - each.answered) * 1000 for each in moments for at in each.heard]
    print(
        f"  {count:6,} | {spread(refused)} | {spread(asked)} | {spread(heard)}"
        f" | {(costs.second - bare.second) / count * 1e6:5.1f} | {(costs.logout - bare.logout) / count * 1e6:5.1f}"
        f" | {quiet.server / spent:5.1%} | {quiet.here / spent:5.1%}"
        f" | {quiet_bytes / readers:5.0f} | {event_bytes:5.0f}"
        f" | {memory['server'] / 2**20:5.0f} | {memory['here'] / 2**20:5.0f}",
        flush=True,
    )
    return costs


HEADER = (
    "followers | answered -> refused, ms: p50, p99 | asked -> refused | answered -> heard by a reader | µs a heartbeat"
    " | µs a logout | CPU of the server, quiet | CPU here, quiet | bytes/s a reader, quiet | bytes a logout"
    " | MiB of the server | MiB here"
)


def spread(milliseconds: list[float]) -> str:
    if not milliseconds:
        return f"{'-':>7} {'-':>7}"
    ordered = sorted(milliseconds)
    return f"{ordered[len(ordered) // 2]:7.1f} {ordered[len(ordered) * 99 // 100]:7.1f}"


def rss(pid: int) -> int:
    """Bytes of memory that a process uses."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


async def on_http(folder: Path, steps: list[int], logouts: int, *, behind_sidecar: bool = False) -> None:
    """Followers of an issuer, or of a sidecar that follows it."""
    issuer = IssuerProgram(folder / "issuer").start().ready()
    server: IssuerProgram | SidecarProgram = issuer
    port, name = issuer.port, "one issuer"
    if behind_sidecar:
        sidecar = SidecarProgram(folder / "sidecar", issuer.url, f"http://{HOST}:9")
        sidecar.command[0] = compiled_python()
        server = sidecar.start().ready()
        port, name = sidecar.auth_port, "a sidecar that follows an issuer's"
    assert server.process is not None
    pid = server.process.pid
    print(f"HTTP feed of {name}", HEADER, sep="\n  ")
    feed = f"http://{HOST}:{port}/revocations"
    try:
        async with AsyncExitStack() as parts:
            client = await parts.enter_async_context(logging_out(issuer.url))
            crowd = Crowd()
            parts.callback(crowd.close)
            await asyncio.sleep(QUIET)  # its start is no part of it
            bare = await measure(crowd, client, pid, logouts, None)
            await verify(crowd, parts, VERIFIERS, issuer=issuer.url, audience="tests", feed=feed)
            for count in steps:
                began = time.monotonic()
                await follow_http(crowd, port, count - len(crowd))
                joined = time.monotonic() - began
                await measure(crowd, client, pid, logouts, bare)
                print(f"         ({joined:.1f} s for all to join)", flush=True)
    finally:
        server.kill()
        issuer.kill()


async def on_kafka(folder: Path, steps: list[int], readers: list[int], logouts: int) -> None:
    with KafkaServer(folder / "kafka") as kafka:
        issuer = IssuerProgram(folder / "issuer-kafka", AUTHIX_KAFKA=kafka.bootstrap).start().ready()
        assert kafka.process is not None
        pid = kafka.process.pid
        try:
            for kind, counts in (("SDK verifiers", steps), ("SDK verifiers and readers", readers)):
                print(f"Kafka, one broker: {kind}", HEADER, sep="\n  ")
                async with AsyncExitStack() as parts:
                    client = await parts.enter_async_context(logging_out(issuer.url))
                    crowd = Crowd()
                    parts.callback(crowd.close)
                    await asyncio.sleep(QUIET)
                    bare = await measure(crowd, client, pid, logouts, None)
                    feed = f"kafka://{kafka.bootstrap}/authix.logout"
                    for count in counts:
                        real = count if kind == "SDK verifiers" else min(count, steps[0])
                        more = real - len(crowd.verifiers)
                        await verify(crowd, parts, more, issuer=issuer.url, audience="tests", feed=feed)
                        await follow_kafka(crowd, kafka, count - len(crowd))
                        await measure(crowd, client, pid, logouts, bare)
        finally:
            issuer.kill()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--followers", type=int, nargs="+", default=FOLLOWERS)
    parser.add_argument("--kafka-verifiers", type=int, nargs="+", default=ON_KAFKA, help="of the SDK")
    parser.add_argument("--kafka-followers", type=int, nargs="+", default=KAFKA_READERS, help="most are readers")
    parser.add_argument("--logouts", type=int, default=20)
    parser.add_argument("--behind-sidecar", type=int, nargs="+", default=BEHIND_SIDECAR)
    parser.add_argument("--feeds", nargs="+", choices=FEEDS, default=FEEDS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the programs it starts inherit it
    steps = [count for count in options.followers if count + 1000 < hard]
    print(f"fan_out: {machine()}; {options.logouts} logouts each; up to {hard:,} open files")
    with tempfile.TemporaryDirectory() as name:
        if "http" in options.feeds:
            await on_http(Path(name), steps, options.logouts)
        if "sidecar" in options.feeds:
            await on_http(Path(name) / "behind", options.behind_sidecar, options.logouts, behind_sidecar=True)
        if "kafka" in options.feeds:
            if missing := KafkaServer.missing():
                print(f"  Kafka not measured: {missing}")
            else:
                await on_kafka(Path(name), options.kafka_verifiers, options.kafka_followers, options.logouts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--user"]:
        be_user(sys.argv[2])
    else:
        uvloop.run(main())
