"""Users in MongoDB, by motor.

Rule: an answer means that a majority has it in its journal; every call has a deadline; uniqueness is the index's
business, never a look before a write. This file is the only one that knows motor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DuplicateKeyError,
    InvalidName,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.write_concern import WriteConcern

from authix.errors import SettingsError
from authix_issuer.adapters.unreachable import MONGODB, why
from authix_issuer.errors import StoreUnavailable
from authix_issuer.findings import Finding, Verdict, judge
from authix_issuer.ports import AccountState, Replaced, Unsettled, User

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
        return [Finding(subject, Verdict.WRONG, f"AUTHIX_USERS_URL names a MongoDB that {why(error, MONGODB)}.")]
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
        document = _document(user)
        with translated():
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
        return await self._one({"email_key": email_key})

    async def by_id(self, user_id: str) -> User | None:
        return await self._one({"_id": user_id})

    async def replace(self, user: User) -> Replaced:
        with translated():
            try:
                changed = await self._users.replace_one({"_id": user.id, "version": user.version - 1}, _document(user))
            except OperationFailure:  # not every server says by its code that it was the unique index
                rival = await self._users.find_one({"email_key": user.email_key, "_id": {"$ne": user.id}})
                if rival is None:
                    raise
                return Replaced.EMAIL_TAKEN
            if changed.matched_count:
                return Replaced.DONE
            # a repeat whose first answer was lost finds its own writing
            same = await self._users.find_one({"_id": user.id, "version": user.version})
        return Replaced.DONE if same is not None and _user(same) == user else Replaced.OUTDATED

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        with translated():
            await self._users.update_one({"_id": user_id, "password_hash": old}, {"$set": {"password_hash": new}})

    async def settled(self, user: User) -> None:
        present = {"_id": user.id, "version": user.version}
        with translated():
            if user.state is AccountState.DELETED:
                await self._users.delete_one(present)
            else:
                await self._users.update_one(present, {"$unset": {"unsettled": ""}})

    async def unsettled(self, limit: int) -> list[User]:
        with translated():
            found = await self._users.find({"unsettled.end": {"$exists": True}}).limit(limit).to_list(limit)
        return [_user(document) for document in found]

    async def page(self, after: str, limit: int) -> list[User]:
        with translated():
            found = await self._users.find({"_id": {"$gt": after}}).sort("_id", 1).limit(limit).to_list(limit)
        return [_user(document) for document in found]

    async def count(self) -> int:
        with translated():
            return await self._users.estimated_document_count()

    async def check(self) -> None:
        with translated():
            await self._database.command("ping")

    async def _one(self, which: dict[str, str]) -> User | None:
        with translated():
            found = await self._users.find_one(which)
        return None if found is None else _user(found)


def _document(user: User) -> dict[str, Any]:
    document: dict[str, Any] = {"_id": user.id, **user._asdict()}
    del document["id"], document["unsettled"]
    # as text: a name within it may be one that MongoDB takes for its own
    document |= {
        "roles": list(user.roles),
        "claims": msgspec.json.encode(user.claims).decode(),
        "state": user.state.value,
    }
    if user.unsettled is not None:
        document["unsettled"] = user.unsettled._asdict()
    return document


def _user(found: dict[str, Any]) -> User:
    unsettled = found.get("unsettled")
    return User(
        found["_id"],
        found["email"],
        found["email_key"],
        found["password_hash"],
        tuple(found.get("roles", ())),
        msgspec.json.decode(found.get("claims", "{}"), type=dict[str, Any]),
        AccountState(found.get("state", AccountState.ACTIVE)),
        found.get("created_us", 0),
        found.get("version", 0),
        None if unsettled is None else Unsettled(**unsettled),
    )


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        raise StoreUnavailable(f"MongoDB failed: {_brief(error)}", "mongodb") from error


def _brief(error: PyMongoError) -> str:
    """An error's kind and first words; never the whole, which can hold documents and addresses."""
    code = getattr(error, "code", None)
    return f"{type(error).__name__}, code {code}" if code else type(error).__name__
