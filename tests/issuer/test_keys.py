"""The issuer's signing keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives import serialization
from joserfc.jwk import KeySet as OtherKeySet

from authix.errors import SettingsError
from authix.keys import AlgorithmName, KeySet
from authix_issuer.adapters import sqlite_users
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_users import SqliteKeys
from authix_issuer.keys import SigningKey, open_keys
from authix_issuer.master_secret import MasterSecret

MASTER = MasterSecret("m" * 32)
ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    async with Database(MEMORY, sqlite_users.SCHEMA) as opened:
        yield opened


@pytest.fixture
def store(database: Database) -> SqliteKeys:
    return SqliteKeys(database)


def content_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def private_forms(key: SigningKey) -> list[bytes]:
    """Every common spelling of the private part."""
    private, none = key.private_key, serialization.NoEncryption()
    formats = [serialization.PrivateFormat.PKCS8]
    if key.algorithm != "EdDSA":
        formats.append(serialization.PrivateFormat.TraditionalOpenSSL)
    return [
        private.private_bytes(encoding, form, none)
        for encoding in (serialization.Encoding.DER, serialization.Encoding.PEM)
        for form in formats
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_first_start_makes_a_key_and_later_ones_keep_it(store: SqliteKeys, algorithm: AlgorithmName) -> None:
    first = await open_keys(store, MASTER, algorithm)
    again = await open_keys(store, MASTER, algorithm)
    assert first.signing.algorithm == algorithm
    assert again.signing.id == first.signing.id
    assert again.jwks == first.jwks
    assert again.pem == first.pem


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_private_part_is_not_in_the_store(tmp_path: Path, algorithm: AlgorithmName) -> None:
    async with Database(str(tmp_path / "users.db"), sqlite_users.SCHEMA) as database:
        keys = await open_keys(SqliteKeys(database), MASTER, algorithm)
        leaked = content_of(tmp_path)
    assert keys.signing.id.encode() in leaked
    assert b"PRIVATE KEY" not in leaked
    for form in private_forms(keys.signing):
        assert form not in leaked
        assert form[-24:-2] not in leaked


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_key_id_is_the_thumbprint_that_others_compute(store: SqliteKeys, algorithm: AlgorithmName) -> None:
    keys = await open_keys(store, MASTER, algorithm)
    (key,) = OtherKeySet.import_key_set(json.loads(keys.jwks.body)).keys
    assert key.thumbprint() == keys.signing.id == key.kid


async def test_another_master_secret_stops_the_start_with_a_sentence(store: SqliteKeys) -> None:
    await open_keys(store, MASTER, "ES256")
    with pytest.raises(SettingsError, match=r"^AUTHIX_SECRET is not the secret that .* sealed with: set it"):
        await open_keys(store, MasterSecret("n" * 32), "ES256")


async def test_a_sealed_key_under_another_id_is_not_taken(store: SqliteKeys, database: Database) -> None:
    await open_keys(store, MASTER, "ES256")
    await open_keys(store, MASTER, "EdDSA")
    first, second = await store.all()

    await database.write(
        lambda connection: connection.execute("UPDATE keys SET sealed = ? WHERE id = ?", (second.sealed, first.id))
    )
    with pytest.raises(SettingsError):
        await open_keys(store, MASTER, "ES256")


async def test_of_many_issuers_that_start_at_once_all_sign_with_one_key(store: SqliteKeys) -> None:
    opened = await asyncio.gather(*(open_keys(store, MASTER, "ES256") for _ in range(8)))
    assert len({keys.signing.id for keys in opened}) == 1
    assert len({keys.jwks.body for keys in opened}) == 1
    assert len(await store.all()) == 1


async def test_another_algorithm_signs_with_a_new_key_and_the_old_one_stays_published(store: SqliteKeys) -> None:
    before = await open_keys(store, MASTER, "ES256")
    after = await open_keys(store, MASTER, "EdDSA")
    assert after.signing.algorithm == "EdDSA"
    assert [key.key_id for key in after.published] == [after.signing.id, before.signing.id]
    back = await open_keys(store, MASTER, "ES256")
    assert back.signing.id == before.signing.id
    assert [key.key_id for key in back.published] == [before.signing.id, after.signing.id]
    assert len({document.etag for keys in (before, after, back) for document in (keys.jwks, keys.pem)}) == 6


async def test_the_documents_hold_the_public_keys_and_nothing_private(store: SqliteKeys) -> None:
    for algorithm in ALGORITHMS:
        keys = await open_keys(store, MASTER, algorithm)
    published = [key.key_id for key in keys.published]
    assert [key.key_id for key in KeySet.from_json(keys.jwks.body)] == published
    members = {name for jwk in json.loads(keys.jwks.body)["keys"] for name in jwk}
    assert members == {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}
    blocks = keys.pem.body.decode().split("-----END PUBLIC KEY-----\n")[:-1]
    read = [serialization.load_pem_public_key(f"{block}-----END PUBLIC KEY-----\n".encode()) for block in blocks]
    assert read == [key.public_key for key in keys.published]


async def test_a_printed_key_shows_no_private_part(store: SqliteKeys) -> None:
    keys = await open_keys(store, MASTER, "ES256")
    assert "private" not in repr(keys.signing)
