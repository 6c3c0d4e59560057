"""The answers of the issuer, as Sanic sends them.

Rule: a header's value can't begin another header. Sanic sees to that by translating each name and value letter by
letter, which takes as long as the rest of a small answer; here what holds no line's end goes out as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from sanic import HTTPResponse

_WITHOUT_BODY = frozenset({204, 304})
# never the same twice, and secrets at that
_OF_ONE_ANSWER = frozenset({"authorization", "set-cookie", "x-request-id"})
_ENDS = str.maketrans("", "", "\r\n\0")


class Response(HTTPResponse):
    """One answer; made and changed as any of Sanic's."""

    __slots__ = ("always",)

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.always: tuple[bytes, bytes] | None = None
        """Several fields that many answers have, put into bytes as if they were one: its name, and all the rest."""

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        headers = self.headers
        if self.status >= 200 and self.status not in _WITHOUT_BODY:
            headers.setdefault("content-type", self.content_type)
        lines = [
            _encoded(name, str(value)) if name.lower() in _OF_ONE_ANSWER else _constant(name, str(value))
            for name, value in headers.items()
        ]
        if self.always is not None:
            lines.append(self.always)
        return iter(lines)


def as_one(fields: Mapping[str, str]) -> tuple[bytes, bytes]:
    """These fields as ``Response.always``."""
    name, _, rest = "\r\n".join(f"{_line(name)}: {_line(value)}" for name, value in fields.items()).partition(": ")
    return name.encode("ascii"), rest.encode("ascii")


def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    return _line(name).encode("ascii"), _line(value).encode(errors="surrogateescape")


_constant = lru_cache(maxsize=256)(_encoded)


def _line(text: str) -> str:
    return text.translate(_ENDS) if "\n" in text or "\r" in text or "\0" in text else text
