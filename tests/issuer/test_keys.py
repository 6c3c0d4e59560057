"""The signing keys of running issuers, over real stores."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives import serialization
from joserfc.jwk import KeySet as OtherKeySet

from authix.errors import SettingsError
from authix.events import KeyRevoked
from authix.keys import AlgorithmName, KeySet
from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_keys import SqliteKeys
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.audit import Audit, Caller
from authix_issuer.errors import KeyNotReady, KeyUnknown, StoreUnavailable
from authix_issuer.feed import Feed
from authix_issuer.key_ring import KEEP_US, KeyState, Policy
from authix_issuer.key_seal import KeySeal
from authix_issuer.keys import SigningKey
from authix_issuer.live_keys import LiveKeys
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import KeptRing, Logout

ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)
FIRST, SECOND = "m" * 32, "n" * 32
HOUR_US = 3_600_000_000
TABLES = {"users": "key_ring", "sessions": "clock"}
ADMIN = Caller(actor="admin")


class Clock:
    """The wall clock of the session store."""

    def __init__(self) -> None:
        self.now_us = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.now_us

    def go_on(self, by_us: int) -> None:
        """Some more, since the store's own clock runs ahead by 1 µs for each time it was asked."""
        self.now_us += by_us + 1000


class Engines:
    """The engines that issuers share, and those issuers' keys."""

    def __init__(self, folder: Path, stack: AsyncExitStack, users: Database, sessions: Database) -> None:
        self.clock = Clock()
        self.users, self.sessions = users, sessions
        self.store, self.log = SqliteKeys(users), SqliteSessions(sessions, self.clock)
        self.told: list[Logout] = []
        self.audit_file = folder / "audit.log"
        self._audit = stack.enter_context(Audit(str(self.audit_file)))
        self._stack = stack

    def keys(self, secret: str = FIRST, previous: str = "", algorithm: AlgorithmName = "ES256") -> LiveKeys:
        """An issuer's keys, not yet opened."""
        policy = Policy(algorithm, life_us=24 * HOUR_US, notice_us=HOUR_US)
        seal = KeySeal(MasterSecret(secret, previous))
        return LiveKeys(self.store, self.log, seal, policy, self._audit, revoked=self.told.append)

    async def open(self, *args: Any, **more: Any) -> LiveKeys:
        """An issuer's keys, kept up in the background."""
        return await self._stack.enter_async_context(self.keys(*args, **more))

    async def put_away(self, which: str) -> None:
        """Let ``users`` or ``sessions`` fail whatever is asked of it from now on."""
        await self._rename(which, TABLES[which], "away")

    async def bring_back(self, which: str) -> None:
        await self._rename(which, "away", TABLES[which])

    async def _rename(self, which: str, old: str, new: str) -> None:
        database: Database = getattr(self, which)
        await database.write(lambda connection: connection.execute(f"ALTER TABLE {old} RENAME TO {new}").rowcount)

    async def revocations(self) -> list[Logout]:
        return [entry.revocation for entry in await self.log.read(None, 100)]

    def audited(self) -> list[tuple[str, str, str]]:
        """Event, outcome and actor of each line."""
        lines = map(json.loads, self.audit_file.read_text().splitlines())
        return [(line["event"], line["outcome"], line["actor"]) for line in lines]


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Engines]:
    async with AsyncExitStack() as stack:
        users = await stack.enter_async_context(Database(MEMORY, sqlite_users.SCHEMA))
        sessions = await stack.enter_async_context(Database(MEMORY, sqlite_sessions.SCHEMA))
        yield Engines(tmp_path, stack, users, sessions)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)  # between two looks at the background task's work


def ids(keys: LiveKeys) -> list[str]:
    return [key.key_id for key in keys.published]


def private_forms(key: SigningKey) -> list[bytes]:
    """Every common spelling of the private part."""
    private, none = key.private_key, serialization.NoEncryption()
    formats = [serialization.PrivateFormat.PKCS8]
    if key.algorithm != "EdDSA":
        formats.append(serialization.PrivateFormat.TraditionalOpenSSL)
    return [
        private.private_bytes(encoding, form, none)
        for encoding in (serialization.Encoding.DER, serialization.Encoding.PEM)
        for form in formats
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_first_start_makes_keys_and_later_ones_keep_them(engines: Engines, algorithm: AlgorithmName) -> None:
    first = await engines.open(algorithm=algorithm)
    again = await engines.open(algorithm=algorithm)
    assert first.signing.algorithm == algorithm
    assert again.signing.id == first.signing.id == ids(first)[0]
    assert len(first.published) == 2
    assert again.jwks == first.jwks
    assert again.pem == first.pem


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_nothing_of_the_keys_is_readable_in_the_store(engines: Engines, algorithm: AlgorithmName) -> None:
    keys = await engines.open(algorithm=algorithm)
    leaked = (await engines.store.load()).sealed
    assert b"PRIVATE KEY" not in leaked
    assert keys.signing.id.encode() not in leaked
    for form in private_forms(keys.signing):
        assert form not in leaked
        assert form[-24:-2] not in leaked


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_key_ids_are_the_thumbprints_that_others_compute(engines: Engines, algorithm: AlgorithmName) -> None:
    keys = await engines.open(algorithm=algorithm)
    read = OtherKeySet.import_key_set(json.loads(keys.jwks.body)).keys
    assert [key.thumbprint() for key in read] == [key.kid for key in read] == ids(keys)


async def test_another_master_secret_stops_the_start_with_a_sentence(engines: Engines) -> None:
    await engines.open()
    with pytest.raises(SettingsError, match=r"^AUTHIX_SECRET is not the secret that .* sealed with: set it"):
        await engines.open(SECOND)
    with pytest.raises(SettingsError):
        await engines.open(SECOND, "o" * 32)


async def test_the_previous_master_secret_is_still_read_and_then_no_longer_needed(engines: Engines) -> None:
    before = await engines.open(FIRST)
    both = await engines.open(SECOND, FIRST)
    assert ids(both) == ids(before)
    after = await engines.open(SECOND)
    assert ids(after) == ids(before)
    assert engines.audited()[-1] == ("secret.rotated", "ok", "")
    with pytest.raises(SettingsError):
        await engines.open(FIRST)


async def test_who_can_write_the_store_can_put_no_old_ring_in_the_place_of_a_new_one(engines: Engines) -> None:
    keys = await engines.open()
    old = await engines.store.load()
    await keys.revoke(keys.signing.id, ADMIN)
    present = await engines.store.load()
    assert await engines.store.save(KeptRing(present.version + 1, old.sealed))
    with pytest.raises(SettingsError):
        await engines.open()


@pytest.mark.parametrize("sealed", [b"", b"x", bytes(11), bytes(12), bytes(64)])
async def test_what_is_no_ring_stops_the_start_with_a_sentence(engines: Engines, sealed: bytes) -> None:
    assert await engines.store.save(KeptRing(1, sealed))
    with pytest.raises(SettingsError, match="AUTHIX_SECRET"):
        await engines.open()


async def test_a_running_issuer_takes_no_ring_that_is_older_than_its_own(engines: Engines) -> None:
    keys = await engines.open()
    old = await engines.store.load()
    await keys.revoke(keys.signing.id, ADMIN)
    in_hand = ids(keys)
    await engines.users.write(
        lambda connection: connection.execute("UPDATE key_ring SET (version, sealed) = (?, ?)", old)
    )
    with pytest.raises(StoreUnavailable, match="restart every issuer"):
        await keys.look()
    assert ids(keys) == in_hand


async def test_of_many_issuers_that_start_at_once_all_sign_with_one_key(engines: Engines) -> None:
    opened = await asyncio.gather(*(engines.open() for _ in range(8)))
    assert len({keys.signing.id for keys in opened}) == 1
    assert len({keys.jwks.body for keys in opened}) == 1
    assert engines.audited().count(("key.added", "ok", "")) == 2


async def test_of_many_issuers_one_rotates_when_it_is_due_and_all_follow(engines: Engines) -> None:
    opened = [await engines.open() for _ in range(4)]
    first, second = ids(opened[0])
    engines.clock.go_on(24 * HOUR_US)
    await asyncio.gather(*(keys.look() for keys in opened))
    await asyncio.gather(*(keys.look() for keys in opened))
    assert {keys.signing.id for keys in opened} == {second}
    assert all(first in ids(keys) for keys in opened)
    assert engines.audited().count(("key.rotated", "ok", "")) == 2  # the first one, and this
    engines.clock.go_on(KEEP_US)
    for keys in opened:
        await keys.look()
        assert first not in ids(keys)


async def test_rotation_by_hand_waits_for_the_notice_unless_it_must_not(engines: Engines) -> None:
    keys, other = await engines.open(), await engines.open()
    first, second = ids(keys)
    with pytest.raises(KeyNotReady):
        await keys.rotate(ADMIN)
    engines.clock.go_on(HOUR_US)
    report = await keys.rotate(ADMIN)
    assert (report.id, report.state, keys.signing.id) == (second, KeyState.SIGNING, second)
    await other.look()
    assert other.signing.id == second
    forced = await other.rotate(ADMIN, now=True)
    assert forced.id not in {first, second}
    assert [event for event in engines.audited() if event[2]] == [
        ("key.rotated", "key_not_ready", "admin"),
        ("key.rotated", "ok", "admin"),
        ("key.rotated", "ok", "admin"),
    ]


async def test_the_list_tells_states_and_moments(engines: Engines) -> None:
    keys = await engines.open()
    begin = engines.clock.now_us
    engines.clock.go_on(HOUR_US)
    await keys.rotate(ADMIN)
    _, _, spare = await keys.list()
    await keys.revoke(spare.id, ADMIN)
    retired, signing, revoked, following = await keys.list()
    later = begin + HOUR_US
    states = [(key.state.value, key.algorithm, key.announced) for key in (retired, signing, revoked, following)]
    assert states == [
        ("retired", "ES256", False),
        ("signing", "ES256", False),
        ("revoked", "ES256", True),
        ("next", "ES256", False),
    ]
    for key, until in ((retired, KEEP_US), (signing, 24 * HOUR_US), (revoked, KEEP_US), (following, 24 * HOUR_US)):
        assert 0 <= key.since_us - later < 2000
        assert 0 <= key.until_us - later - until < 2000


async def test_a_revoked_key_is_gone_everywhere_and_announced(engines: Engines) -> None:
    keys, other = await engines.open(), await engines.open()
    first, second = ids(keys)
    report = await keys.revoke(first, ADMIN)
    assert (report.id, report.state, report.announced) == (first, KeyState.REVOKED, True)
    assert keys.signing.id == second
    assert first not in ids(keys)
    (revocation,) = await engines.revocations()
    assert isinstance(revocation, KeyRevoked)
    assert revocation.kid == first
    assert engines.told == [revocation]
    other.heard(first)
    await other.look()
    assert other.signing.id == second
    assert first not in ids(other)
    await keys.revoke(first, ADMIN)
    assert len(await engines.revocations()) == 1
    with pytest.raises(KeyUnknown):
        await keys.revoke("another", ADMIN)
    assert [event for event in engines.audited() if event[2]] == [
        ("key.revoked", "ok", "admin"),
        ("key.rotated", "ok", "admin"),
        ("key.revoked", "key_unknown", "admin"),
    ]


async def test_what_the_log_has_revoked_is_dropped_before_any_store_is_asked(engines: Engines) -> None:
    keys = await engines.open()
    followed: list[list[str]] = []
    keys.follow(lambda published: followed.append([key.key_id for key in published]))
    first, second = ids(keys)
    keys.heard(first)
    assert (keys.signing.id, ids(keys), followed[-1]) == (second, [second], [second])
    keys.heard(second)
    assert (ids(keys), followed[-1]) == ([], [])
    with pytest.raises(StoreUnavailable):
        _ = keys.signing
    await keys.look()
    assert ids(keys) == []  # whatever the store still holds


async def test_the_feed_tells_which_keys_other_issuers_revoke(engines: Engines) -> None:
    keys = await engines.open()
    told: list[KeyRevoked] = []
    async with Feed(engines.log, told.append) as feed:
        await keys.revoke(keys.signing.id, ADMIN)
        feed.wake()
        await eventually(lambda: told == engines.told)


async def test_a_revocation_whose_announcement_fails_is_announced_by_whoever_can(engines: Engines) -> None:
    keys, other = await engines.open(), await engines.open()
    first, second = ids(keys)
    await engines.put_away("sessions")
    report = await keys.revoke(first, ADMIN)
    assert (report.state, report.announced, engines.told) == (KeyState.REVOKED, False, [])
    assert keys.signing.id == second
    await engines.bring_back("sessions")
    await other.look()
    assert [revocation.kid for revocation in engines.told if isinstance(revocation, KeyRevoked)] == [first]
    assert await engines.revocations() == engines.told
    assert (await keys.list())[0].announced


async def test_what_was_read_from_the_log_is_not_announced_again(engines: Engines) -> None:
    keys, other = await engines.open(), await engines.open()
    first, _ = ids(keys)
    await engines.put_away("sessions")
    await keys.revoke(first, ADMIN)
    await engines.bring_back("sessions")
    other.heard(first)
    await other.look()
    assert await engines.revocations() == []
    assert (await keys.list())[0].announced


async def test_an_issuer_whose_secret_was_exchanged_goes_on_with_the_keys_in_hand(engines: Engines) -> None:
    left_behind = await engines.open(FIRST)
    in_hand = ids(left_behind)
    await engines.open(SECOND, FIRST)
    with pytest.raises(StoreUnavailable, match="master secret that is not set here"):
        await left_behind.rotate(ADMIN, now=True)
    assert ids(left_behind) == in_hand


@pytest.mark.parametrize("which", ["users", "sessions"])
async def test_keys_in_hand_go_on_while_an_engine_is_away_and_that_is_said_once(
    engines: Engines, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "authix.issuer.keys")
    keys = await engines.open()
    first, second = ids(keys)
    await engines.put_away(which)
    engines.clock.go_on(24 * HOUR_US)
    keys.heard("wakes it")
    await eventually(lambda: "can't be kept up" in caplog.text)
    with pytest.raises(StoreUnavailable):
        await keys.rotate(ADMIN)
    keys.heard("wakes it again")
    await asyncio.sleep(0)
    assert keys.signing.id == first
    await engines.bring_back(which)
    keys.heard("wakes it once more")
    await eventually(lambda: keys.signing.id == second)
    await eventually(lambda: "are kept up again" in caplog.text)
    assert caplog.text.count("can't be kept up") == 1


async def test_another_algorithm_signs_after_the_notice_and_both_are_published(engines: Engines) -> None:
    before = await engines.open(algorithm="ES256")
    engines.clock.go_on(2 * HOUR_US)
    after = await engines.open(algorithm="EdDSA")
    assert after.signing.id == before.signing.id
    assert {key.algorithm for key in after.published} == {"ES256", "EdDSA"}
    engines.clock.go_on(HOUR_US)
    await after.look()
    assert after.signing.algorithm == "EdDSA"
    assert before.signing.id in ids(after)
    assert after.jwks.etag != before.jwks.etag
    assert after.pem.etag != before.pem.etag


async def test_the_documents_hold_the_public_keys_and_nothing_private(engines: Engines) -> None:
    for algorithm in ALGORITHMS:
        keys = await engines.open(algorithm=algorithm)
        await keys.rotate(ADMIN, now=True)
    assert {key.algorithm for key in keys.published} == set(ALGORITHMS)
    assert [key.key_id for key in KeySet.from_json(keys.jwks.body)] == ids(keys)
    members = {name for jwk in json.loads(keys.jwks.body)["keys"] for name in jwk}
    assert members == {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}
    blocks = keys.pem.body.decode().split("-----END PUBLIC KEY-----\n")[:-1]
    read = [serialization.load_pem_public_key(f"{block}-----END PUBLIC KEY-----\n".encode()) for block in blocks]
    assert read == [key.public_key for key in keys.published]


async def test_a_printed_key_shows_no_private_part(engines: Engines) -> None:
    keys = await engines.open()
    assert "private" not in repr(keys.signing)
    kept = await engines.store.load()
    ring = KeySeal(MasterSecret(FIRST)).unseal(kept).ring
    assert ring.keys[0].private
    assert "private" not in repr(ring)
