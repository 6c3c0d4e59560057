"""Users and signing keys in MongoDB, by motor.

Rule: an answer means that a majority has it in its journal; every call has a deadline; uniqueness is the index's
business, never a look before a write. This file is the only one that knows motor.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DuplicateKeyError,
    InvalidName,
    InvalidURI,
    NetworkTimeout,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.write_concern import WriteConcern

from authix.errors import SettingsError
from authix_issuer.adapters.unreachable import MONGODB, why
from authix_issuer.errors import StoreUnavailable
from authix_issuer.findings import Finding, Verdict, judge
from authix_issuer.ports import StoredKey, User

Documents = AsyncIOMotorDatabase[dict[str, Any]]

DEADLINE_MS = 4000
"""Milliseconds that a call may take in all."""
_FIND_SERVER_MS = 3000
_CONNECT_MS = 1500
_MEMBERS = 3
DATABASE = "authix"
"""Used when the URL names none."""


@asynccontextmanager
async def open_mongo(url: str) -> AsyncIterator[Documents]:
    """A database whose indexes are there. Raises ``SettingsError`` when the server can't be reached or used."""
    try:
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
            url,
            timeoutMS=DEADLINE_MS,
            connectTimeoutMS=_CONNECT_MS,
            serverSelectionTimeoutMS=_FIND_SERVER_MS,
            retryWrites=True,
            appname="authix",
        )
        database = client.get_default_database(DATABASE)
    except (ConfigurationError, InvalidURI, InvalidName, ValueError):
        raise SettingsError(
            "AUTHIX_USERS_URL is no usable MongoDB URL: write it as mongodb://user:password@host:port/database."
        ) from None
    except OSError as error:  # the files that the URL names are read at once
        raise SettingsError(f"AUTHIX_USERS_URL names a MongoDB that {why(error, MONGODB)}.") from None
    try:
        try:
            await database.users.create_index("email_key", unique=True, name="one_account_an_email")
            await database.signing_keys.create_index("slot", unique=True, name="one_key_a_slot")
            if not (await database.users.index_information())["one_account_an_email"].get("unique"):
                raise SettingsError(
                    "AUTHIX_USERS_URL names a MongoDB whose index one_account_an_email is not unique: drop it, and the "
                    "next start makes it right."
                )
        except PyMongoError as error:
            raise SettingsError(f"AUTHIX_USERS_URL names a MongoDB that {why(error, MONGODB)}.") from None
        concern = WriteConcern("majority", j=True)
        yield AsyncIOMotorDatabase(client, database.name, write_concern=concern)
    finally:
        client.close()


async def examine_mongo(url: str) -> list[Finding]:
    """Whether this MongoDB keeps what it acknowledged."""
    subject = "users (MongoDB)"
    try:
        async with open_mongo(url) as database:
            hello = await database.client.admin.command("hello")
    except SettingsError as error:
        return [Finding(subject, Verdict.WRONG, str(error))]
    except PyMongoError as error:
        return [Finding(subject, Verdict.WRONG, f"it does not answer ({_brief(error)}). Start it, or mend the URL.")]
    members = len(hello.get("hosts", ()))
    return [
        Finding(
            subject, Verdict.OK, "answers, its unique index is there, writes are acknowledged by a majority's journal"
        ),
        judge(
            f"{subject} replica set",
            members >= _MEMBERS,
            f"{members} members",
            f"{members or 'no'} members; {_MEMBERS} are needed so that a lost disk loses nothing. Fit for development.",
            bad=Verdict.WARNING,
        ),
    ]


class MongoUsers:
    """A ``UserStore``."""

    def __init__(self, database: Documents) -> None:
        self._database = database
        self._users = database.users

    async def add(self, user: User) -> bool:
        document = {"_id": user.id, **user._asdict(), "roles": list(user.roles)}
        del document["id"]
        with _translated():
            try:
                try:
                    await self._users.insert_one(document)
                except AutoReconnect as error:
                    if isinstance(error, NetworkTimeout | ServerSelectionTimeoutError):
                        raise
                    # a connection was cut; only in a replica set does the driver repeat a write by itself
                    await self._users.insert_one(document)
            except DuplicateKeyError:
                # a repeat whose first answer was lost finds itself
                return await self._users.find_one({"_id": user.id, "email_key": user.email_key}) is not None
        return True

    async def by_email_key(self, email_key: str) -> User | None:
        with _translated():
            found = await self._users.find_one({"email_key": email_key})
        if found is None:
            return None
        return User(
            found["_id"], found["email"], found["email_key"], found["password_hash"], tuple(found.get("roles", ()))
        )

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        with _translated():
            await self._users.update_one({"_id": user_id, "password_hash": old}, {"$set": {"password_hash": new}})

    async def check(self) -> None:
        with _translated():
            await self._database.command("ping")


class MongoKeys:
    """A ``KeyStore``. The unique ``slot`` is ``signing:ALGORITHM`` for the key that signs, its id for any other."""

    def __init__(self, database: Documents) -> None:
        self._database = database
        self._keys = database.signing_keys

    async def all(self) -> list[StoredKey]:
        with _translated():
            documents = await self._keys.find().sort("added_us", 1).to_list(None)
        return [
            StoredKey(found["_id"], found["algorithm"], found["state"], bytes(found["sealed"])) for found in documents
        ]

    async def add_if_none_signs(self, key: StoredKey) -> None:
        document = {
            "_id": key.id,
            "slot": f"signing:{key.algorithm}",
            "algorithm": key.algorithm,
            "state": key.state,
            "sealed": key.sealed,
            "added_us": time.time_ns() // 1000,
        }
        with _translated():
            try:
                await self._keys.insert_one(document)
            except DuplicateKeyError:
                return

    async def check(self) -> None:
        with _translated():
            await self._database.command("ping")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        raise StoreUnavailable(f"MongoDB failed: {_brief(error)}") from error


def _brief(error: PyMongoError) -> str:
    """An error's kind and first words; never the whole, which can hold documents and addresses."""
    code = getattr(error, "code", None)
    return f"{type(error).__name__}, code {code}" if code else type(error).__name__
