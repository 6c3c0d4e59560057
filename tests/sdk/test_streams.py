"""Open streams end with their token."""

from __future__ import annotations

import asyncio
import time

import pytest

from authix.claims import Claims
from authix.errors import AuthixError, KeyRevoked, TokenError, TokenExpired, TokenRevoked
from authix.events import Heartbeat, Revocation, SessionRevoked, UserRevoked
from authix.events import KeyRevoked as KeyRevokedEvent
from authix.streams import OpenStreams
from authix.verifier import Verifier

FAR = 4_000_000_000


def claims(
    subject: str = "ann", session: str | None = "s1", *, at: int = 100, key: str = "k1", ends: float = FAR
) -> Claims:
    return Claims(
        subject=subject,
        session=session,
        roles=frozenset(),
        issuer="https://auth.example.com",
        audience=("orders",),
        issued_at_us=at,
        expires_at=ends,
        token_id=None,
        key_id=key,
        extra={},
    )


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(issuer="https://auth.example.com", audience="orders", leeway=0)


@pytest.fixture
def streams(verifier: Verifier) -> OpenStreams:
    return OpenStreams(verifier)


EVERYONE = {
    "ann": claims(),
    "ann later": claims(at=101),
    "ann elsewhere": claims(session="s2"),
    "ann without session": claims(session=None),
    "bob": claims("bob", "s3"),
    "bob by another key": claims("bob", "s4", key="k2"),
}


@pytest.mark.parametrize(
    ("event", "ended", "why"),
    [
        (
            UserRevoked(sub="ann", since_us=100, until=FAR),
            {"ann", "ann elsewhere", "ann without session"},
            TokenRevoked.code,
        ),
        (UserRevoked(sub="ann", since_us=99, until=FAR), set(), ""),
        (SessionRevoked(sub="ann", sid="s1", since_us=100, until=FAR), {"ann"}, TokenRevoked.code),
        (SessionRevoked(sub="ann", sid="s1", since_us=500, until=FAR), {"ann", "ann later"}, TokenRevoked.code),
        (SessionRevoked(sub="bob", sid="s1", since_us=500, until=FAR), set(), ""),
        (UserRevoked(sub="eve", since_us=500, until=FAR), set(), ""),
        (KeyRevokedEvent(kid="k2", until=FAR), {"bob by another key"}, KeyRevoked.code),
    ],
)
async def test_a_revocation_ends_the_streams_of_the_tokens_it_covers(
    streams: OpenStreams, verifier: Verifier, event: Revocation, ended: set[str], why: str
) -> None:
    cut: dict[str, str] = {}

    def cutter(name: str) -> object:
        return lambda error: cut.__setitem__(name, error.code)

    for name, token in EVERYONE.items():
        streams.add(token, cutter(name))  # type: ignore[arg-type] # a lambda over a name
    verifier.apply(event, 0)
    streams.apply(event)
    assert cut == dict.fromkeys(ended, why)
    assert len(streams) == len(EVERYONE) - len(ended)
    streams.apply(event)
    assert len(cut) == len(ended)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (UserRevoked(sub="ann", since_us=100, until=FAR), TokenRevoked),
        (SessionRevoked(sub="ann", sid="s1", since_us=100, until=FAR), TokenRevoked),
        (KeyRevokedEvent(kid="k1", until=FAR), KeyRevoked),
    ],
)
async def test_a_token_that_was_revoked_since_it_was_judged_opens_none(
    streams: OpenStreams, verifier: Verifier, event: Revocation, error: type[TokenError]
) -> None:
    verifier.apply(event, 0)
    with pytest.raises(error):
        streams.add(claims(), lambda _: None)
    assert len(streams) == 0


async def test_a_stream_ends_when_its_token_expires_and_not_before(streams: OpenStreams) -> None:
    cut: asyncio.Future[tuple[float, AuthixError]] = asyncio.get_running_loop().create_future()
    ends = time.time() + 0.3
    streams.add(claims(ends=ends), lambda error: cut.set_result((time.time(), error)))
    async with asyncio.timeout(20):
        at, error = await cut
    assert at >= ends
    assert isinstance(error, TokenExpired)
    assert len(streams) == 0


async def test_the_leeway_counts_as_it_does_for_requests() -> None:
    verifier = Verifier(issuer="https://auth.example.com", audience="orders", leeway=60)
    streams = OpenStreams(verifier)
    streams.remove(streams.add(claims(ends=time.time() - 30), lambda _: None))
    with pytest.raises(TokenExpired):
        streams.add(claims(ends=time.time() - 61), lambda _: None)


class TestALastingStream:
    """Past its token's expiry."""

    @pytest.fixture
    def seconds(self) -> list[float]:
        """The monotonic clock; add to it."""
        return [0.0]

    @pytest.fixture
    def streams(self, verifier: Verifier, seconds: list[float]) -> OpenStreams:
        verifier.apply(Heartbeat(at_us=1, complete_until_us=1), monotonic=0)
        return OpenStreams(verifier, now=lambda: 1000.0 + seconds[0], monotonic=lambda: seconds[0])

    @pytest.fixture
    def cut(self, streams: OpenStreams) -> list[AuthixError]:
        """Why it ended."""
        found: list[AuthixError] = []
        streams.add(claims(ends=1010), found.append, lasting=True)
        return found

    async def test_goes_on_until_the_logout(
        self, streams: OpenStreams, verifier: Verifier, seconds: list[float], cut: list[AuthixError]
    ) -> None:
        for seconds[0] in (9, 20, 4000, 400_000):
            verifier.apply(Heartbeat(at_us=1 + round(seconds[0]), complete_until_us=1 + round(seconds[0])), seconds[0])
            streams.expire()
            assert not cut
        streams.apply(UserRevoked(sub="ann", since_us=100, until=FAR))
        assert [error.code for error in cut] == [TokenRevoked.code]

    async def test_ends_when_a_logout_could_be_missed(
        self, streams: OpenStreams, verifier: Verifier, seconds: list[float], cut: list[AuthixError]
    ) -> None:
        seconds[0] = verifier.stale_after
        streams.expire()
        assert not cut
        seconds[0] += 0.1
        streams.expire()
        assert [error.code for error in cut] == [TokenExpired.code]

    async def test_is_looked_at_by_itself(
        self, streams: OpenStreams, seconds: list[float], cut: list[AuthixError], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("authix.streams.LOOK_AGAIN", 0.01)
        seconds[0] = 11.0
        streams.add(claims("bob", ends=1012), cut.append, lasting=True)
        seconds[0] = 1000.0
        async with asyncio.timeout(20):
            while len(cut) < 1:
                await asyncio.sleep(0.01)
        assert cut[0].code == TokenExpired.code


async def test_a_removed_stream_is_not_cut(streams: OpenStreams, verifier: Verifier) -> None:
    cut: list[AuthixError] = []
    streams.remove(streams.add(claims(), cut.append))
    streams.apply(UserRevoked(sub="ann", since_us=100, until=FAR))
    assert (cut, len(streams)) == ([], 0)


async def test_one_that_can_not_be_cut_does_not_save_the_others(
    streams: OpenStreams, caplog: pytest.LogCaptureFixture
) -> None:
    cut: list[AuthixError] = []

    def failing(_: AuthixError) -> None:
        raise RuntimeError("a mistake")

    for _ in range(3):
        streams.add(claims(), failing)
        streams.add(claims(), cut.append)
    streams.apply(UserRevoked(sub="ann", since_us=100, until=FAR))
    assert len(cut) == 3
    assert "a stream could not be cut" in caplog.text
