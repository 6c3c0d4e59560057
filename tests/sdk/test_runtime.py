"""``Authix``: a verifier with its keys and its feed, against a real server that plays the issuer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from authix import Authix, FeedStale, NotReady, RoleMissing, TokenError, TokenRevoked, WhenStale
from authix.errors import KeyRevoked as KeyRevokedError
from authix.errors import KeyUnknown
from authix.events import KeyRevoked, Revocation, SessionRevoked, UserRevoked, keep_until
from authix.keys import KeySet

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint

Soon = Callable[..., Awaitable[None]]


def logout_of(subject: str) -> UserRevoked:
    now_us = time.time_ns() // 1000
    return UserRevoked(sub=subject, since_us=now_us, until=keep_until(now_us))


def refuses(auth: Authix, token: str) -> bool:
    try:
        auth.verify(token)
    except TokenError:
        return True
    return False


class TestLifecycle:
    async def test_nothing_is_asked_before_the_start(self, authority: Authority, mint: Mint) -> None:
        auth = authority.auth()
        assert not auth.ready()
        assert auth.freshness is None
        assert auth.problems() == ["keys_missing", "feed_replaying"]
        with pytest.raises(NotReady):
            await auth.authenticate(mint.fresh())
        assert authority.received == []

    async def test_it_is_ready_when_keys_and_feed_are_here(self, authority: Authority, mint: Mint, soon: Soon) -> None:
        authority.answers_for_keys.clear()
        async with authority.auth() as auth:
            await soon(lambda: auth.problems() == ["keys_missing"], "the feed is here")
            with pytest.raises(NotReady):
                auth.verify(mint.fresh())
            authority.answers_for_keys.set()
            await soon(auth.ready, "it is ready")
            assert auth.verify(mint.fresh(sub="ada")).subject == "ada"

    async def test_it_is_not_ready_with_keys_alone(self, authority: Authority, mint: Mint, soon: Soon) -> None:
        authority.beats = False
        authority.announce(logout_of("user-2"))
        async with authority.auth(when_stale=WhenStale.ACCEPT) as auth:
            await soon(lambda: auth.problems() == ["feed_replaying"], "the keys are here")
            await soon(lambda: len(auth.verifier.revocations) == 1, "the log is here")
            with pytest.raises(NotReady):
                auth.verify(mint.fresh())
            authority.beats = True
            await soon(auth.ready, "it is ready")

    async def test_after_its_end_nothing_runs_and_its_knowledge_ages(
        self, authority: Authority, mint: Mint, soon: Soon
    ) -> None:
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
        await authority.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert auth.verify(mint.fresh(sub="ada")).subject == "ada"
        age = auth.freshness
        await soon(lambda: (auth.freshness or 0) > (age or 0), "time passes")

    async def test_it_may_start_again_but_not_twice(self, authority: Authority, soon: Soon) -> None:
        auth = authority.auth()
        async with auth:
            with pytest.raises(RuntimeError):
                await auth.start()
        async with auth:
            await soon(auth.ready, "it is ready")

    def test_it_may_live_in_one_event_loop_after_another(
        self, mint: Mint, new_authority: Callable[[Mint], Authority]
    ) -> None:
        authority = new_authority(mint)

        async def live(auth: Authix) -> None:
            authority.answers_for_keys = asyncio.Event()
            authority.answers_for_keys.set()
            await authority.start()
            unknown = mint.headed(kid="unknown")
            async with auth, asyncio.timeout(20):
                while not auth.ready():
                    await asyncio.sleep(0.01)
                with pytest.raises(TokenError):
                    await auth.authenticate(unknown)
                auth.verify(mint.fresh())
            await authority.stop()

        auth = authority.auth()
        asyncio.run(live(auth))
        asyncio.run(live(auth))

    def test_one_that_was_left_behind_by_an_event_loop_that_was_closed_does_not_run_and_may_start_again(
        self, mint: Mint, new_authority: Callable[[Mint], Authority]
    ) -> None:
        """As by ``loop.run_until_complete(auth.start())`` in a program that ends its loop by hand."""
        authority = new_authority(mint)

        async def live(auth: Authix, *, stops: bool) -> None:
            authority.answers_for_keys = asyncio.Event()
            authority.answers_for_keys.set()
            await authority.start()
            await auth.start()
            async with asyncio.timeout(20):
                while not auth.ready():
                    await asyncio.sleep(0.01)
                with pytest.raises(TokenError):
                    await auth.authenticate(mint.headed(kid="unknown"))
            auth.verify(mint.fresh())
            if stops:
                await auth.stop()
            await authority.stop()

        auth = authority.auth()
        for stops in (False, False, True):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(live(auth, stops=stops))
            assert auth.running is not stops
            loop.close()
            assert not auth.running

    def test_one_that_was_left_behind_may_be_stopped(self) -> None:
        auth = Authix(issuer="http://127.0.0.1:1", audience="orders")
        loop = asyncio.new_event_loop()
        loop.run_until_complete(auth.start())
        loop.close()

        async def stop_and_live_again() -> None:
            await auth.stop()
            async with auth:
                await asyncio.sleep(0.05)
                assert auth.running
                assert len(auth.feeds_in_use) == 1

        asyncio.run(stop_and_live_again())


class TestLogout:
    async def test_a_logout_is_heard_and_told(self, authority: Authority, mint: Mint, soon: Soon) -> None:
        heard: list[Revocation] = []
        async with authority.auth() as auth:
            auth.on_revoked(heard.append)
            await soon(auth.ready, "it is ready")
            token, other = mint.fresh(sub="ada"), mint.fresh(sub="bob")
            auth.verify(token)
            event = logout_of("ada")
            authority.announce(event)
            await soon(lambda: refuses(auth, token), "the token is refused")
            with pytest.raises(TokenRevoked):
                await auth.authenticate(token)
            auth.verify(other)
            auth.verify(mint.fresh(sub="ada"))  # logged in again
            assert heard == [event]

    async def test_a_logout_before_its_start_is_known_when_it_is_ready(
        self, authority: Authority, mint: Mint, soon: Soon
    ) -> None:
        token = mint.fresh(sid="s1")
        now_us = time.time_ns() // 1000
        authority.announce(SessionRevoked(sub="user-1", sid="s1", since_us=now_us, until=keep_until(now_us)))
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
            with pytest.raises(TokenRevoked):
                auth.verify(token)

    async def test_dead_entries_are_forgotten_by_themselves(self, authority: Authority, soon: Soon) -> None:
        for n in range(3000):
            authority.announce(UserRevoked(sub=f"u{n}", since_us=n, until=n // 10))
        authority.announce(logout_of("ada"))
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
            await soon(lambda: len(auth.verifier.revocations) == 1, "the dead entries are gone")

    async def test_a_silent_feed_goes_stale_and_the_policy_applies(
        self, authority: Authority, mint: Mint, soon: Soon
    ) -> None:
        async with (
            authority.auth(stale_after=2) as auth,
            authority.auth(stale_after=2, when_stale=WhenStale.ACCEPT) as lax,
        ):
            await soon(lambda: auth.ready() and lax.ready(), "both are ready")
            authority.beats = False
            await soon(lambda: auth.problems() == lax.problems() == ["feed_stale"], "both are stale")
            with pytest.raises(FeedStale):
                auth.verify(mint.fresh())
            lax.verify(mint.fresh())
            authority.beats = True
            await soon(auth.ready, "it is ready again")


class TestKeys:
    async def test_a_new_key_is_fetched_by_the_first_token_that_names_it(
        self, authority: Authority, mint: Mint, soon: Soon
    ) -> None:
        authority.keys = mint.key_set("ES256")
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
            authority.keys = mint.key_set("ES256", "EdDSA")
            with pytest.raises(KeyUnknown):
                auth.verify(mint.fresh("EdDSA"))
            many = await asyncio.gather(*(auth.authenticate(mint.fresh("EdDSA", sub=f"u{n}")) for n in range(50)))
            assert {claims.subject for claims in many} == {f"u{n}" for n in range(50)}
            assert len(authority.of("/keys")) == 2

    async def test_a_known_key_id_never_waits_for_a_fetch(self, authority: Authority, mint: Mint, soon: Soon) -> None:
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
            authority.answers_for_keys.clear()
            unknown = mint.sign(mint.header(kid="unknown"), mint.payload() | fresh_times())
            asking = asyncio.create_task(auth.authenticate(unknown))
            await soon(lambda: len(authority.of("/keys")) == 2, "the fetch is under way")
            assert (await auth.authenticate(mint.fresh(sub="ada"))).subject == "ada"
            assert not asking.done()
            authority.answers_for_keys.set()
            with pytest.raises(KeyUnknown):
                await asking

    async def test_a_revoked_key_is_gone_at_once_and_its_successor_fetched(
        self, authority: Authority, mint: Mint, soon: Soon
    ) -> None:
        authority.keys = mint.key_set("ES256")
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
            authority.keys = mint.key_set("EdDSA")
            authority.announce(KeyRevoked(kid=mint.public("ES256").key_id, until=int(time.time()) + 420))
            await soon(lambda: refuses(auth, mint.fresh("ES256")), "the key is refused")
            with pytest.raises(KeyRevokedError):
                auth.verify(mint.fresh("ES256"))
            await soon(auth.ready, "the new key is here")
            auth.verify(mint.fresh("EdDSA"))
            assert len(authority.of("/keys")) == 2

    async def test_the_event_of_a_key_nobody_had_causes_no_fetch(
        self, authority: Authority, mint: Mint, soon: Soon
    ) -> None:
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
            for n in range(20):
                authority.announce(KeyRevoked(kid=f"k{n}", until=int(time.time()) + 420))
            authority.announce(logout_of("ada"))
            await soon(lambda: len(auth.verifier.revocations) == 21, "the events are here")
            assert isinstance(auth.verifier.keys, KeySet)
            assert len(authority.of("/keys")) == 1


class TestRoles:
    @pytest.mark.parametrize("roles", [[], ["reader"], ["Admin"]])
    async def test_a_missing_role_is_told_apart_from_a_bad_token(
        self, authority: Authority, mint: Mint, soon: Soon, roles: list[str]
    ) -> None:
        async with authority.auth() as auth:
            await soon(auth.ready, "it is ready")
            with pytest.raises(RoleMissing):
                await auth.authenticate(mint.fresh(roles=roles), roles=frozenset({"reader", "admin"}))
            claims = await auth.authenticate(
                mint.fresh(roles=["admin", "reader"]), roles=frozenset({"reader", "admin"})
            )
            assert claims.roles == {"admin", "reader"}


def fresh_times() -> dict[str, int]:
    now = int(time.time())
    return {"iat": now, "exp": now + 300, "iat_us": now * 1_000_000}
