"""Registration and the check of credentials."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import AsyncIterator

import argon2
import pytest

from authix_issuer.accounts import Accounts
from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.adapters.sqlite_users import SqliteUsers
from authix_issuer.audit import OFF, Audit
from authix_issuer.changes import Changes
from authix_issuer.errors import CredentialsWrong, EmailTaken, InputInvalid
from authix_issuer.hashing import PasswordHasher

EMAIL, PASSWORD = "Ann@example.com", "correct horse battery staple"


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    async with Database(MEMORY, sqlite_users.SCHEMA) as opened:
        yield opened


@pytest.fixture
def users(database: Database) -> SqliteUsers:
    return SqliteUsers(database)


@pytest.fixture
async def hasher() -> AsyncIterator[PasswordHasher]:
    async with PasswordHasher("cheapest", threads=1, queue=8) as opened:
        yield opened


def accounts_of(users: SqliteUsers, hasher: PasswordHasher, min_length: int = 15) -> Accounts:
    store = SqliteSessions(Database(MEMORY, sqlite_sessions.SCHEMA))  # what is tested here asks it nothing
    changes = Changes(users, store, lambda _: None)
    return Accounts(users, changes, hasher, Audit(OFF), password_min_length=min_length)


@pytest.fixture
def accounts(users: SqliteUsers, hasher: PasswordHasher) -> Accounts:
    return accounts_of(users, hasher)


async def test_who_registered_can_log_in_with_any_spelling_of_the_email(accounts: Accounts) -> None:
    user = await accounts.register(EMAIL, PASSWORD)
    for spelling in (EMAIL, "ann@example.com", "ANN@EXAMPLE.COM"):
        assert await accounts.check(spelling, PASSWORD) == user


async def test_the_id_says_nothing_of_the_email(accounts: Accounts) -> None:
    user = await accounts.register(EMAIL, PASSWORD)
    other = await accounts.register("bob@example.com", PASSWORD)
    assert len(user.id) == len(other.id) == 32
    assert user.id != other.id
    assert user.email == EMAIL


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
async def test_a_password_typed_in_another_unicode_form_logs_in(accounts: Accounts, form: str) -> None:
    password = "Ångström ﬁle ½ ñandú"
    await accounts.register(EMAIL, password)
    assert await accounts.check(EMAIL, unicodedata.normalize(form, password))  # type: ignore[arg-type]  # a parameter is a plain str


@pytest.mark.parametrize("spelling", [EMAIL, "ann@example.com", "ANN@example.com"])
async def test_an_email_is_taken_in_every_spelling(accounts: Accounts, spelling: str) -> None:
    await accounts.register(EMAIL, PASSWORD)
    with pytest.raises(EmailTaken):
        await accounts.register(spelling, "another long password")
    assert await accounts.check(EMAIL, PASSWORD)


async def test_every_reason_is_given_at_once(accounts: Accounts) -> None:
    with pytest.raises(InputInvalid) as refused:
        await accounts.register("nobody", "short")
    assert [(reason.field, reason.code) for reason in refused.value.reasons] == [
        ("email", "email_invalid"),
        ("password", "password_too_short"),
    ]


WRONG = [
    (EMAIL, "wrong horse battery staple"),
    (EMAIL, ""),
    (EMAIL, PASSWORD + " "),
    (EMAIL, PASSWORD.upper()),
    ("bob@example.com", PASSWORD),
    ("no address", PASSWORD),
    ("", ""),
    ("ann\ud800@example.com", PASSWORD),
]


@pytest.mark.parametrize(("email", "password"), [*WRONG, (EMAIL, "x" * 1025), (EMAIL, "half \ud800 pair")])
async def test_wrong_credentials_are_refused_alike(accounts: Accounts, email: str, password: str) -> None:
    await accounts.register(EMAIL, PASSWORD)
    with pytest.raises(CredentialsWrong) as refused:
        await accounts.check(email, password)
    assert refused.value.reason == "email or password is wrong"


async def test_wrong_credentials_cost_the_same_work_whether_the_email_is_known(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.register(EMAIL, PASSWORD)
    work: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, hash_: str, password: bytes) -> bool:
        work.append(argon2.extract_parameters(hash_))
        return bool(verify(self, hash_, password))

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    for email, password in WRONG:
        with pytest.raises(CredentialsWrong):
            await accounts.check(email, password)
    assert len(work) == len(WRONG)
    assert len(set(map(repr, work))) == 1


async def test_a_hash_of_old_parameters_is_replaced_at_login(
    accounts: Accounts, users: SqliteUsers, hasher: PasswordHasher
) -> None:
    async with PasswordHasher("original", threads=1, queue=1) as old:
        await accounts_of(users, old).register(EMAIL, PASSWORD)
    await accounts.check(EMAIL, PASSWORD)
    user = await users.by_email_key("ann@example.com")
    assert user is not None
    assert not hasher.needs_rehash(user.password_hash)
    assert await accounts.check(EMAIL, PASSWORD) == user


async def test_a_hash_of_todays_parameters_stays(accounts: Accounts, users: SqliteUsers) -> None:
    before = await accounts.register(EMAIL, PASSWORD)
    await accounts.check(EMAIL, PASSWORD)
    assert await users.by_email_key("ann@example.com") == before


async def test_a_hash_of_old_parameters_stays_when_the_password_is_wrong(
    accounts: Accounts, users: SqliteUsers
) -> None:
    async with PasswordHasher("original", threads=1, queue=1) as old:
        before = await accounts_of(users, old).register(EMAIL, PASSWORD)
    with pytest.raises(CredentialsWrong):
        await accounts.check(EMAIL, "wrong horse battery staple")
    assert await users.by_email_key("ann@example.com") == before


def forbid_writing(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TRIGGER broken BEFORE UPDATE ON users BEGIN SELECT RAISE(ABORT, 'broken'); END")


async def test_a_hash_that_cannot_be_replaced_now_is_no_hindrance_to_the_login(
    accounts: Accounts, users: SqliteUsers, database: Database
) -> None:
    async with PasswordHasher("original", threads=1, queue=1) as old:
        user = await accounts_of(users, old).register(EMAIL, PASSWORD)
    await database.write(forbid_writing)
    assert await accounts.check(EMAIL, PASSWORD) == user


async def test_the_shortest_password_is_a_setting(users: SqliteUsers, hasher: PasswordHasher) -> None:
    strict, lax = (accounts_of(users, hasher, length) for length in (15, 8))
    with pytest.raises(InputInvalid):
        await strict.register(EMAIL, "fjord quiz")
    assert await lax.register(EMAIL, "fjord quiz")
    assert await strict.check(EMAIL, "fjord quiz")
