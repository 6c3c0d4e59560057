"""Proxies that verify access tokens themselves, by the issuer's keys and without a program of Authix.

Rule: of the issuer they are told its URL and the audience alone, with the settings that ``docs/oauth.md`` names.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.programs import HOST
from tests.servers import proxies
from tests.servers.packages import HINT, home, install_once, need, run
from tests.servers.server import Server

_RECIPE = Path(__file__).parent / "oauth2_proxy"
_HOME = home("oauth2_proxy", _RECIPE)
_OAUTH2_PROXY = _HOME / "oauth2-proxy"
_ENVOY = """
static_resources:
  listeners:
    - address: {socket_address: {address: 127.0.0.1, port_value: <port>}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: clients
                route_config:
                  virtual_hosts:
                    - {name: service, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: service}}]}
                http_filters:
                  - name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers:
                        authix:
                          issuer: <issuer>
                          audiences: [<audience>]
                          remote_jwks:
                            http_uri: {uri: "<jwks_uri>", cluster: issuer, timeout: 5s}
                            cache_duration: 300s
                          forward: true
                          claim_to_headers: [{header_name: X-Forwarded-User, claim_name: sub}]
                      rules: [{match: {prefix: /}, requires: {provider_name: authix}}]
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: service
      load_assignment: {cluster_name: service, endpoints: [{lb_endpoints: [<service>]}]}
    - name: issuer
      load_assignment: {cluster_name: issuer, endpoints: [{lb_endpoints: [<keys>]}]}
"""  # noqa: E501 - its own names are that long


def install() -> str:
    install_once(_HOME, _build)
    return f"oauth2-proxy in {_HOME}"


def _build(folder: Path) -> None:
    need("go", "golang-go")
    build = ["go", "build", "-C", str(_RECIPE), "-trimpath", "-ldflags", "-s -w", "-o", str(folder / "oauth2-proxy")]
    package = "github.com/oauth2-proxy/oauth2-proxy/v7"
    run(["env", "CGO_ENABLED=0", *build, package], "go build of oauth2-proxy", "It needs Go 1.26 or newer.")


class TokenProxy(Server):
    """In front of the service at ``service_port``, for tokens of ``issuer`` that are meant for ``audience``."""

    def __init__(self, folder: Path, *, issuer: str, audience: str, service_port: int) -> None:
        super().__init__(folder)
        self._issuer = issuer
        self._audience = audience
        self._service_port = service_port

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=5):
            return True


class JwtAuthn(TokenProxy):
    """Envoy with its ``jwt_authn``. It reads no metadata; whoever writes its configuration does."""

    @classmethod
    def missing(cls) -> str | None:
        return proxies.Envoy.missing()

    def prepare(self) -> None:
        metadata = f"{self._issuer}/.well-known/oauth-authorization-server"
        keys = httpx.URL(httpx.get(metadata, trust_env=False).raise_for_status().json()["jwks_uri"])
        values = {
            "port": self.port,
            "issuer": self._issuer,
            "audience": self._audience,
            "jwks_uri": keys,
            "service": _endpoint(HOST, self._service_port),
            "keys": _endpoint(keys.host, keys.port),
        }
        text = _ENVOY
        for name, value in values.items():
            text = text.replace(f"<{name}>", str(value))
        (self.folder / "envoy.yaml").write_text(text, encoding="utf-8")

    def command(self) -> Sequence[str]:
        return [str(proxies.Envoy.program()), *proxies.Envoy.options]


class OAuth2Proxy(TokenProxy):
    """oauth2-proxy for bearer tokens. The secrets are for logins, which it does not do here."""

    @classmethod
    def missing(cls) -> str | None:
        return None if _OAUTH2_PROXY.exists() else f"There is no oauth2-proxy: {HINT}."

    def command(self) -> Sequence[str]:
        return [
            str(_OAUTH2_PROXY),
            f"--http-address={HOST}:{self.port}",
            f"--upstream=http://{HOST}:{self._service_port}/",
            "--provider=oidc",
            f"--oidc-issuer-url={self._issuer}",
            f"--client-id={self._audience}",
            "--client-secret=unused",
            "--cookie-secret=unused-0123456789-0123456789-unu",
            "--email-domain=*",
            "--skip-jwt-bearer-tokens",
            "--bearer-token-login-fallback=false",
            "--api-route=.*",
        ]


def _endpoint(host: str, port: int | None) -> str:
    return f"{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}"


TOKEN_PROXIES: tuple[type[TokenProxy], ...] = (JwtAuthn, OAuth2Proxy)
