"""An issuer that is late, dies, hangs and comes back: what services with the SDK do meanwhile, and without help."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authix import Authix, AuthixError, WhenStale
from tests.programs import IssuerProgram, Program, login, register

if TYPE_CHECKING:
    from tests.sdk.conftest import Mint

Soon = Callable[..., Awaitable[None]]
Services = dict[str, Authix]

# name -> policy, seconds to be stale after
SERVICES = {
    "rejecting": (WhenStale.REJECT, 2),
    "clamping": (WhenStale.CLAMP, 2),
    "accepting": (WhenStale.ACCEPT, 2),
    "patient": (WhenStale.REJECT, 3600),
}


@pytest.fixture
def late_issuer(tmp_path: Path, programs: Callable[[Program], Program]) -> IssuerProgram:
    """An issuer that is not yet started."""
    issuer = IssuerProgram(tmp_path / "issuer")
    programs(issuer)
    return issuer


@pytest.fixture
async def services(late_issuer: IssuerProgram) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(
                Authix(issuer=late_issuer.url, audience="tests", when_stale=policy, stale_after=stale_after)
            )
            for name, (policy, stale_after) in SERVICES.items()
        }


def verdicts(services: Services, token: str) -> dict[str, str]:
    def verdict(auth: Authix) -> str:
        try:
            auth.verify(token)
        except AuthixError as error:
            return error.code
        return "accepted"

    return {name: verdict(auth) for name, auth in services.items()}


def all_say(services: Services, token: str, verdict: str) -> Callable[[], bool]:
    return lambda: set(verdicts(services, token).values()) == {verdict}


def all_ready(services: Services) -> Callable[[], bool]:
    return lambda: all(auth.ready() for auth in services.values())


async def test_services_started_first_become_ready_and_outlive_their_issuer(
    late_issuer: IssuerProgram, services: Services, live_mint: Mint, soon: Soon, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = late_issuer
    await soon(lambda: caplog.text.count("trying again") >= 2 * len(services), "they found nobody")
    assert {tuple(auth.problems()) for auth in services.values()} == {("keys_missing", "feed_replaying")}
    assert all_say(services, live_mint(iss=issuer.url, aud="tests"), "not_ready")()

    issuer.start()
    await soon(all_ready(services), "all are ready")
    with issuer.client() as ada, issuer.client() as bob:
        register(ada, "ada@example.com")
        register(bob, "bob@example.com")
        token, dead = login(ada, "ada@example.com"), login(bob, "bob@example.com")
        await soon(all_say(services, dead, "accepted"), "the token is good")
        assert bob.post("/logout").status_code == 204
    await soon(all_say(services, dead, "token_revoked"), "the logout is known")

    issuer.kill()
    await outage(services, token, dead, soon)
    issuer.start()
    await recovery(services, token, dead, soon)

    issuer.pause()
    try:
        await outage(services, token, dead, soon)
    finally:
        issuer.resume()
    await recovery(services, token, dead, soon)

    with issuer.client() as ada:
        again = login(ada, "ada@example.com")
        await soon(all_say(services, again, "accepted"), "the new token is good")
        assert ada.post("/logout").status_code == 204
    await soon(all_say(services, again, "token_revoked"), "the logout is known")


async def outage(services: Services, token: str, dead: str, soon: Soon) -> None:
    """Known keys verify all the while; what is stale does as it was told; the dead stay dead."""
    before = services["patient"].freshness
    assert before is not None

    def is_stale() -> bool:
        assert verdicts(services, token)["patient"] == "accepted"
        assert all_say(services, dead, "token_revoked")()
        return verdicts(services, token)["rejecting"] == "feed_stale"

    await soon(is_stale, "the policy applies")
    assert services["rejecting"].problems() == ["feed_stale"]
    assert verdicts(services, token) == {
        "rejecting": "feed_stale",
        "clamping": "accepted",  # it is younger than a minute
        "accepting": "accepted",
        "patient": "accepted",
    }
    assert (services["patient"].freshness or 0) > before


async def recovery(services: Services, token: str, dead: str, soon: Soon) -> None:
    await soon(all_ready(services), "all are ready again")
    await soon(all_say(services, token, "accepted"), "the token is good again")
    assert all_say(services, dead, "token_revoked")()
