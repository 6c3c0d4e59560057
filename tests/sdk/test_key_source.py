"""The key source against a real server that misbehaves: known keys stay, fetches are few, recovery is its own."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from authix.key_source import HttpKeySource
from authix.keys import MAX_DOCUMENT, KeySet

if TYPE_CHECKING:
    from tests.sdk.conftest import Answer, Mint, Peer, Received, Send

Soon = Callable[..., Awaitable[None]]
Start = Callable[..., tuple[HttpKeySource, list[KeySet]]]


@pytest_asyncio.fixture
async def start(peer: Peer) -> AsyncIterator[Start]:
    """``start(cool_down=…)``: a running key source of the peer's, and the sets it has found so far."""
    tasks = []

    def begin(path: str = "/keys", **settings: Any) -> tuple[HttpKeySource, list[KeySet]]:
        found: list[KeySet] = []
        source = HttpKeySource(peer.url + path, use=found.append, **settings)
        tasks.append(asyncio.create_task(source.keep_fresh()))
        return source, found

    yield begin
    for task in tasks:
        task.cancel()
    assert [type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * len(tasks)


def serving(peer: Peer, keys: KeySet, **headers: str) -> Answer:
    async def answer(_: Received, send: Send) -> None:
        await send(peer.http(keys.to_json(), **headers))

    return answer


def raw(*chunks: bytes, then_hang: bool = False, pause: float = 0) -> Answer:
    async def answer(_: Received, send: Send) -> None:
        for chunk in chunks:
            await send(chunk)
            await asyncio.sleep(pause)
        if then_hang:
            await asyncio.Event().wait()

    return answer


def metadata(peer: Peer, issuer: str, **members: Any) -> bytes:
    return json.dumps({"issuer": issuer, "jwks_uri": f"{peer.url}/keys", **members}).encode()


def serving_each(peer: Peer, **answers: bytes) -> Answer:
    """``serving_each(peer, keys=…)``: that body at /keys."""

    async def answer(request: Received, send: Send) -> None:
        await send(peer.http(answers[request.path[1:]], etag=f'"{len(answers[request.path[1:]])}"'))

    return answer


def misbehaviours() -> dict[str, Callable[[Peer], Answer]]:
    ok = b"HTTP/1.1 200 OK\r\n"
    return {
        "it fails": lambda peer: raw(peer.http(b"{}", "500 Internal Server Error")),
        "it is not there": lambda peer: raw(peer.http(status="404 Not Found")),
        "it wants a login": lambda peer: raw(peer.http(status="401 Unauthorized")),
        "it redirects": lambda peer: raw(peer.http(status="302 Found", location=f"{peer.url}/elsewhere")),
        "it redirects nowhere": lambda peer: raw(peer.http(status="302 Found", location="http://[")),
        "it says no content": lambda peer: raw(peer.http(status="204 No Content")),
        "it sends nothing": lambda peer: raw(peer.http()),
        "it sends garbage": lambda peer: raw(peer.http(b"\xff\x00garbage")),
        "it sends a page": lambda peer: raw(peer.http(b"<html></html>", content_type="text/html")),
        "its set is empty": lambda peer: raw(peer.http(b'{"keys":[]}')),
        "its set holds no usable key": lambda peer: raw(peer.http(b'{"keys":[{"kty":"oct","k":"AAAA","kid":"x"}]}')),
        "its set is nested without end": lambda peer: raw(peer.http(b'{"keys":' + b"[" * 100_000)),
        "its set is too large": lambda peer: raw(peer.http(b" " * (MAX_DOCUMENT + 1))),
        "its set never ends": lambda peer: raw(ok + b"\r\n", *[b" " * 65_536] * 8, then_hang=True),
        "its set is a bomb": lambda peer: raw(peer.http(gzip.compress(b" " * 10_000_000), content_encoding="gzip")),
        "its encoding is broken": lambda peer: raw(peer.http(b"no gzip", content_encoding="gzip")),
        "it is cut off": lambda peer: raw(ok + b"content-length: 1000\r\n\r\n{"),
        "its chunks are broken": lambda peer: raw(ok + b"transfer-encoding: chunked\r\n\r\nzz\r\n"),
        "its length is nonsense": lambda peer: raw(ok + b"content-length: many\r\n\r\n"),
        "it is no HTTP": lambda peer: raw(b"SSH-2.0-OpenSSH\r\n"),
        "it hangs up": lambda peer: raw(),
        "it hangs": lambda peer: raw(then_hang=True),
        "it hangs after its headers": lambda peer: raw(ok + b"content-length: 9\r\n\r\n", then_hang=True),
        "it drips": lambda peer: raw(ok + b"content-length: 900\r\n\r\n", *[b" "] * 900, pause=0.05),
        "its headers drip": lambda peer: raw(ok, *[b"x: y\r\n"] * 900, pause=0.05),
        "its headers never end": lambda peer: raw(ok, *[b"x" * 65_536] * 8, then_hang=True),
    }


async def test_the_keys_come_with_the_first_answer(peer: Peer, mint: Mint, start: Start, soon: Soon) -> None:
    peer.answer = serving(peer, mint.key_set("ES256"))
    _, found = start()
    await soon(lambda: len(found) == 1, "the keys are here")
    assert [key.key_id for key in found[0]] == [mint.public("ES256").key_id]
    assert "application/jwk-set+json" in peer.received[0].headers["accept"]


@pytest.mark.parametrize("answer", misbehaviours().values(), ids=misbehaviours().keys())
async def test_known_keys_stay_while_the_server_misbehaves_and_new_ones_come_when_it_stops(
    peer: Peer, mint: Mint, start: Start, soon: Soon, answer: Callable[[Peer], Answer]
) -> None:
    peer.answer = serving(peer, mint.key_set("ES256"))
    source, found = start(cool_down=0, timeout=0.5)
    await soon(lambda: len(found) == 1, "the keys are here")

    peer.answer, before = answer(peer), source.attempts
    await source.refetch()
    assert source.attempts > before
    assert len(found) == 1
    assert peer.of("/elsewhere") == []

    peer.answer = serving(peer, mint.key_set("EdDSA"))
    async with asyncio.timeout(20):
        while len(found) < 2:
            await source.refetch()
    assert [key.key_id for key in found[1]] == [mint.public("EdDSA").key_id]


@pytest.mark.parametrize("what", ["it fails", "it sends nothing", "it sends a page", "it hangs up", "it hangs"])
async def test_the_first_keys_come_as_soon_as_the_server_stops_misbehaving(
    peer: Peer, mint: Mint, start: Start, soon: Soon, what: str
) -> None:
    peer.answer = misbehaviours()[what](peer)
    source, found = start(timeout=0.5)
    await soon(lambda: source.attempts >= 2, "it has tried again")
    assert found == []
    peer.answer = serving(peer, mint.key_set())
    await soon(lambda: len(found) == 1, "the keys are here")


async def test_a_server_that_is_not_there_is_asked_until_it_is(
    peer: Peer, mint: Mint, start: Start, soon: Soon
) -> None:
    peer.answer = serving(peer, mint.key_set())
    await peer.stop()
    source, found = start()
    await soon(lambda: source.attempts >= 2, "it has tried again")
    await peer.start()
    await soon(lambda: len(found) == 1, "the keys are here")


async def test_a_good_set_of_over_256_kib_is_refused(peer: Peer, mint: Mint, start: Start, soon: Soon) -> None:
    async def answer(_: Received, send: Send) -> None:
        await send(peer.http(mint.key_set().to_json() + b" " * MAX_DOCUMENT))

    peer.answer = answer
    source, found = start()
    await soon(lambda: source.attempts >= 2, "it has tried again")
    assert found == []


async def test_an_answer_of_not_modified_that_nobody_asked_for_is_no_key_set(
    peer: Peer, mint: Mint, start: Start, soon: Soon
) -> None:
    peer.answer = raw(peer.http(status="304 Not Modified", cache_control="max-age=3600"))
    source, found = start()
    await soon(lambda: source.attempts >= 2, "it has tried again")
    peer.answer = serving(peer, mint.key_set())
    await soon(lambda: len(found) == 1, "the keys are here")


class TestUnknownKeyIds:
    async def test_many_askers_cause_one_fetch_and_all_see_its_end(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        peer.answer = serving(peer, mint.key_set("ES256"))
        source, found = start()
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = serving(peer, mint.key_set("EdDSA"))
        assert await asyncio.gather(*(source.refetch() for _ in range(200))) == [True] * 200
        assert len(found) == 2
        assert source.attempts == len(peer.received) == 2

    @pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
    async def test_the_next_fetch_waits_for_the_cool_down_even_if_this_one_failed(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon, status: str
    ) -> None:
        peer.answer = serving(peer, mint.key_set())
        source, found = start(cool_down=3600)
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = raw(peer.http(mint.key_set().to_json(), status))
        assert await source.refetch()
        before = source.attempts
        assert await asyncio.gather(*(source.refetch() for _ in range(200))) == [False] * 200
        assert source.attempts == before

    async def test_after_the_cool_down_they_may_cause_another_fetch(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        peer.answer = serving(peer, mint.key_set())
        source, found = start(cool_down=0.2)
        await soon(lambda: len(found) == 1, "the keys are here")
        assert await source.refetch()
        asked_again = False
        while not asked_again:
            asked_again = await source.refetch()
            await asyncio.sleep(0.01)
        assert source.attempts == 3

    async def test_a_fetch_under_way_is_too_old_for_them(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        """Its answer may have been made before the key was published."""
        go_on = asyncio.Event()

        async def slow(_: Received, send: Send) -> None:
            await go_on.wait()
            await send(peer.http(mint.key_set("ES256").to_json()))

        peer.answer = slow
        source, found = start()
        await soon(lambda: len(peer.received) == 1, "the first fetch is under way")
        asking = asyncio.create_task(source.refetch())
        await asyncio.sleep(0)
        peer.answer = serving(peer, mint.key_set("EdDSA"))
        go_on.set()
        assert await asking
        assert [key.algorithm for keys in found for key in keys] == ["ES256", "EdDSA"]

    async def test_their_wait_is_bounded_while_the_server_hangs(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        peer.answer = serving(peer, mint.key_set())
        source, found = start(timeout=0.3)
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = raw(then_hang=True)
        await asyncio.wait_for(source.refetch(), timeout=5)

    async def test_their_wait_ends_when_the_source_is_stopped(self, peer: Peer, mint: Mint, soon: Soon) -> None:
        peer.answer = serving(peer, mint.key_set())
        found: list[KeySet] = []
        source = HttpKeySource(peer.url, use=found.append, timeout=3600)
        running = asyncio.create_task(source.keep_fresh())
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = raw(then_hang=True)
        asking = asyncio.create_task(source.refetch())
        await soon(lambda: len(peer.received) == 2, "the fetch is under way")
        running.cancel()
        await asyncio.wait_for(asking, timeout=20)

    @pytest.mark.parametrize("what", ["it fails", "it sends garbage", "it hangs up"])
    async def test_a_fetch_for_them_that_fails_is_not_repeated_before_the_cool_down(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon, what: str
    ) -> None:
        peer.answer = serving(peer, mint.key_set())
        source, found = start(cool_down=0.5)
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = misbehaviours()[what](peer)
        assert await source.refetch()
        asked_again = False
        while not asked_again:
            assert source.attempts == 2
            asked_again = await source.refetch()
            await asyncio.sleep(0.01)
        assert source.attempts == 3

    async def test_a_fetch_that_was_due_and_failed_is_repeated_without_being_asked_for(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        peer.answer = serving(peer, mint.key_set("ES256"), cache_control="max-age=1")
        _, found = start()
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = raw(peer.http(status="500 Internal Server Error"))
        await soon(lambda: len(peer.received) >= 3, "it has tried again")
        peer.answer = serving(peer, mint.key_set("EdDSA"))
        await soon(lambda: len(found) == 2, "the new keys are here")


class TestMetadata:
    """The URL is that of the issuer's metadata, which says where the keys are."""

    @pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"])
    async def test_the_keys_come_from_where_it_says(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon, path: str
    ) -> None:
        peer.answer = serving_each(peer, **{path[1:]: metadata(peer, mint.issuer), "keys": mint.key_set().to_json()})
        _, found = start(path, issuer=mint.issuer)
        await soon(lambda: len(found) == 1, "the keys are here")
        assert len(found[0]) == len(mint.key_set())
        assert [request.path for request in peer.received] == [path, "/keys"]

    async def test_each_fetch_reads_both_anew_and_an_unchanged_one_costs_no_body(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        peer.answer = serving_each(peer, meta=metadata(peer, mint.issuer), keys=mint.key_set("ES256").to_json())
        source, found = start("/meta", issuer=mint.issuer, cool_down=0)
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = raw(peer.http(status="304 Not Modified"))
        assert await source.refetch()
        tags = [request.headers.get("if-none-match") for request in peer.received]
        assert tags[:2] == [None, None]
        assert None not in tags[2:]
        assert len(tags) == 4

    async def test_keys_that_moved_are_followed(self, peer: Peer, mint: Mint, start: Start, soon: Soon) -> None:
        old = {"keys": mint.key_set("ES256").to_json(), "moved": mint.key_set("EdDSA").to_json()}
        peer.answer = serving_each(peer, meta=metadata(peer, mint.issuer), **old)
        source, found = start("/meta", issuer=mint.issuer, cool_down=0)
        await soon(lambda: len(found) == 1, "the keys are here")
        new = metadata(peer, mint.issuer, jwks_uri=f"{peer.url}/moved")
        peer.answer = serving_each(peer, meta=new, **old)
        assert await source.refetch()
        assert [key.algorithm for keys in found for key in keys] == ["ES256", "EdDSA"]

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            (
                {"issuer": "https://auth.example.com/"},
                "is of the issuer 'https://auth.example.com/', and 'https://auth",
            ),
            ({"issuer": "https://evil.example"}, "is of the issuer 'https://evil.example'"),
            ({"issuer": None}, "no list of keys"),
            ({"jwks_uri": "http://keys.example/keys"}, "jwks_uri is plain http beyond this machine"),
            ({"jwks_uri": "//keys.example/keys"}, "jwks_uri is no https URL"),
            ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri is no https URL"),
            ({"jwks_uri": "https://user:s3cret@keys.example/keys"}, "jwks_uri is no https URL"),
            ({"jwks_uri": "https://[::1"}, "jwks_uri is no https URL"),
            ({"jwks_uri": "https://keys.example/k\r\nx: y"}, "jwks_uri is no https URL"),
            ({"jwks_uri": 7}, "no list of keys"),
            ({"jwks_uri": ""}, "no list of keys"),
        ],
        ids=str,
    )
    async def test_metadata_that_can_not_be_trusted_are_refused_with_the_reason(
        self,
        peer: Peer,
        mint: Mint,
        start: Start,
        soon: Soon,
        *,
        caplog: pytest.LogCaptureFixture,
        members: dict[str, Any],
        reason: str,
    ) -> None:
        body = metadata(peer, **{"issuer": mint.issuer, **members})
        peer.answer = serving_each(peer, meta=body, keys=mint.key_set().to_json())
        source, found = start("/meta", issuer=mint.issuer)
        await soon(lambda: source.attempts >= 2, "it has tried again")
        assert found == []
        assert reason in caplog.text
        assert "Traceback" not in caplog.text
        assert "s3cret" not in caplog.text
        assert peer.of("/keys") == []

    async def test_they_lead_no_further_than_to_the_keys(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        nested = metadata(peer, mint.issuer, jwks_uri=f"{peer.url}/more")
        peer.answer = serving_each(peer, meta=metadata(peer, mint.issuer), keys=nested, more=mint.key_set().to_json())
        source, found = start("/meta", issuer=mint.issuer)
        await soon(lambda: source.attempts >= 2, "it has tried again")
        assert (found, peer.of("/more")) == ([], [])

    async def test_plain_http_to_another_machine_may_be_allowed(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = metadata(peer, mint.issuer, jwks_uri="http://keys.invalid/keys?tenant=a")
        peer.answer = serving_each(peer, meta=body)
        start("/meta", issuer=mint.issuer, allow_http=True)
        await soon(lambda: "keys http://keys.invalid/keys?tenant=a: " in caplog.text, "it was asked and is not there")

    async def test_both_fetches_share_one_time_out(self, peer: Peer, mint: Mint, start: Start, soon: Soon) -> None:
        async def slow(request: Received, send: Send) -> None:
            await asyncio.sleep(0.3)
            await serving_each(peer, meta=metadata(peer, mint.issuer), keys=mint.key_set().to_json())(request, send)

        peer.answer = slow
        source, found = start("/meta", issuer=mint.issuer, timeout=0.5)
        await soon(lambda: source.attempts >= 2, "it has tried again")
        assert found == []


async def test_keys_in_pem_are_known_by_their_thumbprints(peer: Peer, mint: Mint, start: Start, soon: Soon) -> None:
    pem = "".join(key.pem() for key in mint.key_set()).encode()
    peer.answer = serving_each(peer, public_key=pem)
    _, found = start("/public_key")
    await soon(lambda: len(found) == 1, "the keys are here")
    assert {key.key_id for key in found[0]} == {key.key_id for key in mint.key_set()}


@pytest.mark.parametrize(
    "pem",
    [
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN \xff",
    ],
)
async def test_pem_that_holds_no_key_is_refused(
    peer: Peer, start: Start, soon: Soon, caplog: pytest.LogCaptureFixture, pem: bytes
) -> None:
    peer.answer = serving_each(peer, public_key=pem)
    source, found = start("/public_key")
    await soon(lambda: source.attempts >= 2, "it has tried again")
    assert found == []
    assert "Traceback" not in caplog.text


class TestCaching:
    async def test_an_unchanged_set_costs_no_body_and_changes_nothing(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        peer.answer = serving(peer, mint.key_set(), etag='"one"')
        source, found = start(cool_down=0)
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = raw(peer.http(status="304 Not Modified"))
        assert await source.refetch()
        assert peer.received[1].headers["if-none-match"] == '"one"'
        assert len(found) == 1
        peer.answer = serving(peer, mint.key_set("EdDSA"), etag='"two"')
        assert await source.refetch()
        assert len(found) == 2
        assert await source.refetch()
        assert peer.received[3].headers["if-none-match"] == '"two"'

    async def test_the_same_set_again_is_no_new_one(self, peer: Peer, mint: Mint, start: Start, soon: Soon) -> None:
        peer.answer = serving(peer, mint.key_set())
        source, found = start(cool_down=0)
        await soon(lambda: len(found) == 1, "the keys are here")
        assert await source.refetch()
        assert len(found) == 1
        assert "if-none-match" not in peer.received[1].headers

    async def test_an_etag_that_can_not_be_sent_back_is_not(
        self, peer: Peer, mint: Mint, start: Start, soon: Soon
    ) -> None:
        peer.answer = serving(peer, mint.key_set(), etag='"\xe9"')
        source, found = start(cool_down=0)
        await soon(lambda: len(found) == 1, "the keys are here")
        peer.answer = serving(peer, mint.key_set("EdDSA"))
        assert await source.refetch()
        assert len(found) == 2

    async def test_max_age_says_when_to_ask_again(self, peer: Peer, mint: Mint, start: Start, soon: Soon) -> None:
        soon_again = ("max-age=1", "public, max-age=1", "max-age=0", "MAX-AGE=1", "max-age=1, must-revalidate")
        much_later = ("max-age=3600", "s-maxage=1", "x-max-age=1", "max-age=", "no-transform", "")
        said = {f"/{n}": value for n, value in enumerate((*soon_again, *much_later))}

        async def answer(request: Received, send: Send) -> None:
            await send(peer.http(mint.key_set().to_json(), cache_control=said[request.path]))

        peer.answer = answer
        for path in said:
            start(path)
        early = [path for path, value in said.items() if value in soon_again]
        await soon(lambda: all(len(peer.of(path)) >= 2 for path in early), "those that may are asked again")
        assert {said[path] for path in said if len(peer.of(path)) > 1} == set(soon_again)


async def test_a_failure_is_reported_with_its_reason(
    peer: Peer, start: Start, soon: Soon, caplog: pytest.LogCaptureFixture
) -> None:
    peer.answer = raw(peer.http(status="302 Found", location="http://elsewhere.example/"))
    start()
    await soon(lambda: "answered 302" in caplog.text, "the failure is reported")
    assert f"{peer.url}/keys" in caplog.text


async def test_what_nobody_foresaw_is_survived_and_reported_in_full(
    peer: Peer, mint: Mint, soon: Soon, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[KeySet] = []

    def use(keys: KeySet) -> None:
        found.append(keys)
        if len(found) == 1:
            raise ZeroDivisionError

    peer.answer = serving(peer, mint.key_set())
    running = asyncio.create_task(HttpKeySource(peer.url, use=use).keep_fresh())
    await soon(lambda: len(found) == 2, "it has tried again")
    running.cancel()
    (unforeseen,) = [record for record in caplog.records if record.exc_info]
    assert unforeseen.levelno >= logging.WARNING


def test_a_source_may_run_again_in_another_event_loop(mint: Mint, new_peer: Callable[[], Peer]) -> None:
    found: list[KeySet] = []
    peer = new_peer()

    async def run(source: HttpKeySource, algorithm: str) -> None:
        await peer.start()
        peer.answer = serving(peer, mint.key_set(algorithm))
        running = asyncio.create_task(source.keep_fresh())
        async with asyncio.timeout(20):
            while not found:
                await asyncio.sleep(0.01)
            assert await source.refetch()
            assert await source.refetch()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await peer.stop()

    source = HttpKeySource(peer.url, use=found.append, cool_down=0)
    asyncio.run(run(source, "ES256"))
    asyncio.run(run(source, "EdDSA"))
    assert [key.algorithm for keys in found for key in keys] == ["ES256", "EdDSA"]
