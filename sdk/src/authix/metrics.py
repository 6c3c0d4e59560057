"""Prometheus metrics of the verifiers in this process, in the default registry (needs ``prometheus_client``).

Rule: read where they live, when somebody asks. A label is a code, never a user. Several verifiers are told as one: sums
of what they counted, the worst of what they are. (Custom collectors do not work in prometheus_client's multi-process
mode; there scrape each worker, or the sidecar.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from authix.runtime import Authix


class VerifierMetrics:
    """A collector over what ``verifiers`` returns."""

    def __init__(self, verifiers: Callable[[], Collection[Authix]]) -> None:
        self._verifiers = verifiers

    def describe(self) -> Iterator[Metric]:
        yield from _families(())

    def collect(self) -> Iterator[Metric]:
        yield from _families([auth for auth in self._verifiers() if auth.running])


def register(verifiers: Callable[[], Collection[Authix]]) -> None:
    """Tell of ``verifiers`` in the default registry."""
    REGISTRY.register(VerifierMetrics(verifiers))


def _families(verifiers: Collection[Authix]) -> Iterator[Metric]:
    decisions = CounterMetricFamily("authix_decisions", "Tokens judged, by code.", labels=["code"])
    counts: Counter[str] = Counter()
    for auth in verifiers:
        counts.update(auth.decisions)
    for code, count in sorted(counts.items()):
        decisions.add_metric([code], count)
    yield decisions
    yield CounterMetricFamily(
        "authix_signatures",
        "Signatures computed, of tokens that were not known from before.",
        value=sum(auth.verifier.signatures for auth in verifiers),
    )
    yield CounterMetricFamily(
        "authix_tokens_known",
        "Tokens whose signature was known from before.",
        value=sum(auth.verifier.known for auth in verifiers),
    )
    ages = [auth.freshness for auth in verifiers]
    for name, text, value in (
        ("authix_ready", "1 when tokens can be judged.", min((auth.ready() for auth in verifiers), default=None)),
        (
            "authix_feed_age_seconds",
            "Age of the knowledge of logouts; absent before the first replay.",
            None if None in ages else max((age for age in ages if age is not None), default=None),
        ),
        (
            "authix_revocations",
            "Entries of the revocation map.",
            max((len(auth.verifier.revocations) for auth in verifiers), default=None),
        ),
        (
            "authix_revocations_coarse_until_seconds",
            "Tokens issued up to this moment are refused because the revocation map was full; absent if it never was.",
            max(
                (us / 1_000_000 for auth in verifiers if (us := auth.verifier.revocations.coarse_us) is not None),
                default=None,
            ),
        ),
        ("authix_keys", "Keys of the key set.", min((len(auth.verifier.keys) for auth in verifiers), default=None)),
        (
            "authix_keys_age_seconds",
            "Since when the issuer has not told the keys in use; absent before it first did.",
            max((age for auth in verifiers if (age := auth.keys_age) is not None), default=None),
        ),
        (
            "authix_feed_replay_seconds",
            "From the start until all logouts that count were known; absent before.",
            max((took for auth in verifiers if (took := auth.replay_seconds) is not None), default=None),
        ),
    ):
        gauge = GaugeMetricFamily(name, text)
        if value is not None:
            gauge.add_metric([], value)
        yield gauge
