"""Does the time of a failed login tell whether the email is known? Goal: medians within 25 % of each other.

Both kinds are interleaved on one connection, so that the machine's noise falls on both alike.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import machine, spread
from tests.programs import IssuerProgram, register


def failed_login(connection: http.client.HTTPConnection, email: str) -> float:
    body = json.dumps({"email": email, "password": "not the right password"})
    began = time.perf_counter()
    connection.request("POST", "/login", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 401
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    print(f"login_timing: {machine()}; {rounds} failed logins each, profile owasp")
    with tempfile.TemporaryDirectory() as folder:
        issuer = IssuerProgram(Path(folder), AUTHIX_HASH_PROFILE="owasp").start().ready()
        try:
            with issuer.client() as client:
                register(client, "known@example.com")
            connection = http.client.HTTPConnection("127.0.0.1", issuer.port, timeout=10)
            known, unknown = [], []
            for n in range(rounds):
                known.append(failed_login(connection, "known@example.com"))
                unknown.append(failed_login(connection, f"unknown-{n}@example.com"))
            connection.close()
        finally:
            issuer.stop()
    print(f"  known email    {spread(known)}")
    print(f"  unknown email  {spread(unknown)}")
    ratio = statistics.median(unknown) / statistics.median(known)
    print(f"  unknown / known, medians: {ratio:.3f}   (goal: 0.75 to 1.25)")


if __name__ == "__main__":
    main()
