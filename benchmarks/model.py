"""How much of everything a load takes, from what one of each was measured to cost.

Rule: a formula stands once, here, and ``docs/capacity.md`` says it in words; a cost names the benchmark that prints it.
Those of the issuer are taken from the last run of ``benchmarks.issuer`` where there is one. Rates are of the busiest
hour: a day's mean times ``peak``.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

from authix.events import LOG_WINDOW
from benchmarks.results import OUTPUT

DAY = 86_400
SHARDS = 16
FIGURES = {"refresh": "refresh", "logout": "logout", "login": "login"}
"""Costs by the names that ``benchmarks.issuer`` gives them."""
OWN_WORK = "cheapest hash, 1 worker"
"""And the name of the contestant whose hash costs nothing."""


@dataclass(frozen=True)
class Costs:
    """Of one each, on one x86-64 core of a small cloud machine, Python 3.11. CPU in µs."""

    refresh: float = 250  # benchmarks.issuer
    logout: float = 250  # benchmarks.issuer
    login: float = 800  # benchmarks.issuer, without the hash
    hash: float = 23_000  # authix-issuer hash calibrate, profile owasp
    session_bytes: float = 1_517  # benchmarks.store_bytes
    logout_bytes: float = 236  # benchmarks.store_bytes
    account_bytes: float = 350  # benchmarks.store_bytes
    map_bytes: float = 160  # benchmarks.revocation_map
    replayed: float = 300_000  # entries a CPU second, benchmarks.replay
    kafka_heartbeat_bytes: float = 158  # a partition and second: docs/capacity.md
    kafka_logout_bytes: float = 211  # docs/capacity.md
    kafka_read_heartbeat_bytes: float = 194  # the same in an answer to a follower: benchmarks.fan_out
    kafka_read_logout_bytes: float = 350  # the same: benchmarks.fan_out
    kafka_follower: float = 200  # of the broker, a second: benchmarks.fan_out
    kafka_logout: float = 80  # of the broker, a follower: benchmarks.fan_out
    http_heartbeat_bytes: float = 102  # benchmarks.fan_out
    http_logout_bytes: float = 300  # benchmarks.fan_out has 160 on SQLite; the cursor of Redis is longer
    http_heartbeat: float = 21  # of the issuer, a follower: benchmarks.fan_out
    http_logout: float = 18  # of the issuer, a follower: benchmarks.fan_out
    http_follower_bytes: float = 16_700  # of the issuer's memory: benchmarks.fan_out

    @classmethod
    def measured(cls, file: Path) -> Costs:
        """Those of the issuer from the results of ``benchmarks.issuer``."""
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
        found = {figure["what"]: figure["micros"] for figure in figures if figure["who"] == OWN_WORK}
        return replace(cls(), **{name: found[what] for name, what in FIGURES.items() if what in found})


@dataclass(frozen=True)
class Load:
    """What is asked of it. The help of its options is ``HELP``."""

    users: float = 100_000_000
    sessions_per_user: float = 1.0
    active_share: float = 0.1
    logins_per_day: float = 5_000_000
    logouts_per_day: float = 2_000_000
    verifiers: float = 10_000
    behind_one: float = 1
    peak: float = 3
    access_ttl: float = 300
    partitions: float = 6
    replicas: float = 3
    cores: float = 4
    busy: float = 0.6


HELP = {
    "users": "accounts",
    "sessions_per_user": "that nobody ended and that have not expired",
    "active_share": "of the users, with a client that refreshes in the busiest hour",
    "logins_per_day": "of all users",
    "logouts_per_day": "and whatever else revokes: new passwords and roles, bans, thefts",
    "verifiers": "processes that verify: SDKs and sidecars",
    "behind_one": "verifiers that one sidecar passes the feed on to, itself included",
    "peak": "the busiest hour's rate over the day's mean",
    "access_ttl": "seconds, AUTHIX_ACCESS_TTL",
    "partitions": "of the topic",
    "replicas": "of the topic and of Redis' shards",
    "cores": "of one issuer's machine",
    "busy": "the share of an issuer's cores that may be in use",
}


class Line(NamedTuple):
    what: str
    value: float
    unit: str


def plan(load: Load, costs: Costs) -> dict[str, Line]:
    """By a short name, in the order of ``docs/capacity.md``."""
    refreshes = load.users * load.active_share / load.access_ttl
    logins = load.logins_per_day / DAY * load.peak
    logouts = load.logouts_per_day / DAY * load.peak
    own_cores = (refreshes * costs.refresh + logins * costs.login + logouts * costs.logout) / 1e6
    hash_cores = logins * costs.hash / 1e6
    issuers = max(3, math.ceil((own_cores + hash_cores) / load.cores / load.busy))
    workers = issuers * load.cores
    entries = logouts * LOG_WINDOW
    sessions = load.users * load.sessions_per_user
    followers = math.ceil(load.verifiers / load.behind_one)
    kafka_in = logouts * costs.kafka_logout_bytes + load.partitions * costs.kafka_heartbeat_bytes
    kafka_beats = load.partitions * costs.kafka_read_heartbeat_bytes
    kafka_read = logouts * costs.kafka_read_logout_bytes + kafka_beats
    http_out = logouts * costs.http_logout_bytes + costs.http_heartbeat_bytes
    http_cpu = (costs.http_heartbeat + logouts * costs.http_logout) / 1e6
    return {
        "refreshes": Line("refreshes", refreshes, "/s"),
        "logins": Line("logins", logins, "/s"),
        "logouts": Line("logouts", logouts, "/s"),
        "own_cores": Line("issuers: cores for requests", own_cores, ""),
        "hash_cores": Line("issuers: cores for hashes", hash_cores, ""),
        "issuers": Line(f"issuers of {load.cores:g} cores", issuers, ""),
        "redis_bytes": Line("Redis: memory", sessions * costs.session_bytes + entries * costs.logout_bytes, "B"),
        "redis_scripts": Line("Redis: scripts", refreshes + logins + 2 * logouts + SHARDS * workers * 1.1, "/s"),
        "redis_reads": Line("Redis: reads of the log", SHARDS * workers * (1 + logouts), "/s"),
        "mongo_documents": Line("MongoDB: documents", load.users, ""),
        "mongo_bytes": Line("MongoDB: documents, uncompressed", load.users * costs.account_bytes, "B"),
        "entries": Line("live logouts", entries, ""),
        "map_bytes": Line("a verifier: its map", entries * costs.map_bytes, "B"),
        "replay": Line("a verifier: replay at its start", entries / costs.replayed, "s"),
        "followers": Line("followers of Kafka or the issuers", followers, ""),
        "kafka_in": Line("Kafka: in, with replicas", kafka_in * load.replicas, "B/s"),
        "kafka_disk": Line("Kafka: on disk, two hours", kafka_in * load.replicas * 7200, "B"),
        "kafka_out": Line("Kafka: out", followers * kafka_read, "B/s"),
        "kafka_heartbeats": Line("Kafka: out, heartbeats alone", followers * kafka_beats, "B/s"),
        "kafka_cores": Line(
            "Kafka: brokers' cores for followers",
            followers * (costs.kafka_follower + logouts * costs.kafka_logout) / 1e6,
            "",
        ),
        "http_out": Line("or the issuers' feed: out", followers * http_out, "B/s"),
        "http_cores": Line("or the issuers' feed: cores", followers * http_cpu, ""),
        "http_memory": Line("or the issuers' feed: memory", followers * costs.http_follower_bytes, "B"),
    }


def spell(value: float, unit: str) -> str:
    if unit.startswith("B"):
        for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= factor:
                return f"{value / factor:,.1f} {prefix}{unit}"
    digits = 0 if value >= 100 or value == int(value) else 1
    return f"{value:,.{digits}f} {unit}".strip().replace(" /s", "/s")


def table(lines: dict[str, Line]) -> str:
    rows = [(line.what, spell(line.value, line.unit)) for line in lines.values()]
    return "\n".join(f"| {what} | {value} |" for what, value in (("what", "how much"), ("---", "---:"), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Load):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=float, default=field.default, help=f"{HELP[field.name]} ({field.default:,})")
    parser.add_argument("--results", type=Path, default=OUTPUT / "issuer.json", help="of benchmarks.issuer")
    options = vars(parser.parse_args())
    results = options.pop("results")
    costs = Costs.measured(results) if results.exists() else Costs()
    print(f"refresh {costs.refresh:,.0f} µs, logout {costs.logout:,.0f} µs, login {costs.login + costs.hash:,.0f} µs\n")
    print(table(plan(Load(**options), costs)))


if __name__ == "__main__":
    main()
