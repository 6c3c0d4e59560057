"""Where metrics are told: on a port of their own, so that they are for whoever watches and not for who logs in.

Rule: whoever asks is told the numbers of this moment. Where there are several workers, their parent answers: it asks
all of them, on loopback ports, and tells one sum. Of one that does not answer, what it had counted is told, and of one
that has ended too, so that no total falls.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Self

import msgspec
from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry

from authix.errors import SettingsError
from authix.histograms import buckets
from authix_issuer.metrics import Family, Kind, Metrics, Told, counts, merged

PATIENCE = 2.5
"""Seconds for which a worker is waited for; it waits itself for its engines."""
_LOOPBACK = "127.0.0.1"

Ask = Callable[[], Mapping[int, Told | None]]
"""What each worker tells now, by its number; None for one that does not answer."""


class MetricsPort:
    """``/metrics`` on ``host`` and ``port``, from threads of its own. Nothing is told before ``ask_…``."""

    def __init__(self, host: str, port: int) -> None:
        self._ask: Ask = dict
        self._host = host
        self._port = port
        self._whole = _Whole()
        self._lock = threading.Lock()

    def listen(self) -> Self:
        """Begin; it ends with the program. Raises ``SettingsError`` when the port can't be listened on."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            start_http_server(self._port, self._host, registry)
        except OSError as error:
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise SettingsError(
                f"AUTHIX_METRICS_HOST={self._host} AUTHIX_METRICS_PORT={self._port} can't be listened on ({reason}): "
                "choose another."
            ) from None
        return self

    def ask_here(self, metrics: Metrics) -> None:
        """From now on tell ``metrics``, of the loop that runs here in another thread than those that answer."""
        loop = asyncio.get_running_loop()

        def ask() -> Mapping[int, Told | None]:
            if loop.is_closed():  # the program ends
                return {1: None}
            asked = asyncio.run_coroutine_threadsafe(metrics.tell(), loop)
            try:
                return {1: asked.result(PATIENCE)}
            except (CancelledError, TimeoutError):
                asked.cancel()
                return {1: None}

        self._ask = ask

    def ask_workers(self, count: int) -> list[socket.socket]:
        """From now on tell what workers ``tell`` on these sockets, which stay open here: so one that is replaced is
        found again.
        """
        tellers = [socket.create_server((_LOOPBACK, 0)) for _ in range(count)]
        addresses = [teller.getsockname() for teller in tellers]

        def ask() -> Mapping[int, Told | None]:
            with ThreadPoolExecutor(count) as pool:
                return dict(enumerate(pool.map(_ask, addresses), start=1))

        self._ask = ask
        return tellers

    def collect(self) -> Iterator[Metric]:
        with self._lock:  # or an older answer could be taken after a newer one
            told = self._ask()
            families = self._whole.take(told)
        workers = sum(one is not None for one in told.values())
        yield GaugeMetricFamily("authix_issuer_workers", "Worker processes that tell their numbers.", value=workers)
        yield from _exposed(families)


async def tell(metrics: Metrics, listener: socket.socket) -> asyncio.Server:
    """In a worker: tell whoever asks on ``listener``."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(msgspec.msgpack.encode(await metrics.tell()))
            writer.close()
            await writer.wait_closed()
        except OSError:  # it has not waited
            return

    return await asyncio.start_server(answer, sock=listener)


class _Whole:
    """What all workers have counted since this process began."""

    def __init__(self) -> None:
        self._last: dict[int, Told] = {}
        self._past: tuple[Family, ...] = ()

    def take(self, told: Mapping[int, Told | None]) -> tuple[Family, ...]:
        present: list[Sequence[Family]] = []
        for number, now in told.items():
            before = self._last.get(number)
            if now is None:
                present.append(counts(before.families) if before else ())
                continue
            if before is not None and before.process != now.process:
                self._past = merged([self._past, counts(before.families)])
            self._last[number] = now
            present.append(now.families)
        return merged([self._past, *present])


def _exposed(families: Iterable[Family]) -> Iterator[Metric]:
    """As ``prometheus_client`` writes them."""
    for family in families:
        if family.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
            for sample in family.samples:
                histogram.add_metric(sample.labels, *buckets(sample.values))
            yield histogram
            continue
        of_kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
        plain = of_kind(family.name, family.text, labels=family.labels)
        for sample in family.samples:
            plain.add_metric(sample.labels, sample.values[0])
        yield plain


def _ask(address: tuple[str, int]) -> Told | None:
    try:
        with socket.create_connection(address, timeout=PATIENCE) as connection:
            connection.settimeout(PATIENCE)
            with connection.makefile("rb") as answer:
                return msgspec.msgpack.decode(answer.read(), type=Told)
    except (OSError, msgspec.DecodeError):
        return None
