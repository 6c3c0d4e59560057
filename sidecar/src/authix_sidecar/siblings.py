"""What the workers of one sidecar know of each other: the feed that serves all, and what each has counted.

Rule: whichever worker is scraped asks all of them at that moment, so no number is older than the question, and labels
each with its worker, so that a sum is a sum. One that does not answer at once is left out. They ask each other on
loopback ports; what is told there, ``/metrics`` tells anyone.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from authix.verifier_settings import FeedUrl, VerifierSettings

PARENT = "parent"
"""The name of the process that follows the feed, among those of the workers: 1, 2, …"""
PATIENCE = 1.0
"""Seconds for which a sibling is waited for."""


@dataclasses.dataclass(frozen=True)
class Siblings:
    """All processes of a sidecar, as one of them sees them."""

    feed: str
    """The URL of the parent's feed."""
    feed_token: str = dataclasses.field(repr=False)
    listeners: Mapping[str, socket.socket] = dataclasses.field(repr=False)
    """Where each tells its numbers, by name. The parent keeps them open, so that one that was replaced is found."""

    def follow(self, settings: VerifierSettings) -> VerifierSettings:
        """``settings`` of a verifier that follows the parent's feed, if it is to follow any."""
        if not settings.feeds:
            return settings
        return dataclasses.replace(settings, feed=(FeedUrl(self.feed),), feed_token=self.feed_token)

    async def tell(self, name: str, text: Callable[[], bytes]) -> asyncio.Server:
        """Tell ``text()`` to every sibling that asks ``name``."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(text())
                writer.close()
                await writer.wait_closed()
            except OSError:  # it has not waited
                return

        return await asyncio.start_server(answer, sock=self.listeners[name])

    async def text(self) -> bytes:
        """What all of them tell now, in Prometheus' text format."""
        told = await asyncio.gather(*map(_ask, self.listeners.values()))
        return generate_latest(_Joined(dict(zip(self.listeners, told, strict=True))).registry())


class _Joined:
    """Several texts as one, each sample with the name of whom it is from."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts

    def registry(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, text in self._texts.items():
            for family in text_string_to_metric_families(text.decode()):
                joined = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                joined.samples += [
                    sample._replace(labels={**sample.labels, "worker": name}) for sample in family.samples
                ]
        yield from families.values()


async def _ask(listener: socket.socket) -> bytes:
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                return await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError):
        return b""
