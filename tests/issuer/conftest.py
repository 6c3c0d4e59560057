"""An issuer that tests share where its state does not matter, and users of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.programs import IssuerProgram, login, register

_count = itertools.count(1)


@pytest.fixture(scope="session")
def shared_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProgram]:
    """One issuer for the whole run; each test has users of its own."""
    issuer = IssuerProgram(tmp_path_factory.mktemp("shared-issuer"))
    with issuer.serving():
        yield issuer


FEED_TOKEN = "feed-token-of-at-least-32-characters"
INTROSPECTION_TOKEN = "introspection+token/of-at-least-32~characters=="


@pytest.fixture(scope="session")
def unusual_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProgram]:
    """Another, with every setting unlike the default."""
    issuer = IssuerProgram(
        tmp_path_factory.mktemp("unusual-issuer"),
        AUTHIX_ACCESS_TTL="60",
        AUTHIX_ALGORITHM="EdDSA",
        AUTHIX_COOKIE_PROFILE="secure",
        AUTHIX_FEED_TOKEN=FEED_TOKEN,
        AUTHIX_INTROSPECTION_TOKEN=INTROSPECTION_TOKEN,
        AUTHIX_LOG="json",
        AUTHIX_PASSWORD_MIN_LENGTH="8",
        AUTHIX_REFRESH_GRACE="0",
        AUTHIX_REFRESH_TTL="3600",
        AUTHIX_SECRET="master-secret-of-at-least-32-characters",
    )
    with issuer.serving():
        yield issuer


@pytest.fixture
def unusual_client(unusual_issuer: IssuerProgram) -> Iterator[httpx.Client]:
    """A client of the unusual issuer, without a cookie jar: its cookies are for https."""
    with unusual_issuer.client() as client:
        yield client


@pytest.fixture
def client(shared_issuer: IssuerProgram) -> Iterator[httpx.Client]:
    """A client of the shared issuer, with a cookie jar of its own."""
    with shared_issuer.client() as client:
        yield client


@pytest.fixture
def new_email() -> Callable[[], str]:
    """``new_email()``: an address that nobody has used."""
    return lambda: f"user-{next(_count)}@example.com"


@pytest.fixture
def user(client: httpx.Client, new_email: Callable[[], str]) -> str:
    """The email of a new user of the shared issuer."""
    email = new_email()
    register(client, email)
    return email


@pytest.fixture
def access_token(client: httpx.Client, user: str) -> str:
    """An access token of the user, who has just logged in; the refresh token is in the client's jar."""
    return login(client, user)
