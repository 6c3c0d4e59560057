"""What the issuer counts, and the form in which it is told.

Rule: counting is adding to a plain number; families are built when somebody asks. A label is one of a few fixed words
(a route's template, a code, an engine), never a user, an address or a path as it was sent. What several processes tell
is merged family by family: counts add up, and a gauge says whether it is a sum, the most or the least.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Final

import msgspec

from authix.histograms import Histogram
from authix_issuer.errors import StoreUnavailable

PATIENCE: Final = 1.0
"""Seconds that an engine has to tell what is asked of it; then it is left out."""
UNKNOWN: Final = "unknown"
"""The route of whatever no route takes."""
OTHER: Final = "other"
"""A method that no route has."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PARAMETER = re.compile(r"<(\w+)(?::[^>]*)?>")

Labels = tuple[str, ...]
Samples = Mapping[Labels, float]
"""Values by those of the labels."""


class Kind(StrEnum):
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


class Merge(StrEnum):
    """What several processes' values are together."""

    SUM = "sum"
    MOST = "most"
    LEAST = "least"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    labels: Labels
    values: tuple[float, ...]
    """One; of a histogram see ``Histogram.values``."""


class Family(msgspec.Struct, frozen=True, array_like=True):
    name: str
    text: str
    kind: Kind
    merge: Merge
    labels: Labels
    samples: tuple[Sample, ...]


class Told(msgspec.Struct, frozen=True, array_like=True):
    """All that one process tells; ``process`` is another after each start."""

    process: str
    families: tuple[Family, ...]


class Metrics:
    """What happens to the requests of this process, and whatever else it was given to tell."""

    def __init__(self) -> None:
        self.store_errors: Counter[str] = Counter()
        """Requests that failed because an engine did, by the engine."""
        self._process = secrets.token_hex(8)
        self._requests: Counter[Labels] = Counter()
        self._durations: dict[Labels, Histogram] = {}
        self._tells: list[Callable[[], Family]] = []
        self._asks: list[Callable[[], Awaitable[Family]]] = []
        self.counters(
            "authix_issuer_requests",
            "Requests answered, by route, method, class of status, and code: ok or why it was refused.",
            ("route", "method", "status", "code"),
            lambda: self._requests,
        )
        self.histograms(
            "authix_issuer_request_duration_seconds",
            "From a request's head to the head of its answer.",
            ("route", "method"),
            lambda: self._durations,
        )
        self.counters(
            "authix_issuer_store_errors",
            "Requests that failed because an engine did not answer, by engine.",
            ("engine",),
            lambda: {(engine,): count for engine, count in self.store_errors.items()},
        )

    def answered(self, path: str | None, method: str, status: int, code: str, seconds: float) -> None:
        """Count a request; ``path`` is its route's, as the router writes it."""
        route = UNKNOWN if path is None else _template(path)
        if method not in _METHODS:
            method = OTHER
        self._requests[route, method, _CLASSES[status // 100], code] += 1
        durations = self._durations.get((route, method))
        if durations is None:
            durations = self._durations[route, method] = Histogram()
        durations.observe(seconds)

    def counters(self, name: str, text: str, labels: Labels, read: Callable[[], Samples]) -> None:
        """Tell what only grows; ``_total`` is put behind ``name``."""
        self._tells.append(lambda: Family(name, text, Kind.COUNTER, Merge.SUM, labels, _told(read())))

    def histograms(self, name: str, text: str, labels: Labels, read: Callable[[], Mapping[Labels, Histogram]]) -> None:
        def told() -> Family:
            samples = tuple(Sample(key, histogram.values()) for key, histogram in sorted(read().items()))
            return Family(name, text, Kind.HISTOGRAM, Merge.SUM, labels, samples)

        self._tells.append(told)

    def gauge(self, name: str, text: str, merge: Merge, read: Callable[[], float | None]) -> None:
        """Tell ``read()`` as ``name``; None leaves it out."""
        self.gauges(name, text, merge, (), lambda: _one(read()))

    def gauges(self, name: str, text: str, merge: Merge, labels: Labels, read: Callable[[], Samples]) -> None:
        self._tells.append(lambda: Family(name, text, Kind.GAUGE, merge, labels, _told(read())))

    def asked(
        self,
        name: str,
        text: str,
        merge: Merge,
        ask: Callable[[], Awaitable[float | None]],
        *,
        away: float | None = None,
    ) -> None:
        """Tell what an engine answers, and ``away`` while it does not; None leaves it out."""

        async def told() -> Family:
            value: float | None
            try:
                async with asyncio.timeout(PATIENCE):
                    value = await ask()
            except (StoreUnavailable, TimeoutError):
                value = away
            return Family(name, text, Kind.GAUGE, merge, (), _told(_one(value)))

        self._asks.append(told)

    async def tell(self) -> Told:
        """All of it, as it is now."""
        answers = await asyncio.gather(*(ask() for ask in self._asks))
        return Told(self._process, (*(tell() for tell in self._tells), *answers))


def merged(parts: Iterable[Sequence[Family]]) -> tuple[Family, ...]:
    """What several processes tell, as one."""
    families: dict[str, Family] = {}
    for family in (family for part in parts for family in part):
        known = families.get(family.name)
        families[family.name] = family if known is None else _both(known, family)
    return tuple(families.values())


def counts(families: Iterable[Family]) -> tuple[Family, ...]:
    """Those that are still true when the process that told them has ended."""
    return tuple(family for family in families if family.kind is not Kind.GAUGE)


def _both(one: Family, other: Family) -> Family:
    samples = {sample.labels: sample.values for sample in one.samples}
    for sample in other.samples:
        known = samples.get(sample.labels)
        together = zip(known or (), sample.values, strict=False)
        samples[sample.labels] = sample.values if known is None else tuple(map(_MERGED[one.merge], together))
    return msgspec.structs.replace(one, samples=tuple(Sample(*item) for item in samples.items()))


def _told(samples: Samples) -> tuple[Sample, ...]:
    return tuple(Sample(labels, (float(value),)) for labels, value in sorted(samples.items()))


def _one(value: float | None) -> Samples:
    return {} if value is None else {(): value}


@cache
def _template(path: str) -> str:
    """``sessions/<session:str>`` as ``/sessions/{session}``; there are no more paths than routes."""
    return "/" + _PARAMETER.sub(r"{\1}", path)


_CLASSES = tuple(f"{digit}xx" for digit in range(10))
_MERGED: Final[Mapping[Merge, Callable[[Iterable[float]], float]]] = {
    Merge.SUM: sum,
    Merge.MOST: max,
    Merge.LEAST: min,
}
