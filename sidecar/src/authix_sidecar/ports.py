"""A listening port: what its connections share.

Rule: times are kept by looking at every connection's deadline now and then, not by a timer for each; a deadline is met
late by as much as the looks are apart, and costs nothing until then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from authix_sidecar.requests import RequestHead


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A request that has ended."""

    head: RequestHead | None
    """None when it could not be read."""
    status: int
    waited: float
    """Seconds until the head of its answer."""
    seconds: float
    """Until the end of its answer."""
    code: str
    request_id: str


Report = Callable[[Ended], None]


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
