"""Other proxies ask the sidecar: each example, run by the proxy that it is for, between a client and a service.

The client is ``http.client``, which sends a target as it is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.programs import DEADLINE, HOST, IssuerProgram, SidecarProgram, eventually, login, register
from tests.servers.fixtures import require
from tests.servers.proxies import EXAMPLES, PROXIES, Proxy

POLICY = (EXAMPLES / "authix.toml").read_text(encoding="utf-8")
BY_HOST = '[[route]]\npath = "/*"\nhost = "open.example"\npublic = true\n'
BY_METHOD = '[[route]]\npath = "/notes"\nmethods = ["POST"]\nroles = ["admin"]\n'
SPELLINGS = (
    "X-Authix-Subject",
    "x-authix-subject",
    "X_Authix_Subject",
    "X-Authix_Subject",
    "X.Authix.Subject",
    "x~authix~subject",
    "X-Authix-Roles",
    "X_AUTHIX_ROLES",
    "X-Authix-Session",
)
TRICKS = (
    "/public/../admin",
    "/public/./../admin",
    "/public/%2e%2e/admin",
    "/public/%2E./admin",
    "/public/..%2fadmin",
    "/public/..%5cadmin",
    "/public/%252e%252e/admin",
    "/public/..;/admin",
    "/public/x;/../../admin",
    "/public/..\\admin",
    "/public//../../admin",
    "//admin",
    "///admin",
    "/./admin",
    "/%2e/admin",
    "/%2e%2e/admin",
    "/%61dmin",
    "/admin%2f",
    "/admin%00",
    "/admin/",
    "/admin?/public/x",
    "/admin?x=/../public/x",
    "/admin#/../public/x",
    "/admin%23/../public/x",
    "/public%2f..%2fadmin",
    "http://open.example/admin",
    "http://a/public/../admin",
)


class Received(NamedTuple):
    """A request as the service got it."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def named_authix(self) -> dict[str, str]:
        """What its headers say of us, in whichever spelling; without the empty ones, which say nothing."""
        return {name.lower(): value for name, value in self.headers if "authix" in name.lower() and value}


class Service:
    """Remembers what reaches it and answers with the digest of the body."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionResetError):  # the proxy's end
                    super().handle()

            def handle_any(self) -> None:
                target = self.requestline.split(" ")[1]  # self.path has lost a second slash
                body = self._body()
                service.received.append(Received(self.command, target, self.headers.items(), body))
                answer = hashlib.sha256(body).hexdigest().encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def _body(self) -> bytes:
                if self.headers["Transfer-Encoding"] is None:
                    return self.rfile.read(int(self.headers["Content-Length"] or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "POST", "PUT", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Answer(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def code(self) -> str:
        """The problem's code."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        code: str = json.loads(self.body)["code"]
        return code


class User(NamedTuple):
    client: httpx.Client
    id: str
    token: str


class Fleet:
    """An issuer, a sidecar under a policy, and a service."""

    def __init__(self, folder: Path) -> None:
        folder.joinpath("authix.toml").write_text(BY_METHOD + POLICY + BY_HOST, encoding="utf-8")
        self._users = folder / "users.db"
        self.service = Service()
        self.issuer = IssuerProgram(folder / "issuer", AUTHIX_USERS_URL=f"sqlite:///{self._users}")
        self.sidecar = SidecarProgram(
            folder / "sidecar",
            self.issuer.url,
            f"http://{HOST}:{self.service.port}",
            AUTHIX_POLICY=str(folder / "authix.toml"),
        )

    def new_user(self, email: str, *roles: str) -> User:
        client = self.issuer.client()
        user_id = register(client, email)
        with closing(sqlite3.connect(self._users)) as users, users:
            users.execute("UPDATE users SET roles = ? WHERE id = ?", (json.dumps(roles), user_id))
        return User(client, user_id, login(client, email))


class Client:
    """One connection to a proxy."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection(HOST, port, timeout=DEADLINE)

    def ask(
        self,
        target: str,
        token: str = "",
        *fields: tuple[str, str],
        method: str = "GET",
        body: bytes = b"",
        host: str = "a",
    ) -> Answer:
        connection = self._connection
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host)
        if token:
            connection.putheader("Authorization", f"Bearer {token}")
        if body:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in fields:
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Answer(answer.status, httpx.Headers(answer.getheaders()), answer.read())

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        fleet.issuer.start().ready()
        fleet.sidecar.start().ready()
        yield fleet
        assert "Traceback" not in fleet.sidecar.output()
    finally:
        fleet.sidecar.kill()
        fleet.issuer.kill()
        fleet.service.end()


@pytest.fixture(scope="module")
def user(fleet: Fleet) -> Iterator[User]:
    user = fleet.new_user("user@example.com")
    with closing(user.client):
        yield user


@pytest.fixture(scope="module")
def admin(fleet: Fleet) -> Iterator[User]:
    admin = fleet.new_user("admin@example.com", "admin")
    with closing(admin.client):
        yield admin


@pytest.fixture(scope="module", params=PROXIES, ids=lambda kind: kind.__name__)
def proxy(request: pytest.FixtureRequest, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    kind: type[Proxy] = request.param
    require(kind.missing())
    folder = tmp_path_factory.mktemp(kind.__name__)
    with kind(folder, auth_port=fleet.sidecar.auth_port, service_port=fleet.service.port) as proxy:
        yield proxy


@pytest.fixture
def ask(proxy: Proxy, fleet: Fleet) -> Callable[..., Answer]:
    """Sends one request on a connection of its own."""
    fleet.service.received.clear()

    def ask(*request: Any, **more: Any) -> Answer:
        with closing(Client(proxy.port)) as client:
            return client.ask(*request, **more)

    return ask


@pytest.fixture
def received(fleet: Fleet) -> list[Received]:
    """What has reached the service in this test."""
    return fleet.service.received


def test_without_a_token_the_client_gets_the_challenge_and_the_reason(
    ask: Callable[..., Answer], received: list[Received]
) -> None:
    answer = ask("/orders?a=b")
    assert (answer.status, answer.code) == (401, "token_missing")
    assert answer.headers.get_list("WWW-Authenticate") == ['Bearer realm="authix"']
    assert answer.headers["Cache-Control"] == "no-store"
    posted = ask("/orders", "not.a.token", method="POST", body=b"x" * 1000)
    assert (posted.status, posted.code) == (401, "token_malformed")
    assert len(posted.headers.get_list("WWW-Authenticate")) == 1
    assert 'error="invalid_token"' in posted.headers["WWW-Authenticate"]
    assert received == []


def test_with_a_token_the_service_learns_who_it_is_also_by_turns_on_one_connection(
    proxy: Proxy, ask: Callable[..., Answer], received: list[Received], user: User, admin: User
) -> None:
    with closing(Client(proxy.port)) as client:
        for who, roles in ((user, ""), (admin, "admin"), (user, "")):
            assert client.ask("/orders/a%2Bb%C3%A9?a=%20b&c", who.token).status == 200
            request = received.pop()
            assert request.target == "/orders/a%2Bb%C3%A9?a=%20b&c"
            found = request.named_authix()
            assert found.pop("x-authix-session")
            assert found == {"x-authix-subject": who.id} | ({"x-authix-roles": roles} if roles else {})


def test_a_role_is_asked_for(ask: Callable[..., Answer], received: list[Received], user: User, admin: User) -> None:
    refused = ask("/admin/users", user.token)
    assert (refused.status, refused.code) == (403, "role_missing")
    assert len(refused.headers.get_list("WWW-Authenticate")) == 1
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert received == []
    assert ask("/admin/users", admin.token).status == 200
    assert received[0].target == "/admin/users"


def test_what_is_public_passes_and_as_nobody(ask: Callable[..., Answer], received: list[Received], user: User) -> None:
    for token in ("", "not.a.token", user.token):
        assert ask("/public/x?y", token, *((name, "admin") for name in SPELLINGS)).status == 200
        request = received.pop()
        assert request.target == "/public/x?y"
        assert request.named_authix() == {}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_client_can_not_say_who_it_is(
    ask: Callable[..., Answer], received: list[Received], user: User, name: str
) -> None:
    ask("/orders", user.token, (name, "admin"), (name, "root"))  # a proxy may refuse such a name altogether
    for request in received:
        found = request.named_authix()
        assert found.pop("x-authix-session")
        assert found == {"x-authix-subject": user.id}
        assert [value for key, value in request.headers if key.lower() == "x-authix-subject"] == [user.id]


@pytest.mark.parametrize("target", TRICKS)
def test_no_spelling_of_a_path_gets_in(
    ask: Callable[..., Answer], received: list[Received], user: User, target: str
) -> None:
    for token in ("", user.token):
        assert ask(target, token).status in {200, 400, 401, 403, 404}
    for request in received:  # Traefik resolves dot segments, and what it has judged is what it sends
        assert request.target == "/public/x"


def test_a_client_can_not_name_another_request_than_its_own(
    ask: Callable[..., Answer], received: list[Received], user: User
) -> None:
    public = {"Method": "GET", "URI": "/public/x", "Uri": "/public/x", "Host": "open.example"}
    for token in ("", user.token):
        for way in ("X-Original", "X-Forwarded", "X_Original", "X_Forwarded"):
            for whole in (public, {"URI": "/public/x"}, {"Host": "open.example"}):
                answer = ask("/admin", token, *((f"{way}-{name}", value) for name, value in whole.items()))
                assert answer.status in {400, 401, 403}
    assert received == []


def test_the_host_that_is_judged_is_the_one_that_the_service_sees(
    ask: Callable[..., Answer], received: list[Received]
) -> None:
    assert ask("/x", host="open.example").status == 200
    assert ask("/x", host="shut.example").status == 401
    ask("http://open.example/x", host="shut.example")
    ask("http://shut.example/x", host="open.example")
    for request in received:
        assert [value for name, value in request.headers if name.lower() == "host"] == ["open.example"]
        assert not request.target.startswith("http://shut.example")


def test_a_method_can_not_be_put_on_by_a_field(
    ask: Callable[..., Answer], received: list[Received], user: User
) -> None:
    assert ask("/notes", user.token).status == 200
    assert ask("/notes", user.token, method="POST").status == 403
    received.clear()
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert ask("/notes", user.token, (name, "POST")).status == 403
    assert received == []


def test_a_body_passes_whole_and_so_does_the_answer(
    ask: Callable[..., Answer], received: list[Received], user: User
) -> None:
    body = os.urandom(700_000)
    answer = ask("/orders", user.token, method="POST", body=body)
    assert (answer.status, answer.body) == (200, hashlib.sha256(body).hexdigest().encode())
    assert (received[0].method, received[0].body) == ("POST", body)


def test_a_second_token_beside_the_first_is_refused(
    ask: Callable[..., Answer], received: list[Received], user: User, admin: User
) -> None:
    assert ask("/orders", user.token, ("Authorization", f"Bearer {admin.token}")).status in {400, 401}
    assert received == []


def test_a_logout_is_heard_within_two_seconds(
    proxy: Proxy, ask: Callable[..., Answer], fleet: Fleet, user: User
) -> None:
    leaving = fleet.new_user(f"{type(proxy).__name__}@example.com")
    with closing(leaving.client):
        assert ask("/orders", leaving.token).status == 200
        assert leaving.client.post("/logout").status_code == 204
        eventually(lambda: ask("/orders", leaving.token).status == 401, "the token is refused", within=2)
    assert ask("/orders", leaving.token).code == "token_revoked"
    assert ask("/orders", user.token).status == 200


def test_nothing_passes_while_the_sidecar_is_away(
    ask: Callable[..., Answer], received: list[Received], fleet: Fleet, user: User
) -> None:
    fleet.sidecar.kill()
    try:
        for target in ("/orders", "/public/x"):
            assert ask(target, user.token).status in {500, 502, 503, 504}
        assert received == []
    finally:
        fleet.sidecar.start().ready()
    eventually(lambda: ask("/orders", user.token).status == 200, "the proxy finds the sidecar again")
