"""Clients of a proxy, of which each sends its next request when it has the answer to the last."""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Sequence

from tests.programs import HOST

CONNECTIONS = 16
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(token: str) -> bytes:
    lines = (
        "GET /orders/7?page=2 HTTP/1.1",
        "Host: orders.example",
        "User-Agent: benchmark",
        "Accept: application/json",
        "Accept-Encoding: gzip",
        f"Authorization: Bearer {token}",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = _LENGTH.search(head)
    assert length is not None, head
    return len(body) >= int(length[1])


class Clients:
    """Connections to ``port`` that are kept, each with one request under way."""

    def __init__(self, port: int) -> None:
        self._sockets = {}
        for _ in range(CONNECTIONS):
            connection = socket.create_connection((HOST, port), timeout=10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[connection.fileno()] = connection

    def send(self, requests: Sequence[bytes], status: int) -> None:
        """Send all and wait for the answers, which must be of ``status``."""
        begins = b"HTTP/1.1 %d " % status
        waiting = iter(requests)
        partly: dict[int, bytes] = {}
        open_requests = 0
        with select.epoll() as poll:
            for number, connection in self._sockets.items():
                poll.register(number, select.EPOLLIN)
                if first := next(waiting, None):
                    connection.send(first)
                    open_requests += 1
            while open_requests:
                events = poll.poll(10)
                assert events, "no answer within 10 s"
                for number, _ in events:
                    connection = self._sockets[number]
                    data = connection.recv(65536)
                    assert data, "the proxy has closed a connection"
                    if number in partly:
                        data = partly.pop(number) + data
                    if not is_whole(data):
                        partly[number] = data
                        continue
                    assert data.startswith(begins), data
                    following = next(waiting, None)
                    if following is None:
                        open_requests -= 1
                    else:
                        connection.send(following)

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()
