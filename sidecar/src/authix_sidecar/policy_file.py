"""The policy file: TOML in, routes out.

Rule: a file is taken whole or not at all. Whatever is not understood is a problem, one sentence each, that names the
file, the route and its line and says how to mend it; so is what opens a path that the file says is protected.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from authix.errors import SettingsError
from authix.freshness import WhenStale
from authix_sidecar.decide import ClaimValue, Requirement
from authix_sidecar.errors import RequestRefused
from authix_sidecar.policy import ANY, Route, Routes, Segment, Shape, segments_of
from authix_sidecar.policy_review import review
from authix_sidecar.requests import read_request
from authix_sidecar.targets import path_of

Authorization = Literal["pass", "remove"]
Plain = str | int | bool

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*route[ \t]*\]\]", re.MULTILINE)
_NAME = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}", re.ASCII)
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]", re.ASCII)
# in a token of our own these are not claims that anybody adds, and each is judged or carried already
_NOT_CLAIMS = frozenset({"aud", "exp", "iat", "iat_us", "iss", "jti", "nbf", "roles", "sid", "sub"})
_AS_WRITTEN = "".join(map(chr, range(0x20, 0x7F)))


_CHOICES = {"when_stale": ": it is reject, clamp or accept", "authorization": ": it is pass or remove"}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    route: list[dict[str, Any]] = []
    authorization: Authorization | UnsetType = UNSET


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    methods: list[str] | UnsetType = UNSET
    host: str | UnsetType = UNSET
    public: bool = False
    roles: list[str] | UnsetType = UNSET
    claims: dict[str, Plain | list[Plain]] | UnsetType = UNSET
    max_age: int | UnsetType = UNSET
    when_stale: WhenStale | UnsetType = UNSET
    authorization: Authorization | UnsetType = UNSET


def load_policy(path: str, *, host: str = "", passes_authorization: bool = True) -> Routes:
    """The policy in the file at ``path``; the rest as for ``read_policy``. Raises ``SettingsError``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can't be read ({type(error).__name__}): mend AUTHIX_POLICY or the file.") from None
    return read_policy(text, path, host=host, passes_authorization=passes_authorization)


def read_policy(text: str, name: str, *, host: str = "", passes_authorization: bool = True) -> Routes:
    """The policy in ``text``; ``name`` is the file's, ``host`` as ``Routes`` takes it.

    ``passes_authorization`` is for what the file says nothing about. Raises ``SettingsError``.
    """
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{name} is not TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise SettingsError(f"{name}: {_said(error, _File)}.") from None
    if not file.route:
        raise SettingsError(f"{name} has no [[route]]: write one, or unset AUTHIX_POLICY if every path needs a token.")
    passes_authorization = _passes(file.authorization, otherwise=passes_authorization)
    lines = [text.count("\n", 0, match.start()) + 1 for match in _HEADER.finditer(text)]
    if len(lines) != len(file.route):
        lines = []
    routes, problems = [], []
    for position, raw in enumerate(file.route, start=1):
        line = lines[position - 1] if lines else None
        try:
            routes.append(_route(raw, position, line, passes_authorization=passes_authorization))
        except msgspec.ValidationError as error:
            problems.append(f"{_place(name, position, line, raw.get('path'))}: {_said(error, _Entry)}.")
        except ValueError as error:
            problems.append(f"{_place(name, position, line, raw.get('path'))}: {error}.")
    if not problems:
        problems = [f"{place(name, found.route)} {found.sentence}." for found in review(routes) if found.wrong]
    if problems:
        raise SettingsError("\n".join(problems))
    unnamed = Requirement(passes_authorization=passes_authorization)
    return Routes(routes, unnamed=unnamed, host=host)


def place(name: str, route: Route) -> str:
    """Where ``route`` stands."""
    return _place(name, route.position, route.line, route.path)


def _place(name: str, position: int, line: int | None, path: object) -> str:
    where = f"{name}:{line}" if line is not None else name
    return f"{where}: route {position} ({path})" if isinstance(path, str) else f"{where}: route {position}"


def _said(error: msgspec.ValidationError, known: type[msgspec.Struct]) -> str:
    """What msgspec says, in the file's terms and with a way out."""
    what, _, where = str(error).partition(" - at `$")
    where = where.strip(".`")
    what = what.replace("Object contains unknown field", "unknown key").replace("Object missing required field", "no")
    if what.startswith("unknown key"):
        after = f": the keys are {', '.join(known.__struct_fields__)}"
    elif known is _File and where.startswith("route"):
        after = ": begin each route with [[route]]"
    else:
        after = _CHOICES.get(where, "")
    return f"{f'`{where}`: ' if where else ''}{what[0].lower()}{what[1:]}{after}"


def _route(raw: Mapping[str, Any], position: int, line: int | None, *, passes_authorization: bool) -> Route:
    entry = msgspec.convert(raw, _Entry)
    for key in ("methods", "roles", "claims"):
        if getattr(entry, key) in ([], {}):
            raise ValueError(f"`{key}` is empty: leave it out or fill it")
    if entry.public:
        for key in ("roles", "claims", "max_age", "when_stale"):
            if getattr(entry, key) is not UNSET:
                raise ValueError(f"it is public, where no token is looked at, and has `{key}`: leave out one of them")
    if entry.max_age is not UNSET and entry.max_age < 1:
        raise ValueError("`max_age` must be at least 1 second")
    return Route(
        position=position,
        path=entry.path,
        written=_shape(entry.path),
        needs=Requirement(
            token=not entry.public,
            roles=frozenset(entry.roles or ()),
            claims=tuple((name, _allowed(name, value)) for name, value in (entry.claims or {}).items()),
            max_age=entry.max_age or None,
            when_stale=entry.when_stale or None,
            passes_authorization=_passes(entry.authorization, otherwise=passes_authorization),
        ),
        methods=_methods(entry.methods) if entry.methods else None,
        host=_host(entry.host) if entry.host is not UNSET else None,
        line=line,
    )


def _passes(said: Authorization | UnsetType, *, otherwise: bool) -> bool:
    return otherwise if said is UNSET else said == "pass"


def _shape(path: str) -> Shape:
    if not path.startswith("/"):
        raise ValueError("`path` must begin with /")
    *inner, last = path.split("/")[1:]
    if "" in inner:
        raise ValueError("`path` has // and is in no request that passes: leave out one")
    if last == "*":
        return Shape(tuple(map(_segment, inner)), more=True)
    return Shape(tuple(map(_segment, (*inner, last))))


def _segment(written: str) -> Segment:
    if _NAME.fullmatch(written):
        return ANY
    if set(written) & set("*{}"):
        raise ValueError(
            f"in `path`, {written!r} is neither text nor {{name}}, which is one whole segment, nor a * at the end, "
            "which is all below (write %2A for a * that is text)"
        )
    if written.startswith(":"):
        raise ValueError(f"in `path`, {written!r} is no parameter: write {{{written[1:] or 'name'}}} (%3A for text)")
    spelt = f"/{quote(written, safe=_AS_WRITTEN)}".encode("ascii")
    try:
        if path_of(spelt) != spelt:
            raise ValueError("`path` has a ?: a query plays no part")
    except RequestRefused as error:
        raise ValueError(f"in `path`, {written!r} is in no request that passes: {error.reason}") from None
    return segments_of(spelt)[0]


def _methods(written: list[str]) -> frozenset[bytes]:
    found = set()
    for method in written:
        try:
            read = read_request(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode("ascii")).method.decode("ascii")
        except (RequestRefused, UnicodeEncodeError):
            read = ""
        if read != method:
            raise ValueError(f"`methods` has {method!r}, which no request that passes has: mend its spelling")
        found.add(method.encode("ascii"))
    if b"GET" in found:
        found.add(b"HEAD")
    return frozenset(found)


def _host(written: str) -> bytes:
    if _HOST.fullmatch(written) is None:
        raise ValueError(f"`host` must be a name such as orders.example.com or *.example.com, not {written!r}")
    return written.removeprefix("*").lower().encode("ascii")


def _allowed(name: str, written: Plain | list[Plain]) -> frozenset[ClaimValue]:
    if name in _NOT_CLAIMS:
        raise ValueError(f"`claims` has {name!r}, which is judged already{': see `roles`' * (name == 'roles')}")
    values = written if isinstance(written, list) else [written]
    if not values:
        raise ValueError(f"`claims` has no value for {name!r}: leave it out or fill it")
    return frozenset((type(value), value) for value in values)
