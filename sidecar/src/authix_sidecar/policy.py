"""The policy: which route a request belongs to, and so what it needs.

Rule: the first route that matches decides, in the file's order; where none does, a token is needed. A public route
matches nothing but what it says. Every other one also matches the same path with a slash more or less at its end, since
most upstreams take the two for one, and a role must not be got round by a slash.

A path is matched by segment, in what its octets stand for (``%C3%A9`` is ``%c3%a9``), after ``targets`` has refused
every spelling that would make segments of it elsewhere. ``GET`` stands for ``HEAD`` too. A host is matched without its
port and in either case. Where a path's routes ask for methods, a request that asks to be taken for one of another is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from authix_sidecar.decide import Requirement
from authix_sidecar.errors import MethodRefused
from authix_sidecar.fields import overrides_method
from authix_sidecar.requests import RequestHead


class _Any(Enum):
    """``{name}``: one segment, whichever, but not an empty one."""

    ANY = "{}"


ANY: Final = _Any.ANY
_NAME_OF = itemgetter(0)
Segment = bytes | _Any


class Shape(NamedTuple):
    """Paths of one form: these segments, and with ``more`` at least one behind them (which may be empty)."""

    segments: tuple[Segment, ...]
    more: bool = False

    def matches(self, segments: Sequence[bytes]) -> bool:
        count = len(self.segments)
        return (len(segments) > count if self.more else len(segments) == count) and all(
            _covers(mine, theirs) for mine, theirs in zip(self.segments, segments, strict=False)
        )

    def covers(self, other: Shape) -> bool:
        """Whether every path of ``other`` is one of these."""
        count, others = len(self.segments), len(other.segments)
        reaches = others + other.more > count if self.more else others == count and not other.more
        return reaches and all(
            _covers(mine, theirs) for mine, theirs in zip(self.segments, other.segments, strict=False)
        )

    def meets(self, other: Shape) -> bool:
        """Whether some path is of both forms."""
        for one, two in ((self, other), (other, self)):
            if not one.more and len(one.segments) < len(two.segments) + two.more:
                return False
        return all(
            _covers(mine, theirs) or _covers(theirs, mine)
            for mine, theirs in zip(self.segments, other.segments, strict=False)
        )


def _covers(mine: Segment, theirs: Segment) -> bool:
    return mine == theirs or (mine is ANY and theirs != b"")


class Route(NamedTuple):
    """Requests, and what they need."""

    position: int
    """1 for the file's first."""
    path: str
    """As the file has it."""
    written: Shape
    """The paths it names."""
    needs: Requirement
    methods: frozenset[bytes] | None = None
    """None: all."""
    host: bytes | None = None
    """In lower case, without a port; ``.example.com`` for all below it. None: all."""
    line: int | None = None

    @property
    def public(self) -> bool:
        return not self.needs.token

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All paths it matches."""
        segments, more = self.written
        if self.public:
            return (self.written,)
        if more:
            other = Shape(segments)
        elif segments[-1] == b"":
            other = Shape(segments[:-1])
        else:
            other = Shape((*segments, b""))
        return (self.written, other) if other.segments else (self.written,)

    def matches(self, method: bytes, host: bytes, segments: Sequence[bytes]) -> bool:
        return (
            self.matches_method(method)
            and self.matches_host(host)
            and any(shape.matches(segments) for shape in self.shapes)
        )

    def matches_method(self, method: bytes) -> bool:
        return self.methods is None or method in self.methods

    def matches_host(self, host: bytes) -> bool:
        return self.host is None or host == self.host or (self.host.startswith(b".") and host.endswith(self.host))


class _Node:
    """A place in the tree of segments: the routes that end here, and those that match whatever is further on."""

    __slots__ = ("any", "children", "further", "here")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.any: _Node | None = None
        self.here: list[Route] = []
        self.further: list[Route] = []

    def below(self, segment: Segment) -> _Node:
        if segment is not ANY:
            return self.children.setdefault(segment, _Node())
        if self.any is None:
            self.any = _Node()
        return self.any


class Routes:
    """A policy made of routes; what one costs does not grow with their number."""

    def __init__(self, routes: Sequence[Route], *, unnamed: Requirement, host: str = "") -> None:
        """``unnamed`` is for what no route matches; ``host`` is that of a request which names none (HTTP/1.0)."""
        self.routes = tuple(routes)
        self.unnamed = unnamed
        self.by_host = any(route.host is not None for route in routes)
        self._host = host.encode("ascii")
        self._root = _Node()
        for route in routes:
            for segments, more in route.shapes:
                node = self._root
                for segment in segments:
                    node = node.below(segment)
                (node.further if more else node.here).append(route)

    def __call__(self, request: RequestHead) -> Requirement:
        """Raises ``MethodRefused``."""
        route = self.route(request)
        return self.unnamed if route is None else route.needs

    def route(self, request: RequestHead) -> Route | None:
        """The first route that matches ``request``. Raises ``MethodRefused``."""
        found: list[Route] = []
        _collect(self._root, segments_of(request.path), found)
        method = request.method
        host = host_name(request.host or self._host) if self.by_host else b""
        first: Route | None = None
        by_method = False
        for route in found:
            by_method = by_method or route.methods is not None
            if (
                (first is None or route.position < first.position)
                and (route.methods is None or method in route.methods)
                and (route.host is None or route.matches_host(host))
            ):
                first = route
        if by_method and any(map(overrides_method, map(_NAME_OF, request.fields))):
            raise MethodRefused("a field asks to take the request for one of another method")
        return first


def _collect(node: _Node | None, segments: Sequence[bytes], found: list[Route]) -> None:
    """Add to ``found`` the routes at and below ``node`` whose path matches."""
    for index, segment in enumerate(segments):
        if node is None:
            return
        if node.further:
            found += node.further
        if node.any is not None and segment:
            _collect(node.any, segments[index + 1 :], found)
        node = node.children.get(segment)
    if node is not None:
        found += node.here


def segments_of(path: bytes) -> list[bytes]:
    """What stands between the slashes of a raw path that ``targets`` has accepted; no octet hides a slash there."""
    return (unquote_to_bytes(path) if b"%" in path else path).split(b"/")[1:]


@lru_cache(maxsize=256)
def host_name(host: bytes) -> bytes:
    """The name in a ``Host`` field that ``requests`` has accepted."""
    name = host.lower()
    if not name.endswith(b"]"):
        name = name.rpartition(b":")[0] or name
    return name.removesuffix(b".")
