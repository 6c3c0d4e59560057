"""What ``/metrics`` tells of the parts at work, read where it lives when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Protocol

from authix import Authix
from authix.fallback import FeedState
from authix_sidecar.live_policy import LivePolicy
from authix_sidecar.metrics import Metrics, Samples
from authix_sidecar.onward import OnwardFeed
from authix_sidecar.pool import Pool


def tell_verifier(metrics: Metrics, auth: Authix) -> None:
    """What is known, and whether tokens can be judged by it."""
    gauge, verifier = metrics.gauge, auth.verifier
    gauge("authix_ready", "1 when tokens can be judged.", lambda: float(auth.ready()))
    gauge("authix_feed_age_seconds", "Age of the knowledge of logouts.", lambda: auth.freshness)
    gauge("authix_revocations", "Entries of the revocation map.", lambda: len(verifier.revocations))
    gauge(
        "authix_revocations_coarse_until_seconds",
        "Tokens issued up to this moment are refused because the revocation map was full; absent if it never was.",
        lambda: None if (coarse_us := verifier.revocations.coarse_us) is None else coarse_us / 1_000_000,
    )
    gauge("authix_keys", "Keys of the key set.", lambda: len(verifier.keys))
    gauge(
        "authix_keys_age_seconds",
        "Since when the issuer has not told the keys in use; absent before it first did.",
        lambda: auth.keys_age,
    )
    metrics.counter(
        "authix_signatures",
        "Signatures computed, of tokens that were not known from before.",
        lambda: verifier.signatures,
    )
    metrics.counter(
        "authix_tokens_known",
        "Tokens whose signature was known from before.",
        lambda: verifier.known,
    )
    gauge("authix_sidecar_streams", "Open tunnels and answers that still go on.", lambda: len(auth.streams))


def tell_feeds(metrics: Metrics, auth: Authix) -> None:
    """By position in AUTHIX_FEED, 1 is the preferred one, and by kind; a URL may say too much."""
    metrics.gauge(
        "authix_feed_replay_seconds",
        "From the start until all logouts that count were known; absent before.",
        lambda: auth.replay_seconds,
    )

    def tell(name: str, text: str, read: Callable[[FeedState], float | None]) -> None:
        def each() -> Samples:
            values = {(str(position), feed.kind): read(feed) for position, feed in enumerate(auth.feed_states, start=1)}
            return {labels: value for labels, value in values.items() if value is not None}

        metrics.gauges(name, text, ("position", "kind"), each)

    tell("authix_feed_followed", "1 when the feed is followed now.", lambda feed: feed.followed)
    tell("authix_feed_stale", "1 when the feed is followed in vain.", lambda feed: feed.stale)
    tell("authix_followed_feed_age_seconds", "Age of what a followed feed tells.", lambda feed: feed.age)


class Side(Protocol):
    """Where connections are."""

    @property
    def connections(self) -> Sized:
        """Those that are open now."""


def tell_traffic(metrics: Metrics, pool: Pool, onward: OnwardFeed, sides: Mapping[str, Side]) -> None:
    """Who is connected, and to whom."""
    metrics.gauge(
        "authix_sidecar_feed_followers",
        "Who follows the feed passed on by this sidecar.",
        lambda: len(onward.followers),
    )
    metrics.gauge(
        "authix_sidecar_upstreams_down",
        "Servers of the upstream that could not be reached when last tried.",
        lambda: pool.servers_down,
    )
    metrics.gauges(
        "authix_sidecar_connections",
        "Open connections, by side.",
        ("side",),
        lambda: {(name,): len(side.connections) for name, side in sides.items()},
    )


def tell_policy(metrics: Metrics, policy: LivePolicy) -> None:
    """Which policy is in force."""
    metrics.counter(
        "authix_sidecar_policy_errors",
        "How often the policy file could not be taken while running.",
        lambda: policy.errors,
    )
    metrics.gauge(
        "authix_sidecar_policy_loaded_timestamp_seconds",
        "When the policy in force was read.",
        lambda: policy.loaded_at,
    )
