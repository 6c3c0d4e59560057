"""Accounts: registration and the check of credentials.

Rule: whether an email is known shows neither in the answer of a login nor in the work it takes.
"""

from __future__ import annotations

import contextlib
import secrets

from authix_issuer.emails import Email, read_email
from authix_issuer.errors import CredentialsWrong, EmailTaken, InputInvalid, Overloaded, Reason, StoreUnavailable
from authix_issuer.hashing import PasswordHasher
from authix_issuer.passwords import password_bytes, read_new_password
from authix_issuer.ports import User, UserStore


class Accounts:
    def __init__(self, users: UserStore, hasher: PasswordHasher, *, password_min_length: int) -> None:
        self._users = users
        self._hasher = hasher
        self._min_length = password_min_length

    async def register(self, email: str, password: str) -> User:
        """Add an account. Raises ``InputInvalid`` with every reason, ``EmailTaken``, or ``Overloaded``."""
        address, data = self._read(email, password)
        password_hash = await self._hasher.hash(data)
        user = User(secrets.token_hex(16), address.address, address.key, password_hash)
        if not await self._users.add(user):
            raise EmailTaken("there already is an account with this email")
        return user

    async def check(self, email: str, password: str) -> User:
        """The user with these credentials. Raises ``CredentialsWrong`` or ``Overloaded``."""
        data = password_bytes(password)
        if data is None:
            raise CredentialsWrong("email or password is wrong")
        try:
            user = await self._users.by_email_key(read_email(email).key)
        except InputInvalid:
            user = None
        if not await self._hasher.verify(user.password_hash if user else None, data) or user is None:
            raise CredentialsWrong("email or password is wrong")
        if self._hasher.needs_rehash(user.password_hash):
            with contextlib.suppress(Overloaded, StoreUnavailable):  # it can wait for the next login; this one is good
                new = await self._hasher.hash(data)
                await self._users.replace_password_hash(user.id, old=user.password_hash, new=new)
        return user

    def _read(self, email: str, password: str) -> tuple[Email, bytes]:
        reasons: list[Reason] = []
        address, data = None, None
        try:
            address = read_email(email)
        except InputInvalid as error:
            reasons += error.reasons
        try:
            data = read_new_password(password, address, min_length=self._min_length)
        except InputInvalid as error:
            reasons += error.reasons
        if address is None or data is None:
            raise InputInvalid(*reasons)
        return address, data
