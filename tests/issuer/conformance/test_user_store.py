"""What every user store promises, whatever its engine."""

from __future__ import annotations

import asyncio

import pytest

from authix_issuer.ports import User, UserStore

ANN = User("a" * 32, "Ann@example.com", "ann@example.com", "hash-1", ("reader", "größte"))


async def test_the_store_answers(users: UserStore) -> None:
    await users.check()


@pytest.mark.parametrize("user", [ANN, ANN._replace(roles=()), ANN._replace(email="Ö@bücher.example", email_key="ö@b")])
async def test_a_user_is_found_as_added(users: UserStore, user: User) -> None:
    assert await users.add(user)
    assert await users.by_email_key(user.email_key) == user


@pytest.mark.parametrize("email_key", ["ANN@example.com", "ann@example.co", "nobody@example.com", "", "ann%", "ann\0"])
async def test_a_user_is_found_by_the_exact_key_only(users: UserStore, email_key: str) -> None:
    await users.add(ANN)
    assert await users.by_email_key(email_key) is None


async def test_a_taken_email_is_refused_and_the_first_user_stays(users: UserStore) -> None:
    await users.add(ANN)
    assert not await users.add(User("b" * 32, "ann@example.com", ANN.email_key, "hash-2"))
    assert await users.by_email_key(ANN.email_key) == ANN


async def test_of_many_who_register_one_email_at_once_one_wins(users: UserStore) -> None:
    rivals = [ANN._replace(id=f"{n:032x}", password_hash=f"hash-{n}") for n in range(20)]
    added = await asyncio.gather(*(users.add(user) for user in rivals))
    (winner,) = [user for user, won in zip(rivals, added, strict=True) if won]
    assert await users.by_email_key(ANN.email_key) == winner


async def test_a_hash_is_replaced_if_it_is_still_the_old_one(users: UserStore) -> None:
    await users.add(ANN)
    await users.replace_password_hash(ANN.id, old="hash-1", new="hash-2")
    assert await users.by_email_key(ANN.email_key) == ANN._replace(password_hash="hash-2")


@pytest.mark.parametrize(("user_id", "old"), [(ANN.id, "hash-0"), ("b" * 32, "hash-1")])
async def test_a_hash_that_was_changed_meanwhile_stays(users: UserStore, user_id: str, old: str) -> None:
    await users.add(ANN)
    await users.replace_password_hash(user_id, old=old, new="hash-2")
    assert await users.by_email_key(ANN.email_key) == ANN


async def test_of_many_who_replace_a_hash_at_once_one_wins(users: UserStore) -> None:
    await users.add(ANN)
    new = [f"hash-{n}" for n in range(2, 12)]
    await asyncio.gather(*(users.replace_password_hash(ANN.id, old="hash-1", new=hash_) for hash_ in new))
    found = await users.by_email_key(ANN.email_key)
    assert found is not None
    assert found.password_hash in new
    await users.replace_password_hash(ANN.id, old="hash-1", new="late")
    assert await users.by_email_key(ANN.email_key) == found
