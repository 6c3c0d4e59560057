"""How soon the issuer and the sidecar are ready, and what they hold when idle."""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path

from benchmarks.issuer_load import Talk, drive, memory_mb, request, trees
from benchmarks.report import compiled_python
from benchmarks.results import Results
from tests.programs import DEADLINE, IssuerProgram, Program, SidecarProgram
from tests.servers.kafka import KafkaServer

TIMES = 15
PERIOD = 1.0
"""Seconds between two heartbeats in the topic. A sidecar waits for one, so its starts are spread evenly over a period:
one right after another would follow a heartbeat, and all would wait equally long."""
_GOLDEN = 0.618
"""Multiples of it spread evenly over a period, even over one that is a little longer than it says."""


def run(results: Results, folder: Path, no_kafka: str | None) -> None:
    with contextlib.ExitStack() as stack:
        env, feed = {}, {}
        if no_kafka:
            results.note(f"The sidecar starts on the HTTP feed instead of Kafka: {no_kafka}")
        else:
            kafka = stack.enter_context(KafkaServer(folder / "kafka"))
            env["AUTHIX_KAFKA"] = kafka.bootstrap
            feed["AUTHIX_FEED"] = f"kafka://{kafka.bootstrap}/authix.logout"
        issuer = IssuerProgram(folder / "started-issuer", **env)
        _compile(issuer, folder)
        stack.callback(issuer.kill)
        ready = [_start(issuer, issuer.port, each * _GOLDEN) for each in range(TIMES)]
        issuer_mb = _greatest(issuer)
        results.goal("issuer: from its start to ready", statistics.median(ready), "s", 1.5)
        results.goal("issuer: memory of a worker, idle", issuer_mb, "MB", 90)
        sidecar = SidecarProgram(folder / "started-sidecar", issuer.url, "http://127.0.0.1:9", **feed)
        sidecar.command[0] = compiled_python()
        _compile(sidecar, folder)
        stack.callback(sidecar.kill)
        ready = [_start(sidecar, sidecar.auth_port, each * _GOLDEN) for each in range(TIMES)]
        results.goal("sidecar: from its start to ready, empty topic", statistics.median(ready), "s", 1)
        results.goal("sidecar: memory, idle", _greatest(sidecar), "MB", 60)


def _compile(program: Program, folder: Path) -> None:
    """As an installed one, which finds its modules compiled."""
    program.env.pop("PYTHONDONTWRITEBYTECODE", None)
    program.env["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")


def _start(program: Program, port: int, phase: float) -> float:
    """Seconds until ``/readyz`` says so; the first start compiles, and is one of several."""
    if program.process is not None:
        program.stop()
    time.sleep((phase * PERIOD - time.monotonic()) % PERIOD)
    began = time.perf_counter()
    program.start()
    while not _is_ready(port):
        assert time.perf_counter() < began + DEADLINE, program.output()
        time.sleep(0.005)
    return time.perf_counter() - began


def _is_ready(port: int) -> bool:
    """Asked by little more than a socket: a client that takes much CPU would slow the start that it waits for."""
    statuses: list[int] = []

    def ask() -> Talk:
        answer = yield request("GET", "/readyz")
        statuses.append(answer.status)

    try:
        drive(port, [ask()])
    except (OSError, AssertionError):  # not listening yet, or closed
        return False
    return statuses == [200]


def _greatest(program: Program) -> float:
    assert program.process is not None
    time.sleep(1)  # idle, not just started
    return max(map(memory_mb, trees([program.process.pid])))
