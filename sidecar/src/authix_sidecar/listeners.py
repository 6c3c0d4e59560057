"""The sockets that a sidecar listens on, and TLS on them.

Rule: a port is one sidecar's alone, unless its workers share it; what can't be listened on ends the start.
"""

from __future__ import annotations

import os
import socket
import ssl

from authix.errors import SettingsError
from authix_sidecar.settings import SidecarSettings
from authix_sidecar.tls import Certificate

BACKLOG = 1024
"""Connections that wait to be accepted."""


def contexts(
    settings: SidecarSettings, certificate: Certificate | None
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Of the proxy port and of the auth port."""
    if certificate is None:
        return None, None
    proxy = certificate.context(client_ca=settings.tls_client_ca)
    return proxy, certificate.context() if settings.tls_auth_port else None


def bind(host: str, port: int, name: str, *, shared: bool = False, listens: bool = False) -> socket.socket:
    """A socket at ``port``, which is its alone, or ``shared`` with all others of this user that share theirs."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            if listens:
                sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        # a name that can't be resolved has a negative number
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingsError(f"AUTHIX_HOST={host} {name}={port} can't be listened on ({why}): choose another.") from None
    return sock
