"""No secret is ever told: one run of everything at the most talkative level, and then a look through all output.

A failure names the secret and the place, and does not repeat the secret.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import httpx
import pytest
from pymongo import MongoClient

from authix_issuer.key_seal import KeySeal
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import KeptRing
from tests.programs import IssuerProgram, SidecarProgram, bearer, eventually, free_port
from tests.servers.fixtures import require
from tests.servers.redis import RedisServer

COOKIE, ANN, BOB, ROOT = "authix_refresh", "ann@example.com", "bob@example.com", "root@example.com"
MOST_TALKATIVE = {"AUTHIX_LOG_LEVEL": "debug", "PYTHONASYNCIODEBUG": "1"}


def a_password(who: str) -> str:
    """Spelled in another way by everything that escapes."""
    return f'{who} "{secrets.token_hex(12)}" & <ü>/\\%+'


def a_token() -> str:
    return secrets.token_urlsafe(32) + "+/=="


def spellings(secret: str | bytes) -> set[str]:
    """As texts, headers, URLs, JSON, Python and base64 write it, the last one also in the midst of something."""
    data = secret.encode() if isinstance(secret, str) else secret
    found = {data.hex(), repr(data)[2:-1]}
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"\0" * before + data).decode()[(0, 2, 3)[before] :].rstrip("=")[:-1])
    if isinstance(secret, str):
        found |= {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
        found |= {json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
        found |= {secret.encode("unicode_escape").decode(), data.decode("latin-1")}
    return found


class Secrets:
    """Every secret of a run by name, and everything that was told by place."""

    def __init__(self) -> None:
        self._spelled: dict[str, set[str]] = {}
        self._told: dict[str, str] = {}

    def know(self, name: str, secret: str | bytes) -> None:
        assert len(secret) >= 16, name
        self._spelled.setdefault(name, set()).update(spellings(secret))

    def know_access(self, token: str) -> None:
        self.know("access token", token)
        self.know("signature of an access token", token.rpartition(".")[2])

    def know_refresh(self, token: str) -> None:
        self.know("refresh token", token)
        data = base64.urlsafe_b64decode(token.removeprefix("axr1.") + "==")
        self.know("secret of a session", data[8:40])
        self.know("HMAC of a refresh token", data[-32:])

    def know_master(self, secret: str) -> None:
        self.know("master secret", secret)
        for purpose in ("refresh-token", "key-ring"):
            self.know(f"key of the master secret for {purpose}", MasterSecret(secret).derive(purpose))

    def tell(self, place: str, text: str) -> None:
        self._told[place] = self._told.get(place, "") + text

    def leaks(self) -> list[str]:
        return sorted(
            f"{name}: {place}"
            for name, spelled in self._spelled.items()
            for place, text in self._told.items()
            if any(one in text for one in spelled)
        )

    @property
    def names(self) -> set[str]:
        return set(self._spelled)

    def told(self, place: str) -> str:
        return self._told[place]


class Run:
    """An issuer, and whoever uses it; each secret is known before it is used."""

    def __init__(self, issuer: IssuerProgram, found: Secrets) -> None:
        self.issuer, self.found = issuer, found
        self.client = issuer.client()
        self.client.event_hooks["response"].append(self._keep_refusal)
        self.astray = issuer.client()
        """For a secret as a name or in a path, which an answer may repeat to who sent it, and no log."""

    def _keep_refusal(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            answer.read()
            self.found.tell("answers that refuse", f"{answer.headers}\n{answer.text}\n")

    def post(self, path: str, body: dict[str, Any] | None = None, refresh: str = "", **more: Any) -> httpx.Response:
        headers = more.pop("headers", {}) | ({"Cookie": f"{COOKIE}={refresh}"} if refresh else {})
        answer = self.client.post(path, json=body, headers=headers, **more)
        if answer.is_success and COOKIE in answer.cookies and path in {"/login", "/access_token"}:
            self.found.know_access(answer.json()["access_token"])
            self.found.know_refresh(answer.cookies[COOKIE])
        self.client.cookies.clear()
        return answer

    def log_in(self, email: str, password: str) -> tuple[str, str]:
        """An access token and a refresh token."""
        answer = self.post("/login", {"email": email, "password": password})
        assert answer.status_code == 200, answer.status_code
        return answer.json()["access_token"], answer.cookies[COOKIE]

    def password(self, name: str) -> str:
        password = a_password(name)
        self.found.know(f"password: {name}", password)
        return password

    def command(self, *arguments: str, given: str = "", answers: int = 0, **env: str) -> str:
        """What a command prints, which is looked through too; what ``--generate`` prints is a secret elsewhere."""
        before = dict(self.issuer.env)
        self.issuer.env |= env
        try:
            ran = self.issuer.run(*arguments, given=given)
        finally:
            self.issuer.env = before
        place = f"authix-issuer {' '.join(arguments[:2])}"
        assert ran.returncode == answers, (place, ran.returncode)
        printed = ran.stdout
        if "--generate" in arguments:
            password = json.loads(printed).pop("password")
            printed = printed.replace(password, "")
            self.found.know("password: generated", password)
        self.found.tell(f"{place}, output", printed)
        self.found.tell(f"{place}, errors", ran.stderr)
        return ran.stdout


def use_accounts(run: Run) -> None:
    """Register, log in and out, refresh, be stolen from, change, delete: rightly and wrongly."""
    first, second, wrong = run.password("first"), run.password("second"), run.password("wrong")
    for _ in range(2):
        run.post("/register", {"email": ANN, "password": first})
    run.post("/register", {"email": f"{wrong}@example.com", "password": run.password("with a bad email")})
    for password in ("a" * 20, BOB * 2, run.password("too long") * 40):
        run.post("/register", {"email": BOB, "password": password})
    run.post("/login", {"email": ANN, "password": wrong})
    run.post("/login", {"email": wrong, "password": first})  # in the wrong field
    run.client.post("/login", content=json.dumps({"email": ANN, "password": first}) + "x")
    run.client.post("/login", content=f'{{"email":"{ANN}","password":{json.dumps(first)}', headers=JSON)
    run.client.post("/login", data={"email": ANN, "password": first})
    run.client.get("/login", params={"email": ANN, "password": first})
    access, refresh = run.log_in(ANN, first)
    refreshed = [refresh]
    for _ in range(3):
        refreshed.append(run.post("/access_token", refresh=refreshed[-1]).cookies[COOKIE])
    assert run.post("/access_token", refresh=refresh).json()["code"] == "refresh_token_reused"  # theft
    forged = refresh[:-3] + "AAA"
    run.found.know("refresh token: forged", forged)
    for path in ("/access_token", "/logout"):
        run.post(path, refresh=forged)
        run.post(path, refresh=f"{refresh}%00")
    access, refresh = run.log_in(ANN, first)
    for shown in (f"{access}x", f"{access} {access}", f"{access[:-5]}AAAAA", refresh):
        for path in ("/account", "/sessions", "/admin/users", "/revocations"):
            run.client.get(path, headers={"Authorization": f"Bearer {shown}"})
        run.post("/logout", headers={"Authorization": f"Bearer {shown}"})
    run.astray.get(f"/{refresh}", params={"token": access})
    run.astray.get(f"/sessions/{access}", headers=bearer(access))
    run.client.delete(f"/sessions/{refresh}", headers=bearer(access))
    run.client.get("/livez", headers={"User-Agent": "probe", "Accept": access, "X-Request-Id": "1", "Origin": "null"})
    change = {"current_password": wrong, "new_password": second}
    assert run.post("/account/password", change, headers=bearer(access)).status_code == 403
    assert run.post("/account/password", change | {"current_password": first}, headers=bearer(access)).is_success
    access, refresh = run.log_in(ANN, second)
    run.post("/account/email", {"password": wrong, "email": BOB}, headers=bearer(access))
    assert run.post("/account/email", {"password": second, "email": BOB}, headers=bearer(access)).status_code == 200
    access, refresh = run.log_in(BOB, second)
    for scope in ("session", "nonsense", refresh):
        run.post(f"/logout?scope={scope}", refresh=refresh, headers=bearer(access))
    access, _ = run.log_in(BOB, second)
    run.post("/account/delete", {"password": wrong}, headers=bearer(access))
    assert run.post("/account/delete", {"password": second}, headers=bearer(access)).status_code == 204
    run.client.get("/account", headers=bearer(access))


JSON = {"Content-Type": "application/json"}


def use_oauth(run: Run, email: str, password: str) -> None:
    """Introspect and revoke, with the right tokens and the wrong ones."""
    token, wrong = run.issuer.env["AUTHIX_INTROSPECTION_TOKEN"], a_token()
    run.found.know("introspection token: wrong", wrong)
    access, refresh = run.log_in(email, password)
    basic = base64.b64encode(f"orders:{quote(token, safe='')}".encode()).decode()
    for authorization in (f"Bearer {token}", f"Bearer {wrong}", f"Basic {basic}", f"Basic {basic}x", token):
        for asked in (access, refresh, f"{access}x", token):
            run.client.post("/introspect", data={"token": asked}, headers={"Authorization": authorization})
    run.client.post("/introspect", json={"token": access}, headers=bearer(token))
    run.client.post("/introspect", params={"token": access}, headers=bearer(token))
    for given in (refresh, access, f"{refresh}x", token):
        run.client.post("/revoke", data={"token": given})
        run.client.post("/revoke", data={"token": given, "Token": given, "token_type_hint": given})
    run.client.post("/revoke", content=f"token={refresh}&token={access}", headers={"Content-Type": FORM})


FORM = "application/x-www-form-urlencoded"


def administer(run: Run, root_password: str) -> None:
    """Everything that an administrator does over HTTP."""
    access, _ = run.log_in(ROOT, root_password)
    headers, old, new = bearer(access), run.password("given by an administrator"), run.password("reset")
    made = run.post("/admin/users", {"email": BOB, "password": old, "roles": ["editor"]}, headers=headers).json()["id"]
    run.post("/admin/users", {"email": BOB, "password": old, "token": access}, headers=headers)
    run.log_in(BOB, old)
    for body in ({"password": [new]}, {"passwort": new}, {"password": new}):
        run.post(f"/admin/users/{made}/password", body, headers=headers)
    run.astray.post(f"/admin/users/{made}/password", json={"password": new, new: new}, headers=headers)
    access_of_bob, _ = run.log_in(BOB, new)
    run.client.get("/admin/users", headers=bearer(access_of_bob))
    run.client.patch(f"/admin/users/{made}", json={"claims": {"team": "blue"}}, headers=headers)
    run.client.get("/admin/users", params={"email": new}, headers=headers)
    run.astray.get("/admin/users", params={"after": access, new: new}, headers=headers)
    run.client.get("/admin/stats", headers=headers)
    run.client.patch(f"/admin/users/{made}", json={"state": "disabled"}, headers=headers)
    run.post("/login", {"email": BOB, "password": new})
    listed = run.client.get("/admin/keys", headers=headers).json()["keys"]
    assert run.post("/admin/keys/rotate", {"now": True}, headers=headers).status_code == 200
    assert run.client.delete(f"/admin/keys/{listed[0]['id']}", headers=headers).status_code == 200
    run.client.get("/admin/keys", headers=headers)  # its token is refused now


def use_commands(run: Run) -> None:
    run.command("users", "create", "carol@example.com", "--generate", "--json")
    run.command("users", "create", ROOT, given=f"{run.password('of one that is taken')}\n", answers=1)
    run.command("users", "reset-password", "carol@example.com", "--json", given=f"{run.password('reset by cli')}\n")
    run.command("keys", "rotate", "--now")
    run.command("config")


def misconfigure(run: Run) -> None:
    """Settings that are wrong are told with what to do, not with what they hold."""
    password = secrets.token_hex(12)
    run.found.know("password of an engine: wrong", password)
    run.command("doctor", answers=1)
    for name, value in (
        ("AUTHIX_USERS_URL", f"postgres://admin:{password}@127.0.0.1/db"),
        ("AUTHIX_SESSIONS_URL", f"redis://:{password}@127.0.0.1:{free_port()}/0"),
        ("AUTHIX_FEED_TOKEN", password),
        ("AUTHIX_SECRET", "another master secret " + password),
    ):
        run.command("stats", answers=2, **{name: value})


def break_down(run: Run, email: str, password: str) -> None:
    """A failure that nobody foresaw, with its trace in the log."""
    database = run.issuer.log.parent / "data" / "users.db"
    access, _ = run.log_in(email, password)
    with closing(sqlite3.connect(database, timeout=20)) as store:
        (row,) = store.execute("SELECT roles FROM users WHERE email = ?", (email,)).fetchall()
        store.execute("UPDATE users SET roles = 'torn' WHERE email = ?", (email,))
        store.commit()
        assert run.post("/login", {"email": email, "password": password}).status_code == 500
        assert run.client.get("/account", headers=bearer(access)).status_code == 500
        store.execute("UPDATE users SET roles = ? WHERE email = ?", (*row, email))
        store.execute("ALTER TABLE users RENAME TO hidden")
        store.commit()
        assert run.post("/login", {"email": email, "password": password}).status_code == 503
        store.execute("ALTER TABLE hidden RENAME TO users")
        store.commit()
    assert "Traceback" in run.issuer.output()


def use_sidecar(run: Run, sidecar: SidecarProgram, email: str, password: str) -> None:
    access, refresh = run.log_in(email, password)
    with httpx.Client(trust_env=False, timeout=20) as client:
        for shown in (access, f"{access}x", refresh, f"{access} {access}"):
            for url in (f"{sidecar.proxy_url}/orders", f"{sidecar.auth_url}/verify"):
                answer = client.get(url, headers={"Authorization": f"Bearer {shown}"}, params={"token": shown})
                run.found.tell("answers of the sidecar", f"{answer.headers}\n{answer.text}\n")
        client.get(f"{sidecar.auth_url}/revocations", headers=bearer(run.issuer.env["AUTHIX_FEED_TOKEN"]))
        client.get(f"{sidecar.auth_url}/revocations", headers=bearer(access))
        run.post("/logout", refresh=refresh)
        eventually(
            lambda: client.get(f"{sidecar.auth_url}/verify", headers=bearer(access)).status_code == 401, "it is refused"
        )
        run.found.tell("metrics of the sidecar", client.get(f"{sidecar.auth_url}/metrics").text)


def stored(issuer: IssuerProgram, found: Secrets) -> None:
    """What lies in the stores: the private parts of the keys as they are now, and hashes of passwords."""
    data = issuer.log.parent / "data"
    if (data / "users.db").exists():
        with closing(sqlite3.connect(data / "users.db", timeout=20)) as store:
            hashes = [row[0] for row in store.execute("SELECT password_hash FROM users")]
            kept = KeptRing(*store.execute("SELECT version, sealed FROM key_ring").fetchone())
    else:
        url = issuer.env["AUTHIX_USERS_URL"]
        with MongoClient[dict[str, Any]](url) as client:
            database = client.get_default_database()
            hashes = [document["password_hash"] for document in database.users.find()]
            (ring,) = database.key_ring.find()
            kept = KeptRing(ring["version"], ring["sealed"])
    for password_hash in hashes:
        found.know("hash of a password", password_hash)
    found.know("the sealed keys", kept.sealed)
    for key in KeySeal(MasterSecret(issuer.env["AUTHIX_SECRET"])).unseal(kept).ring.keys:
        if key.private:
            found.know("private key", key.private)
            # of an EC key in PKCS #8 what matters are 32 bytes after this
            found.know("private key", key.private.partition(b"\x02\x01\x01\x04\x20")[2][:32] or key.private[-32:])


class Place(NamedTuple):
    """Where an issuer keeps things."""

    settings: dict[str, str]
    redis: RedisServer | None = None
    redis_password: str = ""


@pytest.fixture(params=["embedded", "engines"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """In files, or in MongoDB and a Redis that needs a password."""
    if request.param == "embedded":
        yield Place({"AUTHIX_LOG": "console"})
        return
    require(RedisServer.missing())
    mongodb = request.getfixturevalue("mongodb_url").rstrip("/")
    password = secrets.token_hex(16)
    with RedisServer(tmp_path / "redis", password=password) as redis:
        urls = {
            "AUTHIX_USERS_URL": f"{mongodb}/{secrets.token_hex(8)}",
            "AUTHIX_SESSIONS_URL": redis.url.replace("redis://", f"redis://:{password}@"),
        }
        yield Place({"AUTHIX_LOG": "json", **urls}, redis, password)


def test_no_secret_is_told_anywhere(
    place: Place,
    start_issuer: Callable[..., IssuerProgram],
    start_sidecar: Callable[..., SidecarProgram],
) -> None:
    found = Secrets()
    secret, later, feed_token, introspection_token = (a_token() for _ in range(4))
    for name, value in (("feed token", feed_token), ("introspection token", introspection_token)):
        found.know(name, value)
    found.know_master(secret)
    found.know_master(later)
    if place.redis:
        found.know("password of Redis", place.redis_password)
    metrics_port = free_port()
    issuer = start_issuer(
        AUTHIX_SECRET=secret,
        AUTHIX_FEED_TOKEN=feed_token,
        AUTHIX_INTROSPECTION_TOKEN=introspection_token,
        AUTHIX_LOGIN_MAX_DELAY="900",
        AUTHIX_METRICS_PORT=str(metrics_port),
        AUTHIX_REFRESH_GRACE="5",
        **place.settings,
        **MOST_TALKATIVE,
    )
    run = Run(issuer, found)
    root_password = run.password("of the administrator")
    run.command("users", "create", ROOT, "--admin", given=f"{root_password}\n")
    stored(issuer, found)
    sidecar = start_sidecar(issuer.url, issuer.url, AUTHIX_FEED_TOKEN=feed_token, **MOST_TALKATIVE).ready()
    use_accounts(run)
    use_oauth(run, ROOT, root_password)
    use_sidecar(run, sidecar, ROOT, root_password)
    administer(run, root_password)
    stored(issuer, found)
    assert issuer.stop() == 0
    issuer.env |= {"AUTHIX_SECRET": later, "AUTHIX_SECRET_PREVIOUS": secret}
    issuer.start().ready()
    stored(issuer, found)
    if place.redis:
        place.redis.kill()
        assert run.post("/login", {"email": ROOT, "password": root_password}).status_code == 503
        assert run.client.get("/readyz").status_code == 503
    else:
        break_down(run, ROOT, root_password)
        use_commands(run)
        misconfigure(run)
    found.tell("metrics of the issuer", httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", trust_env=False).text)
    run.client.close()
    run.astray.close()
    assert issuer.stop() == 0
    assert sidecar.stop() == 0
    found.tell("log of the issuer", issuer.output())
    found.tell("audit log", Path(issuer.env["AUTHIX_AUDIT"]).read_text())
    found.tell("log of the sidecar", sidecar.output())
    assert "session.reused" in found.told("audit log")
    assert re.search("debug", found.told("log of the issuer"))
    leaks = found.leaks()
    assert not leaks, "\n".join(leaks)


def test_a_secret_that_is_told_is_found_in_every_spelling() -> None:
    password, key = a_password("told"), secrets.token_bytes(32)
    for secret, told in (
        (password, password),
        (password, json.dumps({"password": password})),
        (password, repr({"password": password})),
        (password, quote(f"/login?password={password}")),
        (password, base64.b64encode(f"ann:{password}".encode()).decode()),
        (password, base64.urlsafe_b64encode(f"anna:{password}:".encode()).decode()),
        (password, base64.b64encode(f"annas:{password}".encode()).decode()),
        (key, key.hex()),
        (key, repr(key)),
        (key, base64.b64encode(b"x" + key).decode()),
    ):
        found = Secrets()
        found.know("it", secret)
        found.tell("here", f"a line with {told} in it")
        found.tell("there", "a line")
        assert found.leaks() == ["it: here"]
