"""Argon2id in a bounded pool of threads."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator

import argon2
import pytest

from authix_issuer.errors import Overloaded
from authix_issuer.hashing import PROFILES, PasswordHasher, hash_parameters, spell


@pytest.fixture
async def hasher() -> AsyncIterator[PasswordHasher]:
    async with PasswordHasher("cheapest", threads=1, queue=2) as opened:
        yield opened


@pytest.mark.parametrize(
    ("profile", "memory_kib", "time_cost", "parallelism"),
    [
        ("owasp", 19 * 1024, 2, 1),
        ("original", 7168, 5, 1),
        ("rfc9106-low-memory", 65536, 3, 4),
        ("cheapest", 8, 1, 1),
    ],
)
async def test_a_profile_hashes_with_its_documented_numbers(
    profile: str, memory_kib: int, time_cost: int, parallelism: int
) -> None:
    async with PasswordHasher(profile, threads=1, queue=1) as hasher:
        parameters = argon2.extract_parameters(await hasher.hash(b"password"))
    assert parameters.type is argon2.Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (
        memory_kib,
        time_cost,
        parallelism,
    )
    assert parameters.salt_len >= 8 if profile == "cheapest" else parameters.salt_len == 16
    assert parameters.hash_len >= 4 if profile == "cheapest" else parameters.hash_len == 32


async def test_numbers_of_ones_own_are_hashed_with() -> None:
    async with PasswordHasher("m=20480,t=3,p=2", threads=1, queue=1) as hasher:
        parameters = argon2.extract_parameters(await hasher.hash(b"password"))
    assert parameters == argon2.Parameters(argon2.Type.ID, 19, 16, 32, 3, 20480, 2)


@pytest.mark.parametrize("least", ["m=47104,t=1", "m=19456,t=2", "m=12288,t=3", "m=9216,t=4", "m=7168,t=5"])
def test_no_numbers_are_taken_below_owasps_least(least: str) -> None:
    assert spell(hash_parameters(f"{least},p=1")) == f"{least},p=1"
    memory, passes = (int(number) for number in re.findall(r"\d+", least))
    for weaker in (f"m={memory - 1},t={passes},p=1", f"m={memory},t={passes - 1},p=1"):
        with pytest.raises(ValueError, match=r"must be at least as strong as one of OWASP's m=47104,t=1, "):
            hash_parameters(weaker)


def test_every_profile_has_its_numbers_held_against_the_documents() -> None:
    assert set(PROFILES) == {"owasp", "original", "rfc9106-low-memory", "cheapest"}


async def test_only_the_right_password_matches(hasher: PasswordHasher) -> None:
    made = await hasher.hash(b"password")
    assert await hasher.verify(made, b"password")
    assert not await hasher.verify(made, b"passwort")


async def test_two_hashes_of_one_password_differ(hasher: PasswordHasher) -> None:
    assert await hasher.hash(b"password") != await hasher.hash(b"password")


@pytest.mark.parametrize("broken", ["", "x", "$argon2id$v=19$m=8,t=1,p=1$", "$2b$12$abcdefghijklmnopqrstuv"])
async def test_a_broken_hash_matches_nothing(hasher: PasswordHasher, broken: str) -> None:
    assert not await hasher.verify(broken, b"password")
    assert not await hasher.verify(broken, b"")


async def test_no_such_user_matches_nothing_and_costs_as_much(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, hash_: str, password: bytes) -> bool:
        work.append(argon2.extract_parameters(hash_))
        return bool(verify(self, hash_, password))

    made = await hasher.hash(b"password")
    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    assert not await hasher.verify(made, b"wrong")
    assert not await hasher.verify(None, b"wrong")
    assert not await hasher.verify(None, b"")
    assert work == [argon2.extract_parameters(made)] * 3


async def test_not_even_the_password_that_stands_in_for_an_unknown_user_matches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secrets.token_bytes", bytes)
    async with PasswordHasher("cheapest", threads=1, queue=1) as hasher:
        assert not await hasher.verify(None, bytes(32))


async def test_a_hash_of_other_parameters_is_due_for_another(hasher: PasswordHasher) -> None:
    async with PasswordHasher("original", threads=1, queue=1) as other:
        made = await other.hash(b"password")
        assert not other.needs_rehash(made)
    assert hasher.needs_rehash(made)
    assert await hasher.verify(made, b"password")


async def test_hashing_leaves_the_event_loop_its_thread(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    hash_ = argon2.PasswordHasher.hash

    def noted(self: argon2.PasswordHasher, password: bytes) -> str:
        threads.add(threading.current_thread())
        return str(hash_(self, password))

    monkeypatch.setattr(argon2.PasswordHasher, "hash", noted)
    await asyncio.gather(*(hasher.hash(b"password") for _ in range(3)))
    assert len(threads) == 1
    assert threading.current_thread() not in threads


async def test_a_full_queue_is_refused_at_once_and_takes_more_when_it_empties(hasher: PasswordHasher) -> None:
    waiting = [asyncio.ensure_future(hasher.hash(b"password")) for _ in range(3)]
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(Overloaded):
            await hasher.verify(None, b"password")
    await asyncio.gather(*waiting)
    assert await hasher.hash(b"password")


async def test_who_goes_away_leaves_their_place_in_the_queue(hasher: PasswordHasher) -> None:
    for _ in range(3):
        waiting = [asyncio.ensure_future(hasher.hash(b"password")) for _ in range(3)]
        await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert await hasher.hash(b"password")
