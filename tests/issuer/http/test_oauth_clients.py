"""Other people's OAuth clients configure themselves from the issuer's URL and do their work with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from authix.tokens import base64url_decode, base64url_encode
from tests.interop.programs import CLIENTS, SPRING, Client, OpenidClient
from tests.programs import DEADLINE, IssuerProgram, login, register
from tests.servers.fixtures import require

SECRET = "introspection+token/of-at-least-32~characters=="
INACTIVE = {"active": False}


class Someone(NamedTuple):
    """A user who has logged in twice, with the cookie of the second session."""

    subject: str
    token: str
    other: str
    cookie: str


@pytest.fixture
def someone(unusual_client: httpx.Client, new_email: Callable[[], str]) -> Someone:
    email = new_email()
    subject = register(unusual_client, email)
    token, other = login(unusual_client, email), login(unusual_client, email)
    ((name, cookie),) = unusual_client.cookies.items()
    unusual_client.cookies.clear()
    return Someone(subject, token, other, f"{name}={cookie}")


@pytest.mark.parametrize("program", CLIENTS, ids=lambda program: type(program).__name__)
def test_a_token_verifies_by_what_the_issuer_says_of_itself(
    unusual_issuer: IssuerProgram, someone: Someone, program: Client
) -> None:
    require(program.missing())
    assert_verifies(program, unusual_issuer, someone.subject, someone.token)


def assert_verifies(program: Client, issuer: IssuerProgram, subject: str, token: str) -> None:
    head, payload, signature = token.split(".")
    forged = base64url_encode(base64url_decode(payload).replace(subject.encode(), b"admin"))
    lines = [f"verify {token}", f"verify {head}.{forged}.{signature}"]
    accepted, refused = program.do(lines, issuer=issuer.url, audience="tests", secret=SECRET)
    assert accepted.get("claims", accepted)["sub"] == subject
    assert "signature" in refused["refused"]


def test_spring_security_verifies_by_what_the_issuer_says_of_itself(
    shared_issuer: IssuerProgram, client: httpx.Client, new_email: Callable[[], str]
) -> None:
    require(SPRING.missing())
    email = new_email()
    subject = register(client, email)
    token = login(client, email)
    assert_verifies(SPRING, shared_issuer, subject, token)
    (refused,) = SPRING.do([f"verify {token}"], issuer=shared_issuer.url, audience="another", secret=SECRET)
    assert "aud" in refused["refused"]


def test_spring_security_introspects(
    unusual_issuer: IssuerProgram, unusual_client: httpx.Client, someone: Someone
) -> None:
    require(SPRING.missing())
    assert unusual_client.post("/revoke", data={"token": someone.token}).status_code == 200
    lines = [f"introspect {someone.other}", f"introspect {someone.token}"]
    active, inactive = SPRING.do(lines, issuer=unusual_issuer.url, audience="tests", secret=SECRET)
    assert active["claims"]["sub"] == someone.subject
    assert "isn't active" in inactive["refused"]


def test_openid_client_introspects_and_revokes(unusual_issuer: IssuerProgram, someone: Someone) -> None:
    program = OpenidClient()
    require(program.missing())
    lines = [f"{action} {someone.token}" for action in ("introspect", "revoke", "introspect")]
    lines.append(f"introspect {someone.other}")
    active, revoked, inactive, other = program.do(lines, issuer=unusual_issuer.url, audience="tests", secret=SECRET)
    assert (active.get("active"), active.get("sub")) == (True, someone.subject), active
    assert revoked == {"revoked": True}
    assert inactive == INACTIVE
    assert other["active"] is True


@pytest.fixture
def authlib(unusual_issuer: IssuerProgram) -> Iterator[Any]:
    """Its client, with the issuer's metadata."""
    with warnings.catch_warnings(record=True, action="ignore"):  # it points at its own successors
        from authlib.integrations.httpx_client import OAuth2Client  # type: ignore[import-untyped]  # it ships no types

    with OAuth2Client("orders", SECRET, timeout=DEADLINE, trust_env=False) as client:
        where = f"{unusual_issuer.url}/.well-known/oauth-authorization-server"
        client.metadata = client.request("GET", where, withhold_token=True).json()
        yield client


def test_authlib_sees_a_logout_from_another_session_at_once(
    unusual_client: httpx.Client, authlib: Any, someone: Someone
) -> None:
    def introspected() -> list[bool]:
        endpoint = authlib.metadata["introspection_endpoint"]
        tokens = (someone.token, someone.other)
        return [authlib.introspect_token(endpoint, token=token).json()["active"] for token in tokens]

    assert introspected() == [True, True]
    assert unusual_client.post("/logout", headers={"Cookie": someone.cookie}).status_code == 204
    assert introspected() == [False, False]


def test_authlib_revokes_by_the_refresh_token(authlib: Any, someone: Someone) -> None:
    introspection, revocation = authlib.metadata["introspection_endpoint"], authlib.metadata["revocation_endpoint"]
    refresh_token = someone.cookie.partition("=")[2]
    answer = authlib.revoke_token(revocation, token=refresh_token, token_type_hint="refresh_token")
    assert answer.status_code == 200
    assert authlib.introspect_token(introspection, token=someone.other).json() == INACTIVE
    assert authlib.introspect_token(introspection, token=someone.token).json()["active"] is True
