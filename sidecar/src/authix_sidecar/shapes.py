"""Heads that are like one before but for the values of a few fields: most clients and servers send the same again and
again, with another token, another date, another length.

Rule: a shape is learned from a head that was read in full, and fits only one that is the same byte for byte outside of
these values, each of which is one line of text. So all else that was read stays true, and what depends on such a value
is for whoever asks to read out of it. What does not fit is read in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from authix_sidecar.fields import TEXT, Field, lower

KEPT_HEAD = 2048
"""Longest head in bytes that is kept for the next ones of its connection."""
END_OF_LINE = b"\r\n"
H = TypeVar("H")
"""What is read out of a head."""


class Shape:
    """One head without the values that may be others."""

    def __init__(self, names: list[bytes], places: list[int], parts: list[bytes], passed: list[bytes]) -> None:
        self.names = names
        """Of the fields whose values may be others, in lower case and in their order; each is there once."""
        self.places = places
        """Where they stand among all fields."""
        self._parts = parts
        """The head around these values."""
        self._passed = passed
        """What goes on around them; what ends with a colon and a space wants the value behind it."""

    def values(self, head: bytes) -> list[bytes] | None:
        """Those values in ``head``, without the spaces around them; None where it does not fit."""
        found: list[bytes] = []
        at, last = 0, self._parts[-1]
        for part in self._parts[:-1]:
            if not head.startswith(part, at):
                return None
            begin = at + len(part)
            at = head.find(END_OF_LINE, begin)
            if at < 0:
                return None
            value = head[begin:at]
            if value.translate(None, TEXT):
                return None
            found.append(value.strip(b" \t"))
        return found if len(head) == at + len(last) and head.endswith(last) else None

    def passed(self, values: list[bytes]) -> bytes:
        """The fields that go on as they are, as lines with these ``values``."""
        lines: list[bytes] = []
        for place, value in enumerate(values):
            before = self._passed[place]
            lines.append(before)
            if before.endswith(b": "):
                lines.append(value)
        lines.append(self._passed[-1])
        return b"".join(lines)


def shape_of(
    head: bytes,
    found: list[Field],
    varying: frozenset[bytes],
    goes: Callable[[bytes], bool],
    dropped: frozenset[bytes],
) -> Shape | None:
    """The shape of ``head``, which ends with its blank line and whose fields were read as ``found``.

    ``varying`` are the names of fields whose value may be another. Of all fields those go on that ``goes`` lets pass
    and ``dropped`` does not hold. None where the lines are not plainly these fields, or one of those names is there
    twice.
    """
    lines = head.split(END_OF_LINE)
    first = len(lines) - len(found) - 2  # a line for the start, where there is one
    if first not in {0, 1}:
        return None
    names: list[bytes] = []
    places: list[int] = []
    parts, passed = [lines[0] + END_OF_LINE if first else b""], [b""]
    for place, (name, value) in enumerate(found):
        line, key = lines[first + place], lower(name)
        if not line.startswith(name + b":") or key in names:
            return None
        passes = goes(name) and key not in dropped
        if key in varying:
            names.append(key)
            places.append(place)
            parts[-1] += name + b":"
            parts.append(END_OF_LINE)
            if passes:
                passed[-1] += name + b": "
            passed.append(END_OF_LINE if passes else b"")
        else:
            parts[-1] += line + END_OF_LINE
            if passes:
                passed[-1] += b"%b: %b\r\n" % (name, value.strip(b" \t"))
    parts[-1] += END_OF_LINE
    return Shape(names, places, parts, passed)


class Known(Generic[H]):
    """The head that a connection's next one is compared with, what was read out of it, and its shape.

    Not every head that did not fit is learned: not a single one, because those before may come again, and the more
    rarely the longer nothing fits, because to learn takes as long as to read.
    """

    def __init__(self) -> None:
        self.head = b""
        self.read: H | None = None
        self.shape: Shape | None = None
        self._misfits = 0

    def fitted(self, head: bytes, read: H) -> None:
        """``head`` did fit."""
        self._misfits = 0
        if len(head) <= KEPT_HEAD:
            self.head, self.read = head, read

    def worth_learning(self, head: bytes) -> bool:
        """Whether to learn ``head``, which did not fit."""
        if len(head) > KEPT_HEAD:
            return False
        self._misfits += 1
        return self._misfits > 1 and not self._misfits & (self._misfits - 1)

    def learn(self, head: bytes, read: H, shape: Shape | None) -> None:
        self.head, self.read, self.shape = head, read, shape
