"""The life of the signing keys: pure steps from one ring to the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authix.keys import AlgorithmName
from authix_issuer import key_ring
from authix_issuer.errors import KeyNotReady, KeysTooMany, KeyUnknown
from authix_issuer.key_ring import KEEP_US, MAX_AHEAD, MAX_KEYS, KeyState, Policy, Ring, RingKey

SECOND = 1_000_000
HOUR = 3600 * SECOND
BEGIN = 1_800_000_000 * SECOND
POLICY = Policy("ES256", life_us=24 * HOUR, notice_us=HOUR)
_numbers = itertools.count(1)


def make(algorithm: AlgorithmName) -> RingKey:
    number = next(_numbers)
    public = b"public %d" % number
    return RingKey(id=f"key-{number}", algorithm=algorithm, state=KeyState.NEXT, public=public, private=b"private")


def settled(ring: Ring, now_us: int, policy: Policy = POLICY) -> Ring:
    """The ring once nothing more is due at ``now_us``."""
    for _ in range(10):
        before, ring = ring, key_ring.advance(ring, now_us, policy, make)
        if ring == before:
            return ring
    pytest.fail("something stays due for ever")


def states(ring: Ring) -> list[str]:
    return [key.state.value for key in ring.keys]


def signing_of(ring: Ring) -> RingKey:
    (key,) = ring.of(KeyState.SIGNING)
    return key


@pytest.fixture
def ring() -> Ring:
    return settled(Ring(), BEGIN)


def test_the_first_key_signs_at_once_and_another_is_in_reserve(ring: Ring) -> None:
    assert states(ring) == ["signing", "next"]
    assert [(key.published_us, key.signs_us) for key in ring.keys] == [(BEGIN, BEGIN), (BEGIN, 0)]


def test_age_promotes_the_reserve_after_another_was_made(ring: Ring) -> None:
    first, second = ring.keys
    ring = settled(ring, BEGIN + POLICY.life_us - 1)
    assert states(ring) == ["signing", "next", "next"]
    ring = settled(ring, BEGIN + POLICY.life_us)
    assert states(ring) == ["retired", "signing", "next"]
    assert signing_of(ring).id == second.id
    retired = ring.get(first.id)
    assert retired is not None
    assert (retired.private, retired.public) == (b"", first.public)
    ring = settled(ring, BEGIN + POLICY.life_us + KEEP_US - 1)
    assert first.id in {key.id for key in ring.keys}
    ring = settled(ring, BEGIN + POLICY.life_us + KEEP_US)
    assert first.id not in {key.id for key in ring.keys}


def test_however_short_the_life_a_key_is_ready_when_its_turn_comes() -> None:
    policy = Policy("ES256", life_us=SECOND, notice_us=10 * SECOND)
    ring, signed = settled(Ring(), BEGIN, policy), set()
    for second in range(1, 61):
        ring = settled(ring, BEGIN + second * SECOND, policy)
        assert len(ring.of(KeyState.NEXT)) <= MAX_AHEAD
        signed.add(signing_of(ring).id)
    assert len(signed) >= 50  # only the first one signs for longer, until its successors are known


def test_a_full_ring_waits_until_keys_are_gone() -> None:
    policy = Policy("ES256", life_us=SECOND, notice_us=3 * SECOND)
    ring, largest, now_us = settled(Ring(), BEGIN, policy), 0, BEGIN
    for now_us in range(BEGIN, BEGIN + 400 * SECOND, SECOND):
        ring = settled(ring, now_us, policy)
        largest = max(largest, len(ring.keys))
    assert MAX_KEYS <= largest <= MAX_KEYS + 1
    with pytest.raises(KeysTooMany):
        key_ring.rotate(ring, now_us, policy, make, force=True)
    ring = settled(ring, now_us + KEEP_US, policy)
    assert len(ring.keys) < 10
    key_ring.rotate(ring, now_us + KEEP_US + policy.notice_us, policy, make, force=False)


def test_rotation_by_hand_waits_for_the_notice_unless_forced(ring: Ring) -> None:
    first, second = ring.keys
    early = BEGIN + POLICY.notice_us - 1
    with pytest.raises(KeyNotReady) as refused:
        key_ring.rotate(ring, early, POLICY, make, force=False)
    assert refused.value.ready_us == BEGIN + POLICY.notice_us
    for rotated in (
        key_ring.rotate(ring, early + 1, POLICY, make, force=False),
        key_ring.rotate(ring, early, POLICY, make, force=True),
    ):
        assert (signing_of(rotated).id, [key.id for key in rotated.of(KeyState.RETIRED)]) == (second.id, [first.id])


def test_a_revoked_key_is_gone_at_once_and_the_reserve_signs(ring: Ring) -> None:
    first, second = ring.keys
    ring = settled(key_ring.revoke(ring, first.id, POLICY, make), BEGIN + 1)
    gone = ring.get(first.id)
    assert gone is not None
    assert (gone.state, gone.public, gone.private, gone.announced) == (KeyState.REVOKED, b"", b"", False)
    assert signing_of(ring).id == second.id
    assert key_ring.revoke(ring, first.id, POLICY, make) == ring
    with pytest.raises(KeyUnknown):
        key_ring.revoke(ring, "another", POLICY, make)


def test_without_a_reserve_a_new_key_signs_at_once(ring: Ring) -> None:
    first, second = ring.keys
    in_hand = key_ring.without(key_ring.without(ring, second.id, POLICY), first.id, POLICY)
    assert states(in_hand) == ["revoked", "revoked"]
    ring = key_ring.revoke(key_ring.revoke(ring, second.id, POLICY, make), first.id, POLICY, make)
    assert states(ring) == ["revoked", "revoked", "signing"]
    assert states(settled(ring, BEGIN)) == ["revoked", "revoked", "signing", "next"]


def test_a_revocation_is_remembered_until_it_is_announced(ring: Ring) -> None:
    first = signing_of(ring)
    ring = settled(key_ring.revoke(ring, first.id, POLICY, make), BEGIN)
    ring = settled(ring, BEGIN + 10 * KEEP_US)
    assert ring.get(first.id) is not None
    ring = key_ring.announced(ring, [key.id for key in ring.keys])
    assert [key.id for key in ring.keys if key.announced] == [first.id]
    assert settled(ring, BEGIN + 10 * KEEP_US).get(first.id) is None


def test_another_algorithm_signs_after_its_notice_and_the_old_key_stays_published(ring: Ring) -> None:
    changed = POLICY._replace(algorithm="EdDSA")
    later = BEGIN + 5 * HOUR
    first = signing_of(ring)
    ring = settled(ring, later, changed)
    assert (signing_of(ring), [key.algorithm for key in ring.of(KeyState.NEXT)]) == (first, ["ES256", "EdDSA"])
    ring = settled(ring, later + POLICY.notice_us - 1, changed)
    assert signing_of(ring) == first
    ring = settled(ring, later + POLICY.notice_us, changed)
    assert signing_of(ring).algorithm == "EdDSA"
    assert [key.id for key in ring.of(KeyState.RETIRED)] == [first.id]
    assert {key.algorithm for key in ring.of(KeyState.NEXT)} == {"EdDSA"}


def test_replicas_that_differ_in_their_algorithm_do_not_take_turns_for_long(ring: Ring) -> None:
    policies = (POLICY, POLICY._replace(algorithm="EdDSA"))
    begin = BEGIN + 5 * HOUR
    made = len(ring.keys)
    for moment in range(begin, begin + 4 * HOUR, 60 * SECOND):
        for policy in policies:
            known = {key.id for key in ring.keys}
            ring = settled(ring, moment, policy)
            made += len({key.id for key in ring.keys} - known)
    assert made <= 12


class History:
    """What was true of each key, whatever the ring says: when others could first see it, and when it last signed."""

    def __init__(self) -> None:
        self.ring, self.now_us = Ring(), BEGIN
        self.policy = POLICY
        self.seen_us: dict[str, int] = {}
        self.left_us: dict[str, int] = {}
        self.unannounced: set[str] = set()
        self.revoked: set[str] = set()
        self.excused: set[str] = set()
        """May sign without notice: the first, what was forced, what stepped in for a revoked one."""

    def step(self, change: Callable[[Ring, int], Ring], lasts_us: int, *, excused: bool = False) -> None:
        """Read the ring and the clock, compute for ``lasts_us``, write it."""
        before, read_us = self.ring, self.now_us
        after = change(before, read_us)
        self.now_us += lasts_us
        self.ring = after
        for key in after.keys:
            self.seen_us.setdefault(key.id, self.now_us)
        new, old = after.signing, before.signing
        if new is not None and (old is None or new.id != old.id):
            if old is None or excused:
                self.excused.add(new.id)
            self.judge_start(new, read_us)
        if old is not None and (new is None or new.id != old.id):
            self.left_us[old.id] = self.now_us
        self.judge_gone(before, read_us)
        self.judge_states()

    def judge_start(self, key: RingKey, read_us: int) -> None:
        """It was there for the notice before anybody could sign with it."""
        assert key.id in self.excused or read_us - self.seen_us[key.id] >= self.policy.notice_us

    def judge_gone(self, before: Ring, read_us: int) -> None:
        for key in before.keys:
            if self.ring.get(key.id) is None:
                assert key.id not in self.unannounced
                if key.state is not KeyState.REVOKED:
                    assert read_us - self.left_us.get(key.id, -KEEP_US) >= KEEP_US

    def judge_states(self) -> None:
        assert len(self.ring.of(KeyState.SIGNING)) == 1
        assert len({key.id for key in self.ring.keys}) == len(self.ring.keys)
        for key in self.ring.keys:
            assert bool(key.private) is (key.state in {KeyState.NEXT, KeyState.SIGNING})
            assert bool(key.public) is (key.state is not KeyState.REVOKED)
            assert key.state is KeyState.REVOKED or key.id not in self.revoked

    def advance(self, lasts_us: int) -> None:
        self.step(lambda ring, now_us: key_ring.advance(ring, now_us, self.policy, make), lasts_us)
        assert len(self.ring.of(KeyState.NEXT)) >= 1

    def rotate(self, lasts_us: int, *, force: bool) -> None:
        def change(ring: Ring, now_us: int) -> Ring:
            ring = key_ring.advance(ring, now_us, self.policy, make)
            try:
                return key_ring.rotate(ring, now_us, self.policy, make, force=force)
            except (KeyNotReady, KeysTooMany):
                return ring

        self.step(change, lasts_us, excused=force)

    def revoke(self, lasts_us: int, which: int) -> None:
        key_id = self.ring.keys[which % len(self.ring.keys)].id
        if key_id not in self.revoked:
            self.unannounced.add(key_id)
        self.revoked.add(key_id)
        self.step(lambda ring, _: key_ring.revoke(ring, key_id, self.policy, make), lasts_us, excused=True)

    def announce(self) -> None:
        self.step(lambda ring, _: key_ring.announced(ring, self.unannounced), 0)
        self.unannounced.clear()


durations = st.one_of(
    st.integers(0, 10 * SECOND),
    st.sampled_from([HOUR - 1, HOUR, KEEP_US - 1, KEEP_US, 24 * HOUR - 1, 24 * HOUR, 100 * HOUR]),
)
actions = st.one_of(
    st.tuples(st.just("wait"), durations),
    st.tuples(st.just("advance"), durations),
    st.tuples(st.just("rotate"), durations),
    st.tuples(st.just("force"), durations),
    st.tuples(st.just("revoke"), st.integers(0, 20)),
    st.tuples(st.just("slow revoke"), st.integers(0, 20)),
    st.tuples(st.just("announce"), st.just(0)),
    st.tuples(st.just("algorithm"), st.integers(0, 1)),
)


@settings(max_examples=200)
@given(st.lists(actions, max_size=60))
def test_no_key_signs_unknown_and_none_is_gone_while_its_tokens_live(plan: list[tuple[str, int]]) -> None:
    history = History()
    history.advance(0)
    for action, value in plan:
        match action:
            case "wait":
                history.now_us += value
                history.advance(0)
            case "advance":
                history.advance(value)
            case "rotate":
                history.rotate(value, force=False)
            case "force":
                history.rotate(value, force=True)
            case "revoke":
                history.revoke(0, value)
            case "slow revoke":
                history.revoke(HOUR, value)
            case "announce":
                history.announce()
            case "algorithm":
                history.policy = history.policy._replace(algorithm=("ES256", "EdDSA")[value])
    ring = settled(history.ring, history.now_us, history.policy)
    assert msgspec.json.decode(msgspec.json.encode(ring), type=Ring) == ring
