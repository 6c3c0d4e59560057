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
        self._advanced_at: float | None = None
        self._lag = 0.0

    def observe(self, heartbeat: Heartbeat, monotonic: float) -> None:
        """Take a heartbeat that arrived at ``monotonic`` (seconds), after everything that stands before it."""
        if heartbeat.complete_until_us > self.complete_until_us:
            self.complete_until_us = heartbeat.complete_until_us
            self._advanced_at = monotonic
            self._lag = max(0, heartbeat.at_us - heartbeat.complete_until_us) / 1_000_000

    def age(self, monotonic: float) -> float | None:
        """Seconds by which the knowledge may be old; None before the first replay is complete."""
        if self._advanced_at is None:
            return None
        return max(0.0, monotonic - self._advanced_at) + self._lag
