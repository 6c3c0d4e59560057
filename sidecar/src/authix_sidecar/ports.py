"""A listening port: what its connections share.

Rule: times are kept by looking at every connection's deadline now and then, not by a timer for each; a deadline is met
late by as much as the looks are apart, and costs nothing until then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from authix_sidecar.requests import RequestHead

Report = Callable[[RequestHead | None, int, float, str, str], None]
"""Hears of a request that has ended: itself unless it could not be read, status, seconds, code, the request's id."""


class Connection(Protocol):
    """As far as its port is concerned."""

    deadline: float

    def expire(self) -> None:
        """The deadline has passed."""

    def drain(self) -> None:
        """End with the request that is being answered."""


C = TypeVar("C", bound=Connection)


class Port(Generic[C]):
    """``begin`` answers a request: its connection, its head, and what is here of its body."""

    def __init__(self, *, begin: Callable[[C, RequestHead, bytes], None], report: Report) -> None:
        self.begin = begin
        self.report = report
        self.connections: set[C] = set()
        self.draining = False

    def sweep(self, now: float) -> None:
        """End what is past its deadline; ``now`` on the monotonic clock."""
        for connection in tuple(self.connections):
            if connection.deadline < now:
                connection.expire()

    def drain(self) -> None:
        """Let every connection end with the request it is at."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.drain()
