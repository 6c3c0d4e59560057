"""The composition root: the only place that knows which engine stands behind which port.

Rule: everything is opened here, in order, as a context; nothing connects at import or in a constructor. Drivers of
engines that the settings do not name are not imported: they are half of the start's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from authix.errors import SettingsError
from authix.events import Heartbeat, KeyRevoked, SessionRevoked, UserRevoked
from authix.freshness import WhenStale
from authix.keys import ALGORITHMS
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.accounts import Accounts
from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.memory_limits import MemoryAttempts, MemoryCounters
from authix_issuer.adapters.sqlite import Database
from authix_issuer.adapters.sqlite_keys import SqliteKeys
from authix_issuer.addresses import ClientAddresses, Kept
from authix_issuer.administration import Administration
from authix_issuer.audit import Audit
from authix_issuer.changes import Changes
from authix_issuer.errors import StoreUnavailable
from authix_issuer.feed import Feed
from authix_issuer.hashing import PasswordHasher
from authix_issuer.key_ring import Policy
from authix_issuer.key_seal import KeySeal
from authix_issuer.live_keys import LiveKeys
from authix_issuer.logins import Logins
from authix_issuer.master_secret import MasterSecret, kept_in
from authix_issuer.own_tokens import OwnTokens
from authix_issuer.ports import AttemptStore, KeyStore, Logout, UserStore
from authix_issuer.refresh_tokens import RefreshTokens
from authix_issuer.relay import Relay
from authix_issuer.sessions import Sessions
from authix_issuer.settings import IssuerSettings
from authix_issuer.throttle import Throttle

if TYPE_CHECKING:
    from limits.aio.storage import Storage as LimitCounters

    from authix_issuer.adapters.redis_sessions import RedisSessions

Store: TypeAlias = "sqlite_sessions.SqliteSessions | RedisSessions"
"""A session store with its revocation log and outbox."""


_KINDS: dict[type[Logout], str] = {UserRevoked: "user", SessionRevoked: "session", KeyRevoked: "key"}


class Issuer(NamedTuple):
    """The running parts that the routes call."""

    settings: IssuerSettings
    accounts: Accounts
    changes: Changes
    logins: Logins
    sessions: Sessions
    keys: LiveKeys
    own_tokens: OwnTokens
    administration: Administration
    feed: Feed
    users: UserStore
    store: Store
    relay: Relay | None
    audit: Audit
    hasher: PasswordHasher
    throttle: Throttle
    clients: ClientAddresses
    revocations: Counter[str]
    """How many this process has written, by kind."""


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
    audit = stack.enter_context(Audit(settings.audit))
    master = _master_secret(settings)
    users, key_store = await _open_users(stack, settings)
    store, counters, attempts = await _open_sessions(stack, settings)

    revocations: Counter[str] = Counter()

    def revoked(revocation: Logout) -> None:
        revocations[_KINDS[type(revocation)]] += 1
        feed.wake()
        if relay is not None:
            relay.publish(revocation)

    policy = Policy(settings.algorithm, settings.key_life * 1_000_000, settings.key_notice * 1_000_000)
    keys = LiveKeys(key_store, store, KeySeal(master), policy, audit, revoked=revoked)
    own_verifier = _own_verifier(settings, keys)
    threads, queue = settings.hash_threads // settings.workers, settings.hash_queue // settings.workers
    hasher = await stack.enter_async_context(PasswordHasher(settings.hash_profile, threads=threads, queue=queue))
    relay = None
    if settings.kafka:
        from authix_issuer.adapters.kafka_topic import KafkaTopic  # noqa: PLC0415 - see the rule

        topic = KafkaTopic(settings.kafka, settings.topic, settings.kafka_options())
        relay = await stack.enter_async_context(Relay(store, await stack.enter_async_context(topic)))

    def key_revoked(event: KeyRevoked) -> None:
        own_verifier.apply(event, monotonic=0)
        keys.heard(event.kid)

    feed = await stack.enter_async_context(Feed(store, key_revoked))

    await stack.enter_async_context(keys)  # after the feed began, so that no revocation falls between the two
    access_tokens = AccessTokens(keys, issuer=settings.issuer, audience=settings.audience, life=settings.access_ttl)
    sessions = Sessions(
        store,
        access_tokens,
        RefreshTokens(master),
        audit,
        life=settings.refresh_ttl,
        idle=settings.session_idle,
        grace=settings.refresh_grace,
        most=settings.max_sessions,
        address=Kept(settings.session_address),
        revoked=revoked,
    )
    changes = await stack.enter_async_context(Changes(users, store, revoked))
    accounts = Accounts(
        users,
        changes,
        hasher,
        audit,
        password_min_length=settings.password_min_length,
        password_words=settings.password_words,
    )
    logins = Logins(users, accounts, changes, sessions, audit)
    administration = Administration(
        users=users,
        log=store,
        accounts=accounts,
        changes=changes,
        sessions=sessions,
        keys=keys,
        hasher=hasher,
        audit=audit,
        admin_role=settings.admin_role,
        topic_problem=lambda: relay.problem if relay is not None else None,
    )

    async def now() -> float:
        return (await store.tick()).complete_until_us / 1_000_000

    return Issuer(
        settings=settings,
        accounts=accounts,
        changes=changes,
        logins=logins,
        sessions=sessions,
        keys=keys,
        own_tokens=OwnTokens(own_verifier, store, now),
        administration=administration,
        feed=feed,
        users=users,
        store=store,
        relay=relay,
        audit=audit,
        hasher=hasher,
        throttle=_throttle(settings, master, counters, attempts),
        clients=ClientAddresses(settings.trusted_proxies, settings.forwarded_by),
        revocations=revocations,
    )


async def _open_users(stack: AsyncExitStack, settings: IssuerSettings) -> tuple[UserStore, KeyStore]:
    if settings.users_in_mongodb:
        from authix_issuer.adapters.mongo import MongoUsers, open_mongo  # noqa: PLC0415 - see the rule
        from authix_issuer.adapters.mongo_keys import MongoKeys  # noqa: PLC0415 - see the rule

        documents = await stack.enter_async_context(open_mongo(settings.users_url))
        return MongoUsers(documents), MongoKeys(documents)
    database = Database(settings.database_path("users"), sqlite_users.SCHEMA)
    await stack.enter_async_context(database)
    return sqlite_users.SqliteUsers(database), SqliteKeys(database)


async def _open_sessions(stack: AsyncExitStack, settings: IssuerSettings) -> tuple[Store, LimitCounters, AttemptStore]:
    """The sessions, and what counts for the limits in the same place."""
    if settings.sessions_in_redis:
        from authix_issuer.adapters.redis_limits import RedisAttempts, RedisCounters  # noqa: PLC0415 - see the rule
        from authix_issuer.adapters.redis_pipeline import RedisEngine  # noqa: PLC0415 - see the rule
        from authix_issuer.adapters.redis_sessions import RedisSessions  # noqa: PLC0415 - see the rule

        engine = await stack.enter_async_context(RedisEngine(settings.sessions_url))
        return RedisSessions(engine), RedisCounters(engine), RedisAttempts(engine)
    database = Database(settings.database_path("sessions"), sqlite_sessions.SCHEMA)
    sessions = sqlite_sessions.SqliteSessions(await stack.enter_async_context(database))
    return sessions, MemoryCounters(), MemoryAttempts()


def _throttle(
    settings: IssuerSettings, master: MasterSecret, counters: LimitCounters, attempts: AttemptStore
) -> Throttle:
    return Throttle(
        counters,
        attempts,
        master.derive("throttle"),
        logins=settings.limit_logins,
        registrations=settings.limit_registrations,
        max_delay=settings.login_max_delay,
    )


def _master_secret(settings: IssuerSettings) -> MasterSecret:
    data_dir = Path(settings.data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"AUTHIX_DATA_DIR={data_dir} can't be made ({type(error).__name__}): name a folder that can."
        ) from None
    if settings.secret:
        return MasterSecret(settings.secret, settings.secret_previous)
    return kept_in(data_dir, settings.secret_previous)


def _own_verifier(settings: IssuerSettings, keys: LiveKeys) -> Verifier:
    """Judges the access token shown at a logout; whether its session is open is the store's to say, not a feed's."""
    verifier = Verifier(
        issuer=settings.issuer,
        audience=settings.audience,
        algorithms=frozenset(ALGORITHMS),  # each of our keys serves one
        when_stale=WhenStale.ACCEPT,
    )
    keys.follow(verifier.use_keys)
    verifier.apply(Heartbeat(at_us=0, complete_until_us=0), monotonic=0)
    return verifier
