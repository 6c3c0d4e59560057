"""A request is one trace by OpenTelemetry, and a logout one as far as the verifiers."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from authix import Authix, TokenRevoked
from tests.conftest import StartSidecar
from tests.programs import DEADLINE, PASSWORD, IssuerProgram, Program, bearer, eventually, login, register

TO_CONSOLE = {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "50"}


def parent(trace_id: str, span_id: str = "b7ad6b7169203331", flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}


def spans(program: Program, trace_id: str = "") -> dict[str, dict[str, Any]]:
    """The spans of that trace that the program has exported so far, by name."""
    found, text, at = {}, program.output(), 0
    while (at := text.find("{\n", at)) >= 0:
        try:
            span, at = json.JSONDecoder().raw_decode(text, at)
        except json.JSONDecodeError:  # it is being written
            break
        if span["context"]["trace_id"] == f"0x{trace_id}":
            found[span["name"]] = span
    return found


def whole_trace(program: Program, trace_id: str, names: set[str]) -> dict[str, dict[str, Any]]:
    """Its spans, once there are these and no others."""
    eventually(lambda: set(spans(program, trace_id)) == names, lambda: f"{names} are exported, not {spans(program)}")
    return spans(program, trace_id)


def test_a_request_is_one_trace_with_its_steps(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer = start_issuer(**TO_CONSOLE)
    steps = {
        "/register": {"hash", "store account"},
        "/login": {"hash", "open session"},
        "/access_token": {"refresh session"},
        "/logout": {"close session"},
    }
    with issuer.client() as client:
        for number, (path, inner) in enumerate(steps.items(), 1):
            trace_id = f"{number:032x}"
            body = {"email": "ann@example.com", "password": PASSWORD}
            answer = client.post(path, json=body, headers=parent(trace_id))
            assert answer.is_success
            assert answer.headers["x-request-id"] == trace_id
            names = {f"POST {path}", *inner}
            found = whole_trace(issuer, trace_id, names)
            root = found.pop(f"POST {path}")
            assert (root["parent_id"], root["kind"]) == ("0xb7ad6b7169203331", "SpanKind.SERVER")
            assert root["attributes"] == {"http.response.status_code": answer.status_code}
            assert root["resource"]["attributes"]["service.name"] == "authix-issuer"
            assert {span["parent_id"] for span in found.values()} == {root["context"]["span_id"]}
    assert "ann@example.com" not in issuer.output()
    assert issuer.stop() == 0


def test_without_the_variables_nothing_is_exported(shared_issuer: IssuerProgram) -> None:
    with shared_issuer.client() as client:
        assert client.get("/livez", headers=parent("f" * 32)).is_success
    assert spans(shared_issuer, "f" * 32) == {}


@pytest.fixture(scope="module")
def exported() -> Iterator[InMemorySpanExporter]:
    """The spans of this process, which is a service with a verifier."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


async def test_a_logout_is_one_trace_from_the_request_over_kafka_to_the_verifier(
    exported: InMemorySpanExporter, start_issuer: Callable[..., IssuerProgram], kafka_bootstrap: str
) -> None:
    topic, trace_id = f"logout-{secrets.token_hex(4)}", secrets.token_hex(16)
    issuer = start_issuer(AUTHIX_KAFKA=kafka_bootstrap, AUTHIX_TOPIC=topic, **TO_CONSOLE)
    feed = f"kafka://{kafka_bootstrap}/{topic}"
    async with Authix(issuer=issuer.url, audience="tests", feed=feed) as auth:
        await auth.wait_ready(DEADLINE)
        client = httpx.AsyncClient(base_url=issuer.url, trust_env=False)
        async with client:
            body = {"email": "ann@example.com", "password": PASSWORD}
            assert (await client.post("/register", json=body)).is_success
            token = (await client.post("/login", json=body)).json()["access_token"]
            auth.verify(token)
            assert (await client.post("/logout", headers=bearer(token) | parent(trace_id))).status_code == 204
        async with asyncio.timeout(DEADLINE):
            while not exported.get_finished_spans():
                await asyncio.sleep(0.01)
        with pytest.raises(TokenRevoked):
            auth.verify(token)
    names = {"POST /logout", "close session", f"send {topic}"}
    found = whole_trace(issuer, trace_id, names)
    sent = found[f"send {topic}"]
    assert sent["parent_id"] == found["POST /logout"]["context"]["span_id"]
    assert sent["kind"] == "SpanKind.PRODUCER"
    assert sent["attributes"]["messaging.destination.name"] == topic
    (taken,) = exported.get_finished_spans()
    assert (taken.name, taken.kind) == (f"process {topic}", trace.SpanKind.CONSUMER)
    assert taken.parent is not None
    assert f"0x{taken.parent.span_id:016x}" == sent["context"]["span_id"]
    assert f"{taken.parent.trace_id:032x}" == trace_id


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_sidecar_that_takes_a_logout_from_kafka_exports_a_span_of_the_same_trace(
    start_issuer: Callable[..., IssuerProgram], start_sidecar: StartSidecar, kafka_bootstrap: str, workers: str
) -> None:
    topic, trace_id = f"logout-{secrets.token_hex(4)}", secrets.token_hex(16)
    issuer = start_issuer(AUTHIX_KAFKA=kafka_bootstrap, AUTHIX_TOPIC=topic, **TO_CONSOLE)
    feed = f"kafka://{kafka_bootstrap}/{topic}"
    sidecar = start_sidecar(issuer.url, issuer.url, AUTHIX_FEED=feed, AUTHIX_WORKERS=workers, **TO_CONSOLE).ready()
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        assert client.post("/logout", headers=bearer(token) | parent(trace_id)).status_code == 204
    taken = whole_trace(sidecar, trace_id, {f"process {topic}"})[f"process {topic}"]
    sent = whole_trace(issuer, trace_id, {"POST /logout", "close session", f"send {topic}"})[f"send {topic}"]
    assert (taken["parent_id"], taken["kind"]) == (sent["context"]["span_id"], "SpanKind.CONSUMER")
    assert taken["resource"]["attributes"]["service.name"] == "authix-sidecar"
    assert taken["attributes"]["messaging.destination.name"] == topic

    def status() -> int:
        return httpx.get(f"{sidecar.auth_url}/verify", headers=bearer(token), trust_env=False).status_code

    eventually(lambda: status() == 401, "the token is refused")
    assert sidecar.output().count(trace_id) == 1, "of several workers one tells it"
    assert token not in sidecar.output()


def test_what_is_replayed_is_not_traced_again(
    exported: InMemorySpanExporter, start_issuer: Callable[..., IssuerProgram], kafka_bootstrap: str
) -> None:
    topic, trace_id = f"logout-{secrets.token_hex(4)}", secrets.token_hex(16)
    issuer = start_issuer(AUTHIX_KAFKA=kafka_bootstrap, AUTHIX_TOPIC=topic, **TO_CONSOLE)
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        client.post("/logout", headers=bearer(token) | parent(trace_id))
    eventually(lambda: f"send {topic}" in spans(issuer, trace_id), "the logout is published")
    exported.clear()

    async def replay() -> None:
        feed = f"kafka://{kafka_bootstrap}/{topic}"
        async with Authix(issuer=issuer.url, audience="tests", feed=feed) as auth:
            await auth.wait_ready(DEADLINE)
            with pytest.raises(TokenRevoked):
                auth.verify(token)

    asyncio.run(replay())
    assert exported.get_finished_spans() == ()


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from authix import tracing
with tracing.set_up("x"), tracing.span("inner"):
    served = tracing.Served("GET /", {"traceparent": "p"})
    (event, context), = tracing_contexts = [("logout", tracing.carried())]
    assert list(context) == [("traceparent", b"p")]
    with tracing.sending("topic", dict(tracing_contexts)) as headers, tracing.taking("topic", [context]):
        assert headers == {"logout": context}
served.end(200)
assert not tracing.carried()
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""


def test_without_opentelemetry_a_traceparent_is_handed_on_as_it_came_and_nothing_else_is_done() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT], env={"OTEL_TRACES_EXPORTER": "console"}, check=False, capture_output=True
    )
    assert (run.returncode, run.stderr) == (0, b"")


def test_an_exporter_that_is_not_installed_is_told_and_stops_nothing(
    start_issuer: Callable[..., IssuerProgram],
) -> None:
    issuer = start_issuer(OTEL_TRACES_EXPORTER="zipkin")
    assert "OTEL_TRACES_EXPORTER: there is no exporter 'zipkin' here" in issuer.output()
