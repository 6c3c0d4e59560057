"""``/metrics`` of the issuer: on a port of its own, told right, and telling nothing of anybody."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.programs import PASSWORD, IssuerProgram, bearer, eventually, free_port, login, register

AGENT = "an unusual agent"


class Told(NamedTuple):
    text: str

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        families = text_string_to_metric_families(self.text)
        samples = [sample for family in families for sample in family.samples if sample.name == f"authix_issuer_{name}"]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


class Watched(NamedTuple):
    """An issuer that tells its numbers."""

    program: IssuerProgram
    url: str

    def told(self) -> Told:
        answer = httpx.get(self.url, trust_env=False).raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain")
        return Told(answer.text)


@pytest.fixture
def watched(start_issuer: Callable[..., IssuerProgram]) -> Watched:
    port = free_port()
    program = start_issuer(
        AUTHIX_METRICS_PORT=str(port), AUTHIX_REFRESH_GRACE="0", AUTHIX_LIMIT_REGISTRATIONS="1/day", AUTHIX_AUDIT="off"
    )
    return Watched(program, f"http://127.0.0.1:{port}/metrics")


def test_what_users_do_is_counted_and_who_they_are_is_not(watched: Watched) -> None:
    begun = watched.told()
    with watched.program.client() as client:
        client.headers["User-Agent"] = AGENT
        user = register(client, "ada@example.com")
        assert client.post("/register", json={"email": "eve@example.com", "password": PASSWORD}).status_code == 429
        client.post("/login", json={"email": "ada@example.com", "password": "wrong"})
        access_token = login(client, "ada@example.com")
        stolen = client.cookies["authix_refresh"]
        client.post("/access_token")
        sessions = client.get("/sessions", headers=bearer(access_token)).json()["sessions"]
        client.delete(f"/sessions/{sessions[0]['id']}x", headers=bearer(access_token))
        client.post("/logout?scope=session", headers=bearer(access_token))
        login(client, "ada@example.com")
        client.cookies.clear()
        stolen_again = client.post("/access_token", headers={"Cookie": f"authix_refresh={stolen}"})
        assert stolen_again.json()["code"] == "refresh_token_invalid"
        login(client, "ada@example.com")
        first = client.cookies["authix_refresh"]
        for _ in range(2):
            assert client.post("/access_token").status_code == 200
        client.cookies.clear()
        theft = client.post("/access_token", headers={"Cookie": f"authix_refresh={first}"})
        assert theft.json()["code"] == "refresh_token_reused"
        client.post("/logout?scope=all", headers=bearer(login(client, "ada@example.com")))
    told = watched.told()
    assert told("requests_total", route="/login", method="POST", status="2xx", code="ok") == 4
    assert told("requests_total", route="/login", method="POST", status="4xx", code="credentials_wrong") == 1
    assert told("requests_total", route="/access_token", code="ok") == 3
    assert told("requests_total", route="/access_token", code="refresh_token_reused") == 1
    assert told("requests_total", route="/access_token", code="refresh_token_invalid") == 1
    assert told("requests_total", route="/register", code="ok") == 1
    assert told("requests_total", route="/register", code="too_many_requests") == 1
    assert told("requests_total", route="/sessions/{session}", method="DELETE", code="session_unknown") == 1
    assert told("request_duration_seconds_count", route="/login", method="POST") == 5
    assert 0 < told("request_duration_seconds_sum", route="/login") < 60
    assert told("hash_duration_seconds_count") - begun("hash_duration_seconds_count") == 6
    assert told("hash_wait_seconds_count") == told("hash_duration_seconds_count")
    assert (begun("events_total", event="session.reused"), told("events_total", event="session.reused")) == (0, 1)
    assert told("events_total", event="logout", outcome="ok", scope="session") == 1
    assert told("events_total", event="logout", outcome="ok", scope="all") == 1
    assert (told("revocations_total", kind="user"), told("revocations_total", kind="session")) == (1, 2)
    assert told("revocation_log_entries") == 3
    for personal in (user, "ada@", "eve@", "example.com", access_token, first, AGENT, sessions[0]["id"]):
        assert personal not in told.text


def test_a_refresh_that_is_repeated_is_told_from_a_rotation(start_issuer: Callable[..., IssuerProgram]) -> None:
    port = free_port()
    watched = Watched(start_issuer(AUTHIX_METRICS_PORT=str(port)), f"http://127.0.0.1:{port}/metrics")
    with watched.program.client() as client:
        register(client, "ada@example.com")
        login(client, "ada@example.com")
        cookie = {"Cookie": f"authix_refresh={client.cookies['authix_refresh']}"}
        client.cookies.clear()
        for _ in range(3):
            assert client.post("/access_token", headers=cookie).status_code == 200
            client.cookies.clear()
    told = watched.told()
    assert told("requests_total", route="/access_token", code="ok") == 1
    assert told("requests_total", route="/access_token", code="repeated") == 2


def test_what_no_route_takes_is_one_series_whatever_it_is_called(watched: Watched) -> None:
    with watched.program.client() as client:
        assert client.get("/metrics").status_code == 404  # nor is this one, on the public port
        for n in range(20):
            client.get(f"/made-up-{n}")
            client.request(f"MADE{n}", "/login")
    told = watched.told()
    assert told("requests_total", route="unknown", method="GET", code="not_found") == 21
    assert told("requests_total", route="unknown", method="other", code="method_not_allowed") == 20
    assert "made" not in told.text.lower()


def test_the_state_of_the_parts_is_told(watched: Watched) -> None:
    with watched.program.client() as client, client.stream("GET", "/revocations", headers=SSE) as feed:
        chunks = feed.iter_raw()
        next(chunks)
        told = watched.told()
    assert told("workers") == 1
    assert told("build_info", version="0.1.0") == 1
    assert (told("users_store_up"), told("sessions_store_up")) == (1, 1)
    assert (told("keys", state="signing"), told("keys", state="next"), told("keys_problem")) == (1, 1, 0)
    since, until = (told(f"signing_key_{moment}_timestamp_seconds") for moment in ("since", "until"))
    assert until - since == pytest.approx(7_776_000)
    assert told("next_key_ready_timestamp_seconds") == pytest.approx(since + 900, abs=60)
    assert told("feed_followers") == 1
    assert told("hashing_limit") > 128
    assert (told("hashing"), told("hash_refusals_total"), told("unfinished_changes")) == (0, 0, 0)
    assert not re.search(r"^authix_issuer_(relay|outbox|topic)", told.text, re.MULTILINE)  # there is no Kafka


def test_what_waits_for_a_topic_that_is_away_is_told(start_issuer: Callable[..., IssuerProgram]) -> None:
    port = free_port()
    program = start_issuer(AUTHIX_METRICS_PORT=str(port), AUTHIX_KAFKA=f"127.0.0.1:{free_port()}")
    watched = Watched(program, f"http://127.0.0.1:{port}/metrics")
    with program.client() as client:
        register(client, "ada@example.com")
        for _ in range(2):
            client.post("/logout", headers=bearer(login(client, "ada@example.com")))

    def waits() -> bool:
        told = watched.told()
        return (told("topic_problem"), told("outbox_entries")) == (1, 2) and told("relay_lag_seconds") > 0.5

    eventually(waits, "the two logouts are told to wait")


def test_passwords_that_are_hashed_and_refused_are_told(start_issuer: Callable[..., IssuerProgram]) -> None:
    port = free_port()
    program = start_issuer(
        AUTHIX_METRICS_PORT=str(port), AUTHIX_HASH_PROFILE="owasp", AUTHIX_HASH_THREADS="1", AUTHIX_HASH_QUEUE="4"
    )
    watched = Watched(program, f"http://127.0.0.1:{port}/metrics")
    most = 0.0

    def log_in(_: int) -> int:
        with program.client() as client:
            return client.post("/login", json={"email": "eve@example.com", "password": PASSWORD}).status_code

    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(log_in, number) for number in range(36)]
        while not all(answer.done() for answer in answers):
            most = max(most, watched.told()("hashing"))
    refused = [answer.result() for answer in answers].count(503)
    told = watched.told()
    assert 1 <= most <= told("hashing_limit") == 5
    assert told("hash_refusals_total") == refused > 0
    assert (
        told("hash_duration_seconds_count") == told("hash_wait_seconds_count") == 36 - refused + 1
    )  # and one at the start


SSE = {"Accept": "text/event-stream"}


def test_a_port_that_is_taken_ends_the_start_with_one_sentence(shared_issuer: IssuerProgram) -> None:
    issuer = IssuerProgram(shared_issuer.log.parent / "other", AUTHIX_METRICS_PORT=str(shared_issuer.port))
    done = issuer.run("serve")
    assert done.returncode == 2
    assert done.stderr.startswith(f"AUTHIX_METRICS_HOST=127.0.0.1 AUTHIX_METRICS_PORT={shared_issuer.port} can't be ")
    assert done.stderr.count("\n") == 1
