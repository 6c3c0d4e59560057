"""The proxies that the sidecar is compared with, each set up to do as much of its work as it can."""

from __future__ import annotations

import re
import subprocess
from typing import ClassVar

from tests.servers.proxies import Envoy, HAProxy, Nginx, Proxy

PLAIN = """
upstream service { server 127.0.0.1:<service>; keepalive 16; }
server {
    listen <port>;
    location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://service; }
}
"""
SERVICE = """
server {
    listen <port>;
    default_type application/json;
    location / { return 200 '<body>'; }
    location = /keys { return 200 '<keys>'; }
}
"""
ENVOY = """
static_resources:
  listeners:
    - address: {socket_address: {address: 127.0.0.1, port_value: <port>}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: clients
                access_log:
                  - name: envoy.access_loggers.file
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
                      path: access.log
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
                          local_jwks: {inline_string: '<keys>'}
                          forward: true
                          claim_to_headers:
                            - {header_name: x-authix-subject, claim_name: sub}
                            - {header_name: x-authix-session, claim_name: sid}
                          jwt_cache_config: {jwt_cache_size: 8192}
                      rules:
                        - {match: {prefix: /public/}}
                        - {match: {prefix: /}, requires: {provider_name: authix}}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: service
      type: STATIC
      load_assignment:
        cluster_name: service
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: <service>}}}
"""  # noqa: E501 - its own names are that long
HAPROXY = """
global
    nbthread 1
    log stdout format raw local0 info

defaults
    mode http
    log global
    option httplog
    timeout connect 2s
    timeout client 60s
    timeout server 60s

frontend clients
    bind 127.0.0.1:<port>
    http-request set-var(txn.token) http_auth_bearer
    http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
    http-request set-var(txn.iss) var(txn.token),jwt_payload_query('$.iss')
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    acl public path_beg /public/
    http-request deny deny_status 401 if !public !{ var(txn.alg) -m str ES256 }
    http-request deny deny_status 401 if !public !{ var(txn.iss) -m str <issuer> }
    http-request deny deny_status 401 if !public { var(txn.exp),sub(txn.now) -m int lt 0 }
    http-request deny deny_status 401 if !public !{ var(txn.token),jwt_verify(txn.alg,"key.pem") -m int 1 }
    http-request set-header X-Authix-Subject %[var(txn.token),jwt_payload_query('$.sub')]
    http-request set-header X-Authix-Session %[var(txn.token),jwt_payload_query('$.sid')]
    default_backend service

backend service
    http-reuse always
    server service 127.0.0.1:<service>
"""


class Settled(Nginx):
    """The example, with an access log, and connections that are not closed after their thousandth request."""

    access_log: ClassVar[str] = "access_log access.log combined buffer=64k flush=50ms;"

    def prepare(self) -> None:
        super().prepare()
        main = self.folder / "main.conf"
        more = f"{self.access_log} keepalive_requests 1000000000;"
        main.write_text(main.read_text(encoding="utf-8").replace("access_log off;", more), encoding="utf-8")


def written(kind: type[Proxy], file: str, text: str, **values: str) -> type[Proxy]:
    """As ``kind``, but run by ``text``, in which ``<name>`` stands for a value, instead of its example."""

    class Written(kind):  # type: ignore[valid-type,misc]  # a base that is an argument
        files = ()

        def prepare(self) -> None:
            super().prepare()
            found = {**values, "port": str(self._ports["8080"]), "service": str(self._ports["8003"])}
            own = re.sub(r"<(\w+)>", lambda match: found[match[1]], text)
            (self.folder / file).write_text(own, encoding="utf-8")

    Written.__name__ = kind.__name__
    return Written


class Silent(Settled):
    """Without an access log."""

    access_log = "access_log off;"


def versions() -> str:
    nginx = subprocess.run([str(Nginx.program()), "-v"], capture_output=True, text=True, check=True).stderr
    haproxy = subprocess.run([str(HAProxy.program()), "-v"], capture_output=True, text=True, check=True).stdout
    envoy = subprocess.run([str(Envoy.program()), "--version"], capture_output=True, text=True, check=True).stdout
    numbers = [re.search(r"\d+\.\d+\.\d+", text) for text in (nginx, haproxy, envoy)]
    return ", ".join(
        f"{name} {it[0] if it else '?'}" for name, it in zip(("nginx", "HAProxy", "Envoy"), numbers, strict=True)
    )
