"""What docs/backup.md says of copies: which are worth having, and what a restore does to logouts."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest

from authix import Verifier
from authix.errors import TokenError
from authix.events import Snapshot
from authix.keys import KeySet
from tests.programs import PASSWORD, IssuerProgram, Program, eventually, login, register
from tests.servers.redis import RedisServer

COOKIE = "authix_refresh"


class Disk:
    """Where the sessions are kept: copied and put back while nothing runs."""

    def __init__(self, folder: Path, redis: RedisServer | None) -> None:
        self._folder = folder
        self._copy = folder.with_name("copy")
        self._redis = redis

    @property
    def settings(self) -> dict[str, str]:
        return {"AUTHIX_SESSIONS_URL": self._redis.url if self._redis else f"sqlite:///{self._folder / 'sessions.db'}"}

    def copy(self) -> None:
        self._move(self._folder, self._copy)

    def restore(self) -> None:
        shutil.rmtree(self._folder)
        self._move(self._copy, self._folder)

    def _move(self, here: Path, there: Path) -> None:
        if self._redis:
            self._redis.stop()
        shutil.copytree(here, there)
        if self._redis:
            self._redis.start()


@pytest.fixture(params=["sqlite", "redis"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "sqlite":
        return Disk(tmp_path / "sessions", None)
    redis: RedisServer = request.getfixturevalue("redis_server")
    return Disk(redis.folder, redis)


@pytest.fixture
def issuer(start_issuer: Callable[..., IssuerProgram]) -> IssuerProgram:
    return start_issuer()


def refresh(client: httpx.Client, cookie: str) -> httpx.Response:
    client.cookies.clear()
    return client.post("/access_token", headers={"Cookie": f"{COOKIE}={cookie}"})


def code_of(answer: httpx.Response) -> str:
    code: str = answer.json().get("code", "")
    return code


def judge(client: httpx.Client, token: str) -> str:
    """The code by which a verifier that starts now refuses the token; empty when it takes it."""
    snapshot = msgspec.json.decode(client.get("/revocations").content, type=Snapshot)
    verifier = Verifier(issuer=str(client.base_url).rstrip("/"), audience="tests")
    verifier.use_keys(KeySet.from_json(client.get("/.well-known/jwks.json").content))
    for event in (*snapshot.revocations, snapshot.heartbeat):
        verifier.apply(event, monotonic=0)
    try:
        verifier.verify(token, now=time.time(), monotonic=0)
    except TokenError as error:
        return error.code
    return ""


def test_restored_sessions_undo_logouts_and_throw_out_who_stayed(
    tmp_path: Path, programs: Callable[[Program], Program], disk: Disk
) -> None:
    issuer = IssuerProgram(tmp_path / "issuer", **disk.settings)
    programs(issuer)
    issuer.start().ready()
    cookies = {}
    for name in ("leaver", "stayer"):
        with issuer.client() as client:
            register(client, f"{name}@example.com")
            login(client, f"{name}@example.com")
            cookies[name] = client.cookies[COOKIE]
    issuer.stop()
    disk.copy()
    issuer.start().ready()
    with issuer.client() as client:
        # several times, as it is after some minutes
        for _ in range(2):
            cookies["stayer"] = refresh(client, cookies["stayer"]).cookies[COOKIE]
        client.cookies.clear()
        assert client.post("/logout", headers={"Cookie": f"{COOKIE}={cookies['leaver']}"}).status_code == 204
        assert code_of(refresh(client, cookies["leaver"])) == "refresh_token_invalid"
    issuer.stop()
    disk.restore()
    issuer.start().ready()
    with issuer.client() as client:
        assert refresh(client, cookies["leaver"]).status_code == 200
        assert code_of(refresh(client, cookies["stayer"])) == "refresh_token_reused"


def test_after_a_restore_as_the_page_has_it_no_token_of_before_is_taken_and_logins_work(issuer: IssuerProgram) -> None:
    data = Path(issuer.env["AUTHIX_DATA_DIR"])
    copy = data.with_name("users-copy.db")
    with issuer.client() as client:
        register(client, "ann@example.com")
        logged_out = login(client, "ann@example.com")
        with closing(sqlite3.connect(data / "users.db")) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        assert client.post("/logout").status_code == 204
        register(client, "bob@example.com")
        live = login(client, "ann@example.com")
        cookie = client.cookies[COOKIE]

    issuer.stop()
    for name in ("users", "sessions"):
        for end in ("", "-wal", "-shm"):
            (data / f"{name}.db{end}").unlink(missing_ok=True)
    shutil.copy(copy, data / "users.db")
    issuer.start().ready()

    with issuer.client() as client:
        # why the page has the keys revoked: the empty log tells a new verifier of no logout
        assert judge(client, logged_out) == ""
        for line in issuer.run("keys", "list").stdout.splitlines():
            key, _, state, *_ = line.split()
            if state in {"signing", "retired"}:
                assert issuer.run("keys", "revoke", key).returncode == 0
        assert judge(client, logged_out) == judge(client, live) == "key_revoked"
        assert code_of(refresh(client, cookie)) == "refresh_token_invalid"

        client.cookies.clear()
        # the issuer reads of the revocation about a second later
        eventually(lambda: judge(client, login(client, "ann@example.com")) == "", "a login's token is taken")
        gone = client.post("/login", json={"email": "bob@example.com", "password": PASSWORD})
        assert code_of(gone) == "credentials_wrong"
