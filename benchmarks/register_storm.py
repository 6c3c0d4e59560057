"""While 32 clients register, does the key set still answer? Goal: /public_key p99 under 50 ms.

Prints, in one run: /public_key when idle and in the storm; registrations a second beside the bare rate of the same
Argon2 library, parameters and number of threads.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import secrets
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import argon2
import httpx

from authix_issuer.hashing import PROFILES
from benchmarks.report import machine, spread
from tests.programs import PASSWORD, IssuerProgram


def bare_rate(profile: str, seconds: float) -> float:
    """Hashes a second on all cores, nothing else running."""
    hasher = argon2.PasswordHasher.from_parameters(PROFILES[profile])
    end = time.perf_counter() + seconds

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            hasher.hash(PASSWORD)
            count += 1
        return count

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads))) / seconds


def probe(port: int, seconds: float) -> list[float]:
    """Milliseconds of each GET /public_key, a hundred a second on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        connection.request("GET", "/public_key")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)
    connection.close()
    return times


async def storm(url: str, clients: int, stop: threading.Event) -> tuple[int, int]:
    """Registrations done and refused for overload until ``stop``."""
    done = refused = 0

    async def register_for_ever(client: httpx.AsyncClient) -> None:
        nonlocal done, refused
        while not stop.is_set():
            body = {"email": f"{secrets.token_hex(8)}@example.com", "password": PASSWORD}
            answer = await client.post(f"{url}/register", json=body)
            done += answer.status_code == 201
            refused += answer.status_code == 503
            assert answer.status_code in {201, 503}, answer.text

    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        await asyncio.gather(*(register_for_ever(client) for _ in range(clients)))
    return done, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="owasp")
    options = parser.parse_args()
    print(f"register_storm: {machine()}; {options.clients} clients, profile {options.profile}")
    bare = bare_rate(options.profile, options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        issuer = IssuerProgram(Path(folder), AUTHIX_HASH_PROFILE=options.profile).start().ready()
        try:
            print(f"  /public_key, idle      {spread(probe(issuer.port, options.seconds / 2))}")
            stop = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                storming = pool.submit(asyncio.run, storm(issuer.url, options.clients, stop))
                time.sleep(0.5)
                began = time.perf_counter()
                times = probe(issuer.port, options.seconds)
                stop.set()
                done, refused = storming.result()
            rate = done / (time.perf_counter() - began + 0.5)
            print(f"  /public_key, storm     {spread(times)}   (goal: p99 < 50 ms)")
            print(f"  /register              {rate:.1f}/s, {refused} refused as overloaded")
            print(f"  bare Argon2, all cores {bare:.1f}/s; /register reaches {rate / bare:.0%} of it")
        finally:
            issuer.stop()


if __name__ == "__main__":
    main()
