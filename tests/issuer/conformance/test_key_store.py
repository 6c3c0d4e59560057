"""What every key store promises, whatever its engine."""

from __future__ import annotations

import asyncio

from authix_issuer.ports import KeyStore, StoredKey

FIRST = StoredKey("key-1", "ES256", "signing", bytes(range(256)))
RIVAL = StoredKey("key-2", "ES256", "signing", b"another")


async def test_the_store_answers(keys: KeyStore) -> None:
    await keys.check()


async def test_a_new_store_has_no_keys(keys: KeyStore) -> None:
    assert await keys.all() == []


async def test_a_key_is_kept_as_it_was_given(keys: KeyStore) -> None:
    await keys.add_if_none_signs(FIRST)
    assert await keys.all() == [FIRST]


async def test_the_first_signing_key_of_an_algorithm_stays(keys: KeyStore) -> None:
    await keys.add_if_none_signs(FIRST)
    await keys.add_if_none_signs(RIVAL)
    await keys.add_if_none_signs(FIRST)
    assert await keys.all() == [FIRST]


async def test_each_algorithm_has_a_signing_key_and_the_newest_is_last(keys: KeyStore) -> None:
    others = [StoredKey("key-0", "EdDSA", "signing", b"sealed"), StoredKey("key-9", "RS256", "signing", b"sealed")]
    for key in (FIRST, *others):
        await keys.add_if_none_signs(key)
    assert await keys.all() == [FIRST, *others]


async def test_of_many_issuers_that_start_at_once_one_makes_the_key(keys: KeyStore) -> None:
    rivals = [FIRST._replace(id=f"key-{n}", sealed=bytes([n])) for n in range(20)]
    await asyncio.gather(*(keys.add_if_none_signs(key) for key in rivals))
    (winner,) = await keys.all()
    assert winner in rivals
