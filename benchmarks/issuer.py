"""The issuer in figures: its hash, its own work beside the hash, growth, its start, and its peers.

CPU µs a request come first: user and system time of the server's processes, engines counted beside it. The clients run
on the same cores, so a rate is what server, engines and clients do together; a share or a ratio of two rates that took
turns can be compared, a rate by itself hardly. Everything that is compared takes turns in each round; a figure is the
median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import issuer_growth, issuer_hash, issuer_start
from benchmarks.issuer_load import Measured, Talk, drive, measure, middle, request
from benchmarks.issuer_peers import PEERS, Authix, Contestant, Postgres, Session
from benchmarks.results import Figure, Results, bars
from tests.servers.kafka import KafkaServer
from tests.servers.mongodb import MongoServer
from tests.servers.packages import NotInstallable
from tests.servers.redis import RedisServer

PARTS = ("hash", "requests", "growth", "start", "peers")
WARM_UP = 2
"""Rounds that nobody counts: what compiles as it runs has done so by then."""
KINDS = ("register", "login", "refresh", "verify", "logout", "key set")


class Users:
    """Of one contestant, in one round: they register, log in, and so on, in the order of ``KINDS``."""

    def __init__(self, contestant: Contestant, count: int, times: int) -> None:
        self.contestant = contestant
        self.emails = [f"{secrets.token_hex(8)}@example.com" for _ in range(count)]
        self.sessions: list[Session] = []
        self._times = times

    def turn(self, kind: str) -> Measured | None:
        it, times = self.contestant, self._times
        kinds: dict[str, Callable[[], list[Talk | None]]] = {
            "register": lambda: [it.register(email) for email in self.emails],
            "login": lambda: [it.login(email, self.sessions) for email in self.emails],
            "refresh": lambda: [it.refresh(session, times) for session in self.sessions],
            "verify": lambda: [it.verify(session, times) for session in self.sessions],
            "logout": lambda: [it.logout(session) for session in self.sessions],
            "key set": lambda: [it.keys(times) for _ in self.sessions],
        }
        talks = [talk for talk in kinds[kind]() if talk is not None]
        if not talks:
            return None
        at_service = kind == "verify"
        port = it.service_port if at_service else it.port
        processes = it.service_processes if at_service else it.processes
        return measure(port, processes, talks, engines=it.engines)


def compare(results: Results, folder: Path, contestants: list[Contestant], *, rounds: int, users: int) -> None:
    found: dict[tuple[str, str], list[Measured]] = {}
    with contextlib.ExitStack() as stack:
        for contestant in contestants:
            contestant.start(stack, folder / contestant.name)
        for number in range(-WARM_UP, rounds):
            those = [Users(contestant, users, 10) for contestant in contestants]
            for kind, each in itertools.product(KINDS, those):
                measured = each.turn(kind)
                if measured is not None and number >= 0:
                    found.setdefault((kind, each.contestant.name), []).append(measured)
    groups: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for (kind, name), rounds_of_it in found.items():
        one = middle(rounds_of_it)
        groups[kind][name] = one.micros
        results.figure(figure(kind, name, one))
    for kind, group in groups.items():
        for name in list(group)[1:]:
            results.goal(f"{kind}: CPU of Authix, times that of {name}", group[Authix.name] / group[name], "x", 1)
    results.plots["peers"] = bars("CPU of a request, engines aside", "µs", groups, logarithmic=True)


def figure(what: str, who: str, found: Measured) -> Figure:
    return Figure(what, who, found.micros, found.rate, found.p50, found.p99, found.engine_micros)


def requests(results: Results, folder: Path, *, rounds: int, users: int) -> None:
    """What the issuer does beside hashing, by one worker."""
    found: dict[str, list[Measured]] = {}
    authix, on_mongo = Authix("cheapest"), Authix("cheapest", mongo=True)
    with contextlib.ExitStack() as stack:
        for name, each in (("sqlite", authix), ("mongo", on_mongo)):
            each.start(stack, folder / f"requests-{name}", service=False)
        known = request("GET", "/.well-known/jwks.json")
        again = request("GET", "/.well-known/jwks.json", If_None_Match=_tag(authix.port, known))
        documents = {
            "public key": (request("GET", "/public_key"), 200),
            "key set": (known, 200),
            "key set, not modified": (again, 304),
        }
        for number in range(-1, rounds):
            those, others = Users(authix, users, 10), Users(on_mongo, users // 4, 10)  # see the page on FerretDB
            turns: dict[str, Measured | None] = {}
            for kind in ("register", "login", "refresh", "logout"):
                turns[kind] = those.turn(kind)
                if kind in {"register", "login"}:
                    turns[f"{kind}, MongoDB"] = others.turn(kind)
            for kind, (asked, status) in documents.items():
                talks = [_ask([asked] * users, status) for _ in range(32)]
                turns[kind] = measure(authix.port, authix.processes, talks)
            worded = [request("GET", "/.well-known/jwks.json", X_Number=str(each)) for each in range(users)]
            turns["key set, in other words each time"] = measure(
                authix.port, authix.processes, [_ask(worded, 200) for _ in range(8)]
            )
            for kind, measured in turns.items():
                if measured is not None and number >= 0:
                    found.setdefault(kind, []).append(measured)
    medians = {kind: middle(those) for kind, those in found.items()}
    for kind, one in medians.items():
        results.figure(figure(kind, "cheapest hash, 1 worker", one))
    goals = {
        "register": 450,
        "login": 450,
        "register, MongoDB": 450,
        "login, MongoDB": 450,
        "refresh": 250,
        "logout": 250,
    }
    for kind, bound in (goals | dict.fromkeys(documents, 40)).items():
        results.goal(f"{kind}, hash at its cheapest" if bound == 450 else kind, medians[kind].micros, "µs", bound)
    results.goal("refreshes that one core has time for", 1e6 / medians["refresh"].micros, "/s", 3500, at_most=False)


def _ask(asked: Iterable[bytes], status: int) -> Talk:
    for each in asked:
        answer = yield each
        answer.expect(status)


def _tag(port: int, asked: bytes) -> str:
    """The entity tag of a document."""
    tags: list[str] = []

    def ask() -> Talk:
        answer = yield asked
        tags.extend(re.findall(r"(?im)^etag: *(.+?)\r?$", answer.head.decode("ascii")))

    drive(port, [ask()])
    return tags[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=200, help="in a round")
    parser.add_argument("--many", type=int, default=1_000_000, help="users, and revocations, that are there already")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts; all by default")
    parser.add_argument("--docs", action="store_true", help="put what is found into docs/performance.md")
    options = parser.parse_args()
    parts = options.only or PARTS
    results = Results(
        "issuer",
        f"{os.cpu_count()} cores for server, engines and clients alike; "
        f"{options.rounds} rounds of {options.users} users",
    )
    for kind in (RedisServer, MongoServer):
        if missing := kind.missing():
            raise SystemExit(missing)
    with tempfile.TemporaryDirectory(prefix="authix-bench-") as name:
        folder = Path(name)
        if "hash" in parts:
            issuer_hash.run(results, folder, rounds=options.rounds, users=options.users)
        if "requests" in parts:
            requests(results, folder, rounds=options.rounds, users=options.users)
        if "growth" in parts:
            issuer_growth.run(results, folder, rounds=options.rounds, users=options.users, many=options.many)
        if "start" in parts:
            issuer_start.run(results, folder, KafkaServer.missing())
        if "peers" in parts:
            peers(results, folder, rounds=options.rounds, users=options.users)
    results.write(into_page=options.docs)


def peers(results: Results, folder: Path, *, rounds: int, users: int) -> None:
    contestants: list[Contestant] = [Authix()]
    for kind in PEERS:
        try:
            if missing := Postgres.missing():
                raise NotInstallable(missing)
            peer = kind()
            peer.install()
            contestants.append(peer)
        except NotInstallable as reason:
            results.note(f"{kind.__name__} is not compared: {reason}")
    compare(results, folder, contestants, rounds=rounds, users=users)


if __name__ == "__main__":
    main()
