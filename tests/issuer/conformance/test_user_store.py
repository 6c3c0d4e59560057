"""What every user store promises, whatever its engine."""

from __future__ import annotations

import asyncio

import pytest

from authix_issuer.ports import AccountState, Replaced, Unsettled, User, UserStore

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


FULL = ANN._replace(
    claims={"tenant": {"$id": 1, "a.b": [None, 1.5, "ß"]}},
    state=AccountState.DISABLED,
    created_us=1_700_000_000_000_001,
    version=7,
    unsettled=Unsettled(end=True, keep="session"),
)


async def test_an_account_with_all_that_it_can_have_is_found_as_added(users: UserStore) -> None:
    await users.add(FULL)
    assert await users.by_id(FULL.id) == await users.by_email_key(FULL.email_key) == FULL
    assert await users.by_id("b" * 32) is None


async def test_a_change_is_made_to_the_version_that_was_seen(users: UserStore) -> None:
    await users.add(ANN)
    changed = FULL._replace(email="ann@example.org", email_key="ann@example.org", version=1)
    assert await users.replace(changed) is Replaced.DONE
    assert await users.by_email_key("ann@example.org") == changed
    assert await users.by_email_key(ANN.email_key) is None
    assert await users.replace(changed._replace(roles=("late",))) is Replaced.OUTDATED
    assert await users.replace(changed._replace(id="b" * 32, version=1)) is Replaced.OUTDATED
    assert await users.by_id(ANN.id) == changed


async def test_a_change_to_an_email_that_is_taken_changes_nothing(users: UserStore) -> None:
    await users.add(ANN)
    await users.add(ANN._replace(id="b" * 32, email_key="bob@example.com"))
    assert await users.replace(ANN._replace(email_key="bob@example.com", version=1)) is Replaced.EMAIL_TAKEN
    assert await users.by_id(ANN.id) == ANN


async def test_of_many_who_change_an_account_at_once_one_wins(users: UserStore) -> None:
    await users.add(ANN)
    rivals = [ANN._replace(roles=(f"role-{n}",), version=1) for n in range(20)]
    outcomes = await asyncio.gather(*(users.replace(user) for user in rivals))
    assert sorted(outcomes) == sorted([Replaced.DONE] + [Replaced.OUTDATED] * 19)
    assert await users.by_id(ANN.id) == rivals[outcomes.index(Replaced.DONE)]


async def test_what_is_unsettled_is_found_until_that_very_version_is_settled(users: UserStore) -> None:
    await users.add(ANN)
    await users.add(FULL._replace(id="b" * 32, email_key="bob@example.com"))
    (found,) = await users.unsettled(10)
    assert found.id == "b" * 32
    await users.settled(found._replace(version=6))
    assert await users.unsettled(10) == [found]
    await users.settled(found)
    assert await users.unsettled(10) == []
    assert await users.by_id(found.id) == found._replace(unsettled=None)


async def test_a_deleted_account_is_gone_once_it_is_settled_and_its_email_is_free(users: UserStore) -> None:
    gone = FULL._replace(state=AccountState.DELETED)
    await users.add(gone)
    assert not await users.add(ANN._replace(id="b" * 32))
    await users.settled(gone)
    assert await users.by_id(gone.id) is None
    assert await users.add(ANN._replace(id="b" * 32))


async def test_accounts_are_paged_through_by_id(users: UserStore) -> None:
    assert await users.page("", 10) == []
    added = [ANN._replace(id=f"{n:032x}", email_key=f"{n}@example.com") for n in range(7)]
    for user in reversed(added):
        await users.add(user)
    pages = [await users.page("", 3), await users.page(added[2].id, 3), await users.page(added[5].id, 3)]
    assert pages == [added[:3], added[3:6], added[6:]]
    assert await users.count() == 7
