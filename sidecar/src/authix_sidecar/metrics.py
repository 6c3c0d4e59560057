"""What ``/metrics`` tells.

Rule: counting is adding to a plain number; families are built when somebody asks. A label is one of a few fixed words
(a code, a class of status, a side), never a user, a path or a host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of this process, and gauges read where they live."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()
        """By code."""
        self.requests: Counter[tuple[str, int]] = Counter()
        """By port and by the status's first digit."""
        self.upstream_errors: Counter[str] = Counter()
        """By code."""
        self.cuts: Counter[str] = Counter()
        """Streams cut, by the code of why."""
        self._gauges: list[tuple[str, str, Callable[[], dict[str, float]], str]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def gauge(self, name: str, text: str, read: Callable[[], float | None]) -> None:
        """Tell ``read()`` as ``name``; None leaves it out."""

        def one() -> dict[str, float]:
            value = read()
            return {} if value is None else {"": value}

        self._gauges.append((name, text, one, ""))

    def gauges(self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]) -> None:
        """Tell each item of ``read()`` as ``name`` with its key as ``label``."""
        self._gauges.append((name, text, read, label))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        for name, text, label, counts in (
            ("decisions", "Decisions over requests, by code.", "code", self.decisions),
            ("upstream_errors", "Requests that the upstream did not answer, by code.", "code", self.upstream_errors),
            ("streams_cut", "Open streams cut because their token died, by code.", "code", self.cuts),
        ):
            counter = CounterMetricFamily(f"authix_sidecar_{name}", text, labels=[label])
            for key, count in sorted(counts.items()):
                counter.add_metric([key], count)
            yield counter
        requests = CounterMetricFamily(
            "authix_sidecar_requests", "Requests answered, by port and class of status.", labels=["port", "status"]
        )
        for (port, digit), count in sorted(self.requests.items()):
            requests.add_metric([port, f"{digit}xx"], count)
        yield requests
        for name, text, read, label in self._gauges:
            gauge = GaugeMetricFamily(name, text, labels=[label] if label else [])
            for key, value in read().items():
                gauge.add_metric([key] if label else [], value)
            yield gauge
