"""The life of the issuer's signing keys, as one ring of them.

Rule: next (published, not signing yet) -> signing -> retired (published while its tokens live) -> gone; or revoked,
gone at once. One key signs, and at least one more is published in reserve. All of it is pure: the moment and the making
of a key are arguments. A step changes states only; what it began is dated at the next look, on a ring that was read
with that state in it. So no moment is earlier than what everybody could see then, however long a step took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from authix.events import LOG_WINDOW
from authix.keys import AlgorithmName
from authix_issuer.errors import KeyNotReady, KeysTooMany, KeyUnknown

KEEP_US: Final = LOG_WINDOW * 1_000_000
"""How long a key stays published after it last signed: for the longest life that a token can have been given, not for
today's, and with room for replicas that were told late."""
MAX_KEYS: Final = 256
"""Keys in a ring. A full one turns no further until some are gone, so that verifiers can always read the key set."""
MAX_AHEAD: Final = 32
"""Keys that may wait for their turn at once."""


class KeyState(StrEnum):
    NEXT = "next"
    """Published, not signing yet."""
    SIGNING = "signing"
    RETIRED = "retired"
    """Published while its tokens live."""
    REVOKED = "revoked"
    """Neither signs nor is published; remembered until it is announced and its tokens are dead."""


class RingKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key. Moments are in µs since the epoch; 0: not yet, or not yet dated."""

    id: str
    algorithm: AlgorithmName
    state: KeyState
    public: bytes
    """DER; empty once it is revoked."""
    private: bytes = b""
    """DER (PKCS #8), while it may still sign; then it is destroyed."""
    published_us: int = 0
    signs_us: int = 0
    retired_us: int = 0
    revoked_us: int = 0
    announced: bool = False
    """Whether its revocation stands in the revocation log."""

    def __repr__(self) -> str:
        return f"RingKey(id={self.id!r}, algorithm={self.algorithm!r}, state={self.state.value!r})"

    @property
    def since_us(self) -> int:
        """Since when it is in its state."""
        match self.state:
            case KeyState.NEXT:
                return self.published_us
            case KeyState.SIGNING:
                return self.signs_us
            case KeyState.RETIRED:
                return self.retired_us
            case KeyState.REVOKED:
                return self.revoked_us


class Ring(msgspec.Struct, frozen=True):
    """The keys, the oldest first."""

    keys: tuple[RingKey, ...] = ()

    def of(self, state: KeyState) -> list[RingKey]:
        return [key for key in self.keys if key.state is state]

    def get(self, key_id: str) -> RingKey | None:
        return next((key for key in self.keys if key.id == key_id), None)

    @property
    def signing(self) -> RingKey | None:
        return next(iter(self.of(KeyState.SIGNING)), None)


class Policy(NamedTuple):
    """How keys are made and how long they last."""

    algorithm: AlgorithmName
    life_us: int
    """For how long a key signs."""
    notice_us: int
    """For how long a key is published before it signs."""


MakeKey = Callable[[AlgorithmName], RingKey]


def advance(ring: Ring, now_us: int, policy: Policy, make: MakeKey) -> Ring:
    """Whatever is due at ``now_us``: date, remove, promote, make. A ring on which nothing is due comes back equal."""
    ring = Ring(tuple(_dated(key, now_us) for key in ring.keys if not _is_over(key, now_us)))
    ring = _promoted_by_age(ring, now_us, policy)
    ring = _with_signer(ring, policy, make)
    return _with_reserve(ring, now_us, policy, make)


def rotate(ring: Ring, now_us: int, policy: Policy, make: MakeKey, *, force: bool) -> Ring:
    """Let the next key sign. Raises ``KeyNotReady`` while its notice runs, unless by ``force``, or ``KeysTooMany``."""
    if len(ring.keys) >= MAX_KEYS:
        raise KeysTooMany(f"there are {MAX_KEYS} keys already; wait until retired ones are gone")
    waiting = [key for key in ring.of(KeyState.NEXT) if key.algorithm == policy.algorithm]
    ready = [key for key in waiting if _is_ready(key, now_us, policy)]
    if not ready and not force:
        moments = [key.published_us + policy.notice_us for key in waiting if key.published_us]
        raise KeyNotReady(min(moments, default=now_us + policy.notice_us))
    chosen = (ready or waiting or [make(policy.algorithm)])[0]
    return _promoted(ring, chosen)


def revoke(ring: Ring, key_id: str, policy: Policy, make: MakeKey) -> Ring:
    """Without ``key_id``; if it signed, a next key does, or else a new one. Raises ``KeyUnknown``."""
    if ring.get(key_id) is None:
        raise KeyUnknown("there is no key with this id")
    return _with_signer(without(ring, key_id, policy), policy, make)


def without(ring: Ring, key_id: str, policy: Policy) -> Ring:
    """The same by what is in hand: if no key is left to sign, none does."""
    key = ring.get(key_id)
    if key is None or key.state is KeyState.REVOKED:
        return ring
    ring = _with(ring, msgspec.structs.replace(key, state=KeyState.REVOKED, public=b"", private=b""))
    return _succeeded(ring, policy)


def announced(ring: Ring, key_ids: Iterable[str]) -> Ring:
    """The ring with these revocations marked as being in the log."""
    known = frozenset(key_ids)
    return Ring(
        tuple(
            msgspec.structs.replace(key, announced=True) if key.id in known and key.state is KeyState.REVOKED else key
            for key in ring.keys
        )
    )


def until_us(ring: Ring, key: RingKey, policy: Policy) -> int:
    """Until when ``key`` is going to stay in its state; 0 where that is open."""
    if not key.since_us:
        return 0
    turns = dict(zip((other.id for other in _waiting(ring, policy)), _turns(ring, key.since_us, policy), strict=True))
    match key.state:
        case KeyState.SIGNING:
            return next(iter(turns.values()), key.signs_us + policy.life_us)
        case KeyState.NEXT:
            return turns.get(key.id, 0)  # 0: of another algorithm, it only steps in for a key that is revoked
        case KeyState.RETIRED | KeyState.REVOKED:
            return key.since_us + KEEP_US


def _dated(key: RingKey, now_us: int) -> RingKey:
    match key:
        case RingKey(state=KeyState.NEXT | KeyState.SIGNING, published_us=0):
            return _dated(msgspec.structs.replace(key, published_us=now_us), now_us)
        case RingKey(state=KeyState.SIGNING, signs_us=0):
            return msgspec.structs.replace(key, signs_us=now_us)
        case RingKey(state=KeyState.RETIRED, retired_us=0):
            return msgspec.structs.replace(key, retired_us=now_us)
        case RingKey(state=KeyState.REVOKED, revoked_us=0):
            return msgspec.structs.replace(key, revoked_us=now_us)
    return key


def _is_over(key: RingKey, now_us: int) -> bool:
    match key.state:
        case KeyState.RETIRED:
            return 0 < key.retired_us <= now_us - KEEP_US
        case KeyState.REVOKED:
            return key.announced and 0 < key.revoked_us <= now_us - KEEP_US
    return False


def _is_ready(key: RingKey, now_us: int, policy: Policy) -> bool:
    return 0 < key.published_us <= now_us - policy.notice_us


def _is_left_over(key: RingKey, now_us: int, policy: Policy) -> bool:
    """Whether it waits for an algorithm that is configured no more."""
    return key.state is KeyState.NEXT and key.algorithm != policy.algorithm and _is_ready(key, now_us, policy)


def _promoted_by_age(ring: Ring, now_us: int, policy: Policy) -> Ring:
    signing = ring.signing
    ready = [key for key in _waiting(ring, policy) if _is_ready(key, now_us, policy)]
    if signing is None or not signing.signs_us or not ready or len(ring.keys) >= MAX_KEYS:
        return ring
    age_us = now_us - signing.signs_us
    # Where replicas differ in their algorithm while they are restarted, the notice keeps them from taking turns.
    by_algorithm = signing.algorithm != policy.algorithm and age_us >= policy.notice_us
    if age_us >= policy.life_us or by_algorithm:
        return _promoted(ring, ready[0])
    return ring


def _succeeded(ring: Ring, policy: Policy) -> Ring:
    """The ring with one of its next keys promoted where none signs; the one that verifiers know for longest."""
    waiting = ring.of(KeyState.NEXT)
    if ring.signing is not None or not waiting:
        return ring
    best = min(waiting, key=lambda key: (key.algorithm != policy.algorithm, not key.published_us, key.published_us))
    return _promoted(ring, best)


def _with_signer(ring: Ring, policy: Policy, make: MakeKey) -> Ring:
    ring = _succeeded(ring, policy)
    return ring if ring.signing is not None else _promoted(ring, make(policy.algorithm))


def _with_reserve(ring: Ring, now_us: int, policy: Policy, make: MakeKey) -> Ring:
    """Next keys, the last with a notice to go before its turn.

    So none waits for its notice when its turn has come, and even then there is one that verifiers know, should the one
    that signs be revoked.
    """
    signing = ring.signing
    if signing is not None and signing.algorithm == policy.algorithm:
        ring = Ring(tuple(key for key in ring.keys if not _is_left_over(key, now_us, policy)))
    turns = _turns(ring, now_us, policy)
    enough = bool(turns) and turns[-1] >= now_us + policy.notice_us
    if enough or len(turns) >= MAX_AHEAD or (turns and len(ring.keys) >= MAX_KEYS):
        return ring
    return Ring((*ring.keys, make(policy.algorithm)))


def _waiting(ring: Ring, policy: Policy) -> list[RingKey]:
    return [key for key in ring.of(KeyState.NEXT) if key.algorithm == policy.algorithm]


def _turns(ring: Ring, now_us: int, policy: Policy) -> list[int]:
    """When each of those that wait is going to sign."""
    turns: list[int] = []
    signing = ring.signing
    end_us = 0
    if signing is not None and signing.algorithm == policy.algorithm:
        end_us = (signing.signs_us or now_us) + policy.life_us
    for key in _waiting(ring, policy):
        turns.append(max(end_us, (key.published_us or now_us) + policy.notice_us))
        end_us = turns[-1] + policy.life_us
    return turns


def _promoted(ring: Ring, key: RingKey) -> Ring:
    """The ring with ``key`` signing; what signed before is retired, and its private part destroyed."""
    signing = ring.signing
    if signing is not None:
        ring = _with(ring, msgspec.structs.replace(signing, state=KeyState.RETIRED, private=b""))
    return _with(ring, msgspec.structs.replace(key, state=KeyState.SIGNING))


def _with(ring: Ring, key: RingKey) -> Ring:
    """The ring with ``key`` in the place of the one with its id, or at the end."""
    if ring.get(key.id) is None:
        return Ring((*ring.keys, key))
    return Ring(tuple(key if other.id == key.id else other for other in ring.keys))
