"""What the logout topic must still hold: a trail of positions on it, kept in the session store.

Rule: a position is taken from what the topic confirmed, and all that stands behind it is needed while it is in the
trail. A topic that begins beyond one of them or ends before it was made anew, emptied, or lost records; then nothing on
it is trusted. Positions are enough: a new topic begins at zero, and is looked at before each heartbeat.
"""

from __future__ import annotations

import contextlib
from typing import Annotated, Final, Self

import msgspec

from authix.events import LOG_WINDOW, MARGIN
from authix_issuer.ports import Extent, Positions

_WINDOW_US: Final = LOG_WINDOW * 1_000_000
_STEP_US: Final = (MARGIN - 10) * 1_000_000
"""Between two positions; what stands before the oldest is dead, since the window is longer by the margin."""


class Mark(msgspec.Struct, frozen=True):
    """Where the topic's partitions ended at a moment of the store's clock."""

    at_us: int
    positions: Positions


class Trail(msgspec.Struct, frozen=True):
    topic: str
    marks: Annotated[list[Mark], msgspec.Meta(min_length=1)]
    """The oldest first."""

    @classmethod
    def read(cls, written: bytes | None) -> Self | None:
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(written or b"", type=cls)
        return None

    def write(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def begin(cls, extent: Extent, at_us: int) -> Self:
        """From the topic's present end on."""
        return cls(extent.topic, [Mark(at_us, {partition: end for partition, (_, end) in extent.spans.items()})])

    def fits(self, extent: Extent) -> bool:
        """Whether the topic still holds all that is needed."""
        return self.topic == extent.topic and all(
            partition in extent.spans and extent.spans[partition].first <= position <= extent.spans[partition].end
            for mark in self.marks
            for partition, position in mark.positions.items()
        )

    def further(self, at_us: int, positions: Positions) -> Self | None:
        """The trail with positions that the topic has just confirmed; None when they are not those of this topic."""
        last = self.marks[-1]
        if any(position <= last.positions.get(partition, -1) for partition, position in positions.items()):
            return None
        kept = [mark for mark in self.marks if at_us - mark.at_us <= _WINDOW_US]
        if len(kept) > 1 and kept[-1].at_us - kept[-2].at_us < _STEP_US:
            kept.pop()
        return type(self)(self.topic, [*kept, Mark(at_us, last.positions | positions)])
