"""What a client's connection tells whoever answers its request.

Rule: an exchange is told of everything that happens between its request's beginning and its answer's end, and of
nothing after ``client_lost`` or its own ``finish``. What one does not care for, it leaves as it is here.
"""

from __future__ import annotations


class Exchange:
    """One request and its answer."""

    def body(self, data: bytes) -> None:
        """More of the request's body."""

    def body_end(self) -> None:
        """The request's body is complete."""

    def client_slow(self) -> None:
        """Too much is waiting to be sent to the client."""

    def client_ready(self) -> None:
        """The client has taken what was waiting."""

    def client_ended(self) -> bool:
        """The client will send no more; False: close its connection."""
        return True

    def client_lost(self) -> None:
        """The client is gone or was given up."""

    def tunnelled(self, data: bytes) -> None:
        """Bytes from the client, since the exchange has become a tunnel."""

    def drain(self) -> None:
        """The program wants to end: an exchange that would not end by itself must."""
