"""How often passwords may be tried and accounts registered.

Rule: what is refused here is refused before anything is hashed. Two things are limited: requests of one client address,
and wrong passwords for one account. The latter cost growing delays and never lock an account for good: 1, 2, 4 … s up
to a cap, after few in a row from one address or more from all. So whoever guesses from one place keeps the owner, who
is in another, out only after many guesses, and an owner who is logged in is not touched at all.

An attempt counts when it begins; so those that run side by side count as well. Whether an account exists plays no part.
The store is given digests, no email address.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from limits import RateLimitItem, parse
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter

from authix_issuer.addresses import network_of
from authix_issuer.emails import read_email
from authix_issuer.errors import (
    AccountBusy,
    AccountDisabled,
    EmailTaken,
    InputInvalid,
    Overloaded,
    StoreUnavailable,
    TooManyAttempts,
    TooManyRequests,
)
from authix_issuer.ports import AttemptStore, Tried

logger = logging.getLogger("authix.issuer")

FREE_AT_ADDRESS: Final = 5
"""Wrong passwords in a row, for one account from one address, before the first delay."""
FREE_IN_ALL: Final = 20
"""The same from all addresses together; the owner is likely at another than the attacker."""

_NOT_WRONG = (AccountBusy, AccountDisabled, EmailTaken, InputInvalid, Overloaded, StoreUnavailable)
"""The password was right, or nothing was told about it. Whatever else ends an attempt leaves it counted."""


class Throttle:
    """``logins`` and ``registrations`` are limits an address such as ``60/minute``, or ``off``.

    ``max_delay`` is the longest delay in seconds; 0: none. ``key`` makes the digests.
    """

    def __init__(
        self,
        counters: Storage,
        attempts: AttemptStore,
        key: bytes,
        *,
        logins: str,
        registrations: str,
        max_delay: int,
    ) -> None:
        self._windows = FixedWindowRateLimiter(counters)
        self._attempts = attempts
        self._key = key
        self._logins = _limit(logins)
        self._registrations = _limit(registrations)
        self._max_delay = max_delay
        self._away = False

    async def registration(self, address: str) -> None:
        """Count a registration, or a change of an email, from ``address``. Raises ``TooManyRequests``."""
        await self._admit("register", self._registrations, address)

    @asynccontextmanager
    async def attempt(self, address: str, account: str) -> AsyncIterator[None]:
        """Around every check of a password: a block that ends without an error had the right one.

        ``account`` is its email, in any spelling. Raises ``TooManyRequests``, ``TooManyAttempts``, or
        ``StoreUnavailable``: without the store nobody can log in, so nobody may try passwords either.
        """
        await self._admit("login", self._logins, address)
        if not self._max_delay:
            yield
            return
        tried = self._tried(address, account)
        if wait := await self._attempts.begin(tried, self._max_delay):
            raise TooManyAttempts("too many wrong passwords were tried for this account", math.ceil(wait))
        try:
            yield
        except _NOT_WRONG:
            await self._attempts.withdraw(tried)
            raise
        await self._attempts.succeed(tried)

    async def _admit(self, what: str, limit: RateLimitItem | None, address: str) -> None:
        if limit is None:
            return
        network = network_of(address)
        try:
            if await self._windows.hit(limit, what, network):
                self._away = False
                return
            until = (await self._windows.get_window_stats(limit, what, network)).reset_time
        except StoreUnavailable as error:  # what the limit protects goes on
            if not self._away:
                logger.error("requests are not limited by address until the store answers: %s", error.reason)  # noqa: TRY400 - the reason is enough
            self._away = True
            return
        raise TooManyRequests("too many requests came from this address", max(1, math.ceil(until - time.time())))

    def _tried(self, address: str, email: str) -> Sequence[Tried]:
        account = self._digest(_account(email))
        at_address = self._digest(f"{account} {network_of(address)}")
        return (
            Tried(f"{{{account}}}:{at_address}", FREE_AT_ADDRESS),
            Tried(f"{{{account}}}", FREE_IN_ALL),
        )

    def _digest(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)[:16].hex()


def _account(email: str) -> str:
    try:
        return read_email(email).key
    except InputInvalid:  # no account's; it is counted like one all the same
        return email


def _limit(rate: str) -> RateLimitItem | None:
    return None if rate == "off" else parse(rate)
