"""TLS on the listeners and towards the upstream.

Rule: a certificate is renewed by putting new files in place: they are looked at every second, and a pair that does not
fit leaves the old one in use. Connections that are open keep theirs.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from authix.errors import SettingsError

logger = logging.getLogger("authix.sidecar.tls")


class Certificate:
    """A certificate chain and its key in two PEM files, for the contexts of listeners."""

    def __init__(self, chain: str, key: str) -> None:
        self._files = Path(chain), Path(key)
        self._contexts: list[ssl.SSLContext] = []
        self._seen = self._stamp()

    def context(self, *, client_ca: str = "") -> ssl.SSLContext:
        """A listener's context; with ``client_ca`` clients must show a certificate by it.

        Raises ``SettingsError`` when the files are no pair.
        """
        try:
            context = _listening(self._files)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"AUTHIX_TLS_CERT and AUTHIX_TLS_KEY can't be used ({_why(error)}): name a PEM chain and its key."
            ) from None
        if client_ca:
            try:
                context.load_verify_locations(client_ca)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(
                    f"AUTHIX_TLS_CLIENT_CA can't be used ({_why(error)}): name a PEM file of certificates."
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        self._contexts.append(context)
        return context

    def refresh(self) -> None:
        """Use the files anew when they have changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            _listening(self._files)  # a pair that does not fit would leave a live context half changed
            for context in self._contexts:
                context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            logger.error("the new TLS certificate can't be used (%s); keeping the old one", _why(error))  # noqa: TRY400 - the sentence says it
        else:
            logger.info("using the new TLS certificate")

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes with the files, also where a symbolic link on the way to them is exchanged."""
        found = []
        for file in self._files:
            try:
                status = file.stat()
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)


def towards_upstream(ca: str) -> ssl.SSLContext:
    """For ``https`` upstreams: by the system's certificates, or those of the file ``ca``. Raises ``SettingsError``."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"AUTHIX_UPSTREAM_CA can't be used ({_why(error)}): name a PEM file of certificates."
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _listening(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(*files, password=lambda: b"")  # an encrypted key fails rather than asks at the terminal
    return context


def _why(error: Exception) -> str:
    return (
        error.reason if isinstance(error, ssl.SSLError) else error.strerror if isinstance(error, OSError) else ""
    ) or (type(error).__name__)
