"""The sidecar's settings: a verifier's, and where it listens and sends to.

Rule: every one has a name in the environment, a flag unless it is secret, and a sentence that says how to mend it.
"""

from __future__ import annotations

import dataclasses

from authix.program_settings import ProgramSettings
from authix.settings import (
    existing_file,
    flag,
    is_loopback,
    networks,
    setting,
    text,
    whole_number,
)
from authix.verifier_settings import VerifierSettings
from authix_sidecar.identity import private_key_file
from authix_sidecar.origins import Origin, origins
from authix_sidecar.token_sources import cookie_name, page_origins


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """What a policy file may leave open."""

    pass_authorization: bool = setting(
        "AUTHIX_PASS_AUTHORIZATION",
        flag,
        "whether the upstream gets the Authorization field and the cookie of AUTHIX_TOKEN_COOKIE, where the policy "
        "does not say",
        default=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SidecarSettings(ProgramSettings, PolicySettings, VerifierSettings):
    """What a sidecar must know."""

    upstream: tuple[Origin, ...] = setting(
        "AUTHIX_UPSTREAM",
        origins,
        "the service behind, for example http://127.0.0.1:8003, https://orders:443 or unix:/run/orders.sock; "
        "several with commas between take turns",
    )
    upstream_ca: str = setting(
        "AUTHIX_UPSTREAM_CA",
        existing_file,
        "the file of the certificates that https upstreams are trusted by",
        default="",
    )
    upstream_timeout: int = setting(
        "AUTHIX_UPSTREAM_TIMEOUT",
        whole_number(1, 86400),
        "seconds for which the upstream may be silent before its answer begins and amid it; event streams and tunnels "
        "may be for ever",
        default=60,
    )
    upstream_total_timeout: int = setting(
        "AUTHIX_UPSTREAM_TOTAL_TIMEOUT",
        whole_number(0, 86400),
        "seconds for a request and its whole answer, but for event streams and tunnels; 0: any number",
        default=0,
    )
    proxy_port: int = setting("AUTHIX_PROXY_PORT", whole_number(0, 65535), "the port of the proxy", default=8001)
    auth_port: int = setting(
        "AUTHIX_AUTH_PORT", whole_number(0, 65535), "the port of /verify, /livez, /readyz and /metrics", default=8002
    )
    workers: int = setting(
        "AUTHIX_WORKERS",
        whole_number(1, 64),
        "the processes that serve, each on a core of its own; one feed serves all",
        default=1,
    )
    policy: str = setting(
        "AUTHIX_POLICY",
        existing_file,
        "the policy file (see policy.md); without one every path needs an access token",
        default="",
    )
    token_cookie: str = setting(
        "AUTHIX_TOKEN_COOKIE",
        cookie_name,
        "the name of a cookie in which an access token may come where there is no Authorization, best one that begins "
        "with __Host-; without it none does",
        default="",
    )
    cookie_origins: tuple[Origin, ...] = setting(
        "AUTHIX_COOKIE_ORIGINS",
        page_origins,
        "the origins, such as https://app.example.com, whose pages may change things by that cookie, "
        "besides the service's own",
        default=(),
    )
    cut_at_expiry: bool = setting(
        "AUTHIX_CUT_AT_EXPIRY",
        flag,
        "whether a WebSocket, an event stream or whatever else takes long ends when its token expires; at logout it "
        "always does",
        default=True,
    )
    trusted_peers: tuple[str, ...] = setting(
        "AUTHIX_TRUSTED_PEERS",
        networks,
        "the addresses or networks of the proxies that may ask /verify by the policy",
        default=("127.0.0.0/8", "::1/128"),
    )
    forwarded_peers: tuple[str, ...] = setting(
        "AUTHIX_FORWARDED_PEERS",
        networks,
        "the addresses or networks of the proxies that are believed in X-Forwarded-For, -Proto, -Host and Forwarded",
        default=(),
    )
    failures_per_second: int = setting(
        "AUTHIX_FAILURES_PER_SECOND",
        whole_number(0, 1_000_000),
        "how many new wrong signatures a second one client address may have computed before its unknown tokens are "
        "answered 429; 0: any number",
        default=1000,
    )
    identity_key: str = setting(
        "AUTHIX_IDENTITY_KEY",
        private_key_file,
        "the file of the private key in PEM (P-256, Ed25519 or RSA) that X-Authix-Identity is signed with; without one "
        "there is none",
        default="",
    )
    identity_audience: str = setting(
        "AUTHIX_IDENTITY_AUDIENCE",
        text,
        "the aud of X-Authix-Identity; without one it is that of the first upstream, such as http://127.0.0.1:8003",
        default="",
    )
    tls_cert: str = setting(
        "AUTHIX_TLS_CERT",
        existing_file,
        "the file of the proxy port's certificate and its chain, in PEM; new files are taken up without a restart",
        default="",
    )
    tls_key: str = setting("AUTHIX_TLS_KEY", existing_file, "the file of that certificate's key, in PEM", default="")
    tls_client_ca: str = setting(
        "AUTHIX_TLS_CLIENT_CA",
        existing_file,
        "the file of the certificates by which clients of the proxy port must show theirs",
        default="",
    )
    tls_auth_port: bool = setting("AUTHIX_TLS_AUTH_PORT", flag, "yes: TLS on the auth port too", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proxy_port == self.auth_port != 0:
            raise ValueError(f"AUTHIX_PROXY_PORT and AUTHIX_AUTH_PORT are both {self.proxy_port}: choose two")
        for origin in self.upstream:
            if is_loopback(origin.host) and origin.port in {self.proxy_port, self.auth_port}:
                raise ValueError(f"AUTHIX_UPSTREAM={origin} is this sidecar itself: name the service behind it")
        if self.cookie_origins and not self.token_cookie:
            raise ValueError("AUTHIX_COOKIE_ORIGINS needs AUTHIX_TOKEN_COOKIE: set it, or unset this")
        if self.identity_audience and not self.identity_key:
            raise ValueError("AUTHIX_IDENTITY_AUDIENCE needs AUTHIX_IDENTITY_KEY: set both or none")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("AUTHIX_TLS_CERT and AUTHIX_TLS_KEY go together: set both or none")
        if not self.tls_cert and (self.tls_client_ca or self.tls_auth_port):
            raise ValueError("AUTHIX_TLS_CLIENT_CA and AUTHIX_TLS_AUTH_PORT need AUTHIX_TLS_CERT and AUTHIX_TLS_KEY")

    @property
    def ports(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """The proxy port and the auth port, each with its setting's name."""
        return ("AUTHIX_PROXY_PORT", self.proxy_port), ("AUTHIX_AUTH_PORT", self.auth_port)
