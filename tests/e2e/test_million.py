"""A verifier that starts late knows every logout before it judges a token, however many there are.

How long it takes is measured by ``benchmarks.replay``; here the machine may be busy.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.late_verifier import fill
from tests.programs import IssuerProgram, login, register

StartIssuer = Callable[..., IssuerProgram]

REPOSITORY = Path(__file__).parents[2]


async def start_late(start_issuer: StartIssuer, bootstrap: str, count: int) -> dict[str, Any]:
    topic = f"logout-{secrets.token_hex(4)}"
    issuer = start_issuer(AUTHIX_KAFKA=bootstrap, AUTHIX_TOPIC=topic)
    with issuer.client() as client:
        register(client, "ann@example.com")
        logged_out = login(client, "ann@example.com")
        assert client.post("/logout").status_code == 204
        await fill(bootstrap, topic, count)
        live = login(client, "ann@example.com")
    settings = {
        "AUTHIX_ISSUER": issuer.url,
        "AUTHIX_AUDIENCE": "tests",
        "AUTHIX_FEED": f"kafka://{bootstrap}/{topic}",
        "LOGGED_OUT": str(count),
    }
    run = [sys.executable, "-m", "tests.late_verifier", logged_out, live]
    verifier = await asyncio.create_subprocess_exec(
        *run, env=os.environ | settings, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    try:
        output, _ = await asyncio.wait_for(verifier.communicate(), 100)
    finally:
        if verifier.returncode is None:
            verifier.kill()
            await verifier.wait()
    found: dict[str, Any] = json.loads(output)
    return found


async def test_a_verifier_that_starts_late_refuses_each_of_a_million_who_logged_out(
    start_issuer: StartIssuer, kafka_bootstrap: str
) -> None:
    found = await start_late(start_issuer, kafka_bootstrap, 1_000_000)
    assert (found["refused"], found["others_refused"]) == (1_000_000, 0)
    assert found["verdicts"] == ["token_revoked", "accepted"]
