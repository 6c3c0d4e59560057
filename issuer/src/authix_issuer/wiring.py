"""The composition root: the only place that knows which engine stands behind which port.

Rule: everything is opened here, in order, as a context; nothing connects at import or in a constructor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from authix.errors import SettingsError
from authix.events import Heartbeat
from authix.freshness import WhenStale
from authix.verifier import Verifier
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.accounts import Accounts
from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.sqlite import Database
from authix_issuer.feed import Feed
from authix_issuer.hashing import PasswordHasher
from authix_issuer.keys import SigningKeys, open_keys
from authix_issuer.master_secret import MasterSecret, kept_in
from authix_issuer.ports import SessionStore, UserStore
from authix_issuer.refresh_tokens import RefreshTokens
from authix_issuer.sessions import Sessions
from authix_issuer.settings import IssuerSettings


class Issuer(NamedTuple):
    """The running parts that the routes call."""

    settings: IssuerSettings
    accounts: Accounts
    sessions: Sessions
    keys: SigningKeys
    verifier: Verifier
    feed: Feed
    users: UserStore
    session_store: SessionStore


@asynccontextmanager
async def open_issuer(settings: IssuerSettings) -> AsyncIterator[Issuer]:
    """Open every part. Raises ``SettingsError`` with a sentence that says how to mend what is wrong."""
    async with AsyncExitStack() as stack:
        master = _master_secret(settings)
        users_database = Database(settings.database_path("users"), sqlite_users.SCHEMA)
        users = sqlite_users.SqliteUsers(await stack.enter_async_context(users_database))
        sessions_database = Database(settings.database_path("sessions"), sqlite_sessions.SCHEMA)
        store = sqlite_sessions.SqliteSessions(await stack.enter_async_context(sessions_database))
        keys = await open_keys(sqlite_users.SqliteKeys(users_database), master, settings.algorithm)
        hasher = await stack.enter_async_context(
            PasswordHasher(settings.hash_profile, threads=settings.hash_threads, queue=settings.hash_queue)
        )
        feed = await stack.enter_async_context(Feed(store))
        access_tokens = AccessTokens(keys, issuer=settings.issuer, audience=settings.audience, life=settings.access_ttl)
        sessions = Sessions(
            store,
            access_tokens,
            RefreshTokens(master),
            life=settings.refresh_ttl,
            grace=settings.refresh_grace,
            logged_out=feed.wake,
        )
        accounts = Accounts(users, hasher, password_min_length=settings.password_min_length)
        yield Issuer(settings, accounts, sessions, keys, _own_verifier(settings, keys), feed, users, store)


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
        algorithms=frozenset({settings.algorithm}),
        when_stale=WhenStale.ACCEPT,
    )
    verifier.use_keys(keys.published)
    verifier.apply(Heartbeat(at_us=0, complete_until_us=0), monotonic=0)
    return verifier
