"""A sidecar's life: its settings, its start before and after the issuer's, its log, its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.programs import DEADLINE, IssuerProgram, Program, SidecarProgram, bearer, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartSidecar
    from tests.sidecar.conftest import Fleet, Upstream, Visit


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"AUTHIX_UPSTREAM": ""}, "AUTHIX_UPSTREAM is missing: set it to "),
            ({"AUTHIX_ISSUER": ""}, "AUTHIX_ISSUER is missing: set it to "),
            ({"AUTHIX_AUDIENCE": ""}, "AUTHIX_AUDIENCE is missing: set it to "),
            ({"AUTHIX_UPSTREAM": "ftp://127.0.0.1:1"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_UPSTREAM": "https://[::1"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_UPSTREAM": "127.0.0.1:8003"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_UPSTREAM": "http://a:1/path"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_UPSTREAM": "http://a:99999"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_UPSTREAM": "http://u:p@a:1"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_UPSTREAM": "http://a:1, http://a:1"}, "AUTHIX_UPSTREAM names one of its servers twice"),
            ({"AUTHIX_UPSTREAM": "http://a:1,"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_UPSTREAM": "unix:run/a.sock"}, "AUTHIX_UPSTREAM must be a URL of the form http://host:port"),
            ({"AUTHIX_PROXY_PORT": "eighty"}, "AUTHIX_PROXY_PORT must be a whole number from 0 to 65535"),
            ({"AUTHIX_AUTH_PORT": "70000"}, "AUTHIX_AUTH_PORT must be a whole number from 0 to 65535"),
            ({"AUTHIX_PROXY_PORT": "5", "AUTHIX_AUTH_PORT": "5"}, "AUTHIX_PROXY_PORT and AUTHIX_AUTH_PORT are both 5"),
            ({"AUTHIX_PROXY_PORT": "8003", "AUTHIX_UPSTREAM": "http://localhost:8003"}, "is this sidecar itself"),
            ({"AUTHIX_POLICY": "authix.toml"}, "AUTHIX_POLICY must name a file that is there, not 'authix.toml'"),
            ({"AUTHIX_TRUSTED_PEERS": "proxy"}, "AUTHIX_TRUSTED_PEERS must be addresses or networks such as 10."),
            ({"AUTHIX_TRUSTED_PEERS": "10.0.0.1/8"}, "AUTHIX_TRUSTED_PEERS must be addresses or networks"),
            ({"AUTHIX_FORWARDED_PEERS": "ingress"}, "AUTHIX_FORWARDED_PEERS must be addresses or networks"),
            ({"AUTHIX_IDENTITY_KEY": "key.pem"}, "AUTHIX_IDENTITY_KEY must name a file that can be read"),
            ({"AUTHIX_LOG": "xml"}, "AUTHIX_LOG must be one of console, json"),
            ({"AUTHIX_HOST": "192.0.2.1"}, "AUTHIX_HOST=192.0.2.1 AUTHIX_PROXY_PORT="),
            ({"AUTHIX_HOST": "no.such.host.invalid"}, "AUTHIX_HOST=no.such.host.invalid AUTHIX_PROXY_PORT="),
        ],
    )
    def test_that_are_wrong_end_the_start_with_2_and_a_sentence(
        self, tmp_path: Path, changes: dict[str, str], sentence: str
    ) -> None:
        sidecar = SidecarProgram(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", **changes).start()
        assert sidecar.process is not None
        assert sidecar.process.wait(DEADLINE) == 2
        assert sentence in sidecar.output()
        assert "Traceback" not in sidecar.output()
        assert len(sidecar.output().strip().splitlines()) == 1

    def test_a_port_in_use_ends_the_start_too(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            sidecar = SidecarProgram(
                tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", AUTHIX_AUTH_PORT=port
            ).start()
            assert sidecar.process is not None
            assert sidecar.process.wait(DEADLINE) == 2
        assert (
            f"AUTHIX_AUTH_PORT={port} can't be listened on (Address already in use): choose another."
            in sidecar.output()
        )

    def test_may_be_given_as_flags(self, fleet: Fleet, tmp_path: Path, programs: Callable[[Program], Program]) -> None:
        sidecar = SidecarProgram(tmp_path, fleet.issuer.url, "http://127.0.0.1:1", AUTHIX_UPSTREAM="")
        sidecar.command += ["--upstream", fleet.upstream.url]
        programs(sidecar)
        sidecar.start().ready()
        assert fleet.call(fleet.get("/flags"), sidecar.proxy_port).body == b"/flags"


class TestStart:
    def test_before_the_issuer_it_is_not_ready_and_then_ready_by_itself(
        self, tmp_path: Path, programs: Callable[[Program], Program], start_sidecar: StartSidecar, upstream: Upstream
    ) -> None:
        issuer = IssuerProgram(tmp_path / "issuer")
        sidecar = start_sidecar(issuer.url, upstream.url)
        sidecar.wait_for(f"{sidecar.auth_url}/readyz", 503)
        sidecar.wait_for(f"{sidecar.proxy_url}/", 401)
        programs(issuer)
        issuer.start()
        sidecar.ready()
        assert "[info     ] not ready: keys_missing, feed_replaying" in sidecar.output()
        assert "[error    ] not ready" not in sidecar.output()

    def test_known_keys_go_on_without_the_issuer_until_the_feed_is_stale_and_again_when_it_is_back(
        self, start_fleet: Callable[..., Fleet], issuer: IssuerProgram
    ) -> None:
        fleet = start_fleet(issuer, AUTHIX_STALE_AFTER="3")
        fleet.issuer.kill()
        assert fleet.call(fleet.get("/")).status == 200

        def stale() -> bool:
            answer = fleet.call(fleet.get("/"))
            return answer.status == 503 and answer.code == "feed_stale"

        eventually(stale, "silence is told from freshness")
        assert fleet.call(fleet.get("/")).values("retry-after") == ["1"]
        said = fleet.sidecar.output
        eventually(lambda: "[error    ] not ready: feed_stale" in said(), "who was ready before logs it as an error")
        fleet.issuer.start().ready()
        fleet.sidecar.ready()
        assert fleet.call(fleet.get("/")).status == 200


class TestLog:
    def test_has_one_line_a_request_without_query_or_token(self, start_fleet: Callable[..., Fleet]) -> None:
        fleet = start_fleet(AUTHIX_LOG="json")
        fleet.call(fleet.get("/orders/7?secret=query"))
        fleet.call(fleet.get("/orders/8", token="a.b.c", method="POST"))
        fleet.call(b"GET /%2e HTTP/1.1\r\nHost: a\r\n\r\n")
        fleet.call(fleet.get("/verify"), fleet.sidecar.auth_port)
        fleet.call(fleet.get("/livez"), fleet.sidecar.auth_port)
        wire = fleet.dial().send(fleet.get("/given-up", "Content-Length: 5", method="PUT"))
        fleet.settle()
        wire.close()
        eventually(lambda: "/given-up" in fleet.sidecar.output(), "the end is logged")
        lines = [json.loads(line) for line in fleet.sidecar.output().splitlines()]
        seen = [line for line in lines if line["logger"] == "authix.sidecar.access" and "settled" not in line["path"]]
        assert [(line["method"], line["path"], line["status"], line["code"]) for line in seen] == [
            ("GET", "/orders/7", 200, "allowed"),
            ("POST", "/orders/8", 401, "token_malformed"),
            ("-", "-", 400, "path_not_canonical"),
            ("GET", "/verify", 200, "allowed"),
            ("PUT", "/given-up", 499, "client_gone"),
        ]
        assert all(0 <= line["ms"] < 20_000 for line in seen)
        for secret in ("query", fleet.token, fleet.token.split(".")[2], "a.b.c"):
            assert secret not in fleet.sidecar.output()

    def test_is_readable_on_a_console(self, fleet: Fleet) -> None:
        fleet.call(fleet.get("/readable?x"))
        eventually(lambda: "/readable" in fleet.sidecar.output(), "the request is logged")
        (line,) = [line for line in fleet.sidecar.output().splitlines() if "/readable" in line]
        assert "[info     ] GET /readable 200 " in line
        assert re.search(r" ms allowed \[authix\.sidecar\.access\] request_id=[0-9a-f]{32}$", line)


class TestEnd:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_is_clean(self, start_fleet: Callable[..., Fleet], how: signal.Signals) -> None:
        fleet = start_fleet()
        idle = fleet.dial()
        assert idle.send(fleet.get("/")).answer().status == 200
        assert fleet.sidecar.stop(how) == 0
        assert idle.rest() == b""
        assert "Traceback" not in fleet.sidecar.output()
        with pytest.raises(ConnectionRefusedError):
            fleet.dial()

    def test_waits_for_answers_and_cuts_what_would_not_end(self, start_fleet: Callable[..., Fleet]) -> None:
        fleet = start_fleet()
        go, begun = threading.Event(), threading.Semaphore(0)

        def slow(visit: Visit) -> None:
            request = visit.request()
            assert request is not None
            if request.target == "/events":
                visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                begun.release()
                visit.recv()
                return
            begun.release()
            assert go.wait(20)
            visit.send(fleet.upstream.saying(b"whole"))

        fleet.upstream.script = slow
        events = fleet.dial().send(fleet.get("/events"))
        assert events.head().status == 200
        assert events.piece() == b"data: 1\n\n"
        wire = fleet.dial().send(fleet.get("/slow"))
        for _ in range(2):
            assert begun.acquire(timeout=20)
        assert fleet.sidecar.process is not None
        fleet.sidecar.process.send_signal(signal.SIGTERM)
        assert events.rest().strip() == b""  # without the end of a whole answer
        go.set()
        answer = wire.answer()
        assert (answer.body, answer.values("connection")) == (b"whole", ["close"])
        wire.close()
        assert fleet.sidecar.stop() == 0

    def test_does_not_wait_for_a_client_that_has_its_answer(self, start_fleet: Callable[..., Fleet]) -> None:
        fleet = start_fleet(AUTHIX_DRAIN_TIME="60")
        go = threading.Event()

        def in_two(visit: Visit) -> None:
            visit.request()
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
            assert go.wait(20)
            visit.send(b"b")
            visit.recv()

        fleet.upstream.script = in_two
        wire = fleet.dial().send(fleet.get("/"))
        assert wire.head().values("connection") == []  # it was going to go on
        assert fleet.sidecar.process is not None
        fleet.sidecar.process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in fleet.sidecar.output(), "the end begins")
        go.set()
        assert wire.rest() == b"ab"
        assert fleet.sidecar.process.wait(DEADLINE) == 0
        assert "[warning" not in fleet.sidecar.output()

    def test_does_not_wait_for_ever(self, start_fleet: Callable[..., Fleet]) -> None:
        fleet = start_fleet()
        begun = threading.Event()

        def silent(visit: Visit) -> None:
            visit.request()
            begun.set()
            visit.recv()

        fleet.upstream.script = silent
        wire = fleet.dial().send(fleet.get("/"))
        assert begun.wait(20)
        assert fleet.sidecar.process is not None
        fleet.sidecar.process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in fleet.sidecar.output(), "the end begins")
        assert fleet.sidecar.stop() == 0  # a second signal
        assert wire.rest() == b""
        assert "Traceback" not in fleet.sidecar.output()


def test_logging_in_again_works_at_once(fleet: Fleet) -> None:
    client, _, token = fleet.new_user("again@example.com")
    client.post("/logout", headers=bearer(token))
    answer = client.post("/login", json={"email": "again@example.com", "password": "correct horse battery staple"})
    fleet.until_refused(token)
    assert fleet.call(fleet.get("/", token=answer.json()["access_token"])).status == 200
