"""What an operator sees: metrics, spans and log lines, and never a token."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import REGISTRY

from authix import Authix, SyncAuthix
from authix.errors import AuthixError
from authix.metrics import VerifierMetrics
from authix.testing import InProcessIssuer

ISSUER, AUDIENCE = "https://auth.example.com", "orders"


async def test_a_span_tells_the_decision_and_the_subject(caplog: pytest.LogCaptureFixture) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    caplog.set_level(logging.DEBUG, "authix")
    with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
        sync = SyncAuthix(issuer=ISSUER, audience=AUDIENCE)
        async with Authix(issuer=ISSUER, audience=AUDIENCE) as auth:
            token = issuer.issue("ada")
            with tracer.start_as_current_span("good"):
                await auth.authenticate(token)
            with tracer.start_as_current_span("good for threads"):
                sync.authenticate(token)
            issuer.logout("ada")
            with tracer.start_as_current_span("bad"), pytest.raises(AuthixError):
                await auth.authenticate(token)
            with tracer.start_as_current_span("bad for threads"), pytest.raises(AuthixError):
                sync.authenticate(token)
            with pytest.raises(AuthixError):
                await auth.authenticate(token)  # outside of any span
    told = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    good, bad = {"authix.decision": "accepted", "enduser.pseudo.id": "ada"}, {"authix.decision": "token_revoked"}
    assert {name: {key: told[name].get(key) for key in good if key in told[name]} for name in told} == {
        "good": good,
        "good for threads": good,
        "bad": bad,
        "bad for threads": bad,
    }
    lines = [record.getMessage() for record in caplog.records if record.name == "authix.decisions"]
    assert len(lines) == 3
    assert all("token_revoked" in line for line in lines)
    assert token.split(".")[2] not in caplog.text + str(told)


async def test_metrics_tell_the_sums_and_the_worst() -> None:
    with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
        auths = [Authix(issuer=ISSUER, audience=AUDIENCE) for _ in range(2)]
        registry = CollectorRegistry()
        registry.register(VerifierMetrics(lambda: auths))
        assert "authix_ready" not in registry_names(registry)
        for auth in auths:
            await auth.start()
        old, token = issuer.issue("bob"), issuer.issue("ada")
        issuer.logout("bob")
        for auth in auths:
            auth.verify(token)
        with pytest.raises(AuthixError):
            auths[0].verify(old)
        read = registry.get_sample_value
        assert read("authix_decisions_total", {"code": "accepted"}) == 2
        assert read("authix_decisions_total", {"code": "token_revoked"}) == 1
        assert read("authix_ready") == 1
        assert (read("authix_revocations"), read("authix_keys")) == (1, 1)
        assert read("authix_signatures_total") == 3  # of three tokens; none of them was known
        assert read("authix_tokens_known_total") == 0
        auths[0].verify(token)
        assert (read("authix_signatures_total"), read("authix_tokens_known_total")) == (3, 1)
        assert read("authix_feed_replay_seconds") == 0
        assert read("authix_feed_age_seconds") == 0
        issuer.go_stale()
        assert read("authix_ready") == 0
        assert (read("authix_feed_age_seconds") or 0) > 1000
        assert token not in generate_latest(registry).decode()


async def test_a_full_map_is_told_with_the_moment_up_to_which_tokens_are_refused() -> None:
    with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
        async with Authix(issuer=ISSUER, audience=AUDIENCE, max_revocations=10_000) as auth:
            registry = CollectorRegistry()
            registry.register(VerifierMetrics(lambda: [auth]))
            name = "authix_revocations_coarse_until_seconds"
            old = issuer.issue("never-logged-out")
            assert registry.get_sample_value(name) is None
            for n in range(10_001):
                issuer.logout(f"user-{n}")
            told = registry.get_sample_value(name)
            assert told is not None
            assert issuer.now <= told <= issuer.now + 1
            with pytest.raises(AuthixError):
                auth.verify(old)  # more is refused, never less
            assert auth.verify(issuer.issue("ada")).subject == "ada"


async def test_the_default_registry_tells_of_every_verifier_that_runs() -> None:
    with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
        async with Authix(issuer=ISSUER, audience=AUDIENCE) as auth:
            before = REGISTRY.get_sample_value("authix_decisions_total", {"code": "accepted"}) or 0
            auth.verify(issuer.issue())
            assert REGISTRY.get_sample_value("authix_decisions_total", {"code": "accepted"}) == before + 1


def registry_names(registry: CollectorRegistry) -> set[str]:
    return {sample.name for family in registry.collect() for sample in family.samples}
