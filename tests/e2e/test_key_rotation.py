"""Signing keys change under running verifiers: by age, by hand, by revocation, with another algorithm or secret."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import jwt
import pytest

from authix import Authix
from authix_issuer.cli import main
from tests.programs import DEADLINE, IssuerProgram, Program, SidecarProgram, bearer, eventually, login, register

StartIssuer = Callable[..., IssuerProgram]
StartSidecar = Callable[..., SidecarProgram]

NOTICE = 3
HASTY = {"AUTHIX_KEY_LIFE": "1", "AUTHIX_KEY_NOTICE": str(NOTICE)}
AWAY = "http://127.0.0.1:9"
"""An upstream that no test asks."""


def key_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def rows(self) -> list[list[str]]:
        """Key id, algorithm and state of each line but the first."""
        assert self.code == 0, self.err
        return [line.split()[:3] for line in self.out.splitlines()[1:]]


KeysCommand = Callable[..., Done]


@pytest.fixture
def keys_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> KeysCommand:
    """``keys_command(issuer, …)``: ``authix-issuer keys …`` with that issuer's settings."""

    def run(issuer: IssuerProgram, *arguments: str) -> Done:
        for name, value in issuer.env.items():
            if name.startswith("AUTHIX_"):
                monkeypatch.setenv(name, value)
        return Done(main(["keys", *arguments]), *capsys.readouterr())

    return run


@pytest.fixture
def shared(mongodb_url: str, redis_url: str) -> dict[str, str]:
    """The settings of issuers that share engines, with a database of the test's own."""
    return {
        "AUTHIX_USERS_URL": f"{mongodb_url.rstrip('/')}/{secrets.token_hex(6)}",
        "AUTHIX_SESSIONS_URL": redis_url,
        "AUTHIX_SECRET": secrets.token_urlsafe(32),
    }


def judged(sidecar: SidecarProgram, token: str) -> str:
    """``accepted`` or the code of the refusal."""
    answer = httpx.get(f"{sidecar.auth_url}/verify", headers=bearer(token), timeout=DEADLINE, trust_env=False)
    return "accepted" if answer.status_code == 200 else str(answer.json()["code"])


def refreshed(client: httpx.Client) -> str:
    answer = client.post("/access_token")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


class Watch:
    """When each key was first seen in a key set, whichever issuer served it."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self.begun = time.monotonic()

    async def look(self, client: httpx.AsyncClient, issuer: IssuerProgram) -> None:
        for key in (await client.get(f"{issuer.url}/.well-known/jwks.json")).json()["keys"]:
            self.seen.setdefault(key["kid"], time.monotonic())

    def was_published(self, key_id: str) -> bool:
        """Long before it signed, or before this watch began."""
        seen = self.seen.get(key_id)
        return seen is not None and (seen - self.begun < 1 or time.monotonic() - seen > NOTICE * 0.75)


async def use(
    issuers: Sequence[IssuerProgram], verifiers: Sequence[Authix], watch: Watch, number: int, seconds: float
) -> set[str]:
    """One user refreshes at every issuer in turn; all tokens stay good with every verifier. Returns the keys seen."""
    tokens: list[str] = []
    end = time.monotonic() + seconds
    credentials = {"email": f"user-{number}@example.com", "password": "correct horse battery staple"}
    async with httpx.AsyncClient(timeout=DEADLINE, trust_env=False) as client:
        assert (await client.post(f"{issuers[0].url}/register", json=credentials)).status_code == 201
        assert (await client.post(f"{issuers[0].url}/login", json=credentials)).status_code == 200
        while time.monotonic() < end:
            for issuer in issuers:
                await watch.look(client, issuer)
                answer = await client.post(f"{issuer.url}/access_token")
                assert answer.status_code == 200, answer.text
                tokens.append(answer.json()["access_token"])
                assert watch.was_published(key_of(tokens[-1]))
                for verifier in verifiers:
                    # this one never fetches: the key has to be there already
                    verifier.verify(tokens[-1])
                    verifier.verify(secrets.choice(tokens))
            await asyncio.sleep(0.05)
    for token in tokens:
        for verifier in verifiers:
            verifier.verify(token)
    return {key_of(token) for token in tokens}


async def rotate_under_load(issuers: Sequence[IssuerProgram], *, users: int, verifiers: int, seconds: float) -> int:
    """How many keys have signed."""
    async with AsyncExitStack() as stack:
        attached = [
            await stack.enter_async_context(
                Authix(
                    issuer=issuers[number % len(issuers)].env["AUTHIX_ISSUER"],
                    audience="tests",
                    keys=f"{issuers[number % len(issuers)].url}/.well-known/jwks.json",
                    feed=f"{issuers[number % len(issuers)].url}/revocations",
                )
            )
            for number in range(verifiers)
        ]
        async with asyncio.timeout(DEADLINE):
            while not all(verifier.ready() for verifier in attached):
                await asyncio.sleep(0.01)  # between two looks
        watch = Watch()
        used = await asyncio.gather(*(use(issuers, attached, watch, number, seconds) for number in range(users)))
    return len(set.union(*used))


async def test_keys_rotate_and_every_token_stays_good(start_issuer: StartIssuer) -> None:
    issuer = start_issuer(**HASTY)
    with issuer.client() as client:
        assert client.get("/public_key").headers["cache-control"] == f"public, max-age={NOTICE // 3}"
    assert await rotate_under_load([issuer], users=1, verifiers=1, seconds=5) >= 3


@pytest.mark.soak
async def test_keys_rotate_every_second_for_a_minute_under_load(
    tmp_path: Path, programs: Callable[[Program], Program], shared: dict[str, str]
) -> None:
    fleet = {"AUTHIX_ISSUER": "http://127.0.0.1:1", "AUTHIX_WORKERS": "2", **shared}
    issuers = [IssuerProgram(tmp_path / f"issuer-{number}", **fleet, **HASTY) for number in range(2)]
    for issuer in issuers:
        programs(issuer)
        issuer.start()
        issuer.ready()
    assert await rotate_under_load(issuers, users=4, verifiers=3, seconds=60) >= 40


def test_a_revoked_key_is_refused_everywhere_while_all_goes_on(
    issuer: IssuerProgram, start_sidecar: StartSidecar, keys_command: KeysCommand
) -> None:
    sidecar = start_sidecar(issuer.url, AWAY).ready()
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        assert judged(sidecar, token) == "accepted"
        first, second = (key for key, _, _ in keys_command(issuer, "list").rows())
        assert first == key_of(token)

        assert keys_command(issuer, "revoke", first).rows() == [[first, "ES256", "revoked"]]
        eventually(lambda: judged(sidecar, token) == "key_revoked", "the sidecar refuses it")
        eventually(lambda: key_of(refreshed(client)) == second, "the issuer signs with the next key")
        published = client.get("/.well-known/jwks.json").json()["keys"]
        assert first not in {key["kid"] for key in published}
        answer = httpx.post(f"{issuer.url}/logout", headers=bearer(token), timeout=DEADLINE, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (401, "key_revoked")
        assert judged(sidecar, refreshed(client)) == "accepted"
    states = [(key, state) for key, _, state in keys_command(issuer, "list").rows()]
    assert states[:2] == [(first, "revoked"), (second, "signing")]
    assert states[2:]
    assert {state for _, state in states[2:]} == {"next"}


def test_a_revoked_key_is_refused_by_verifiers_on_the_topic(
    start_issuer: StartIssuer,
    start_sidecar: StartSidecar,
    keys_command: KeysCommand,
    shared: dict[str, str],
    kafka_bootstrap: str,
) -> None:
    topic = f"logout-{secrets.token_hex(4)}"
    issuer = start_issuer(AUTHIX_KAFKA=kafka_bootstrap, AUTHIX_TOPIC=topic, **shared)
    sidecar = start_sidecar(issuer.url, AWAY, AUTHIX_FEED=f"kafka://{kafka_bootstrap}/{topic}").ready()
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        assert judged(sidecar, token) == "accepted"
        assert keys_command(issuer, "revoke", key_of(token)).rows() == [[key_of(token), "ES256", "revoked"]]
        eventually(lambda: judged(sidecar, token) == "key_revoked", "the sidecar refuses it")
        eventually(lambda: judged(sidecar, refreshed(client)) == "accepted", "tokens of the next key are good")


def test_the_command_rotates_when_verifiers_know_the_next_key(
    start_issuer: StartIssuer, keys_command: KeysCommand
) -> None:
    issuer = start_issuer(AUTHIX_KEY_NOTICE="20")
    (first, _, _), (second, _, _) = keys_command(issuer, "list").rows()
    early = keys_command(issuer, "rotate")
    assert (early.code, early.out) == (1, "")
    assert early.err.startswith("Verifiers may not know the next key before ")
    assert keys_command(issuer, "rotate", "--now").rows() == [[second, "ES256", "signing"]]
    with issuer.client() as client:
        register(client, "ann@example.com")
        login(client, "ann@example.com")
        eventually(lambda: key_of(refreshed(client)) == second, "the running issuer follows")
        assert first in {key["kid"] for key in client.get("/.well-known/jwks.json").json()["keys"]}
    unknown = keys_command(issuer, "revoke", "nobody's")
    assert (unknown.code, unknown.err) == (1, "There is no key with this id.\n")
    log = Path(issuer.env["AUTHIX_AUDIT"]).read_text(encoding="utf-8")
    told = [(line["event"], line["outcome"]) for line in map(json.loads, log.splitlines()) if line["actor"] == "cli"]
    assert told == [("key.rotated", "key_not_ready"), ("key.rotated", "ok"), ("key.revoked", "key_unknown")]


def restarted(issuer: IssuerProgram, **env: str) -> IssuerProgram:
    assert issuer.stop() == 0
    issuer.env.update(env)
    issuer.start()
    return issuer.ready()


async def test_the_algorithm_changes_while_both_verify(start_issuer: StartIssuer) -> None:
    issuer = start_issuer(AUTHIX_KEY_NOTICE=str(NOTICE))
    async with Authix(issuer=issuer.url, audience="tests", algorithms="ES256,EdDSA") as verifier:
        with issuer.client() as client:
            register(client, "ann@example.com")
            tokens = [login(client, "ann@example.com")]
            async with asyncio.timeout(DEADLINE):
                while not verifier.ready():
                    await asyncio.sleep(0.01)  # between two looks
            await asyncio.to_thread(restarted, issuer, AUTHIX_ALGORITHM="EdDSA")
            async with asyncio.timeout(DEADLINE):
                while jwt.get_unverified_header(tokens[-1])["alg"] != "EdDSA":
                    tokens.append(await asyncio.to_thread(refreshed, client))
                    for token in tokens:
                        verifier.verify(token)
                    await asyncio.sleep(0.1)
            assert len(tokens) > 2
            assert client.post("/logout", headers=bearer(tokens[0])).status_code == 204


def test_the_master_secret_is_exchanged_and_sessions_go_on(start_issuer: StartIssuer) -> None:
    old, new = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    issuer = start_issuer(AUTHIX_SECRET=old)
    with issuer.client() as client:
        register(client, "ann@example.com")
        key_id = key_of(login(client, "ann@example.com"))
        restarted(issuer, AUTHIX_SECRET=new, AUTHIX_SECRET_PREVIOUS=old)
        assert key_of(refreshed(client)) == key_id
        restarted(issuer, AUTHIX_SECRET=new, AUTHIX_SECRET_PREVIOUS="")
        assert key_of(refreshed(client)) == key_id
    assert issuer.stop() == 0
    issuer.env["AUTHIX_SECRET"] = old
    issuer.start()
    assert issuer.process is not None
    assert issuer.process.wait(DEADLINE) == 2
    assert "AUTHIX_SECRET is not the secret that the stored signing keys were sealed with" in issuer.output()
