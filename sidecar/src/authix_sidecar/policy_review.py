"""What a policy says that it hardly means.

Rule: an order of routes that opens what the file says is protected is an error, found before anything is served by it;
what may be meant is told and lived with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from authix_sidecar.policy import Route


class Finding(NamedTuple):
    """What is odd about one route."""

    route: Route
    sentence: str
    wrong: bool = False
    """The file contradicts itself, and not in favour of safety."""


def review(routes: Sequence[Route]) -> list[Finding]:
    """Everything odd, in the order of the routes."""
    found: list[Finding] = []
    for count, route in enumerate(routes):
        before = routes[:count]
        blockers = _blockers(route, before)
        if blockers:
            found.append(_unreached(route, blockers))
        if route.public:
            if route.written.more and not route.written.segments:
                found.append(Finding(route, "makes every path public: is that so?"))
            continue
        found += [] if blockers else _opened(route, before)
    return found


def _unreached(route: Route, blockers: list[Route]) -> Finding:
    numbers = _listed(blockers)
    openers = [blocker for blocker in blockers if blocker.public]
    if openers and not route.public:
        sentence = f"is never reached, because {_listed(openers)} before it is public there: put it first"
        return Finding(route, sentence, wrong=True)
    if any(_asks_the_same(route, blocker) for blocker in blockers):
        return Finding(route, f"repeats {numbers}: leave it out")
    return Finding(route, f"is never reached, because {numbers} before it matches all of it: put it first")


def _opened(route: Route, before: Sequence[Route]) -> Iterator[Finding]:
    """Public routes before ``route`` that open a part of it and are no exception inside it."""
    for public in before:
        if (
            public.public
            and _meet(public.methods, route.methods)
            and _hosts_meet(public, route)
            and any(shape.meets(public.written) for shape in route.shapes)
            and not any(shape.covers(public.written) for shape in route.shapes)
        ):
            yield Finding(route, f"is open in part, because {_listed([public])} before it is public: put it first")


def _blockers(route: Route, before: Sequence[Route]) -> list[Route]:
    """The routes that together take all that ``route`` names; none if something is left."""
    found: list[Route] = []
    for method in sorted(route.methods) if route.methods is not None else [None]:
        blocker = next((other for other in before if _takes(other, method, route)), None)
        if blocker is None:
            return []
        if blocker not in found:
            found.append(blocker)
    return found


def _takes(other: Route, method: bytes | None, route: Route) -> bool:
    return (
        (other.methods is None or (method is not None and method in other.methods))
        and _host_covers(other, route)
        and any(shape.covers(route.written) for shape in other.shapes)
    )


def _host_covers(other: Route, route: Route) -> bool:
    return other.host is None or (route.host is not None and other.matches_host(route.host))


def _hosts_meet(one: Route, two: Route) -> bool:
    return _host_covers(one, two) or _host_covers(two, one)


def _meet(one: frozenset[bytes] | None, two: frozenset[bytes] | None) -> bool:
    return one is None or two is None or not one.isdisjoint(two)


def _asks_the_same(route: Route, other: Route) -> bool:
    return route._replace(position=0, line=None, path="") == other._replace(position=0, line=None, path="")


def _listed(routes: Sequence[Route]) -> str:
    return " and ".join(f"route {route.position} ({route.path})" for route in routes)
