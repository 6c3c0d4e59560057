"""The proxy's faults, as a client and a server see them."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.programs import eventually, free_port
from tests.servers.tcp_proxy import TcpProxy

MOMENT = 0.3
"""Seconds in which nothing may come; what should come has 10 s."""


class Echo(socketserver.ThreadingTCPServer):
    """Answers what it gets, and counts the bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received = 0
        super().__init__(("127.0.0.1", 0), EchoHandler)


class EchoHandler(socketserver.BaseRequestHandler):
    server: Echo

    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.server.received += len(data)
                self.request.sendall(data)
        except ConnectionError:
            return


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.server_address[1]) as running:
        yield running


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with connect(proxy) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
        yield connection


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def assert_silent(connection: socket.socket) -> None:
    connection.settimeout(MOMENT)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(10)


def test_everything_passes_both_ways_in_order(proxy: TcpProxy) -> None:
    sent = bytes(range(256)) * 8192
    with connect(proxy) as connection, connection.makefile("rb") as answers:
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        assert answers.read(len(sent)) == sent
        sender.join()


def test_the_end_of_a_connection_passes(proxy: TcpProxy, client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    eventually(lambda: proxy.connections() == 0, "the proxy let go of the connection")


def test_cut_resets_open_connections_and_serves_new_ones(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as another:
        another.sendall(b"again")
        assert another.recv(5) == b"again"


def test_refuse_looks_like_a_dead_server_until_healed(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as another:
        another.sendall(b"again")
        assert another.recv(5) == b"again"


def test_stall_passes_nothing_of_old_and_new_connections_until_healed(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.stall()
    with connect(proxy) as another:
        for connection in (client, another):
            connection.sendall(b"hello")
            assert_silent(connection)
        assert echo.received == len(b"hello"), "only what was sent before the stall"
        proxy.heal()
        assert (client.recv(5), another.recv(5)) == (b"hello", b"hello")


def test_the_server_gets_the_request_whose_answer_is_lost(proxy: TcpProxy, client: socket.socket, echo: Echo) -> None:
    proxy.lose_answers()
    client.sendall(b"logout")
    eventually(lambda: echo.received == len(b"hellologout"), "the request arrived")
    assert_silent(client)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_an_answer_breaks_off_once(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.cut_in_answer(3)
    client.sendall(b"hello")
    with client.makefile("rb") as answer, pytest.raises(ConnectionResetError):
        answer.read(5)
    with connect(proxy) as another:
        another.sendall(b"again")
        assert another.recv(5) == b"again"


def test_delay_holds_back_each_way(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.delay(MOMENT)
    asked = time.monotonic()
    client.sendall(b"slow")
    assert client.recv(4) == b"slow"
    assert time.monotonic() - asked >= 2 * MOMENT


def test_a_server_that_is_away_ends_the_connection(proxy: TcpProxy) -> None:
    proxy.upstream_port = free_port()
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:  # the reset may come early
        connection.recv(1)
