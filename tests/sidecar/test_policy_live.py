"""A running sidecar with a policy file: what it lets pass, how it takes another file, and forward auth by it."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authix.keys import KeySet, VerificationKey
from tests.programs import DEADLINE, SidecarProgram, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.programs import IssuerProgram
    from tests.sidecar.conftest import Answer, Fleet, Upstream, Visit

POLICY = """
[[route]]
path = "/healthz"
methods = ["GET"]
public = true

[[route]]
path = "/static/*"
public = true
authorization = "remove"

[[route]]
path = "/admin/*"
roles = ["admin"]

[[route]]
path = "/payments/{id}"
methods = ["POST"]
roles = ["clerk"]
claims = { tenant = ["a", "b"], mfa = true }
max_age = 60
authorization = "remove"

[[route]]
path = "/lax"
when_stale = "accept"

[[route]]
path = "/clamped"
when_stale = "clamp"
"""
BY_HOST = """
[[route]]
host = "www.example"
path = "/*"
public = true
"""
OPEN = '[[route]]\npath = "/door"\npublic = true\n'
SHUT = '[[route]]\npath = "/door"\nroles = ["x"]\n'


class Live:
    """A sidecar under a policy, and tokens for it."""

    def __init__(self, start_fleet: Callable[..., Fleet], keys: Upstream, file: Path, text: str, **more: Any) -> None:
        self.file = file
        if text:
            file.write_text(text)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = VerificationKey(self._key.public_key())
        keys.answer = lambda _: keys.saying(KeySet([self._public]).to_json(), "Content-Type: application/json")
        self.fleet = start_fleet(AUTHIX_POLICY=str(file), AUTHIX_KEYS=f"{keys.url}/keys", **more)

    def token(self, *roles: str, age: int = 0, **claims: Any) -> str:
        moment = int(time.time()) - age
        times = {"iat": moment, "iat_us": moment * 1_000_000, "exp": moment + 300}
        who = {"iss": self.fleet.issuer.url, "aud": "tests", "sub": "user-1", "sid": "s-1", "jti": secrets.token_hex(8)}
        header = {"kid": self._public.key_id, "typ": "at+jwt"}
        return jwt.encode({**who, **times, "roles": roles, **claims}, self._key, "ES256", header)

    def ask(
        self, target: str, token: str = "", *fields: str, port: int = 0, method: str = "GET", host: str = "a"
    ) -> Answer:
        field = [f"Authorization: Bearer {token}"] if token else []
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *field, *fields, "", ""]
        return self.fleet.call("\r\n".join(lines).encode("latin-1"), port)

    def verify(self, path: str, token: str = "", *fields: str, method: str = "GET", host: str = "a") -> Answer:
        return self.ask(path, token, *fields, port=self.fleet.sidecar.auth_port, method=method, host=host)

    def metrics(self) -> str:
        return self.verify("/metrics").body.decode()


@pytest.fixture
def start(start_fleet: Callable[..., Fleet], key_server: Upstream, tmp_path: Path) -> Callable[..., Live]:
    def begin(text: str = POLICY, file: str = "authix.toml", **more: Any) -> Live:
        return Live(start_fleet, key_server, tmp_path / file, text, **more)

    return begin


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code if answer.status != 200 else ""


class TestProxy:
    def test_lets_pass_what_is_public_whoever_sends_it_and_as_nobody(self, start: Callable[..., Live]) -> None:
        live = start()
        spoofed = ("X-Authix-Subject: admin", "x_authix.roles: admin")
        for token in ("", "no.good.token", live.token("admin")):
            assert live.ask("/healthz?x", token, *spoofed).status == 200
            (request,) = live.fleet.upstream.requests
            assert not [name for name, _ in request.headers if "authix" in name]
            live.fleet.upstream.requests.clear()
        assert code(live.ask("/healthz", method="POST")) == (401, "token_missing")
        assert code(live.ask("/other")) == (401, "token_missing")
        assert live.ask("/other", live.token()).status == 200

    def test_asks_for_roles_and_claims_and_a_young_token(self, start: Callable[..., Live]) -> None:
        live = start()
        for target in ("/admin", "/admin/", "/admin/users"):
            assert code(live.ask(target)) == (401, "token_missing")
            assert code(live.ask(target, live.token("clerk"))) == (403, "role_missing")
            assert live.ask(target, live.token("admin", "clerk")).status == 200
        whole: dict[str, Any] = {"tenant": "b", "mfa": True}
        for claims, age, roles, expected in (
            (whole, 0, ["clerk"], (200, "")),
            (whole, 50, ["clerk"], (200, "")),
            (whole, 90, ["clerk"], (401, "token_too_old")),
            (whole, 0, [], (403, "role_missing")),
            ({**whole, "tenant": "c"}, 0, ["clerk"], (403, "claim_refused")),
            ({**whole, "mfa": 1}, 0, ["clerk"], (403, "claim_refused")),
            ({}, 0, ["clerk"], (403, "claim_refused")),
        ):
            answer = live.ask("/payments/7", live.token(*roles, age=age, **claims), method="POST")
            assert code(answer) == expected
        assert live.ask("/payments/7", live.token(age=90)).status == 200  # only paying is so strict

    def test_passes_the_token_on_or_removes_it_as_told(self, start: Callable[..., Live]) -> None:
        live = start()
        token = live.token("clerk", tenant="a", mfa=True)
        live.ask("/healthz", token)
        live.ask("/other", token)
        live.ask("/static/x", token)
        live.ask("/payments/7", token, method="POST")
        kept, also, *removed = live.fleet.upstream.requests
        assert kept.values("authorization") == also.values("authorization") == [f"Bearer {token}"]
        assert [request.values("authorization") for request in removed] == [[], []]
        assert removed[1].values("x-authix-subject") == ["user-1"]

    def test_sends_on_exactly_the_bytes_it_judged_and_no_trick_reaches_what_is_protected(
        self, start: Callable[..., Live]
    ) -> None:
        live = start()
        tricks = [
            *(
                "/static/../admin",
                "/static/%2e%2e/admin",
                "/static/..;/admin",
                "/static//../admin",
                "/static/..%2fadmin",
            ),
            *("/static/..\\admin", "/static/%252e%252e/admin", "//healthz", "/healthz/../admin", "/healthz;/admin"),
            *(
                "/healthz/",
                "/healthz%00",
                "/Healthz",
                "/%68ealthz",
                "/staticx",
                "/static",
                "/healthz#",
                "http://a/healthz",
            ),
        ]
        for target in tricks:
            for method in ("GET", "POST"):
                answer = live.ask(target, method=method)
                assert answer.status in {400, 401}, target
        assert code(live.ask("/healthz", "", "X-HTTP-Method-Override: POST")) == (400, "method_refused")
        for target in ("/static/a%20b/..c?x=/../y", "/static/caf%c3%a9"):
            assert live.ask(target).body == target.encode()
        assert [request.target for request in live.fleet.upstream.requests] == [
            "/static/a%20b/..c?x=/../y",
            "/static/caf%c3%a9",
        ]

    def test_when_logouts_are_not_heard_of_each_path_has_its_own_way(
        self, start: Callable[..., Live], issuer: IssuerProgram
    ) -> None:
        live = start(issuer=issuer, AUTHIX_STALE_AFTER="3")
        young, old = live.token(), live.token(age=120)
        issuer.kill()
        eventually(lambda: code(live.ask("/other", young)) == (503, "feed_stale"), "the feed is stale")
        assert live.ask("/lax", old).status == 200
        assert live.ask("/clamped", young).status == 200
        assert code(live.ask("/clamped", old)) == (503, "feed_stale")
        assert live.ask("/healthz").status == 200

    def test_an_unknown_key_is_judged_for_its_own_path_once_it_was_asked_for(self, start: Callable[..., Live]) -> None:
        live = start()
        stranger = jwt.encode(
            {**jwt.decode(live.token("admin"), options={"verify_signature": False})},
            ec.generate_private_key(ec.SECP256R1()),
            "ES256",
            {"kid": "another", "typ": "at+jwt"},
        )
        assert code(live.ask("/admin", stranger)) == (401, "key_unknown")
        assert live.ask("/healthz", stranger).status == 200


class TestAnotherFile:
    def door(self, live: Live) -> int:
        return live.ask("/door").status

    def test_is_taken_while_it_runs(self, start: Callable[..., Live]) -> None:
        live = start(OPEN)
        assert self.door(live) == 200
        live.file.write_text(SHUT)
        eventually(lambda: self.door(live) == 401, "the new policy is in force")
        assert "taken: 1 routes" in live.fleet.sidecar.output()
        live.file.write_text(OPEN)
        eventually(lambda: self.door(live) == 200, "the old one is again")

    def test_of_a_mounted_config_map_is_taken_when_its_link_is_turned(
        self, start: Callable[..., Live], tmp_path: Path
    ) -> None:
        for folder, text in (("..v1", OPEN), ("..v2", SHUT)):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "policy.toml").write_text(text)
            os.utime(tmp_path / folder / "policy.toml", (1, 1))
        (tmp_path / "..data").symlink_to("..v1")
        (tmp_path / "mounted.toml").symlink_to("..data/policy.toml")
        live = start("", file="mounted.toml")
        assert self.door(live) == 200
        (tmp_path / "..new").symlink_to("..v2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        eventually(lambda: self.door(live) == 401, "the new policy is in force")

    def test_is_taken_at_once_on_sighup_even_if_it_looks_the_same(self, start: Callable[..., Live]) -> None:
        live = start(OPEN)
        before = live.file.stat()
        with live.file.open("r+") as file:
            file.write(OPEN.replace("= true\n", "=false\n"))
        os.utime(live.file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert self.door(live) == 200
        assert live.fleet.sidecar.process is not None
        live.fleet.sidecar.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.door(live) == 401, "the signal is heeded")

    def test_that_is_broken_changes_nothing_but_the_log_and_a_counter(self, start: Callable[..., Live]) -> None:
        live = start(SHUT)
        assert "authix_sidecar_policy_errors_total 0.0" in live.metrics()
        live.file.write_text(OPEN + 'roles = ["x"]\n')
        eventually(lambda: "authix_sidecar_policy_errors_total 1.0" in live.metrics(), "the mistake is counted")
        output = live.fleet.sidecar.output()
        assert "route 1 (/door): it is public, where no token is looked at, and has `roles`" in output
        assert "The policy from before stays in force." in output
        assert self.door(live) == 401
        assert live.verify("/readyz").status == 200
        live.file.unlink()
        eventually(lambda: "authix_sidecar_policy_errors_total 2.0" in live.metrics(), "the loss is counted")
        assert self.door(live) == 401
        live.file.write_text(OPEN)
        eventually(lambda: self.door(live) == 200, "the mended file is taken")
        assert "authix_sidecar_policy_errors_total 2.0" in live.metrics()

    def test_leaves_open_streams_as_they_are(self, start: Callable[..., Live]) -> None:
        live, go_on = start(OPEN), threading.Event()

        def trickle(visit: Visit) -> None:
            if visit.request() is not None:
                visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                go_on.wait(DEADLINE)
                visit.send(b"4\r\nlast\r\n0\r\n\r\n")

        live.fleet.upstream.script = trickle
        wire = live.fleet.dial().send(b"GET /door HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.head().status == 200
        assert wire.piece() == b"first"
        live.file.write_text(SHUT)
        eventually(lambda: live.verify("/verify/door").status == 401, "the new policy is in force")
        go_on.set()
        assert wire.piece() == b"last"

    def test_that_is_broken_at_the_start_ends_it_with_one_sentence_each(self, tmp_path: Path) -> None:
        file = tmp_path / "authix.toml"
        file.write_text('[[route]]\npath = "/a"\nrole = ["x"]\n')
        sidecar = SidecarProgram(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", AUTHIX_POLICY=str(file)).start()
        assert sidecar.process is not None
        assert sidecar.process.wait(DEADLINE) == 2
        (line,) = sidecar.output().strip().splitlines()
        assert line.startswith(f"{file}:1: route 1 (/a): unknown key `role`: the keys are path, methods, host, public,")


NGINX = "X-Original-Method: {}", "X-Original-URI: {}", "X-Original-Host: {}"
TRAEFIK = "X-Forwarded-Method: {}", "X-Forwarded-Uri: {}", "X-Forwarded-Host: {}"


def said(way: tuple[str, ...], *values: str) -> list[str]:
    return [form.format(value) for form, value in zip(way, values, strict=False)]


UNCLEAR: dict[str, tuple[str, list[str]]] = {
    "nothing": ("/verify", []),
    "no target": ("/verify", said(NGINX, "GET")),
    "no forwarded target": ("/verify", said(TRAEFIK, "GET")[:1]),
    "no method": ("/verify", ["X-Original-URI: /healthz"]),
    "half of each": ("/verify", ["X-Original-Method: GET", "X-Forwarded-Uri: /healthz"]),
    "two ways": ("/verify", said(NGINX, "GET", "/healthz") + said(TRAEFIK, "GET", "/healthz")),
    "one and a half": ("/verify", [*said(NGINX, "GET", "/healthz"), "X-Forwarded-Uri: /x"]),
    "two targets": ("/verify", [*said(NGINX, "GET", "/healthz"), "x-original-uri: /admin"]),
    "two methods": ("/verify", [*said(NGINX, "GET", "/healthz"), "X-Original-Method: PUT"]),
    "path and fields": ("/verify/healthz", said(NGINX, "GET", "/healthz")),
    "path and a field": ("/verify/healthz", ["X-Forwarded-Method: GET"]),
    "dots": ("/verify", said(NGINX, "GET", "/static/../admin")),
    "encoded dots": ("/verify", said(NGINX, "GET", "/static/%2e%2e/admin")),
    "slashes": ("/verify", said(TRAEFIK, "GET", "//healthz")),
    "absolute": ("/verify", said(TRAEFIK, "GET", "http://a/healthz")),
    "relative": ("/verify", said(NGINX, "GET", "healthz")),
    "empty": ("/verify", said(NGINX, "GET", "")),
    "a request line": ("/verify", said(NGINX, "GET", "/healthz HTTP/1.1")),
    "a method in small letters": ("/verify", said(NGINX, "get", "/healthz")),
    "a method with a path": ("/verify", said(NGINX, "GET /x", "/healthz")),
    "a refused method": ("/verify", said(NGINX, "TRACE", "/healthz")),
    "another method": ("/verify", [*said(NGINX, "GET", "/healthz"), "X-HTTP-Method-Override: PUT"]),
}


class TestForwardAuth:
    def ways(self, live: Live, method: str, target: str, token: str = "", host: str = "a") -> set[tuple[int, str]]:
        """What is answered to each way of asking about one request."""
        return {
            code(live.verify("/verify", token, *said(NGINX, method, target, host))),
            code(live.verify("/verify?x=y", token, *said(TRAEFIK, method, target, host), method="POST")),
            code(live.verify(f"/verify{target}", token, method=method, host=host)),
        }

    def test_judges_the_request_that_the_proxy_was_asked_for_however_it_is_named(
        self, start: Callable[..., Live]
    ) -> None:
        live = start()
        for method, target, roles, expected in (
            ("GET", "/healthz", None, (200, "")),
            ("GET", "/healthz?a=/b", None, (200, "")),
            ("POST", "/healthz", None, (401, "token_missing")),
            ("GET", "/", None, (401, "token_missing")),
            ("GET", "/other", [], (200, "")),
            ("DELETE", "/admin/7", None, (401, "token_missing")),
            ("DELETE", "/admin/7", ["clerk"], (403, "role_missing")),
            ("DELETE", "/admin/7/", ["admin"], (200, "")),
        ):
            token = "" if roles is None else live.token(*roles)
            assert self.ways(live, method, target, token) == {expected}, target

    def test_says_who_it_is_and_nobody_where_it_is_public(self, start: Callable[..., Live]) -> None:
        live = start()
        known = live.verify("/verify", live.token("admin"), *said(NGINX, "GET", "/admin"))
        assert (known.values("x-authix-subject"), known.values("x-authix-roles")) == (["user-1"], ["admin"])
        public = live.verify("/verify", live.token("admin"), *said(NGINX, "GET", "/healthz"))
        assert (public.values("x-authix-subject"), public.values("x-authix-roles")) == ([""], [""])
        assert known.values("cache-control") == public.values("cache-control") == ["no-store"]

    def test_asks_for_the_host_where_the_policy_does(self, start: Callable[..., Live]) -> None:
        live = start(BY_HOST)
        assert self.ways(live, "GET", "/x", host="WWW.example:443") == {(200, "")}
        assert self.ways(live, "GET", "/x", host="other.example") == {(401, "token_missing")}
        for way in (NGINX, TRAEFIK):
            for hosts in ([], ["www.example", "other.example"], ["www.example/x"], [""]):
                fields = [*said(way, "GET", "/x"), *(way[2].format(host) for host in hosts)]
                answer = live.verify("/verify", "", *fields, host="www.example")
                assert code(answer) == (403, "original_refused")

    def test_refuses_whatever_names_no_request_or_more_than_one(self, start: Callable[..., Live]) -> None:
        live = start()
        for what, (path, fields) in UNCLEAR.items():
            for token in ("", live.token("admin")):
                assert code(live.verify(path, token, *fields)) == (403, "original_refused"), what

    def test_refuses_whoever_is_not_listed(self, start: Callable[..., Live]) -> None:
        live = start(AUTHIX_TRUSTED_PEERS="192.0.2.7, 10.0.0.0/8,2001:db8::/32")
        for token in ("", live.token("admin")):
            assert self.ways(live, "GET", "/healthz", token) == {(403, "peer_refused")}
        assert live.ask("/healthz").status == 200

    def test_without_a_policy_needs_a_token_whatever_is_named(self, fleet: Fleet) -> None:
        for path, fields in (("/verify", ()), ("/verify/healthz", ()), ("/verify", said(NGINX, "GET", "/a/../b"))):
            assert fleet.call(fleet.get(path, *fields), fleet.sidecar.auth_port).status == 200
            bare = "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()
            assert code(fleet.call(bare, fleet.sidecar.auth_port)) == (401, "token_missing")
