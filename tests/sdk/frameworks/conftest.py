"""The frameworks' shared walk: real servers with several workers beside one real issuer, and users of it.

Every service in ``services/`` offers the same, so that the tests are the same for all of them:

* ``GET /open`` needs no token: ``{"ready": bool}``, of the worker that answers
* ``GET /me`` needs a token: ``{"subject": …, "session": …, "roles": […]}``
* ``GET /admin`` needs the role ``admin``: as ``/me``
* ``GET /lax`` needs a token, and accepts it while the feed is stale too: as ``/me``
* ``GET /events`` needs a token: an event stream whose first event is the subject and which goes on for ever
* WebSocket ``/ws`` needs a token: says the subject, then says again whatever it hears

Each HTTP answer, a refusal too, has the header ``X-Worker``: the id of the process that gave it. Settings come from the
environment. A new framework is one more line in ``SERVERS``.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from authix.testing import InProcessIssuer
from tests.programs import DEADLINE, HOST, IssuerProgram, Program, bearer, eventually, free_port, login, register

SERVICES = Path(__file__).with_name("services")
ROOT = Path(__file__).parents[3]
READY_WITHIN = 60.0
"""Seconds that a server with its workers may take to start on a busy machine."""


class Server(NamedTuple):
    """How a framework's service is run: ``python -m module``, or a script of ``services``; ``{port}`` is filled in."""

    module: str
    arguments: tuple[str, ...] = ()
    workers: int = 2
    sockets: bool = True
    """Whether it has WebSockets."""
    events: bool = True
    """Whether it has event streams."""
    walked: bool = True
    """Whether it takes the whole walk."""


def uvicorn(app: str) -> Server:
    path = f"tests.sdk.frameworks.services.{app}"
    return Server("uvicorn", (path, "--port={port}", "--workers=2", "--timeout-graceful-shutdown=1"))


def gunicorn(app: str, workers: int = 2) -> Server:
    path = f"tests.sdk.frameworks.services.{app}"
    how = ("--preload", f"--workers={workers}", "--worker-class=gthread", "--threads=4", "--graceful-timeout=1")
    return Server("gunicorn", (path, "--bind=127.0.0.1:{port}", *how), workers=workers, sockets=False)


SERVERS = {
    "starlette": uvicorn("starlette_service:app"),
    "fastapi": uvicorn("fastapi_service:app"),
    "sanic": Server("sanic_service.py", ("{port}", "2")),
    "aiohttp": Server("aiohttp_service.py", ("{port}", "2")),
    "flask": gunicorn("flask_service:app", workers=4),
    "django": gunicorn("django_service:app"),
    "django-async": uvicorn("django_async_service:app")._replace(sockets=False),
    "drf": gunicorn("drf_service:app"),
    "flask-uwsgi": Server("uwsgi.py", ("{port}", "3"), workers=3, sockets=False, walked=False),
}


class User:
    """A registered user with one device."""

    def __init__(self, issuer: IssuerProgram) -> None:
        self.issuer = issuer
        self.email = f"{secrets.token_hex(8)}@example.com"
        self._client = issuer.client()
        self.subject = register(self._client, self.email)

    def login(self) -> str:
        """An access token."""
        return login(self._client, self.email)

    def logout(self) -> None:
        assert self._client.post("/logout").status_code == 204

    def grant(self, role: str) -> None:
        """What an administrator of the issuer would do; counts from the next login."""
        path = Path(self.issuer.env["AUTHIX_DATA_DIR"], "users.db")
        with closing(sqlite3.connect(path, timeout=DEADLINE)) as store:
            store.execute("UPDATE users SET roles = ? WHERE id = ?", (f'["{role}"]', self.subject))
            store.commit()

    def close(self) -> None:
        self._client.close()


class Service:
    """A running service under test."""

    def __init__(self, program: Program, port: int, server: Server) -> None:
        self.program = program
        self.server = server
        self.url = f"http://{HOST}:{port}"
        self.workers: set[str] = set()
        """The ids of its processes, once it is ready."""

    def ask(
        self, path: str, token: str | None = None, *, headers: list[tuple[str, str]] | None = None
    ) -> httpx.Response:
        """Ask on a connection of its own, so that any worker may answer."""
        sent = [*(bearer(token).items() if token else ()), *(headers or ()), ("Connection", "close")]
        return httpx.get(f"{self.url}{path}", headers=sent, timeout=DEADLINE, trust_env=False)

    def listening(self) -> Service:
        """Wait until every worker answers."""
        self.program.wait_for(f"{self.url}/open", within=READY_WITHIN)
        return self._wait_for_workers("listens", lambda answer: True)

    def ready(self) -> Service:
        """Wait until every worker is."""
        self.program.wait_for(f"{self.url}/open", within=READY_WITHIN)
        return self._wait_for_workers("is ready", lambda answer: answer.json()["ready"] is True)

    def _wait_for_workers(self, what: str, condition: Callable[[httpx.Response], bool]) -> Service:
        self.workers.clear()

        def all_do() -> bool:
            answer = self.ask("/open")
            assert answer.status_code == 200, f"{answer.text}\n{self.program.output()}"
            if condition(answer):
                self.workers.add(answer.headers["x-worker"])
            return len(self.workers) == self.server.workers

        eventually(
            all_do,
            lambda: f"every worker {what}, not only {self.workers}; its log:\n{self.program.output()}",
            READY_WITHIN,
        )
        return self

    def every_worker_answers(self, path: str, token: str, status: int, code: str | None = None) -> None:
        """Wait until every worker has given this answer, and see that none gives another after its first."""
        given: set[str] = set()

        def all_have() -> bool:
            answer = self.ask(path, token)
            worker = answer.headers["x-worker"]
            if answer.status_code == status:
                assert code is None or answer.json()["code"] == code
                given.add(worker)
            assert worker not in given or answer.status_code == status, f"worker {worker} changed its mind"
            return given == self.workers

        eventually(all_have, lambda: f"workers {self.workers} answer {status}; those that did: {given}")

    def open_socket(self, token: str | None) -> ClientConnection:
        headers = bearer(token) if token else {}
        url = f"{self.url.replace('http', 'ws', 1)}/ws"
        return connect(url, additional_headers=headers, proxy=None, open_timeout=DEADLINE, close_timeout=DEADLINE)

    @contextmanager
    def open_events(self, token: str) -> Iterator[Iterator[str]]:
        """The event stream's lines that hold data; ends when the service ends it. An unclean end raises."""
        with httpx.stream(
            "GET", f"{self.url}/events", headers=bearer(token), timeout=DEADLINE, trust_env=False
        ) as answer:
            assert answer.status_code == 200, answer.read()
            yield (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))


StartService = Callable[..., Service]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``framework``, or what comes from it, is one for every framework that has what it needs."""
    if "framework" in metafunc.fixturenames:
        able = [
            name
            for name, server in SERVERS.items()
            if server.walked
            and (server.sockets or "open_socket" not in metafunc.fixturenames)
            and (server.events or "open_events" not in metafunc.fixturenames)
        ]
        metafunc.parametrize("framework", able, scope="session")


@pytest.fixture(scope="session")
def started() -> Iterator[Callable[[Program], Program]]:
    """Starts a program and ends it with the session."""
    with ExitStack() as stack:

        def start(program: Program) -> Program:
            stack.callback(program.kill)
            stack.callback(lambda: program.process and program.process.poll() is None and program.stop())
            return program.start()

        yield start


@pytest.fixture(scope="session")
def issuer(started: Callable[[Program], Program], tmp_path_factory: pytest.TempPathFactory) -> IssuerProgram:
    """One issuer for all tests: each has users of its own."""
    program = IssuerProgram(tmp_path_factory.mktemp("issuer"))
    started(program)
    return program.ready()


def run(framework: str, folder: Path, **env: str) -> Service:
    """``framework``'s service, not yet started."""
    server, port = SERVERS[framework], free_port()
    module = str(SERVICES / server.module) if server.module.endswith(".py") else server.module
    settings = {"AUTHIX_AUDIENCE": "tests", "PYTHONPATH": str(ROOT), **env}
    arguments = [argument.format(port=port) for argument in server.arguments]
    return Service(Program(module, arguments, settings, folder / f"{framework}.log"), port, server)


@pytest.fixture(scope="session")
def service(framework: str, issuer: IssuerProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The framework's service with all its workers ready, for all tests that take it."""
    found = run(framework, tmp_path_factory.mktemp(framework), AUTHIX_ISSUER=issuer.url)
    with ExitStack() as stack:
        stack.callback(found.program.kill)
        stack.callback(found.program.stop)
        found.program.start()
        yield found.ready()


@pytest.fixture
def start_service(framework: str, tmp_path: Path, programs: Callable[[Program], Program]) -> StartService:
    """``start_service(AUTHIX_ISSUER=…)``: a service of the test's own, started; ``.ready()`` waits for it."""

    def start(**env: str) -> Service:
        found = run(framework, tmp_path, **env)
        programs(found.program).start()
        return found

    return start


@pytest.fixture
def on_uwsgi(issuer: IssuerProgram, tmp_path: Path, programs: Callable[[Program], Program]) -> Service:
    """Flask under uWSGI with all its workers ready."""
    found = run("flask-uwsgi", tmp_path, AUTHIX_ISSUER=issuer.url)
    programs(found.program).start()
    return found.ready()


@pytest.fixture
def open_socket(service: Service) -> Callable[[str | None], ClientConnection]:
    """``open_socket(token)``: a WebSocket to the service; only for frameworks that have them."""
    return service.open_socket


@pytest.fixture
def open_events(service: Service) -> Callable[[str], AbstractContextManager[Iterator[str]]]:
    """``open_events(token)``: an event stream of the service; only for frameworks that have them."""
    return service.open_events


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessIssuer]:
    """The test kit's issuer, for services in the test's own process, with the settings in the environment."""
    names = {"issuer": "https://auth.example.com", "audience": "orders"}
    for name, value in names.items():
        monkeypatch.setenv(f"AUTHIX_{name.upper()}", value)
    with InProcessIssuer(issuer=names["issuer"], audience=names["audience"]) as issuer:
        yield issuer


@pytest.fixture
def new_user(issuer: IssuerProgram) -> Iterator[Callable[[], User]]:
    """``new_user()``: another registered user."""
    with ExitStack() as stack:

        def make() -> User:
            user = User(issuer)
            stack.callback(user.close)
            return user

        yield make
