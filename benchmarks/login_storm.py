"""While 64 clients log in flat out, does all else answer? Goal: /public_key, /access_token, /livez p99 under 100 ms.

Prints, in one run: the three when idle and in the storm, and what became of the logins. Without limits by address or
account the storm is the worst there is: each login that fits into the queue is hashed. The storm is a process of its
own, which gives way: its work would be other machines', and beside the probe it would be measured with it.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import httpx

from authix_issuer.hashing import PROFILES
from benchmarks.report import machine, spread
from tests.programs import PASSWORD, IssuerProgram, login, register

CALLS = (("GET", "/public_key"), ("POST", "/access_token"), ("GET", "/livez"))


def probe(port: int, cookie: str, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each call, about 30 a second of each on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    times: dict[str, list[float]] = {path: [] for _, path in CALLS}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for method, path in CALLS:
            began = time.perf_counter()
            connection.request(method, path, headers={"Cookie": cookie})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            times[path].append((time.perf_counter() - began) * 1000)
            if path == "/access_token":
                cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
            time.sleep(0.01)
    connection.close()
    return times


async def storm(url: str, clients: int, seconds: float) -> tuple[Counter[int], float]:
    """How many logins were answered with which status, and the longest wait for an answer in seconds."""
    statuses: Counter[int] = Counter()
    longest, end = 0.0, time.perf_counter() + seconds

    async def log_in_for_ever(client: httpx.AsyncClient, n: int) -> None:
        nonlocal longest
        while time.perf_counter() < end:
            client.cookies.clear()  # each on a device of its own
            began = time.perf_counter()
            answer = await client.post(f"{url}/login", json={"email": f"user-{n}@example.com", "password": PASSWORD})
            longest = max(longest, time.perf_counter() - began)
            statuses[answer.status_code] += 1
            assert answer.status_code in {200, 429, 503}, answer.text
            assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1

    async with httpx.AsyncClient(trust_env=False, timeout=30, limits=httpx.Limits(max_connections=clients)) as client:
        await asyncio.gather(*(log_in_for_ever(client, n) for n in range(clients)))
    return statuses, longest


def run_storm(url: str, clients: int, seconds: float) -> tuple[Counter[int], float]:
    return asyncio.run(storm(url, clients, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument(
        "--queue", type=int, default=32, help="AUTHIX_HASH_QUEUE: fewer than the clients, so some get 503"
    )
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="owasp")
    options = parser.parse_args()
    print(f"login_storm: {machine()}; {options.clients} clients, profile {options.profile}, queue {options.queue}")
    with tempfile.TemporaryDirectory() as folder:
        issuer = IssuerProgram(Path(folder), AUTHIX_HASH_PROFILE=options.profile, AUTHIX_HASH_QUEUE=str(options.queue))
        issuer.start().ready()
        try:
            with issuer.client() as client:
                for n in range(options.clients):
                    register(client, f"user-{n}@example.com")
                login(client, "user-0@example.com")
                cookie = "=".join(next(iter(client.cookies.items())))
                client.cookies.clear()  # or the second login would end the first session
                login(client, "user-1@example.com")
                second = "=".join(next(iter(client.cookies.items())))
            for path, times in probe(issuer.port, cookie, options.seconds / 2).items():
                print(f"  {path:14} idle   {spread(times)}")
            with ProcessPoolExecutor(1, get_context("spawn"), os.nice, (10,)) as pool:
                storming = pool.submit(run_storm, issuer.url, options.clients, options.seconds + 2)
                time.sleep(1.5)  # until it rages
                stormy = probe(issuer.port, second, options.seconds)
                statuses, longest = storming.result()
            for path, times in stormy.items():
                print(f"  {path:14} storm  {spread(times)}   (goal: p99 < 100 ms)")
            told = ", ".join(f"{count} times {status}" for status, count in sorted(statuses.items()))
            print(f"  /login         {told}; the longest answer took {longest:.2f} s, none hung")
        finally:
            issuer.stop()


if __name__ == "__main__":
    main()
