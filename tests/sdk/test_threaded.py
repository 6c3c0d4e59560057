"""``SyncAuthix``: a verifier in a thread of its own, in each process anew; a real server plays the issuer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from authix import (
    AuthixError,
    NotReady,
    RoleMissing,
    SettingsError,
    SyncAuthix,
    TokenError,
    TokenExpired,
    TokenRevoked,
    background,
)
from authix.errors import KeyUnknown, TokenMalformed
from authix.events import Revocation, UserRevoked, keep_until
from authix.keys import KeySet
from tests.programs import DEADLINE

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint

Soon = Callable[..., Awaitable[None]]
in_thread = asyncio.to_thread
"""The test's own loop is the issuer's: what may wait must not be called in it."""


def logout_of(subject: str) -> UserRevoked:
    now_us = time.time_ns() // 1000
    return UserRevoked(sub=subject, since_us=now_us, until=keep_until(now_us))


def refuses(auth: SyncAuthix, token: str) -> bool:
    try:
        auth.verify(token)
    except TokenError:
        return True
    return False


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "authix"]


@pytest.fixture
def auth(authority: Authority) -> SyncAuthix:
    """Not yet started; its end is the test's, by garbage collection, if it says nothing else."""
    return SyncAuthix(settings=authority.auth().settings)


class TestLife:
    async def test_it_starts_with_the_first_request_and_lets_it_wait(
        self, authority: Authority, auth: SyncAuthix, mint: Mint
    ) -> None:
        assert (auth.running, authority.received) == (False, [])
        claims = await in_thread(auth.authenticate, mint.fresh(sub="ada"))
        assert claims.subject == "ada"
        assert auth.running
        await in_thread(auth.stop)

    async def test_many_threads_at_once_start_one(self, authority: Authority, auth: SyncAuthix, mint: Mint) -> None:
        token, together = mint.fresh(sub="ada"), threading.Barrier(20)

        def request() -> str:
            together.wait(DEADLINE)
            return auth.authenticate(token).subject

        found: list[str] = []
        requests = [threading.Thread(target=lambda: found.append(request())) for _ in range(20)]
        for each in requests:
            each.start()
        for each in requests:
            await in_thread(each.join)
        assert (found, len(threads()), len(authority.of("/feed"))) == (["ada"] * 20, 1, 1)
        await in_thread(auth.stop)

    async def test_it_may_be_stopped_and_used_again(self, auth: SyncAuthix, mint: Mint) -> None:
        for _ in range(2):
            await in_thread(auth.start)
            await in_thread(auth.wait_ready)
            assert auth.ready()
            await in_thread(auth.stop)
            assert (auth.running, threads()) == (False, [])
        assert (await in_thread(auth.authenticate, mint.fresh())).subject == "user-1"
        await in_thread(auth.stop)

    async def test_it_may_be_entered_again(self, auth: SyncAuthix) -> None:
        for _ in range(2):
            with auth as entered:
                await in_thread(entered.wait_ready)
                assert (entered.ready(), len(threads())) == (True, 1)
            assert (auth.running, threads()) == (False, [])

    async def test_one_that_is_no_longer_needed_ends_its_thread(self, authority: Authority) -> None:
        auth = SyncAuthix(settings=authority.auth().settings)
        auth.start()
        assert len(threads()) == 1
        del auth
        gc.collect()
        assert threads() == []

    def test_a_wrong_setting_is_told_at_once(self) -> None:
        with pytest.raises(SettingsError, match="AUTHIX_ISSUER"):
            SyncAuthix(issuer="not a URL", audience="orders")

    async def test_a_listener_may_stop_it(
        self, authority: Authority, auth: SyncAuthix, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        auth.on_revoked(lambda _: auth.stop())
        await in_thread(auth.wait_ready)
        authority.announce(logout_of("ada"))
        await soon(lambda: not threads(), "it has ended")
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


class TestVerdicts:
    async def test_a_logout_is_heard_in_the_background(
        self, authority: Authority, auth: SyncAuthix, mint: Mint, soon: Soon
    ) -> None:
        token = mint.fresh(sub="ada")
        with auth:
            claims = await in_thread(auth.authenticate, token)
            auth.recheck(claims)
            authority.announce(logout_of("ada"))
            await soon(lambda: refuses(auth, token), "the logout was heard")
            with pytest.raises(TokenRevoked):
                auth.recheck(claims)
            with pytest.raises(TokenRevoked):
                auth.authenticate(token)
            assert auth.authenticate(mint.fresh(sub="ada")).subject == "ada"
            assert (auth.freshness or 0) < DEADLINE

    async def test_a_role_is_asked_for(self, auth: SyncAuthix, mint: Mint) -> None:
        with auth:
            await in_thread(auth.wait_ready)
            with pytest.raises(RoleMissing):
                auth.authenticate(mint.fresh(), roles=frozenset({"admin"}))

    async def test_what_is_no_token_is_refused_without_waiting_for_the_start(
        self, authority: Authority, auth: SyncAuthix
    ) -> None:
        authority.answers_for_keys.clear()
        with auth, pytest.raises(TokenMalformed):
            auth.authenticate("x.y.z")  # in this loop, in which the keys can't come

    async def test_it_waits_for_the_start_only_so_long(
        self, authority: Authority, auth: SyncAuthix, mint: Mint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(background, "PATIENCE", 0.1)
        authority.answers_for_keys.clear()
        with auth:
            with pytest.raises(NotReady):
                await in_thread(auth.authenticate, mint.fresh())
            with pytest.raises(NotReady, match="keys_missing"):
                await in_thread(auth.wait_ready, 0.1)

    async def test_a_token_that_had_to_wait_was_not_refused(
        self, auth: SyncAuthix, mint: Mint, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "authix.decisions"), auth:
            await in_thread(auth.authenticate, mint.fresh())
            with pytest.raises(RoleMissing):
                auth.authenticate(mint.fresh(), roles=frozenset({"admin"}))
        decisions = [record.getMessage() for record in caplog.records if record.name == "authix.decisions"]
        assert len(decisions) == 1
        assert "role_missing" in decisions[0]

    async def test_threads_with_an_unknown_key_share_one_fetch(
        self, authority: Authority, auth: SyncAuthix, mint: Mint, soon: Soon
    ) -> None:
        authority.keys = mint.key_set("ES256")
        token = mint.fresh("EdDSA", sub="ada")
        with auth:
            await in_thread(auth.wait_ready)
            authority.keys = mint.key_set()
            authority.answers_for_keys.clear()
            asking = [asyncio.create_task(in_thread(auth.authenticate, token)) for _ in range(4)]
            await soon(lambda: len(authority.of("/keys")) == 2, "they were asked for")
            authority.answers_for_keys.set()
            assert [claims.subject for claims in await asyncio.gather(*asking)] == ["ada"] * 4
            assert len(authority.of("/keys")) == 2
            authority.keys = KeySet()
            with pytest.raises(KeyUnknown):
                await in_thread(auth.authenticate, mint.sign(mint.header(kid="stranger"), mint.payload(**now())))
            assert len(authority.of("/keys")) == 2, "within the cool-down"

    async def test_a_coroutine_waits_without_holding_up_its_loop(
        self, authority: Authority, auth: SyncAuthix, mint: Mint
    ) -> None:
        authority.keys = mint.key_set("ES256")
        with auth:
            # the keys come by this very loop
            assert (await auth.authenticate_async(mint.fresh(sub="ada"))).subject == "ada"
            authority.keys = mint.key_set()
            assert (await auth.authenticate_async(mint.fresh("EdDSA", sub="ada"))).subject == "ada"
            with pytest.raises(KeyUnknown):
                await auth.authenticate_async(mint.sign(mint.header(kid="stranger"), mint.payload(**now())))

    async def test_a_failing_listener_harms_nobody(
        self, authority: Authority, auth: SyncAuthix, mint: Mint, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        heard: list[Revocation] = []

        def fail(_: Revocation) -> None:
            raise ValueError("a listener's own")

        auth.on_revoked(fail)
        forget = auth.on_revoked(heard.append)
        token = mint.fresh(sub="ada")
        with auth:
            await in_thread(auth.authenticate, token)
            authority.announce(logout_of("ada"))
            await soon(lambda: bool(heard), "the other listener was told")
            assert refuses(auth, token)
            assert "a listener of on_revoked failed" in caplog.messages
            forget()
            authority.announce(logout_of("bob"))
            await soon(lambda: refuses(auth, mint.fresh(sub="bob", iat_us=1)), "bob's was heard")
            assert len(heard) == 1


class TestStreams:
    async def test_a_guarded_stream_ends_with_the_item_after_the_logout(
        self, authority: Authority, auth: SyncAuthix, mint: Mint, soon: Soon
    ) -> None:
        token, put_away = mint.fresh(sub="ada"), []

        def source() -> Iterator[int]:
            try:
                yield from range(9)
            finally:
                put_away.append("source")

        with auth:
            claims = await in_thread(auth.authenticate, token)
            items = auth.guard(claims, source())
            assert [next(items), next(items)] == [0, 1]
            authority.announce(logout_of("ada"))
            await soon(lambda: refuses(auth, token), "the logout was heard")
            assert (list(items), put_away) == ([], ["source"])
            assert list(auth.guard(await in_thread(auth.authenticate, mint.fresh(sub="ada")), range(3))) == [0, 1, 2]

    async def test_a_guarded_stream_of_coroutines_ends_while_it_is_silent(
        self, authority: Authority, auth: SyncAuthix, mint: Mint
    ) -> None:
        put_away = []

        async def source() -> AsyncIterator[int]:
            try:
                yield 0
                await asyncio.Event().wait()
            finally:
                put_away.append("source")

        with auth:
            claims = await auth.authenticate_async(mint.fresh(sub="ada"))
            items = auth.guard_async(claims, source())
            assert await anext(items) == 0
            authority.announce(logout_of("ada"))
            async with asyncio.timeout(DEADLINE):
                assert [item async for item in items] == []
            assert put_away == ["source"]
            assert [item async for item in auth.guard_async(claims, source())] == [], "not even begun"

    async def test_a_guarded_stream_of_coroutines_is_else_as_its_source(self, auth: SyncAuthix, mint: Mint) -> None:
        async def source() -> AsyncIterator[int]:
            yield 0
            yield 1
            raise ValueError("the source's own")

        with auth:
            claims = await auth.authenticate_async(mint.fresh(sub="ada"))
            items = auth.guard_async(claims, source())
            assert [await anext(items), await anext(items)] == [0, 1]
            with pytest.raises(ValueError, match="the source's own"):
                await anext(items)

    async def test_who_watches_a_token_is_told_of_its_end_once(
        self, authority: Authority, auth: SyncAuthix, mint: Mint, soon: Soon
    ) -> None:
        told: list[AuthixError] = []
        forgotten: list[AuthixError] = []
        with auth:
            claims = await in_thread(auth.authenticate, mint.fresh(sub="ada"))
            auth.watch(claims, told.append)
            auth.watch(claims, forgotten.append)()
            authority.announce(logout_of("ada"))
            authority.announce(logout_of("ada"))
            await soon(lambda: bool(told), "it was told")
            authority.announce(logout_of("bob"))
            await soon(lambda: refuses(auth, mint.fresh(sub="bob", iat_us=1)), "a later logout was heard")
            assert (len(told), type(told[0]), forgotten) == (1, TokenRevoked, [])
            with pytest.raises(TokenRevoked):
                auth.watch(claims, told.append)

    async def test_who_watches_a_token_is_told_when_it_expires(
        self, authority: Authority, auth: SyncAuthix, mint: Mint, soon: Soon
    ) -> None:
        told: list[AuthixError] = []
        leeway = auth.settings.leeway
        with auth:
            claims = await in_thread(auth.authenticate, mint.fresh(exp=int(time.time()) - leeway + 3))
            auth.watch(claims, told.append)
            await soon(lambda: bool(told), "it was told")
        assert isinstance(told[0], TokenExpired)


def now() -> dict[str, int]:
    at = int(time.time())
    return {"iat": at, "exp": at + 300, "iat_us": at * 1_000_000}


class Script:
    """A program of a few lines that has ``auth`` and ``token``, and talks in lines."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), DEADLINE)
        assert line, await self._complaints()
        return line.decode().strip()

    async def say(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def ends_well(self) -> None:
        assert await asyncio.wait_for(self._process.wait(), DEADLINE) == 0, await self._complaints()
        assert await self._complaints() == ""

    async def _complaints(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()


Run = Callable[[str], AbstractAsyncContextManager[Script]]

BEGIN = """
import os, sys, time
from authix import SyncAuthix, TokenRevoked
auth, token = SyncAuthix(), os.environ["TOKEN"]

def say(what):
    sys.stdout.write(f"{what}\\n")  # in one piece: several processes share it
    sys.stdout.flush()

def judge():
    try:
        return auth.authenticate(token).subject
    except TokenRevoked:
        return "refused"

def until_refused():
    while judge() != "refused":
        time.sleep(0.01)
    say("refused")

def end_of(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.fixture
def run(authority: Authority, mint: Mint) -> Run:
    """``async with run("…lines…") as script``: a process with ada's token, whose warnings are errors."""

    @asynccontextmanager
    async def start(lines: str) -> AsyncIterator[Script]:
        settings = {
            "AUTHIX_ISSUER": mint.issuer,
            "AUTHIX_AUDIENCE": mint.audience,
            "AUTHIX_KEYS": f"{authority.url}/keys",
            "AUTHIX_FEED": f"{authority.url}/feed",
            "TOKEN": mint.fresh(sub="ada"),
        }
        # that threads and forks don't go together is what is tested here
        forking = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *forking, "-c", BEGIN + lines),
            env=os.environ | settings,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        try:
            yield Script(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too
            await process.communicate()

    return start


class TestProcesses:
    async def test_a_program_may_end_without_stopping_it(self, run: Run) -> None:
        async with run("say(judge())") as script:
            assert await script.line() == "ada"
            ended = time.monotonic()
            await script.ends_well()
            assert time.monotonic() - ended < 5

    async def test_a_program_may_end_before_it_is_ready(self, run: Run, authority: Authority) -> None:
        authority.answers_for_keys.clear()
        async with run("auth.start(); say('started')") as script:
            assert await script.line() == "started"
            await script.ends_well()

    async def test_workers_forked_before_the_first_use_have_their_own(self, run: Run, authority: Authority) -> None:
        lines = """
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        say(judge())
        until_refused()
        sys.exit()
    children.append(child)
for child in children:
    end_of(child)
say(auth.running)
"""
        async with run(lines) as script:
            assert [await script.line() for _ in range(2)] == ["ada", "ada"]
            assert len(authority.of("/feed")) == 2
            authority.announce(logout_of("ada"))
            assert [await script.line() for _ in range(3)] == ["refused", "refused", "False"]
            await script.ends_well()

    @pytest.mark.parametrize("before", ["", "threaded.instances.clear()"], ids=["told", "untold"])
    async def test_a_worker_forked_from_a_running_one_begins_anew_and_leaves_the_parents_be(
        self, run: Run, authority: Authority, before: str
    ) -> None:
        lines = f"""
import gc
from authix import runtime, threaded
say(judge())
{before}
child = os.fork()
if not child:
    say(auth.running)
    auth.stop()
    say(judge())
    say(len(runtime.instances))
    until_refused()
    gc.collect()
    sys.stdout.flush()
    sys.exit()
end_of(child)
sys.stdin.readline()
until_refused()
"""
        async with run(lines) as script:
            assert await script.line() == "ada"
            assert [await script.line() for _ in range(3)] == ["False", "ada", "1"]
            assert len(authority.of("/feed")) == 2
            authority.announce(logout_of("ada"))
            assert await script.line() == "refused"
            await script.say()
            assert await script.line() == "refused"
            await script.ends_well()
            assert len(authority.of("/feed")) == 2, "the parent's feed went on as it was"

    async def test_a_child_that_does_not_use_it_ends_without_harm(self, run: Run, authority: Authority) -> None:
        lines = """
say(judge())
child = os.fork()
if not child:
    sys.exit()
end_of(child)
say("ended")
until_refused()
"""
        async with run(lines) as script:
            assert [await script.line() for _ in range(2)] == ["ada", "ended"]
            authority.announce(logout_of("ada"))
            assert await script.line() == "refused"
            await script.ends_well()
            assert len(authority.of("/feed")) == 1
