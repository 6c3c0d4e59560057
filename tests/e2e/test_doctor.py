"""An operator's way: something is broken, ``authix-issuer doctor`` says what and how to mend it, and it is mended."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.programs import IssuerProgram, free_port
from tests.servers.redis import RedisServer

PASSWORD = "pass-w0rd-of-an-engine"


@pytest.fixture
def settings(mongodb_url: str, redis_server: RedisServer, kafka_bootstrap: str) -> Mapping[str, str]:
    """Those of an issuer with all three engines, of which Redis is the test's own."""
    return {
        "AUTHIX_USERS_URL": f"{mongodb_url.rstrip('/')}/{secrets.token_hex(6)}",
        "AUTHIX_SESSIONS_URL": redis_server.url,
        "AUTHIX_KAFKA": kafka_bootstrap,
        "AUTHIX_TOPIC": f"logout-{secrets.token_hex(4)}",
        "AUTHIX_SECRET": secrets.token_urlsafe(32),
        "AUTHIX_HASH_PROFILE": "owasp",
    }


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[[Mapping[str, str]], tuple[int, list[str]]]:
    """``doctor(settings)``: its exit code, and what it finds wrong."""

    def ask(settings: Mapping[str, str]) -> tuple[int, list[str]]:
        answer = IssuerProgram(tmp_path / "issuer", **settings).run("doctor")
        assert answer.stderr == ""
        assert PASSWORD not in answer.stdout
        return answer.returncode, [line for line in answer.stdout.splitlines() if line.startswith("wrong")]

    return ask


Doctor = Callable[[Mapping[str, str]], tuple[int, list[str]]]


def test_redis_is_broken_and_mended(doctor: Doctor, settings: Mapping[str, str], redis_server: RedisServer) -> None:
    redis_server.pause()
    code, (wrong,) = doctor(settings)
    assert code == 1
    assert "AUTHIX_SESSIONS_URL names a Redis that does not answer in time: it hangs" in wrong
    redis_server.resume()
    assert doctor(settings) == (0, [])
    redis_server.kill()
    code, (wrong,) = doctor(settings)
    assert code == 1
    assert wrong == (
        "wrong   sessions (Redis): AUTHIX_SESSIONS_URL names a Redis that does not answer, for nobody listens there: "
        "start it, or mend host and port in the URL."
    )
    redis_server.start()
    assert doctor(settings) == (0, [])


def test_each_engine_that_is_away_is_told_with_its_setting_and_the_remedy(doctor: Doctor) -> None:
    port = free_port()
    nobody = "does not answer, for nobody listens there: start it, or mend host and port in the URL."
    code, wrong = doctor(
        {
            "AUTHIX_USERS_URL": f"mongodb://ann:{PASSWORD}@127.0.0.1:{port}/x?serverSelectionTimeoutMS=500",
            "AUTHIX_SESSIONS_URL": f"redis://:{PASSWORD}@127.0.0.1:{port}",
            "AUTHIX_KAFKA": f"127.0.0.1:{port}",
            "AUTHIX_SECRET": secrets.token_urlsafe(32),
            "AUTHIX_HASH_PROFILE": "owasp",
        }
    )
    assert code == 1
    users, sessions, topic = wrong
    assert users == f"wrong   users (MongoDB): AUTHIX_USERS_URL names a MongoDB that {nobody}"
    assert sessions == f"wrong   sessions (Redis): AUTHIX_SESSIONS_URL names a Redis that {nobody}"
    assert f"AUTHIX_KAFKA=127.0.0.1:{port} is not to be used: " in topic
    assert "Start it, or mend the setting; logouts are kept meanwhile" in topic
