"""A signature found wrong is not computed again, and nothing good is ever refused for it."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from authix import AuthixError, Verifier
from authix.errors import SignatureInvalid
from authix.events import KeyRevoked, UserRevoked
from authix.keys import KeySet, VerificationKey
from authix.verifier import WRONG_ENTRIES

if TYPE_CHECKING:
    from tests.sdk.conftest import Mint

NewVerifier = Callable[..., Verifier]


class CountingKey(VerificationKey):
    """A key that counts the signatures it computes."""

    def __init__(self, key: VerificationKey, *, key_id: str = "") -> None:
        super().__init__(key.public_key, key_id=key_id or key.key_id)
        self.computed = 0
        self.meanwhile: Callable[[], None] = lambda: None
        """Happens while it computes."""

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        self.computed += 1
        self.meanwhile()
        return super().verify(signing_input, signature)


@pytest.fixture
def key(mint: Mint, verifier: Verifier) -> CountingKey:
    """The verifier's only key."""
    key = CountingKey(mint.public("EdDSA"))
    verifier.use_keys(KeySet([key]))
    return key


@pytest.fixture
def judge(mint: Mint, verifier: Verifier) -> Callable[..., str]:
    """``judge(token, at=seconds)``: the code, or accepted."""

    def judge(token: str, at: float = 0) -> str:
        try:
            verifier.verify(token, now=mint.now + at, monotonic=0)
        except AuthixError as error:
            return error.code
        return "accepted"

    return judge


def forged(mint: Mint, **changes: object) -> str:
    """Right in all but its signature, which is a stranger's under the known key id."""
    return mint.sign(mint.header("EdDSA"), mint.payload(**changes), "EdDSA", mint.strangers["EdDSA"])


def refusal(verifier: Verifier, token: str, now: float) -> SignatureInvalid:
    with pytest.raises(SignatureInvalid) as caught:
        verifier.verify(token, now=now, monotonic=0)
    return caught.value


def test_a_bad_signature_is_computed_once_and_refused_alike_each_time(
    mint: Mint, verifier: Verifier, key: CountingKey
) -> None:
    first, *others = [refusal(verifier, forged(mint), mint.now) for _ in range(3)]
    assert key.computed == 1
    assert {(other.code, other.reason) for other in others} == {(first.code, first.reason)}
    assert [first.known, *(other.known for other in others)] == [False, True, True]
    assert (verifier.signatures, verifier.known) == (1, 2)


def test_a_good_token_is_not_refused_for_a_bad_one_that_differs_in_the_signature_alone(
    mint: Mint, judge: Callable[..., str], key: CountingKey
) -> None:
    verdicts = [judge(token) for token in (forged(mint), mint("EdDSA"), forged(mint), mint("EdDSA"))]
    assert verdicts == ["signature_invalid", "accepted"] * 2
    assert key.computed == 2


def test_a_bad_token_becomes_good_when_its_key_arrives_under_that_key_id(
    mint: Mint, verifier: Verifier, judge: Callable[..., str], key: CountingKey
) -> None:
    token = forged(mint)
    assert judge(token) == judge(token) == "signature_invalid"
    arrived = VerificationKey(mint.strangers["EdDSA"].public_key(), key_id=key.key_id)
    verifier.use_keys(KeySet([arrived]))
    assert judge(token) == judge(token) == "accepted"
    verifier.use_keys(KeySet([key]))
    assert judge(token) == "signature_invalid"


def test_a_key_that_arrives_while_a_signature_is_computed_finds_its_token_good(
    mint: Mint, verifier: Verifier, judge: Callable[..., str], key: CountingKey
) -> None:
    token = forged(mint)
    arrived = VerificationKey(mint.strangers["EdDSA"].public_key(), key_id=key.key_id)
    key.meanwhile = lambda: verifier.use_keys(KeySet([arrived]))
    assert judge(token) == "signature_invalid"
    assert judge(token) == "accepted"


def test_what_comes_before_the_signature_still_does_for_a_known_bad_token(
    mint: Mint, verifier: Verifier, judge: Callable[..., str], key: CountingKey
) -> None:
    token = forged(mint)
    assert judge(token) == "signature_invalid"
    assert judge(token, at=306) == "token_expired"
    assert judge(token, at=-6) == "token_not_yet_valid"
    verifier.apply(KeyRevoked(kid=key.key_id, until=10**10), monotonic=0)
    assert judge(token) == "key_revoked"


def test_a_token_refused_for_its_times_is_good_when_they_are_right(
    mint: Mint, judge: Callable[..., str], key: CountingKey
) -> None:
    token = mint("EdDSA", nbf=mint.now + 60)
    assert [judge(token, at) for at in (0, 0, 400)] == ["token_not_yet_valid"] * 2 + ["token_expired"]
    assert key.computed == 0
    assert judge(token, at=60) == "accepted"


def test_a_new_bad_token_takes_the_place_of_the_oldest(mint: Mint, judge: Callable[..., str], key: CountingKey) -> None:
    tokens = [forged(mint, jti=f"j{n}") for n in range(WRONG_ENTRIES + 1)]
    for token in tokens:
        judge(token)
    assert key.computed == WRONG_ENTRIES + 1
    judge(tokens[1])
    assert key.computed == WRONG_ENTRIES + 1
    judge(tokens[0])
    assert key.computed == WRONG_ENTRIES + 2


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_one_that_makes_room_while_another_thread_looks_for_it_is_still_refused(
    mint: Mint, new_verifier: NewVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authix.verifier.WRONG_ENTRIES", 2)
    verifier = new_verifier()
    monkeypatch.setattr(VerificationKey, "verify", lambda *_: False)  # quicker, so that more threads look at once
    tokens = [forged(mint, jti=f"j{n}") for n in range(4)]

    def look(seed: int) -> set[str]:
        order = random.Random(seed)
        return {refusal(verifier, order.choice(tokens), mint.now).code for _ in range(3000)}

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(look, range(8))) == [{"signature_invalid"}] * 8


def test_long_bad_tokens_take_no_more_memory_than_short_ones(mint: Mint, judge: Callable[..., str]) -> None:
    """Their text would be 4 MiB."""
    tokens = [forged(mint, jti=f"j{n}", x="x" * 3000) for n in range(WRONG_ENTRIES)]
    judge(tokens[0])
    tracemalloc.start()
    try:
        for token in tokens:
            judge(token)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < WRONG_ENTRIES * 400


def test_a_verifier_that_remembers_nothing_computes_a_bad_signature_each_time(
    mint: Mint, new_verifier: NewVerifier
) -> None:
    forgetful, key = new_verifier(cache_entries=0), CountingKey(mint.public("EdDSA"))
    forgetful.use_keys(KeySet([key]))
    assert not any(refusal(forgetful, forged(mint), mint.now).known for _ in range(2))
    assert key.computed == 2


def test_only_a_token_found_good_under_the_keys_of_now_is_said_to_be_remembered(
    mint: Mint, verifier: Verifier, judge: Callable[..., str]
) -> None:
    good, bad = mint("EdDSA"), forged(mint)
    assert not verifier.remembers(good)
    judge(good)
    judge(bad)
    assert (verifier.remembers(good), verifier.remembers(bad)) == (True, False)
    verifier.use_keys(mint.key_set("RS256"))
    assert not verifier.remembers(good)


def test_only_a_right_signature_is_told_of_a_logout_and_it_is_computed_once(
    mint: Mint, verifier: Verifier, judge: Callable[..., str], key: CountingKey
) -> None:
    verifier.apply(UserRevoked(sub="user-1", since_us=mint.now * 1_000_000, until=10**10), monotonic=0)
    assert judge(forged(mint)) == "signature_invalid"
    assert [judge(mint("EdDSA")) for _ in range(3)] == ["token_revoked"] * 3
    assert key.computed == 2
