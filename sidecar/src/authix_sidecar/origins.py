"""Where requests are forwarded to.

Rule: an origin is ``http://host:port``, ``https://host:port`` or ``unix:/path``; nothing more, because the path is the
client's.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from authix.settings import shown

_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """One server that can answer requests."""

    scheme: str
    """``http``, ``https`` or ``unix``"""
    host: str
    """Empty for a Unix socket."""
    port: int
    path: str = ""
    """Of a Unix socket."""

    @property
    def authority(self) -> str:
        """As in a ``Host`` field."""
        if self.scheme == "unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.scheme == "unix" else f"{self.scheme}://{self.authority}"


def origins(value: str) -> tuple[Origin, ...]:
    """One or more, with commas between."""
    found = tuple(_origin(part.strip()) for part in value.split(","))
    if len(set(found)) < len(found):
        raise ValueError(f"names one of its servers twice: {value!r}")
    return found


def _origin(value: str) -> Origin:
    if value.startswith("unix:/") and value.isprintable() and len(value) > len("unix:/"):
        return Origin("unix", "", 0, "/" + value.removeprefix("unix:").lstrip("/"))
    try:
        parts = urlsplit(value)
        scheme, host, port, whole = parts.scheme, parts.hostname, parts.port, f"{parts.scheme}://{parts.netloc}"
    except ValueError:  # brackets or a port that are none
        scheme, host, port, whole = "", None, None, ""
    plain = value == whole and "@" not in value and value.isascii() and value.isprintable()
    if not plain or scheme not in _PORTS or not host or port == 0:
        raise ValueError(
            "must be a URL of the form http://host:port, https://host:port or unix:/path, without a path behind, "
            f"not {shown(value)}"
        )
    try:
        host.encode("idna")  # as it is to be resolved
    except UnicodeError:
        raise ValueError(f"must name a host with 1 to 63 characters between its dots, not {shown(value)}") from None
    return Origin(scheme, host, port or _PORTS[scheme])
