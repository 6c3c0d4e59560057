"""The refresh token: authentic before any store is asked."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Never, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authix_issuer.access_tokens import AccessTokens
from authix_issuer.adapters import sqlite_sessions
from authix_issuer.adapters.sqlite import Database
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.audit import OFF, Audit
from authix_issuer.errors import RefreshTokenInvalid
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import Grants, NewSession, Scope, SessionStore
from authix_issuer.refresh_tokens import RefreshToken, RefreshTokens, new_secret
from authix_issuer.sessions import Sessions

MASTER = MasterSecret("m" * 32)
TOKENS = RefreshTokens(MASTER)
PARTS = RefreshToken("a" * 32, "b" * 32, 7, bytes(range(32)))
TEXT = TOKENS.write(PARTS)

names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
parts = st.builds(RefreshToken, names, names, st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))


def refused(text: str) -> bool:
    try:
        TOKENS.read(text)
    except RefreshTokenInvalid:
        return True
    return False


@settings(deadline=None)
@given(parts)
def test_what_was_written_is_read(token: RefreshToken) -> None:
    assert TOKENS.read(TOKENS.write(token)) == token


@settings(deadline=None)
@given(parts, parts)
def test_two_tokens_are_spelled_differently(one: RefreshToken, other: RefreshToken) -> None:
    assert (TOKENS.write(one) == TOKENS.write(other)) is (one == other)


@settings(deadline=None)
@given(
    st.text()
    | st.text("ABCabc012-_=.").map("axr1.".__add__)
    | st.binary().map(lambda b: "axr1." + base64.urlsafe_b64encode(b).decode())
)
def test_any_other_text_is_refused(text: str) -> None:
    assert refused(text)


def test_every_flipped_bit_is_refused() -> None:
    data = base64.urlsafe_b64decode(TEXT.removeprefix("axr1.") + "==")
    for position in range(len(data)):
        for bit in range(8):
            forged = bytearray(data)
            forged[position] ^= 1 << bit
            assert refused("axr1." + base64.urlsafe_b64encode(forged).rstrip(b"=").decode())


def test_every_changed_character_is_refused() -> None:
    for position, character in enumerate(TEXT):
        other = "A" if character != "A" else "B"
        assert refused(TEXT[:position] + other + TEXT[position + 1 :])


def test_every_shorter_and_longer_text_is_refused() -> None:
    assert all(refused(TEXT[:length]) for length in range(len(TEXT)))
    assert all(refused(TEXT[start:]) for start in range(1, len(TEXT)))
    assert all(refused(text) for text in (TEXT + "A", TEXT + "=", TEXT + " ", " " + TEXT, TEXT + "\n", TEXT + TEXT))


def test_a_part_moved_into_its_neighbour_is_refused() -> None:
    """Names of other lengths give other bytes, so "ab" + "c" is not "a" + "bc"."""
    one, other = PARTS._replace(session="ab", subject="c"), PARTS._replace(session="a", subject="bc")
    assert TOKENS.write(one) != TOKENS.write(other)


def test_another_master_secret_makes_other_tokens() -> None:
    assert refused(RefreshTokens(MasterSecret("n" * 32)).write(PARTS))


def test_tokens_of_the_other_master_secret_are_read_and_not_written() -> None:
    new, both = RefreshTokens(MasterSecret("n" * 32)), RefreshTokens(MasterSecret("n" * 32, "m" * 32))
    assert both.read(TEXT) == both.read(new.write(PARTS)) == PARTS
    assert both.write(PARTS) == new.write(PARTS) != TEXT


def test_the_key_is_not_the_one_of_another_purpose() -> None:
    assert MASTER.derive("refresh-token") != MASTER.derive("key-ring")


def test_a_token_can_be_told_from_other_strings() -> None:
    assert TEXT.startswith("axr1.")


def test_a_printed_token_keeps_its_secret_and_its_subject() -> None:
    shown = repr(PARTS) + str(PARTS)
    assert repr(PARTS.secret) not in shown
    assert PARTS.subject not in shown


def test_secrets_are_of_256_bits_and_never_the_same() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {len(secret) for secret in secrets} == {32}


class Untouchable:
    """In place of a store that must not be asked."""

    def __getattr__(self, name: str) -> Never:
        pytest.fail(f"a forged token reached the store: {name}")


@pytest.mark.parametrize("text", [TEXT[:-1], TEXT[:-1] + ("A" if TEXT[-1] != "A" else "E"), "axr1.", "", TEXT + "A"])
async def test_a_forged_token_never_reaches_the_store(text: str) -> None:
    store, access_tokens = cast(SessionStore, Untouchable()), cast(AccessTokens, Untouchable())
    sessions = Sessions(
        store,
        access_tokens,
        TOKENS,
        Audit(OFF),
        life=60,
        idle=0,
        grace=10,
        most=0,
        revoked=lambda _: pytest.fail("revoked"),
    )
    with pytest.raises(RefreshTokenInvalid):
        await sessions.refresh(text)
    for scope in Scope:
        with pytest.raises(RefreshTokenInvalid):
            await sessions.close(text, scope)


def content_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_a_leaked_store_holds_nothing_that_makes_a_token(tmp_path: Path) -> None:
    async with Database(str(tmp_path / "sessions.db"), sqlite_sessions.SCHEMA) as database:
        opened = NewSession(PARTS.session, PARTS.subject, Grants(), PARTS.secret_hash, 60_000_000)
        await SqliteSessions(database).open(opened)
        leaked = content_of(tmp_path)
    assert PARTS.session.encode() in leaked
    assert hashlib.sha256(PARTS.secret).digest() in leaked
    token_bytes = base64.urlsafe_b64decode(TEXT.removeprefix("axr1.") + "==")
    secret, mac = PARTS.secret, token_bytes[-32:]
    for kept in (
        TEXT.encode(),
        secret,
        secret.hex().encode(),
        base64.b64encode(secret)[:40],
        mac,
        MASTER.derive("refresh-token"),
    ):
        assert kept not in leaked
