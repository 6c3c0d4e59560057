"""TLS and passwords, on real servers: what is right works on every engine, and what is wrong is said in a sentence."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from authix import Authix, TokenRevoked
from authix_issuer.cli import main
from tests.programs import DEADLINE, IssuerProgram, Program, SidecarProgram, bearer, eventually, login, register
from tests.servers.fixtures import SecureEngines
from tests.servers.tcp_proxy import TcpProxy

Env = dict[str, str]
StartSidecar = Callable[..., SidecarProgram]
END_WITHIN = 60.0
"""Seconds; a start that fails takes 4 s and what a busy machine adds."""
ISSUER = "http://127.0.0.1:1"


@pytest.fixture
def env(secure_engines: SecureEngines) -> Env:
    """An issuer's settings, all engines over TLS."""
    engines = secure_engines
    return {
        "AUTHIX_ISSUER": ISSUER,
        "AUTHIX_USERS_URL": f"mongodb://127.0.0.1:{engines.mongodb_tls_port}/{secrets.token_hex(6)}"
        f"?tls=true&tlsCAFile={engines.ca}",
        "AUTHIX_SESSIONS_URL": f"rediss://:{engines.password}@127.0.0.1:{engines.redis.tls_port}/0"
        f"?ssl_ca_certs={engines.ca}",
        "AUTHIX_KAFKA": f"127.0.0.1:{engines.kafka.secure_port}",
        "AUTHIX_TOPIC": f"logout-{secrets.token_hex(4)}",
        "AUTHIX_SECRET": secrets.token_urlsafe(32),
        "AUTHIX_HASH_PROFILE": "cheapest",
        **kafka_env(engines),
    }


def kafka_env(engines: SecureEngines, mechanism: str = "SCRAM-SHA-512") -> Env:
    return {
        "AUTHIX_KAFKA_TLS": "yes",
        "AUTHIX_KAFKA_CA": str(engines.ca),
        "AUTHIX_KAFKA_SASL": mechanism,
        "AUTHIX_KAFKA_USERNAME": "authix",
        "AUTHIX_KAFKA_PASSWORD": engines.password,
    }


def in_files(env: Env, folder: Path, *names: str) -> Env:
    """The same settings, but those of ``names`` as ``NAME_FILE``."""
    found = {name: value for name, value in env.items() if name not in names}
    for name in names:
        (folder / name).write_text(f"{env[name]}\n")
        found[f"{name}_FILE"] = str(folder / name)
    return found


def verifier(issuer: IssuerProgram, engines: SecureEngines, topic: str, **options: Any) -> Authix:
    given: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": "tests",
        "keys": f"{issuer.url}/.well-known/jwks.json",
        "feed": f"kafka://127.0.0.1:{engines.kafka.secure_port}/{topic}",
        "kafka_tls": True,
        "kafka_ca": str(engines.ca),
        "kafka_username": "authix",
        "kafka_password": engines.password,
    }
    return Authix(**given | options)


async def test_a_logout_is_heard_over_tls_on_all_engines_with_passwords_from_files(
    tmp_path: Path,
    programs: Callable[[Program], Program],
    start_sidecar: StartSidecar,
    secure_engines: SecureEngines,
    env: Env,
) -> None:
    secret = ("AUTHIX_USERS_URL", "AUTHIX_SESSIONS_URL", "AUTHIX_KAFKA_PASSWORD", "AUTHIX_SECRET")
    issuer = IssuerProgram(tmp_path / "issuer", **in_files(env, tmp_path, *secret))
    programs(issuer)
    issuer.start().ready()
    sidecar = start_sidecar(
        ISSUER,
        "http://127.0.0.1:1",
        AUTHIX_KEYS=f"{issuer.url}/.well-known/jwks.json",
        AUTHIX_FEED=f"kafka://{env['AUTHIX_KAFKA']}/{env['AUTHIX_TOPIC']}",
        **in_files(kafka_env(secure_engines), tmp_path, "AUTHIX_KAFKA_PASSWORD"),
    )
    followers = [
        verifier(issuer, secure_engines, env["AUTHIX_TOPIC"], kafka_sasl=mechanism)
        for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    ]
    async with followers[0], followers[1], followers[2]:
        for follower in followers:
            await follower.wait_ready()
        sidecar.ready()
        with issuer.client() as ann, sidecar_client(sidecar) as service:
            register(ann, "ann@example.com")
            token = login(ann, "ann@example.com")
            for follower in followers:
                assert follower.verify(token).subject
            assert service.get("/verify", headers=bearer(token)).status_code == 200
            assert ann.post("/logout").status_code == 204
            for follower in followers:
                await refused(follower, token)
            eventually(lambda: service.get("/verify", headers=bearer(token)).status_code == 401, "the sidecar refuses")
    for program in (issuer, sidecar):
        assert secure_engines.password not in program.output()


def sidecar_client(sidecar: SidecarProgram) -> httpx.Client:
    return httpx.Client(base_url=sidecar.auth_url, timeout=DEADLINE, trust_env=False)


async def refused(follower: Authix, token: str) -> None:
    end = time.monotonic() + DEADLINE
    while True:
        try:
            follower.verify(token)
        except TokenRevoked:
            return
        assert time.monotonic() < end, "the verifier refuses the token"
        await asyncio.sleep(0.01)


Doctor = Callable[[Env], tuple[int, str]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Doctor]:
    """``doctor(env)``: its exit code and what it prints."""

    def run(env: Env) -> tuple[int, str]:
        for name, value in env.items():
            if name.startswith("AUTHIX_"):
                monkeypatch.setenv(name, value)
        return main(["doctor"]), "".join(capsys.readouterr())

    yield run
    logging.disable(logging.NOTSET)


Change = Callable[[Env, SecureEngines], Env]


def replaced(name: str, old: Callable[[SecureEngines], object], new: Callable[[SecureEngines], object]) -> Change:
    def change(env: Env, engines: SecureEngines) -> Env:
        assert str(old(engines)) in env[name]
        return {name: env[name].replace(str(old(engines)), str(new(engines)))}

    return change


def given(**changed: str) -> Change:
    return lambda _, __: changed


def ca(engines: SecureEngines) -> Path:
    return engines.ca


def other_ca(engines: SecureEngines) -> Path:
    return engines.other_ca


def password(engines: SecureEngines) -> str:
    return engines.password


def exactly(text: str) -> Callable[[SecureEngines], str]:
    return lambda _: text


USERS = "AUTHIX_USERS_URL names a MongoDB that"
SESSIONS = "AUTHIX_SESSIONS_URL names a Redis that"
NO_SASL = dict.fromkeys(("AUTHIX_KAFKA_SASL", "AUTHIX_KAFKA_USERNAME", "AUTHIX_KAFKA_PASSWORD"), "")
NO_TLS = {"AUTHIX_KAFKA_TLS": "", "AUTHIX_KAFKA_CA": ""}

WRONG = [
    pytest.param(
        replaced("AUTHIX_USERS_URL", ca, other_ca),
        f"{USERS} shows a certificate that is not trusted: name the file of its authority's certificate by tlsCAFile=",
        id="mongodb, another CA",
    ),
    pytest.param(
        replaced("AUTHIX_USERS_URL", ca, exactly("/nowhere.pem")),
        f"{USERS} can't be trusted: the file of certificates that its URL names by tlsCAFile= can't be read",
        id="mongodb, no CA file",
    ),
    pytest.param(
        replaced("AUTHIX_USERS_URL", exactly("tls=true&tlsCAFile="), exactly("appname=")),
        f"{USERS} closes the connection at once: if it expects TLS, say so by ?tls=true in the URL",
        id="mongodb, plaintext to TLS",
    ),
    pytest.param(
        replaced("AUTHIX_USERS_URL", lambda e: e.mongodb_tls_port, lambda e: e.mongodb.port),
        f"{USERS} does not answer",
        id="mongodb, TLS to plaintext",
    ),
    pytest.param(
        # FerretDB knows no user at all, so this is a mechanism that it does not offer; mongod says that it is wrong
        replaced("AUTHIX_USERS_URL", exactly("mongodb://"), lambda e: f"mongodb://ann:{e.password}@"),
        USERS,
        id="mongodb, a user that it does not know",
    ),
    pytest.param(
        replaced("AUTHIX_SESSIONS_URL", ca, other_ca),
        f"{SESSIONS} shows a certificate that is not trusted: name the file of its authority's certificate by "
        "ssl_ca_certs= in the URL",
        id="redis, another CA",
    ),
    pytest.param(
        replaced("AUTHIX_SESSIONS_URL", ca, exactly("/nowhere.pem")),
        f"{SESSIONS} can't be trusted: the file of certificates that its URL names by ssl_ca_certs= can't be read",
        id="redis, no CA file",
    ),
    pytest.param(
        replaced("AUTHIX_SESSIONS_URL", password, exactly("wrong")),
        f"{SESSIONS} refuses the user or the password: mend them in the URL",
        id="redis, wrong password",
    ),
    pytest.param(
        replaced("AUTHIX_SESSIONS_URL", lambda e: f":{e.password}@", exactly("")),
        f"{SESSIONS} refuses the user or the password: mend them in the URL",
        id="redis, no password",
    ),
    pytest.param(
        replaced("AUTHIX_SESSIONS_URL", lambda e: f":{e.password}@", lambda e: f"guest:{e.password}@"),
        f"{SESSIONS} forbids its user what a start needs: mend the rights of that user",
        id="redis, a user without rights",
    ),
    pytest.param(
        replaced("AUTHIX_SESSIONS_URL", exactly("rediss://"), exactly("redis://")),
        "AUTHIX_SESSIONS_URL",
        id="redis, CA without TLS",
    ),
    pytest.param(
        lambda env, _: {"AUTHIX_SESSIONS_URL": env["AUTHIX_SESSIONS_URL"].replace("rediss", "redis").partition("?")[0]},
        f"{SESSIONS} closes the connection at once: if it expects TLS, say so by rediss:// in the URL",
        id="redis, plaintext to TLS",
    ),
    pytest.param(
        replaced("AUTHIX_SESSIONS_URL", lambda e: e.redis.tls_port, lambda e: e.redis.port),
        f"{SESSIONS} does not answer",
        id="redis, TLS to plaintext",
    ),
    pytest.param(replaced("AUTHIX_KAFKA_CA", ca, other_ca), "by AUTHIX_KAFKA_CA", id="kafka, another CA"),
    pytest.param(given(AUTHIX_KAFKA_CA=""), "by AUTHIX_KAFKA_CA", id="kafka, no CA"),
    pytest.param(
        given(AUTHIX_KAFKA_PASSWORD="wrong"),
        "refuses the user or the password: mend AUTHIX_KAFKA_USERNAME and AUTHIX_KAFKA_PASSWORD",
        id="kafka, wrong password by SCRAM",
    ),
    pytest.param(
        given(AUTHIX_KAFKA_PASSWORD="wrong", AUTHIX_KAFKA_SASL="PLAIN"),
        "refuses the user or the password: mend AUTHIX_KAFKA_USERNAME and AUTHIX_KAFKA_PASSWORD",
        id="kafka, wrong password by PLAIN",
    ),
    pytest.param(given(**NO_SASL), "wants a user and password: set AUTHIX_KAFKA_SASL", id="kafka, no SASL"),
    pytest.param(given(**NO_TLS), "speaks TLS: set AUTHIX_KAFKA_TLS=yes", id="kafka, plaintext to TLS"),
    pytest.param(
        replaced("AUTHIX_KAFKA", lambda e: e.kafka.secure_port, lambda e: e.kafka.port),
        "does not speak TLS: name its TLS port, or set no AUTHIX_KAFKA_TLS",
        id="kafka, TLS to plaintext",
    ),
    pytest.param(
        lambda _, engines: NO_TLS | {"AUTHIX_KAFKA": f"127.0.0.1:{engines.kafka.port}"},
        "wants no user and password there: name its SASL port, or set no AUTHIX_KAFKA_SASL",
        id="kafka, SASL to a port without it",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_what_is_wrong_ends_the_start_with_a_sentence_that_the_doctor_says_too(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    programs: Callable[[Program], Program],
    secure_engines: SecureEngines,
    env: Env,
    change: Change,
    sentence: str,
    doctor: Doctor,
) -> None:
    if "guest" in str(change(env, secure_engines)):
        secure_engines.redis.cli("ACL", "SETUSER", "guest", "on", f">{secure_engines.password}", "+ping")
    issuer = IssuerProgram(tmp_path / "issuer", **env | change(env, secure_engines))
    programs(issuer)
    issuer.start()
    assert issuer.process is not None
    found = doctor(issuer.env)
    assert issuer.process.wait(END_WITHIN) == 2, issuer.output()
    assert found[0] == 1
    for said in (issuer.output(), found[1]):
        assert said.count(sentence) == 1, said
        assert "Traceback" not in said
        assert secure_engines.password not in said


def test_a_user_of_redis_needs_no_more_rights_than_the_guide_says(
    tmp_path: Path, programs: Callable[[Program], Program], secure_engines: SecureEngines, env: Env
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    rights = next(line for line in guide.splitlines() if line.startswith("    ~authix:*")).split()
    secure_engines.redis.cli("ACL", "SETUSER", "issuer", "reset", "on", f">{secure_engines.password}", *rights)
    url = env["AUTHIX_SESSIONS_URL"].replace("://:", "://issuer:")
    issuer = IssuerProgram(tmp_path / "issuer", **env | {"AUTHIX_SESSIONS_URL": url})
    programs(issuer)
    issuer.start().ready()
    with issuer.client() as ann:
        register(ann, "ann@example.com")
        login(ann, "ann@example.com")
        assert ann.post("/access_token").status_code == 200
        assert ann.get("/revocations").status_code == 200
        assert ann.post("/logout").status_code == 204
    assert "NOPERM" not in issuer.output()


def test_a_user_of_redis_that_may_not_touch_its_keys_stops_the_start_with_a_sentence(
    tmp_path: Path, programs: Callable[[Program], Program], secure_engines: SecureEngines, env: Env
) -> None:
    secure_engines.redis.cli(
        "ACL", "SETUSER", "elsewhere", "reset", "on", f">{secure_engines.password}", "~other:*", "+@all"
    )
    url = env["AUTHIX_SESSIONS_URL"].replace("://:", "://elsewhere:")
    issuer = IssuerProgram(tmp_path / "issuer", **env | {"AUTHIX_SESSIONS_URL": url})
    programs(issuer)
    issuer.start()
    assert issuer.process is not None
    assert issuer.process.wait(30) == 2
    assert "rights of their users" in issuer.output()
    assert "Traceback" not in issuer.output()
    assert secure_engines.password not in issuer.output()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"AUTHIX_KAFKA_PASSWORD": "wrong"}, "refuses the user or the password: mend AUTHIX_KAFKA_USERNAME"),
        ({"AUTHIX_KAFKA_CA": ""}, "name the file of its authority's certificate by AUTHIX_KAFKA_CA"),
        (NO_TLS | NO_SASL, "speaks TLS: set AUTHIX_KAFKA_TLS=yes"),
    ],
    ids=["wrong password", "unknown CA", "plaintext to TLS"],
)
def test_a_verifier_that_kafka_does_not_take_is_not_ready_and_says_why_once(
    start_issuer: Callable[..., IssuerProgram],
    start_sidecar: StartSidecar,
    secure_engines: SecureEngines,
    changed: Env,
    sentence: str,
) -> None:
    issuer = start_issuer()
    with TcpProxy(secure_engines.kafka.secure_port) as kafka:
        sidecar = start_sidecar(
            issuer.url,
            "http://127.0.0.1:1",
            AUTHIX_FEED=f"kafka://127.0.0.1:{kafka.port}/logout",
            **kafka_env(secure_engines) | changed,
        )
        eventually(lambda: sentence in sidecar.output(), lambda: f"the log says why:\n{sidecar.output()}")
        before = kafka.accepted
        eventually(lambda: kafka.accepted > before + 5, "it tries again and again")
        with sidecar_client(sidecar) as service:
            answer = service.get("/readyz")
    assert answer.status_code == 503
    assert "feed_replaying" in answer.text
    assert sidecar.output().count(sentence) == 1, sidecar.output()
    assert secure_engines.password not in sidecar.output()
