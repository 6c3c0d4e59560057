"""The test kit: what a service's author writes, with the verifier that runs in production."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from authix import Authix, SyncAuthix, WhenStale, runtime
from authix.errors import (
    AudienceWrong,
    AuthixError,
    ClaimMissing,
    FeedStale,
    IssuerWrong,
    KeyRevoked,
    RoleMissing,
    TokenExpired,
    TokenRevoked,
)
from authix.events import Revocation
from authix.testing import InProcessIssuer

ISSUER, AUDIENCE = "https://auth.example.com", "orders"


@pytest.fixture
def auth() -> Authix:
    return Authix(issuer=ISSUER, audience=AUDIENCE)


@pytest.fixture
def issuer() -> Iterator[InProcessIssuer]:
    with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
        yield issuer


@pytest.fixture
async def started(auth: Authix, issuer: InProcessIssuer) -> Authix:
    await auth.start()
    return auth


def code_of(auth: Authix | SyncAuthix, token: str) -> str:
    try:
        auth.verify(token)
    except AuthixError as error:
        return error.code
    return "accepted"


async def test_a_token_says_what_the_test_put_in_it(started: Authix, issuer: InProcessIssuer) -> None:
    token = issuer.issue("ada", roles=["admin"], sid="s1", tenant="t1")
    claims = started.verify(token)
    assert (claims.subject, claims.session, claims.extra["tenant"]) == ("ada", "s1", "t1")
    assert claims.roles == {"admin"}
    assert (token.subject, token.session) == ("ada", "s1")
    assert token.headers == {"Authorization": f"Bearer {token}"}
    assert claims.expires_at - claims.issued_at_us / 1e6 == pytest.approx(300, abs=1)
    with pytest.raises(RoleMissing):
        started.verify(issuer.issue("ada"), roles=frozenset({"admin"}))


async def test_a_logout_is_heard_when_it_returns(started: Authix, issuer: InProcessIssuer) -> None:
    old, others = issuer.issue("ada"), issuer.issue("bob")
    issuer.logout("ada")
    assert code_of(started, old) == TokenRevoked.code
    assert code_of(started, others) == "accepted"
    assert code_of(started, issuer.issue("ada")) == "accepted"


async def test_a_session_logs_out_alone(started: Authix, issuer: InProcessIssuer) -> None:
    here, there = issuer.issue("ada"), issuer.issue("ada")
    issuer.logout("ada", sid=here.session)
    assert (code_of(started, here), code_of(started, there)) == (TokenRevoked.code, "accepted")


async def test_time_passes_only_when_told_to(started: Authix, issuer: InProcessIssuer) -> None:
    token = issuer.issue(expires_in=300)
    began = issuer.now
    issuer.advance(299)
    assert code_of(started, token) == "accepted"
    issuer.advance(10)
    assert code_of(started, token) == TokenExpired.code
    assert issuer.now == began + 309
    assert code_of(started, issuer.issue()) == "accepted"
    assert code_of(started, issuer.issue(expires_in=-10)) == TokenExpired.code


async def test_a_stale_feed_hears_no_logout_and_the_policy_applies(started: Authix, issuer: InProcessIssuer) -> None:
    token = issuer.issue("ada")
    issuer.go_stale()
    issuer.logout("ada")
    with pytest.raises(FeedStale):
        started.verify(token)
    assert started.verify(token, when_stale=WhenStale.ACCEPT).subject == "ada"
    assert started.problems() == ["feed_stale"]
    issuer.recover()
    assert code_of(started, token) == TokenRevoked.code
    assert started.ready()


def test_one_that_starts_while_the_feed_is_stale_is_stale_too(issuer: InProcessIssuer) -> None:
    """As those of Flask and Django do, which start with the first request."""
    issuer.go_stale()
    token = issuer.issue("ada")
    issuer.logout("ada")
    auth = SyncAuthix(issuer=ISSUER, audience=AUDIENCE)
    with pytest.raises(FeedStale):
        auth.authenticate(token)
    assert auth.verify(token, when_stale=WhenStale.ACCEPT).subject == "ada"
    issuer.advance(1)
    assert auth.problems() == ["feed_stale"]
    issuer.recover()
    assert code_of(auth, token) == TokenRevoked.code
    assert auth.ready()


async def test_keys_rotate_and_are_revoked(started: Authix, issuer: InProcessIssuer) -> None:
    first = issuer.issue()
    issuer.rotate_keys()
    second = issuer.issue()
    assert started.verify(first).key_id != started.verify(second).key_id
    issuer.revoke_keys()
    assert (code_of(started, first), code_of(started, second)) == (KeyRevoked.code, KeyRevoked.code)
    assert code_of(started, issuer.issue()) == "accepted"


async def test_claims_are_replaced_or_left_out(started: Authix, issuer: InProcessIssuer) -> None:
    assert code_of(started, issuer.issue(aud="someone-else")) == AudienceWrong.code
    assert code_of(started, issuer.issue(iss="https://elsewhere.example.com")) == IssuerWrong.code
    assert code_of(started, issuer.issue(exp=None)) == ClaimMissing.code


async def test_one_that_starts_later_knows_what_happened_before(auth: Authix, issuer: InProcessIssuer) -> None:
    token = issuer.issue("ada")
    issuer.logout("ada")
    await auth.start()
    assert code_of(auth, token) == TokenRevoked.code


async def test_nothing_is_asked_of_the_network(auth: Authix, issuer: InProcessIssuer) -> None:
    await auth.start()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert code_of(auth, issuer.issue()) == "accepted"


def test_the_one_for_threads_starts_by_itself(issuer: InProcessIssuer) -> None:
    auth = SyncAuthix(issuer=ISSUER, audience=AUDIENCE)
    token = issuer.issue("ada")
    assert auth.authenticate(token).subject == "ada"
    issuer.logout("ada")
    assert code_of(auth, token) == TokenRevoked.code


def test_each_test_begins_without_the_past() -> None:
    auth = SyncAuthix(issuer=ISSUER, audience=AUDIENCE)
    for _ in range(2):
        with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
            token = issuer.issue("ada", sid="s1")
            assert auth.authenticate(token).subject == "ada"
            issuer.logout("ada")
            assert code_of(auth, token) == TokenRevoked.code
    with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
        auth.authenticate(issuer.issue())
        token = issuer.issue("ada")
        issuer.logout("ada")
        issuer.go_stale()
        issuer.reset()
        assert auth.authenticate(issuer.issue("ada")).subject == "ada"
        assert code_of(auth, token) == "key_unknown"


async def test_one_that_was_stopped_starts_again_after_a_reset(auth: Authix, issuer: InProcessIssuer) -> None:
    async with auth:
        pass
    issuer.reset()
    assert not auth.running
    async with auth:
        issuer.reset()
        assert auth.verify(issuer.issue("ada")).subject == "ada"


async def test_one_that_was_stopped_hears_no_more_and_is_let_go(issuer: InProcessIssuer) -> None:
    async with Authix(issuer=ISSUER, audience=AUDIENCE) as auth:
        assert auth.ready()
    issuer.logout("ada")
    issuer.advance(1)
    assert not auth.ready()
    gone = weakref.ref(auth)
    del auth
    gc.collect()
    assert gone() is None


async def test_one_that_is_taken_over_twice_hears_each_logout_once(auth: Authix, issuer: InProcessIssuer) -> None:
    heard: list[Revocation] = []
    auth.on_revoked(heard.append)
    async with auth:
        assert auth.begin_stood_in()
        issuer.logout("ada")
    assert len(heard) == 1
    issuer.logout("bob")
    assert len(heard) == 1


def test_there_is_one_at_a_time(issuer: InProcessIssuer) -> None:
    with pytest.raises(RuntimeError), InProcessIssuer():
        pass
    assert runtime.stand_in is issuer


async def test_a_verifier_that_runs_already_is_taken_over(auth: Authix) -> None:
    async with auth:
        with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE) as issuer:
            token = issuer.issue("ada")
            assert auth.verify(token).subject == "ada"
        assert not auth.ready()


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_every_algorithm_is_signed(algorithm: str) -> None:
    with InProcessIssuer(issuer=ISSUER, audience=AUDIENCE, algorithm=algorithm) as issuer:  # type: ignore[arg-type] # a parameter
        async with Authix(issuer=ISSUER, audience=AUDIENCE, algorithms=algorithm) as auth:
            assert auth.verify(issuer.issue("ada")).subject == "ada"


async def test_tokens_are_spelled_as_the_verifiers_of_their_issuer_expect_it() -> None:
    realm = "https://realm.example.com"
    ours = Authix(issuer=ISSUER, audience=AUDIENCE)
    with InProcessIssuer(issuer=realm, audience=AUDIENCE) as issuer:
        async with (
            ours,
            Authix(
                issuer=realm,
                audience=AUDIENCE,
                keys=f"{realm}/keys",
                feed="none",
                claims="roles=realm_access.roles,session=session_state",
                token_types="JWT",
            ) as auth,
        ):
            claims = auth.verify(issuer.issue("ada", roles=["admin"], sid="s1"))
            assert (claims.subject, claims.session) == ("ada", "s1")
            assert claims.roles == {"admin"}
            assert ours.verify(issuer.issue("ada", roles=["admin"], iss=ISSUER)).roles == {"admin"}


class TestUntilRevoked:
    async def test_the_block_ends_with_the_reason(self, started: Authix, issuer: InProcessIssuer) -> None:
        claims = started.verify(issuer.issue("ada"))
        reached = asyncio.Event()

        async def work() -> None:
            async with started.until_revoked(claims):
                reached.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await reached.wait()
        issuer.logout("bob")
        await asyncio.sleep(0)
        assert not task.done()
        issuer.logout("ada")
        async with asyncio.timeout(10):
            with pytest.raises(TokenRevoked):
                await task
        assert len(started.streams) == 0

    async def test_it_ends_by_expiry(self, started: Authix, issuer: InProcessIssuer) -> None:
        claims = started.verify(issuer.issue("ada"))
        waiting = asyncio.ensure_future(started.until_revoked(claims))
        await asyncio.sleep(0)
        issuer.advance(310)
        async with asyncio.timeout(10):
            assert isinstance(await waiting, TokenExpired)

    async def test_waiting_returns_the_reason(self, started: Authix, issuer: InProcessIssuer) -> None:
        claims = started.verify(issuer.issue("ada"))
        waiting = asyncio.ensure_future(started.until_revoked(claims))
        await asyncio.sleep(0)
        issuer.revoke_keys()
        async with asyncio.timeout(10):
            assert isinstance(await waiting, KeyRevoked)

    async def test_one_who_has_logged_out_meanwhile_never_enters(
        self, started: Authix, issuer: InProcessIssuer
    ) -> None:
        claims = started.verify(issuer.issue("ada"))
        issuer.logout("ada")
        assert isinstance(await started.until_revoked(claims), TokenRevoked)
        with pytest.raises(TokenRevoked):
            started.recheck(claims)
        with pytest.raises(TokenRevoked):
            async with started.until_revoked(claims):
                pytest.fail("the block was entered")

    async def test_a_block_that_ends_by_itself_leaves_nothing(self, started: Authix, issuer: InProcessIssuer) -> None:
        claims = started.verify(issuer.issue("ada"))
        async with started.until_revoked(claims):
            pass
        with pytest.raises(ZeroDivisionError):
            async with started.until_revoked(claims):
                _ = 1 / 0
        assert len(started.streams) == 0
        issuer.logout("ada")
        await asyncio.sleep(0)  # a late cancellation would come here

    async def test_someone_elses_cancellation_stays_theirs(self, started: Authix, issuer: InProcessIssuer) -> None:
        claims = started.verify(issuer.issue("ada"))
        reached = asyncio.Event()

        async def work() -> None:
            async with started.until_revoked(claims):
                reached.set()
                await asyncio.Event().wait()

        for logs_out in (False, True):
            reached.clear()
            task = asyncio.create_task(work())
            await reached.wait()
            task.cancel()
            if logs_out:
                issuer.logout("ada")
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_cleaning_up_may_take_time(self, started: Authix, issuer: InProcessIssuer) -> None:
        claims = started.verify(issuer.issue("ada"))
        reached, cleaned = asyncio.Event(), False

        async def work() -> None:
            nonlocal cleaned
            async with started.until_revoked(claims):
                try:
                    asyncio.get_running_loop().call_soon(issuer.logout, "ada")
                    await reached.wait()
                finally:
                    await asyncio.sleep(0)
                    cleaned = True

        async with asyncio.timeout(10):
            with pytest.raises(TokenRevoked):
                await work()
        assert cleaned


def test_the_plugin_gives_a_service_its_tests(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        """
        import pytest
        from authix import SyncAuthix, TokenRevoked

        auth = SyncAuthix(issuer="https://auth.example.com", audience="orders")


        @pytest.mark.parametrize("n", [1, 2])
        def test_logged_out(authix_tokens, n):
            token = authix_tokens.issue("u1")
            assert auth.authenticate(token).subject == "u1"
            authix_tokens.logout("u1")
            with pytest.raises(TokenRevoked):
                auth.verify(token)
        """
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov")
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize("auth", ["AiohttpAuthix", "SanicAuthix"])
def test_the_plugin_for_an_application_started_by_each_test(pytester: pytest.Pytester, auth: str) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        AiohttpAuthix="""
        from aiohttp import web
        from aiohttp.test_utils import TestClient, TestServer
        from authix.aiohttp import CLAIMS, AiohttpAuthix

        auth = AiohttpAuthix(issuer="https://auth.example.com", audience="orders")


        @auth.required()
        async def orders(request):
            return web.json_response({"of": request[CLAIMS].subject})


        async def answer(headers):
            app = web.Application()
            auth.install(app)
            app.router.add_get("/orders", orders)
            async with TestClient(TestServer(app)) as client:
                return await (await client.get("/orders", headers=headers)).json()
        """,
        SanicAuthix="""
        from authix.sanic import SanicAuthix
        from sanic import Sanic, json
        from sanic_testing.testing import SanicASGITestClient

        app = Sanic("orders")
        auth = SanicAuthix(app, issuer="https://auth.example.com", audience="orders")


        @app.get("/orders")
        @auth.required()
        async def orders(request):
            return json({"of": request.ctx.claims.subject})


        async def answer(headers):
            _, found = await SanicASGITestClient(app).get("/orders", headers=headers)
            return found.json
        """,
        test_orders=f"""
        import pytest
        from {auth} import answer


        @pytest.fixture(scope="session", autouse=True)
        def whole_run(authix_session):
            pass


        @pytest.mark.parametrize("n", [1, 2])
        async def test_it_answers(authix_tokens, n):
            assert await answer(authix_tokens.issue("u1").headers) == {{"of": "u1"}}
        """,
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov").assert_outcomes(passed=2)


def test_the_plugin_for_an_application_started_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from authix import SyncAuthix, TokenRevoked


        @pytest.fixture(scope="session")
        def auth(authix_session):
            with SyncAuthix(issuer="https://auth.example.com", audience="orders") as auth:
                yield auth


        @pytest.mark.parametrize("n", [1, 2])
        def test_logged_out(auth, authix_tokens, n):
            token = authix_tokens.issue("u1", sid="s1")
            assert auth.verify(token).subject == "u1"
            authix_tokens.logout("u1")
            with pytest.raises(TokenRevoked):
                auth.verify(token)


        def test_time(auth, authix_tokens):
            token = authix_tokens.issue("u1")
            authix_tokens.advance(306)
            with pytest.raises(Exception, match="passed"):
                auth.verify(token)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov").assert_outcomes(passed=3)
