"""An issuer that is late, dies, hangs and comes back: what services with the SDK do meanwhile, and without help."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from authix import Authix, AuthixError, WhenStale
from authix.errors import KeyUnknown
from authix.keys import KeySet, VerificationKey
from authix.tokens import base64url_encode
from tests.programs import IssuerProgram, Program, login, register

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint, Received, Send

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


class KeyEndpoint:
    """The authority's /keys: it does as it is told, and all that it serves holds the mint's first key."""

    def __init__(self, authority: Authority, mint: Mint) -> None:
        self._authority, self._mint = authority, mint
        self._goes_on = authority.answer
        self.behaviour = "serves"
        authority.mint = mint
        authority.answer = self._answer

    @property
    def fetches(self) -> int:
        return len(self._authority.of("/keys"))

    async def _answer(self, request: Received, send: Send) -> None:
        if request.path != "/keys":
            await self._goes_on(request, send)
            return
        match self.behaviour:
            case "hangs":
                await asyncio.Event().wait()
            case "fails":
                await send(self._authority.http(status="500 Internal Server Error"))
            case "serves garbage":
                await send(self._authority.http(b'{"keys":[{"kty":"RSA","n":"AAAA"}]}'))
            case "serves":
                await send(self._authority.http(self._keys()))
            case "rotates every second":
                await send(self._authority.http(self._keys(), cache_control="max-age=1"))

    def _keys(self) -> bytes:
        """Never twice the same."""
        new = VerificationKey(ed25519.Ed25519PrivateKey.generate().public_key())
        return KeySet([self._mint.public("ES256"), new]).to_json()


@pytest.mark.parametrize("behaviour", ["hangs", "fails", "serves garbage", "rotates every second"])
async def test_known_keys_verify_at_once_while_10000_unknown_key_ids_cause_one_fetch(
    authority: Authority, live_mint: Mint, soon: Soon, behaviour: str
) -> None:
    endpoint = KeyEndpoint(authority, live_mint)
    async with authority.auth(stale_after=3600) as auth:  # the feed shares a loop with all those who ask
        await soon(auth.ready, "it is ready")
        endpoint.behaviour, before, start = behaviour, endpoint.fetches, time.monotonic()
        attack = asyncio.gather(
            *(auth.authenticate(unknown) for unknown in unknown_keys(live_mint, 10_000)), return_exceptions=True
        )
        verified, slowest = 0, 0.0
        while not attack.done() or verified < 100:
            token, began = live_mint.fresh(), time.monotonic()  # never seen before, so its signature is checked
            auth.verify(token)
            slowest = max(slowest, time.monotonic() - began)
            verified += 1
            await asyncio.sleep(0.01)
        assert slowest < 2, "nothing was waited for"
        assert Counter(type(error) for error in await attack) == {KeyUnknown: 10_000}
        refreshes = math.ceil(time.monotonic() - start) if behaviour == "rotates every second" else 0
        assert 1 <= endpoint.fetches - before <= 1 + refreshes


def unknown_keys(mint: Mint, count: int) -> list[str]:
    """Tokens under key ids that nobody knows."""
    _, body, tail = mint.fresh().split(".")
    heads = (json.dumps(mint.header(kid=f"unknown-{n}")).encode() for n in range(count))
    return [f"{base64url_encode(head)}.{body}.{tail}" for head in heads]
