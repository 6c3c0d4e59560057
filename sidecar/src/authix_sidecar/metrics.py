"""What ``/metrics`` tells.

Rule: counting is adding to a plain number; families are built when somebody asks. A label is one of a few fixed words
(a code, a class of status, a side), never a user, a path or a host.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry

from authix.histograms import BOUNDS, buckets

CONTENT_TYPE = CONTENT_TYPE_LATEST
Samples = dict[tuple[str, ...], float]
"""Values by those of the labels."""


class _Answered:
    """What one port has answered. Of this program's one thread, so it needs no lock."""

    def __init__(self) -> None:
        self.by_digit = [0] * 10
        """By the status's first digit."""
        self.by_time = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0


class Metrics:
    """Counters of this process, and gauges read where they live."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()
        """By code."""
        self.upstream_errors: Counter[str] = Counter()
        """By code."""
        self.cuts: Counter[str] = Counter()
        """Streams cut, by the code of why."""
        self._answered: dict[str, _Answered] = {}
        """By port."""
        self._counters: list[tuple[str, str, Callable[[], int]]] = []
        self._gauges: list[tuple[str, str, tuple[str, ...], Callable[[], Samples]]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def answered(self, port: str, status: int, seconds: float) -> None:
        """Count a request that has ended; ``seconds`` went by until the head of its answer."""
        numbers = self._answered.get(port)
        if numbers is None:
            numbers = self._answered[port] = _Answered()
        numbers.by_digit[status // 100] += 1
        numbers.by_time[bisect_left(BOUNDS, seconds)] += 1
        numbers.seconds += seconds

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
        for port, numbers in sorted(self._answered.items()):
            for digit, count in enumerate(numbers.by_digit):
                if count:
                    requests.add_metric([port, f"{digit}xx"], count)
        yield requests
        durations = HistogramMetricFamily(
            "authix_sidecar_request_seconds",
            "From a request's first byte to the head of its answer, by port.",
            labels=["port"],
        )
        for port, numbers in sorted(self._answered.items()):
            durations.add_metric([port], *buckets((*numbers.by_time, numbers.seconds)))
        yield durations
        for name, text, count_now in self._counters:
            yield CounterMetricFamily(name, text, value=count_now())
        for name, text, gauge_labels, read in self._gauges:
            gauge = GaugeMetricFamily(name, text, labels=gauge_labels)
            for values, value in read().items():
                gauge.add_metric(values, value)
            yield gauge
