"""How old a verifier's knowledge of logouts is.

Rule: silence is never freshness. The age is counted on the verifier's own monotonic clock since the watermark last
advanced, plus the lag that heartbeat itself showed, so clocks of two hosts are never compared.
"""

from __future__ import annotations

from enum import StrEnum

from authix.events import Heartbeat


class WhenStale(StrEnum):
    """What a verifier does when its feed is older than ``AUTHIX_STALE_AFTER``."""

    REJECT = "reject"
    """Refuse every token with 503."""
    CLAMP = "clamp"
    """Accept only tokens younger than a minute, so clients must come by the issuer."""
    ACCEPT = "accept"
    """Accept: availability over logout."""


class Freshness:
    """The watermark of one feed and when it last advanced."""

    def __init__(self) -> None:
        self.complete_until_us = -1
        self._fresh_as_of: float | None = None

    def observe(self, heartbeat: Heartbeat, monotonic: float) -> None:
        """Take a heartbeat that arrived at ``monotonic`` (seconds), after everything that stands before it."""
        if heartbeat.complete_until_us > self.complete_until_us:
            self.complete_until_us = heartbeat.complete_until_us
            lag = max(0, heartbeat.at_us - heartbeat.complete_until_us) / 1_000_000
            self._fresh_as_of = monotonic - lag

    def age(self, monotonic: float) -> float | None:
        """Seconds by which the knowledge may be old; None before the first replay is complete."""
        if self._fresh_as_of is None:
            return None
        return monotonic - self._fresh_as_of
