"""What ``/metrics`` tells of the running parts, read where it lives when somebody asks."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version

from authix_issuer.audit import Event
from authix_issuer.errors import RefreshTokenReused
from authix_issuer.key_ring import KeyState
from authix_issuer.live_keys import KeyReport
from authix_issuer.metrics import Merge, Metrics, Samples
from authix_issuer.wiring import Issuer

_MOST_UNFINISHED = 1000


def tell_issuer(metrics: Metrics, issuer: Issuer) -> None:
    """All of it."""
    _tell_what_happened(metrics, issuer)
    _tell_hashing(metrics, issuer)
    _tell_engines(metrics, issuer)
    _tell_keys(metrics, issuer)
    _tell_topic(metrics, issuer)
    build: Samples = {(version("authix-issuer"), platform.python_version()): 1}
    metrics.gauges("authix_issuer_build_info", "1, by version.", Merge.MOST, ("version", "python"), lambda: build)


def _tell_what_happened(metrics: Metrics, issuer: Issuer) -> None:
    # told from the start on, or the first theft would be no increase
    thefts: Samples = {(Event.SESSION_REUSED.value, RefreshTokenReused.code, ""): 0}
    metrics.counters(
        "authix_issuer_events",
        "What docs/audit.md puts on record, by event, outcome, and the scope of what ends sessions.",
        ("event", "outcome", "scope"),
        lambda: {**thefts, **issuer.audit.counts},
    )
    metrics.gauge(
        "authix_issuer_audit_lines_lost",
        "Lines of the audit log lost since it can't be written; 0 while it can.",
        Merge.SUM,
        lambda: issuer.audit.lost,
    )
    metrics.counters(
        "authix_issuer_revocations",
        "Revocations that this issuer has written, by kind: user, session or key.",
        ("kind",),
        lambda: {(kind,): issuer.revocations[kind] for kind in ("user", "session", "key")},
    )
    metrics.gauge(
        "authix_issuer_feed_followers", "Who follows the HTTP feed.", Merge.SUM, lambda: issuer.feed.followers
    )


def _tell_hashing(metrics: Metrics, issuer: Issuer) -> None:
    hasher = issuer.hasher
    metrics.counters(
        "authix_issuer_hash_refusals",
        "Passwords that were refused because the queue was full.",
        (),
        lambda: {(): hasher.refused},
    )
    for name, text, read in (
        ("hashing", "Passwords that are hashed now or wait for it.", lambda: hasher.load[0]),
        ("hashing_limit", "How many there may be; more are refused as overloaded.", lambda: hasher.load[1]),
    ):
        metrics.gauge(f"authix_issuer_{name}", text, Merge.SUM, read)
    for name, text, histogram in (
        ("wait", "How long a password waited for a thread that hashes.", hasher.waits),
        ("duration", "How long a thread hashed a password.", hasher.durations),
    ):
        metrics.histograms(f"authix_issuer_hash_{name}_seconds", text, (), partial(dict, {(): histogram}))


def _tell_engines(metrics: Metrics, issuer: Issuer) -> None:
    users, store = issuer.users, issuer.store

    async def unfinished() -> float:
        return len(await users.unsettled(_MOST_UNFINISHED))

    for name, engine in (("users", users), ("sessions", store)):
        metrics.asked(
            f"authix_issuer_{name}_store_up",
            f"1 when the store of {name} answers.",
            Merge.LEAST,
            _answers(engine.check),
            away=0,
        )
    metrics.asked(
        "authix_issuer_unfinished_changes",
        f"Accounts with a change that their sessions may not have yet; {_MOST_UNFINISHED} stands for any more.",
        Merge.MOST,
        unfinished,
    )
    metrics.asked(
        "authix_issuer_revocation_log_entries",
        "Entries of the revocation log: about as many are in every verifier's map.",
        Merge.MOST,
        store.size,
    )


def _tell_topic(metrics: Metrics, issuer: Issuer) -> None:
    """Without Kafka there is nothing to tell of it."""
    store, relay = issuer.store, issuer.relay

    async def backlog() -> float | None:
        return await store.backlog() if relay else None

    async def lag() -> float | None:
        if relay is None:
            return None
        watermark = await store.watermark()
        return (watermark.at_us - watermark.complete_until_us) / 1_000_000

    metrics.gauge(
        "authix_issuer_relay_leads",
        "How many workers hold the lease by which what was left is published and heartbeats are sent.",
        Merge.SUM,
        lambda: relay.leads if relay else None,
    )
    metrics.gauge(
        "authix_issuer_topic_problem",
        "1 while publishing on the logout topic fails.",
        Merge.MOST,
        lambda: relay.problem is not None if relay else None,
    )
    metrics.asked(
        "authix_issuer_outbox_entries",
        "Revocations that are durable and not yet known to stand in the topic.",
        Merge.MOST,
        backlog,
    )
    metrics.asked(
        "authix_issuer_relay_lag_seconds",
        "Age of the oldest revocation that the topic may lack; 0 when there is none.",
        Merge.MOST,
        lag,
    )


def _tell_keys(metrics: Metrics, issuer: Issuer) -> None:
    keys, notice = issuer.keys, issuer.settings.key_notice

    def by_state() -> Samples:
        states = Counter(key.state.value for key in keys.in_hand)
        return {(state.value,): states[state.value] for state in KeyState}

    def read(state: KeyState, moment: Callable[[KeyReport], int]) -> Callable[[], float | None]:
        def found() -> float | None:
            moments = [moment(key) for key in keys.in_hand if key.state is state and moment(key)]
            return min(moments) / 1_000_000 if moments else None

        return found

    metrics.gauges("authix_issuer_keys", "Signing keys, by state.", Merge.MOST, ("state",), by_state)
    for name, text, moment in (
        (
            "signing_key_since",
            "Since when the key that signs has.",
            read(KeyState.SIGNING, lambda key: key.since_us),
        ),
        (
            "signing_key_until",
            "When the next key is going to sign in its place.",
            read(KeyState.SIGNING, lambda key: key.until_us),
        ),
        (
            "next_key_ready",
            "From when a next key may sign, since verifiers know it for long enough.",
            read(KeyState.NEXT, lambda key: key.since_us and key.since_us + notice * 1_000_000),
        ),
    ):
        metrics.gauge(f"authix_issuer_{name}_timestamp_seconds", text, Merge.LEAST, moment)
    metrics.gauge(
        "authix_issuer_keys_problem",
        "1 while the signing keys in hand can't be kept up with the store.",
        Merge.MOST,
        lambda: keys.problem is not None,
    )


def _answers(check: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[float]]:
    async def asked() -> float:
        await check()
        return 1

    return asked
