"""How many wrong signatures an address has sent.

Rule: it bounds what one client can make us compute, and nothing else; only what was computed and found wrong counts. A
few addresses are kept, the last ones; one that was forgotten begins anew. Time is told in nanoseconds, whole ones, so
that a limit of n is n.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from functools import lru_cache

ADDRESSES = 1024
"""Addresses with failures that are kept."""
_SECOND = 1_000_000_000


class Failures:
    """A token bucket for each address: so many at once, and so many a second.

    Kept is only when a bucket will be full again. No failure is more than a second in the future then, so nothing has
    to be swept.
    """

    def __init__(self, per_second: int, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._each = _SECOND // per_second
        self._but_one = (per_second - 1) * self._each
        self._clock = clock
        self._full_at: dict[bytes, int] = {}
        """By block, the one that failed last at the end."""
        self._over_until = 0

    @property
    def any_over(self) -> bool:
        """Whether any address may be over its limit: what every request asks, so it looks nothing up."""
        return self._clock() < self._over_until

    def add(self, address: bytes) -> None:
        """One more from ``address``."""
        block = block_of(address)
        full_at = max(self._full_at.pop(block, 0), self._clock()) + self._each
        self._full_at[block] = full_at
        self._over_until = max(self._over_until, full_at - self._but_one)
        if len(self._full_at) > ADDRESSES:
            del self._full_at[next(iter(self._full_at))]

    def over(self, address: bytes) -> bool:
        """Whether ``address`` has had all that it may for now."""
        return self._clock() < self._full_at.get(block_of(address), 0) - self._but_one


@lru_cache(maxsize=ADDRESSES)
def block_of(address: bytes) -> bytes:
    """What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, all of which one client may use."""
    try:
        found = ipaddress.ip_address(address.decode("ascii"))
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return found.ipv4_mapped.exploded.encode("ascii") if found.ipv4_mapped is not None else found.packed[:8] + b"/64"
