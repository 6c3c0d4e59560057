"""Authix and those it is compared with: how each is started, and what a user says to each.

Rule: each as its own documentation sets it up for production, at the same Argon2 parameters (m=7168 KiB, t=5, p=1: the
defaults of Keycloak, and Authix' profile ``original``), and hashing on all cores. The peers' users are in a PostgreSQL
each, whose CPU is not counted; those of Authix are in SQLite, within the process that is. What a contestant has no way
to do, it leaves out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlencode

from benchmarks.issuer_load import Talk, drive, request
from tests.programs import HOST, PASSWORD, IssuerProgram, Program, eventually, free_port
from tests.servers.mongodb import MongoServer
from tests.servers.packages import NotInstallable, home, install_once, need, run
from tests.servers.redis import RedisServer
from tests.servers.server import START_WITHIN, Server

RECIPES = Path(__file__).parent / "peers"
FASTAPI_USERS = home("fastapi-users", RECIPES / "fastapi_users")
KEYCLOAK = home("keycloak", RECIPES / "keycloak")
KEYCLOAK_VERSION = "26.7.3"
CORES = os.cpu_count() or 1
JSON, FORM = "application/json", "application/x-www-form-urlencoded"

Session = dict[str, str]
"""What a user keeps of a login; a refresh changes it."""


class Contestant(Protocol):
    """One whose users register, log in, refresh, are verified and log out."""

    name: str
    port: int
    service_port: int
    """Of the service whose requests are verified."""
    processes: Sequence[int]
    service_processes: Sequence[int]
    engines: Sequence[int]

    def install(self) -> None: ...

    def start(self, stack: contextlib.ExitStack, folder: Path) -> None: ...

    def register(self, email: str) -> Talk: ...

    def login(self, email: str, kept: list[Session]) -> Talk: ...

    def refresh(self, session: Session, times: int) -> Talk | None: ...

    def verify(self, session: Session, times: int) -> Talk: ...

    def logout(self, session: Session) -> Talk: ...

    def keys(self, times: int) -> Talk | None: ...


def _pid(program: Program | Server) -> int:
    assert program.process is not None
    return program.process.pid


class Authix:
    """Sessions in Redis, users in SQLite within its process, or in MongoDB; the service is FastAPI behind the SDK."""

    name = "Authix"

    def __init__(self, profile: str = "original", *, workers: int = 1, mongo: bool = False, **env: str) -> None:
        self._env = {"AUTHIX_HASH_PROFILE": profile, "AUTHIX_WORKERS": str(workers), **env}
        self._mongo = mongo or workers > 1
        self.service_processes: Sequence[int] = ()

    def install(self) -> None:
        """It is."""

    def start(self, stack: contextlib.ExitStack, folder: Path, *, service: bool = True) -> None:
        self.redis = stack.enter_context(RedisServer(folder / "redis"))
        engines: list[Server] = [self.redis]
        env = {
            "AUTHIX_SESSIONS_URL": self.redis.url,
            "AUTHIX_SECRET": secrets.token_urlsafe(32),
            "AUTHIX_LOG": "json",
            "AUTHIX_HASH_QUEUE": "1000",
        }
        if self._mongo:
            users = stack.enter_context(MongoServer(folder / "mongo"))
            engines.append(users)
            env["AUTHIX_USERS_URL"] = f"{users.url}/authix"
        self.program = IssuerProgram(folder / "issuer", **env | self._env)
        stack.callback(self.program.kill)
        stack.callback(self.program.stop)
        self.program.start().ready()
        self.port = self.program.port
        self.processes: Sequence[int] = [_pid(self.program)]
        self.engines: Sequence[int] = list(map(_pid, engines))
        if service:
            settings = {"AUTHIX_ISSUER": self.program.url, "AUTHIX_AUDIENCE": "tests", "AUTHIX_FEED": self._feed()}
            app = _uvicorn(sys.executable, "benchmarks.protected_service:app", folder, settings)
            self.service_port = app.port
            stack.callback(app.kill)
            app.start().wait_for(f"http://{HOST}:{app.port}/me", 401)
            self.service_processes = [_pid(app)]

    def _feed(self) -> str:
        return f"{self.program.url}/revocations"

    def register(self, email: str) -> Talk:
        answer = yield request("POST", "/register", _json(email), Content_Type=JSON)
        answer.expect(201)

    def login(self, email: str, kept: list[Session]) -> Talk:
        answer = yield request("POST", "/login", _json(email), Content_Type=JSON)
        token = answer.expect(200).json()["access_token"]
        kept.append({"access": token, "cookie": _cookie(answer.head)})

    def refresh(self, session: Session, times: int) -> Talk:
        for _ in range(times):
            answer = yield request("POST", "/access_token", Cookie=session["cookie"])
            session["access"] = answer.expect(200).json()["access_token"]
            session["cookie"] = _cookie(answer.head)

    def verify(self, session: Session, times: int) -> Talk:
        return _repeat(times, 200, "GET", "/me", Authorization=f"Bearer {session['access']}")

    def logout(self, session: Session) -> Talk:
        answer = yield request("POST", "/logout", Cookie=session["cookie"])
        answer.expect(204)

    def keys(self, times: int) -> Talk:
        return _repeat(times, 200, "GET", "/.well-known/jwks.json")


class FastAPIUsers:
    """Has no refresh, no key set (tokens are signed by a shared secret), and a logout that changes nothing."""

    name = "fastapi-users"

    def __init__(self, argon2: tuple[int, int, int] = (7168, 5, 1)) -> None:
        self._argon2 = ",".join(map(str, argon2))

    def install(self) -> None:
        install_once(FASTAPI_USERS, _make_environment)

    def start(self, stack: contextlib.ExitStack, folder: Path) -> None:
        postgres = stack.enter_context(Postgres(folder / "postgres"))
        env = {
            "ARGON2": self._argon2,
            "SECRET": secrets.token_urlsafe(32),
            "DATABASE": f"postgresql+asyncpg://authix@{HOST}:{postgres.port}/postgres",
            "PYTHONPATH": str(RECIPES / "fastapi_users"),
        }
        python = str(FASTAPI_USERS / "bin" / "python")
        first = _uvicorn(python, "fastapi_users_app:app", folder, {**env, "CREATE": "yes"})
        app = _uvicorn(python, "fastapi_users_app:app", folder, env, workers=CORES)
        for program in (first, app):
            stack.callback(program.kill)
        first.start().wait_for(f"http://{HOST}:{first.port}/me", 401).stop()
        app.start().wait_for(f"http://{HOST}:{app.port}/me", 401)
        stack.callback(app.stop)
        self.port = self.service_port = app.port
        self.processes: Sequence[int] = [_pid(app)]
        self.service_processes: Sequence[int] = self.processes
        self.engines: Sequence[int] = [_pid(postgres)]

    def register(self, email: str) -> Talk:
        answer = yield request("POST", "/auth/register", _json(email), Content_Type=JSON)
        answer.expect(201)

    def login(self, email: str, kept: list[Session]) -> Talk:
        body = urlencode({"username": email, "password": PASSWORD}).encode("ascii")
        answer = yield request("POST", "/auth/jwt/login", body, Content_Type=FORM)
        kept.append({"access": answer.expect(200).json()["access_token"]})

    def refresh(self, session: Session, times: int) -> None:  # noqa: ARG002 - it has none
        return None

    def verify(self, session: Session, times: int) -> Talk:
        return _repeat(times, 200, "GET", "/me", Authorization=f"Bearer {session['access']}")

    def logout(self, session: Session) -> Talk:
        return _repeat(1, 204, "POST", "/auth/jwt/logout", Authorization=f"Bearer {session['access']}")

    def keys(self, times: int) -> None:  # noqa: ARG002 - it has none
        return None


class Keycloak:
    """Registers by the admin interface, which costs it less than its form; verifies as ``userinfo`` does it.

    Only by asking can a service of Keycloak's know of a logout before the token ends, so that is what is beside Authix.
    """

    name = "Keycloak"
    _tokens = "/realms/bench/protocol/openid-connect/token"

    def install(self) -> None:
        need("java", "default-jre-headless")
        need("mvn", "maven")
        install_once(KEYCLOAK, _download_keycloak)

    def start(self, stack: contextlib.ExitStack, folder: Path) -> None:
        postgres = stack.enter_context(Postgres(folder / "postgres"))
        server = stack.enter_context(KeycloakServer(folder / "keycloak", postgres))
        self.port = self.service_port = server.port
        self.processes: Sequence[int] = [_pid(server)]
        self.service_processes: Sequence[int] = self.processes
        self.engines: Sequence[int] = [_pid(postgres)]
        self._admin = ""
        drive(self.port, [self._become_registrar()])

    def _become_registrar(self) -> Talk:
        fields = {"grant_type": "client_credentials", "client_id": "registrar", "client_secret": "registrar-secret"}
        answer = yield request("POST", self._tokens, urlencode(fields).encode("ascii"), Content_Type=FORM)
        self._admin = answer.expect(200).json()["access_token"]

    def register(self, email: str) -> Talk:
        user = {
            "username": email,
            "email": email,
            "firstName": "Some",
            "lastName": "Body",
            "enabled": True,
            "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
        }
        body = _encoded(user)
        answer = yield request(
            "POST", "/admin/realms/bench/users", body, Content_Type=JSON, Authorization=f"Bearer {self._admin}"
        )
        answer.expect(201)

    def login(self, email: str, kept: list[Session]) -> Talk:
        fields = {"grant_type": "password", "client_id": "app", "scope": "openid"}
        body = urlencode(fields | {"username": email, "password": PASSWORD}).encode("ascii")
        answer = yield request("POST", self._tokens, body, Content_Type=FORM)
        found = answer.expect(200).json()
        kept.append({"access": found["access_token"], "refresh": found["refresh_token"]})

    def refresh(self, session: Session, times: int) -> Talk:
        for _ in range(times):
            fields = {"grant_type": "refresh_token", "client_id": "app", "refresh_token": session["refresh"]}
            answer = yield request("POST", self._tokens, urlencode(fields).encode("ascii"), Content_Type=FORM)
            found = answer.expect(200).json()
            session["access"], session["refresh"] = found["access_token"], found["refresh_token"]

    def verify(self, session: Session, times: int) -> Talk:
        path = "/realms/bench/protocol/openid-connect/userinfo"
        return _repeat(times, 200, "GET", path, Authorization=f"Bearer {session['access']}")

    def logout(self, session: Session) -> Talk:
        body = urlencode({"client_id": "app", "refresh_token": session["refresh"]}).encode("ascii")
        answer = yield request("POST", "/realms/bench/protocol/openid-connect/logout", body, Content_Type=FORM)
        answer.expect(204)

    def keys(self, times: int) -> Talk:
        return _repeat(times, 200, "GET", "/realms/bench/protocol/openid-connect/certs")


PEERS: tuple[Callable[[], Contestant], ...] = (FastAPIUsers, Keycloak)


class KeycloakServer(Server):
    """In production mode, with what it builds once for its database built."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        super().__init__(folder)
        self._postgres = postgres

    def command(self) -> Sequence[str]:
        database = f"jdbc:postgresql://{HOST}:{self._postgres.port}/postgres"
        env = {"KC_DB_URL": database, "KC_DB_USERNAME": "authix", "KC_DB_PASSWORD": "unused"}
        local = ["--http-enabled=true", f"--http-host={HOST}", f"--http-port={self.port}", "--hostname-strict=false"]
        start = [str(KEYCLOAK / "bin" / "kc.sh"), "start", "--optimized", "--import-realm", "--cache=local", *local]
        return ["env", *(f"{name}={value}" for name, value in env.items()), *start]

    def wait(self) -> Self:
        """It makes its tables first."""
        try:
            eventually(self._answers_or_ended, f"{self} answers", START_WITHIN * 4)
        except BaseException:
            self.kill()
            raise
        return self

    def answers(self) -> bool:
        with contextlib.suppress(AssertionError):
            drive(self.port, [_repeat(1, 200, "GET", "/realms/bench")])
            return True
        return False

    def kill(self) -> None:
        """Its script is its parent: ask both, so that neither is left."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        super().kill()


class Postgres(Server):
    """As Debian installs it, durable by its defaults. It refuses to be root, so root becomes ``postgres`` for it."""

    @classmethod
    def program(cls, name: str) -> str | None:
        folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
        return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))

    @classmethod
    def missing(cls) -> str | None:
        return None if cls.program("postgres") else "There is no PostgreSQL (Debian: apt-get install postgresql)."

    def prepare(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
            for folder in self.folder.parents[:2]:
                folder.chmod(0o755)
        if not (self.folder / "data").exists():
            new = [str(self.program("initdb")), "-D", str(self.folder / "data"), "-A", "trust", "-U", "authix"]
            run([*self._as_nobody(), *new], "Making a PostgreSQL database")

    def command(self) -> Sequence[str]:
        place = ["-D", str(self.folder / "data"), "-h", HOST, "-p", str(self.port), "-k", ""]
        return [*self._as_nobody(), str(self.program("postgres")), *place]

    def answers(self) -> bool:
        return (
            subprocess.run(
                [str(self.program("pg_isready")), "-q", "-h", HOST, "-p", str(self.port)], check=False
            ).returncode
            == 0
        )

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()  # a killed one leaves its children

    def _as_nobody(self) -> list[str]:
        if os.geteuid():
            return []
        user = pwd.getpwnam("postgres")
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


class _Uvicorn(Program):
    port: int


def _uvicorn(python: str, app: str, folder: Path, env: dict[str, str], workers: int = 1) -> _Uvicorn:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    quick = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    arguments = [app, "--host", HOST, "--port", str(port), "--workers", str(workers), *quick]
    root = str(Path(__file__).parents[1])
    program = _Uvicorn("uvicorn", arguments, {"PYTHONPATH": root, **env}, folder / f"uvicorn-{port}.log")
    program.command[0], program.port = python, port
    return program


def _make_environment(folder: Path) -> None:
    uv = [sys.executable, "-m", "uv"]
    # a venv does not move: its packages do
    run(
        [*uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(folder), "--allow-existing"], "A venv"
    )
    recipe = str(RECIPES / "fastapi_users" / "requirements.txt")
    install = [*uv, "pip", "install", "--python", str(folder), "--require-hashes", "--no-deps", "--requirement", recipe]
    run(install, "The installation of fastapi-users")


def _download_keycloak(folder: Path) -> None:
    artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK_VERSION}:tar.gz"
    copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
    fetched = folder.parent / "fetched"
    run(
        ["mvn", "--batch-mode", "--quiet", copy, f"-Dartifact={artifact}", f"-DoutputDirectory={fetched}"],
        "The download of Keycloak by Maven",
    )
    (archive,) = fetched.iterdir()
    expected = (RECIPES / "keycloak" / "keycloak.sha256").read_text(encoding="ascii").split()[0]
    if hashlib.sha256(archive.read_bytes()).hexdigest() != expected:
        raise NotInstallable(f"{archive.name} is not the one of benchmarks/peers/keycloak/keycloak.sha256.")
    with tarfile.open(archive) as packed:
        packed.extractall(fetched, filter="data")
    for part in (fetched / f"keycloak-{KEYCLOAK_VERSION}").iterdir():
        part.rename(folder / part.name)
    (folder / "data" / "import").mkdir(parents=True)
    shutil.copy(RECIPES / "keycloak" / "realm.json", folder / "data" / "import")
    run([str(folder / "bin" / "kc.sh"), "build", "--db=postgres"], "Keycloak's build for PostgreSQL")


def _repeat(times: int, status: int, method: str, path: str, **headers: str) -> Talk:
    asked = request(method, path, **headers)
    for _ in range(times):
        answer = yield asked
        answer.expect(status)


def _json(email: str) -> bytes:
    return _encoded({"email": email, "password": PASSWORD})


def _encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("utf-8")


def _cookie(head: bytes) -> str:
    _, _, rest = head.lower().partition(b"\r\nset-cookie:")
    assert rest, head
    return head[len(head) - len(rest) :].partition(b";")[0].strip().decode("ascii")
