"""The sidecar's settings: a verifier's, and where it listens and sends to.

Rule: every one has a name in the environment, a flag unless it is secret, and a sentence that says how to mend it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple
from urllib.parse import urlsplit

from authix.settings import VerifierSettings, choice, is_loopback, setting, text, whole_number


class Upstream(NamedTuple):
    """Where requests are forwarded to."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """As in a ``Host`` field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}"


def upstream(value: str) -> Upstream:
    parts = urlsplit(value)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    netloc = parts.netloc.encode("ascii", "replace").decode("ascii")
    if parts.scheme != "http" or not host or value != f"http://{netloc}" or "@" in netloc or not value.isprintable():
        raise ValueError(f"must be a URL of the form http://host:port, without a path, not {value!r}")
    return Upstream(host, 80 if port is None else port)


def not_yet(value: str) -> str:
    raise ValueError(f"is set to {value!r}, but in this release every path needs an access token: unset it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SidecarSettings(VerifierSettings):
    """What a sidecar must know."""

    upstream: Upstream = setting("AUTHIX_UPSTREAM", upstream, "the service behind, for example http://127.0.0.1:8003")
    host: str = setting("AUTHIX_HOST", text, "the address to listen on", default="127.0.0.1")
    proxy_port: int = setting("AUTHIX_PROXY_PORT", whole_number(0, 65535), "the port of the proxy", default=8001)
    auth_port: int = setting(
        "AUTHIX_AUTH_PORT", whole_number(0, 65535), "the port of /verify, /livez, /readyz and /metrics", default=8002
    )
    policy: str = setting("AUTHIX_POLICY", not_yet, "the policy file", default="")
    log: str = setting("AUTHIX_LOG", choice("console", "json"), "console or json", default="console")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proxy_port == self.auth_port != 0:
            raise ValueError(f"AUTHIX_PROXY_PORT and AUTHIX_AUTH_PORT are both {self.proxy_port}: choose two")
        if is_loopback(self.upstream.host) and self.upstream.port in {self.proxy_port, self.auth_port}:
            raise ValueError(f"AUTHIX_UPSTREAM={self.upstream} is this sidecar itself: name the service behind it")
