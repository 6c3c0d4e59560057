"""The last good keys on disk: a verifier starts again while its issuer is away, and does not trust every file."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authix import Authix, AuthixError
from authix.events import KeyRevoked
from authix.key_file import MAX_AGE, KeyFile
from authix.key_source import HttpKeySource
from authix.keys import MAX_DOCUMENT, KeySet

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint

Soon = Callable[..., Awaitable[None]]
SOURCE = "https://auth.example.com/keys"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def file(path: Path, mint: Mint) -> KeyFile:
    """A file of the mint's keys, written at its present."""
    found = KeyFile(str(path), issuer=mint.issuer, source=SOURCE)
    found.write(mint.key_set(), mint.now)
    return found


def ids(keys: KeySet | None) -> set[str]:
    return {key.key_id for key in keys or ()}


def saved(path: Path) -> set[str]:
    return ids(KeySet.from_json(path.read_bytes()))


def inode(path: Path) -> int:
    """Another one once the file was replaced."""
    return path.stat().st_ino


class TestARestartWhileTheKeysAreAway:
    @pytest.fixture
    async def restarted(
        self, authority: Authority, path: Path, live_mint: Mint, soon: Soon
    ) -> AsyncIterator[tuple[Authix, Authority, str]]:
        """A verifier that ran, ended, and runs again while the key endpoint hangs; and a token under a saved key."""
        authority.mint = live_mint
        authority.keys = live_mint.key_set()
        async with authority.auth(keys_cache=str(path)) as auth:
            await soon(auth.ready, "the first is ready")
            await soon(path.exists, "the keys are saved")
        authority.answers_for_keys.clear()
        async with authority.auth(keys_cache=str(path)) as auth:
            yield auth, authority, live_mint.fresh()

    async def test_it_verifies_with_the_last_good_keys(
        self, restarted: tuple[Authix, Authority, str], soon: Soon
    ) -> None:
        auth, _, token = restarted
        await soon(auth.ready, "the second is ready without its key endpoint")
        assert auth.verify(token).subject == "user-1"

    async def test_a_key_revoked_meanwhile_does_not_come_back(
        self, authority: Authority, path: Path, live_mint: Mint, soon: Soon
    ) -> None:
        authority.mint, authority.keys = live_mint, live_mint.key_set()
        async with authority.auth(keys_cache=str(path)) as auth:
            await soon(auth.ready, "the first is ready")
            await soon(path.exists, "the keys are saved")
        authority.answers_for_keys.clear()
        authority.announce(KeyRevoked(kid=live_mint.public("ES256").key_id, until=int(time.time()) + 3000))
        async with authority.auth(keys_cache=str(path)) as auth:
            await soon(auth.ready, "the second is ready without its key endpoint")
            with pytest.raises(AuthixError) as caught:
                auth.verify(live_mint.fresh("ES256"))
            assert caught.value.code == "key_revoked"
            assert auth.verify(live_mint.fresh("EdDSA")).subject == "user-1"

    async def test_the_next_good_fetch_replaces_them(
        self, restarted: tuple[Authix, Authority, str], path: Path, live_mint: Mint, soon: Soon
    ) -> None:
        auth, authority, _ = restarted
        await soon(auth.ready, "the second is ready without its key endpoint")
        authority.keys = live_mint.key_set("EdDSA")
        authority.answers_for_keys.set()
        await soon(lambda: len(auth.verifier.keys) == 1, "the new keys are here")
        await soon(lambda: len(json.loads(path.read_bytes())["keys"]) == 1, "the new keys are saved")


async def test_a_verifier_whose_file_can_not_be_written_says_so_once_and_goes_on(
    authority: Authority, live_mint: Mint, tmp_path: Path, soon: Soon, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    authority.mint, authority.keys = live_mint, live_mint.key_set("ES256")
    auth = authority.auth(keys_cache=str(folder / "keys.json"))
    folder.rmdir()
    async with auth:
        await soon(auth.ready, "it is ready")
        await soon(lambda: "can't be written: No such file or directory" in caplog.text, "it says so")
        authority.keys = live_mint.key_set()
        with pytest.raises(AuthixError):
            await auth.authenticate(live_mint.headed(kid="unknown"))
        assert len(auth.verifier.keys) == 3
        assert caplog.text.count("can't be written") == 1


class TestWhileItRuns:
    async def test_changed_keys_are_saved_at_once(
        self, authority: Authority, path: Path, live_mint: Mint, soon: Soon
    ) -> None:
        authority.mint, authority.keys = live_mint, live_mint.key_set("ES256")
        async with authority.auth(keys_cache=str(path)) as auth:
            await soon(path.exists, "the keys are saved")
            await soon(auth.ready, "it is ready")
            authority.keys = live_mint.key_set()
            await auth.authenticate(live_mint.fresh("EdDSA"))
            await soon(lambda: len(json.loads(path.read_bytes())["keys"]) == 3, "the new keys are saved")

    @pytest.mark.parametrize("every", [0, 3600])
    async def test_confirmed_keys_are_saved_anew_now_and_then(
        self, authority: Authority, path: Path, mint: Mint, soon: Soon, monkeypatch: pytest.MonkeyPatch, *, every: int
    ) -> None:
        """So that the file of a verifier that runs for long is always young enough."""
        monkeypatch.setattr("authix.key_source._SAVE_EVERY", every)
        file = KeyFile(str(path), issuer=mint.issuer, source=SOURCE)
        source = HttpKeySource(f"{authority.url}/keys", use=lambda _: None, file=file, cool_down=0)
        running = asyncio.create_task(source.keep_fresh())
        await soon(path.exists, "the keys are saved")
        path.with_name("first").hardlink_to(path)  # so that no later file gets its inode
        first, fetches = inode(path), source.attempts
        while source.attempts < fetches + 3 or (not every and inode(path) == first):
            assert await source.refetch()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert (inode(path) == first) is bool(every)


class TestARevokedKeyThatItsEndpointStillTells:
    """As a cache in front of it does, for as long as the key set may be kept."""

    @pytest.fixture
    def revoked(self, live_mint: Mint) -> KeyRevoked:
        return KeyRevoked(kid=live_mint.public("ES256").key_id, until=int(time.time()) + 3000)

    @pytest.fixture(params=[0, 3600])
    def saved_every(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("authix.key_source._SAVE_EVERY", request.param)

    @pytest.mark.usefixtures("saved_every")
    async def test_it_leaves_the_file_when_its_revocation_is_heard(
        self, authority: Authority, path: Path, live_mint: Mint, soon: Soon, revoked: KeyRevoked
    ) -> None:
        authority.mint, authority.keys = live_mint, live_mint.key_set()
        async with authority.auth(keys_cache=str(path)) as auth:
            await soon(auth.ready, "it is ready")
            await soon(path.exists, "the keys are saved")
            path.with_name("first").hardlink_to(path)  # so that no later file gets its inode
            first = inode(path)
            authority.announce(revoked)
            await soon(lambda: inode(path) != first, "the keys are saved anew")
            assert saved(path) == ids(live_mint.key_set("EdDSA", "RS256"))

    async def test_none_of_them_is_used_after_a_restart_when_all_were_revoked(
        self, authority: Authority, path: Path, live_mint: Mint, soon: Soon, revoked: KeyRevoked
    ) -> None:
        authority.mint, authority.keys = live_mint, live_mint.key_set("ES256")
        authority.announce(revoked)
        async with authority.auth(keys_cache=str(path)) as auth:
            await soon(lambda: auth.freshness is not None, "the feed is replayed")
            await soon(lambda: path.exists() and revoked.kid not in path.read_text(), "the file is without it")
        file = KeyFile(str(path), issuer=live_mint.issuer, source=f"{authority.url}/keys")
        assert file.read(time.time()) is None


class TestWriting:
    def test_the_file_is_its_owners_alone_and_a_plain_key_set(self, file: KeyFile, path: Path, mint: Mint) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ids(KeySet.from_json(path.read_bytes())) == ids(mint.key_set())
        assert list(path.parent.iterdir()) == [path]

    def test_what_was_there_is_replaced_in_one_step(self, file: KeyFile, path: Path, mint: Mint) -> None:
        with path.open("rb") as old:
            begun = old.read(10)
            file.write(mint.key_set("EdDSA"), mint.now)
            assert ids(KeySet.from_json(begun + old.read())) == ids(mint.key_set()), "it is read to its end"
        assert ids(file.read(mint.now)) == ids(mint.key_set("EdDSA"))

    def test_a_failed_write_leaves_nothing_behind(self, file: KeyFile, path: Path, mint: Mint) -> None:
        path.unlink()
        path.mkdir()
        file.write(mint.key_set(), mint.now)
        assert list(path.parent.iterdir()) == [path]


class TestReading:
    def test_what_was_written_comes_back(self, file: KeyFile, mint: Mint) -> None:
        assert ids(file.read(mint.now)) == ids(mint.key_set())

    def test_no_file_is_no_news(self, path: Path, mint: Mint, caplog: pytest.LogCaptureFixture) -> None:
        assert KeyFile(str(path), issuer=mint.issuer, source=SOURCE).read(mint.now) is None
        assert caplog.text == ""

    @pytest.mark.parametrize("age", [-60, 0, MAX_AGE])
    def test_it_is_used_while_it_is_young(self, file: KeyFile, mint: Mint, age: int) -> None:
        assert file.read(mint.now + age) is not None

    @pytest.mark.parametrize("age", [-61, MAX_AGE + 1, 1_000_000])
    def test_it_is_not_used_when_a_key_could_have_been_revoked_and_forgotten(
        self, file: KeyFile, mint: Mint, age: int
    ) -> None:
        assert file.read(mint.now + age) is None

    @pytest.mark.parametrize(
        "whose", [{"issuer": "https://other.example"}, {"source": "https://auth.example.com/other"}], ids=str
    )
    def test_another_issuers_is_not_used(
        self, file: KeyFile, path: Path, mint: Mint, caplog: pytest.LogCaptureFixture, whose: dict[str, Any]
    ) -> None:
        assert KeyFile(str(path), **{"issuer": mint.issuer, "source": SOURCE, **whose}).read(mint.now) is None
        assert caplog.text.count("another issuer's or from elsewhere") == 1

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_one_that_others_may_write_is_not_used(
        self, file: KeyFile, path: Path, mint: Mint, caplog: pytest.LogCaptureFixture, mode: int
    ) -> None:
        path.chmod(mode)
        assert file.read(mint.now) is None
        assert "others may write it" in caplog.text

    def test_another_users_is_not_used(
        self, file: KeyFile, mint: Mint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        if owner == 0:  # root's may be used by everyone
            assert file.read(mint.now) is not None
            os.chown(file._path, 65534, -1)
        assert file.read(mint.now) is None
        assert "another user owns it" in caplog.text

    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b"\xff\x00", b"null", b"[]", b"{}", b'{"keys":[]}', b"[" * 100_000, b" " * (MAX_DOCUMENT + 1)),
            b'{"issuer":"https://auth.example.com","source":"https://auth.example.com/keys","confirmed_at":1700000000}',
        ],
        ids=lambda content: repr(content[:20]),
    )
    def test_a_spoiled_one_is_not_used_and_told_once(
        self, file: KeyFile, path: Path, mint: Mint, caplog: pytest.LogCaptureFixture, content: bytes
    ) -> None:
        path.write_bytes(content)
        assert file.read(mint.now) is None
        assert caplog.text.count("not used") == 1

    def test_half_a_file_is_not_used(self, file: KeyFile, path: Path, mint: Mint) -> None:
        whole = path.read_bytes()
        for end in range(0, len(whole), 7):
            path.write_bytes(whole[:end])
            assert file.read(mint.now) is None

    @pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
    def test_what_is_no_file_is_not_used(
        self, path: Path, mint: Mint, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None]
    ) -> None:
        make(path)
        assert KeyFile(str(path), issuer=mint.issuer, source=SOURCE).read(mint.now) is None
        assert "not used" in caplog.text
