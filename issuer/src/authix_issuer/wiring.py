"""The composition root: the only place that knows which engine stands behind which port.

Rule: everything is opened here, in order, as a context; nothing connects at import or in a constructor. Drivers of
engines that the settings do not name are not imported: they are half of the start's time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from authix.errors import SettingsError
from authix.events import Heartbeat
from authix.freshness import WhenStale
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.accounts import Accounts
from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.sqlite import Database
from authix_issuer.errors import StoreUnavailable
from authix_issuer.feed import Feed
from authix_issuer.hashing import PasswordHasher
from authix_issuer.keys import SigningKeys, open_keys
from authix_issuer.master_secret import MasterSecret, kept_in
from authix_issuer.ports import KeyStore, Logout, UserStore
from authix_issuer.refresh_tokens import RefreshTokens
from authix_issuer.relay import Relay
from authix_issuer.sessions import Sessions
from authix_issuer.settings import IssuerSettings

if TYPE_CHECKING:
    from authix_issuer.adapters.redis_sessions import RedisSessions

Store: TypeAlias = "sqlite_sessions.SqliteSessions | RedisSessions"
"""A session store with its revocation log and outbox."""


class Issuer(NamedTuple):
    """The running parts that the routes call."""

    settings: IssuerSettings
    accounts: Accounts
    sessions: Sessions
    keys: SigningKeys
    verifier: Verifier
    feed: Feed
    users: UserStore
    store: Store
    relay: Relay | None

    async def now(self) -> float:
        """Seconds since the epoch, by the session store's clock: the one that dated every token."""
        return (await self.store.tick()).complete_until_us / 1_000_000


@asynccontextmanager
async def open_issuer(settings: IssuerSettings) -> AsyncIterator[Issuer]:
    """Open every part. Raises ``SettingsError`` with a sentence that says how to mend what is wrong."""
    async with AsyncExitStack() as stack:
        try:
            issuer = await _open(stack, settings)
        except StoreUnavailable as error:
            raise SettingsError(
                f"An engine did not do what a start needs ({error.reason}): look at AUTHIX_USERS_URL and "
                "AUTHIX_SESSIONS_URL, and at the rights of their users; `authix-issuer doctor` says more."
            ) from None
        yield issuer


async def _open(stack: AsyncExitStack, settings: IssuerSettings) -> Issuer:
    master = _master_secret(settings)
    users, key_store = await _open_users(stack, settings)
    store = await _open_sessions(stack, settings)
    keys = await open_keys(key_store, master, settings.algorithm)
    threads, queue = settings.hash_threads // settings.workers, settings.hash_queue // settings.workers
    hasher = await stack.enter_async_context(PasswordHasher(settings.hash_profile, threads=threads, queue=queue))
    relay = None
    if settings.kafka:
        from authix_issuer.adapters.kafka_topic import KafkaTopic  # noqa: PLC0415 - see the rule

        topic = KafkaTopic(settings.kafka, settings.topic, settings.kafka_options())
        relay = await stack.enter_async_context(Relay(store, await stack.enter_async_context(topic)))
    feed = await stack.enter_async_context(Feed(store))

    def revoked(revocation: Logout) -> None:
        feed.wake()
        if relay is not None:
            relay.publish(revocation)

    access_tokens = AccessTokens(keys, issuer=settings.issuer, audience=settings.audience, life=settings.access_ttl)
    sessions = Sessions(
        store,
        access_tokens,
        RefreshTokens(master),
        life=settings.refresh_ttl,
        grace=settings.refresh_grace,
        revoked=revoked,
    )
    accounts = Accounts(users, hasher, password_min_length=settings.password_min_length)
    return Issuer(settings, accounts, sessions, keys, _own_verifier(settings, keys), feed, users, store, relay)


async def _open_users(stack: AsyncExitStack, settings: IssuerSettings) -> tuple[UserStore, KeyStore]:
    if settings.users_in_mongodb:
        from authix_issuer.adapters.mongo import MongoKeys, MongoUsers, open_mongo  # noqa: PLC0415 - see the rule

        documents = await stack.enter_async_context(open_mongo(settings.users_url))
        return MongoUsers(documents), MongoKeys(documents)
    database = Database(settings.database_path("users"), sqlite_users.SCHEMA)
    await stack.enter_async_context(database)
    return sqlite_users.SqliteUsers(database), sqlite_users.SqliteKeys(database)


async def _open_sessions(stack: AsyncExitStack, settings: IssuerSettings) -> Store:
    if settings.sessions_in_redis:
        from authix_issuer.adapters.redis_pipeline import RedisEngine  # noqa: PLC0415 - see the rule
        from authix_issuer.adapters.redis_sessions import RedisSessions  # noqa: PLC0415 - see the rule

        return RedisSessions(await stack.enter_async_context(RedisEngine(settings.sessions_url)))
    database = Database(settings.database_path("sessions"), sqlite_sessions.SCHEMA)
    return sqlite_sessions.SqliteSessions(await stack.enter_async_context(database))


def _master_secret(settings: IssuerSettings) -> MasterSecret:
    data_dir = Path(settings.data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"AUTHIX_DATA_DIR={data_dir} can't be made ({type(error).__name__}): name a folder that can."
        ) from None
    return MasterSecret(settings.secret) if settings.secret else kept_in(data_dir)


def _own_verifier(settings: IssuerSettings, keys: SigningKeys) -> Verifier:
    """Judges the access token shown at a logout; whether its session is open is the store's to say, not a feed's."""
    verifier = Verifier(
        issuer=settings.issuer,
        audience=settings.audience,
        algorithms=frozenset(key.algorithm for key in keys.published),
        when_stale=WhenStale.ACCEPT,
    )
    verifier.use_keys(keys.published)
    verifier.apply(Heartbeat(at_us=0, complete_until_us=0), monotonic=0)
    return verifier
