"""What ``/metrics`` tells.

Rule: counting is adding to a plain number; families are built when somebody asks. A label is one of a few fixed words
(a code, a class of status, a side), never a user, a path or a host.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry

CONTENT_TYPE = CONTENT_TYPE_LATEST
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; the issuer's, so that one can be laid upon the other."""
Samples = dict[tuple[str, ...], float]
"""Values by those of the labels."""


class Histogram:
    """How long something takes."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        bounds = (*map(str, BOUNDS), "+Inf")
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class Metrics:
    """Counters of this process, and gauges read where they live."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()
        """By code."""
        self.upstream_errors: Counter[str] = Counter()
        """By code."""
        self.cuts: Counter[str] = Counter()
        """Streams cut, by the code of why."""
        self._requests: Counter[tuple[str, int]] = Counter()
        """By port and by the status's first digit."""
        self._durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        """By port."""
        self._counters: list[tuple[str, str, Callable[[], int]]] = []
        self._gauges: list[tuple[str, str, tuple[str, ...], Callable[[], Samples]]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def answered(self, port: str, status: int, seconds: float) -> None:
        """Count a request that has ended; ``seconds`` went by until the head of its answer."""
        self._requests[port, status // 100] += 1
        self._durations[port].observe(seconds)

    def counter(self, name: str, text: str, read: Callable[[], int]) -> None:
        """Tell ``read()``, which only grows, as ``name`` with ``_total`` behind it."""
        self._counters.append((name, text, read))

    def gauge(self, name: str, text: str, read: Callable[[], float | None]) -> None:
        """Tell ``read()`` as ``name``; None leaves it out."""

        def one() -> Samples:
            value = read()
            return {} if value is None else {(): value}

        self.gauges(name, text, (), one)

    def gauges(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Samples]) -> None:
        """Tell each item of ``read()`` as ``name``; its key are the values of ``labels``."""
        self._gauges.append((name, text, labels, read))

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
        for (port, digit), count in sorted(self._requests.items()):
            requests.add_metric([port, f"{digit}xx"], count)
        yield requests
        durations = HistogramMetricFamily(
            "authix_sidecar_request_seconds",
            "From a request's first byte to the head of its answer, by port.",
            labels=["port"],
        )
        for port, histogram in sorted(self._durations.items()):
            histogram.add_to(durations, [port])
        yield durations
        for name, text, count_now in self._counters:
            yield CounterMetricFamily(name, text, value=count_now())
        for name, text, gauge_labels, read in self._gauges:
            gauge = GaugeMetricFamily(name, text, labels=gauge_labels)
            for values, value in read().items():
                gauge.add_metric(values, value)
            yield gauge
