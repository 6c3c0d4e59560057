"""What every key store promises, whatever its engine."""

from __future__ import annotations

import asyncio

from authix_issuer.ports import KeptRing, KeyStore

FIRST = KeptRing(1, bytes(range(256)))
NOTHING = KeptRing(0, b"")


async def test_the_store_answers(keys: KeyStore) -> None:
    await keys.check()


async def test_a_new_store_has_no_keys(keys: KeyStore) -> None:
    assert await keys.load() == NOTHING


async def test_a_ring_is_kept_as_it_was_given(keys: KeyStore) -> None:
    assert await keys.save(FIRST)
    assert await keys.load() == FIRST
    large = KeptRing(2, bytes(400_000))
    assert await keys.save(large)
    assert await keys.load() == large


async def test_a_ring_replaces_the_version_before_it_and_no_other(keys: KeyStore) -> None:
    assert not await keys.save(KeptRing(2, b"of nothing"))
    assert await keys.load() == NOTHING
    assert await keys.save(FIRST)
    for version in (1, 3, 0, 99):
        assert not await keys.save(KeptRing(version, b"late or early"))
    assert await keys.load() == FIRST
    assert await keys.save(KeptRing(2, b"second"))
    assert await keys.load() == KeptRing(2, b"second")


async def test_of_many_who_write_at_once_one_wins_each_time(keys: KeyStore) -> None:
    for version in (1, 2, 3):
        rivals = [KeptRing(version, bytes([number])) for number in range(20)]
        won = await asyncio.gather(*(keys.save(ring) for ring in rivals))
        assert won.count(True) == 1
        assert await keys.load() == rivals[won.index(True)]
