"""From the logout's answer to the first refusal at a sidecar, on the HTTP feed and on Kafka, in one run.

The sidecar is asked over and over on one connection, so a figure holds up to one such question (printed beside it).
Goals: HTTP p50 <= 3 ms, p99 <= 10 ms; Kafka p50 <= 5 ms, p99 <= 15 ms.
"""

from __future__ import annotations

import argparse
import http.client
import secrets
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import spread
from benchmarks.results import Results
from tests.programs import IssuerProgram, SidecarProgram, bearer, login, register
from tests.servers.kafka import KafkaServer


def ask(connection: http.client.HTTPConnection, token: str) -> tuple[int, float]:
    """The sidecar's verdict and how long it took, in ms."""
    began = time.perf_counter()
    connection.request("GET", "/verify", headers=bearer(token))
    answer = connection.getresponse()
    answer.read()
    return answer.status, (time.perf_counter() - began) * 1000


def measure(issuer: IssuerProgram, sidecar: SidecarProgram, logouts: int) -> tuple[list[float], list[float]]:
    """Milliseconds of one question, and from each logout's answer to the first refusal."""
    questions, delays = [], []
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.auth_port, timeout=10)
    with issuer.client() as client:
        email = f"{secrets.token_hex(8)}@example.com"
        register(client, email)
        for _ in range(logouts):
            token = login(client, email)
            status, spent = ask(connection, token)
            assert status == 200
            questions.append(spent)
            assert client.post("/logout").status_code == 204
            answered = time.perf_counter()
            while ask(connection, token)[0] == 200:
                assert time.perf_counter() - answered < 10
            delays.append((time.perf_counter() - answered) * 1000)
    return questions, delays


def run(results: Results, folder: Path, logouts: int, kafka: KafkaServer | None) -> None:
    name, goals = ("Kafka", (5, 15)) if kafka else ("HTTP feed", (3, 10))
    env = {"AUTHIX_KAFKA": kafka.bootstrap} if kafka else {}
    issuer = IssuerProgram(folder / f"issuer {name}", **env).start().ready()
    feed = {"AUTHIX_FEED": f"kafka://{kafka.bootstrap}/authix.logout"} if kafka else {}
    sidecar = SidecarProgram(folder / f"sidecar {name}", issuer.url, "http://127.0.0.1:9", **feed).start().ready()
    try:
        questions, delays = measure(issuer, sidecar, logouts)
    finally:
        sidecar.stop()
        issuer.stop()
    results.note(f"{name}: one question {spread(questions)}; logout answered to refused {spread(delays)}")
    cuts = statistics.quantiles(delays, n=100)
    for what, value, bound in (("p50", cuts[49], goals[0]), ("p99", cuts[98], goals[1])):
        results.goal(f"logout answered → refused, {name}, {what}", value, "ms", bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logouts", type=int, default=1000)
    parser.add_argument("--docs", action="store_true", help="put what is found into docs/performance.md")
    options = parser.parse_args()
    results = Results("logout_latency", f"{options.logouts} logouts on each feed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(results, folder, options.logouts, None)
        if missing := KafkaServer.missing():
            results.note(f"Kafka is not measured: {missing}")
        else:
            with KafkaServer(folder / "kafka") as kafka:
                run(results, folder, options.logouts, kafka)
    results.write(into_page=options.docs)


if __name__ == "__main__":
    main()
