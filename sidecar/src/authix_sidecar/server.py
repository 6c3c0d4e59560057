"""The running sidecar: its parts put together, its life and its end.

Rule: everything is opened here, in order. The end: stop listening, cut what has no end of its own, let the rest finish
within 10 s (a second signal: at once), then close.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic

from authix import Authix
from authix.errors import NotReady, SettingsError
from authix.fallback import FeedState
from authix.workers import end_with_parent
from authix_sidecar.auth_port import AuthPort
from authix_sidecar.decide import Requirement, every_path_needs
from authix_sidecar.downstream import HEAD_TIME, ClientConnection
from authix_sidecar.failures import Failures
from authix_sidecar.forward_auth import asks_to_verify
from authix_sidecar.forwarded import peers
from authix_sidecar.identity import Identities, private_key
from authix_sidecar.judged import Judge
from authix_sidecar.live_policy import LivePolicy
from authix_sidecar.logs import AccessLog
from authix_sidecar.metrics import Metrics, Samples
from authix_sidecar.onward import OnwardFeed
from authix_sidecar.pool import Pool
from authix_sidecar.ports import Port
from authix_sidecar.proxy import Proxy
from authix_sidecar.requests import RequestHead
from authix_sidecar.settings import SidecarSettings
from authix_sidecar.siblings import Siblings
from authix_sidecar.tls import Certificate, towards_upstream
from authix_sidecar.token_sources import TokenCookie

logger = logging.getLogger("authix.sidecar")

DRAIN_TIME = 10.0
_SWEEP_EVERY = 0.5
_BACKLOG = 1024
_LISTEN_WITHIN = 3.0  # seconds from which a worker's port says itself that it is not ready


class Sidecar:
    """Both ports with all that stands behind them."""

    def __init__(self, settings: SidecarSettings, access: AccessLog, siblings: Siblings | None = None) -> None:
        """With ``siblings`` it is one worker among several."""
        self.auth = Authix(settings=settings if siblings is None else siblings.follow(settings))
        self.metrics = Metrics()
        encrypted = any(origin.scheme == "https" for origin in settings.upstream)
        self.pool = Pool(settings.upstream, towards_upstream(settings.upstream_ca) if encrypted else None)
        self.certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        authority = settings.upstream[0].authority
        passing = settings.pass_authorization
        self.policy = (
            LivePolicy(settings.policy, host=authority, passes_authorization=passing) if settings.policy else None
        )
        cookie = TokenCookie(settings.token_cookie, settings.cookie_origins) if settings.token_cookie else None
        needs = every_path_needs(Requirement(passes_authorization=passing))
        judge = Judge(self.auth, self.metrics, self.policy or needs, cookie)
        self._access = access
        identities = _identities(settings, self.auth)
        limit = settings.failures_per_second
        proxy = Proxy(
            judge._replace(failures=Failures(limit) if limit else None),  # who asks /verify is another proxy
            self.pool,
            self.auth.streams,
            upstream=authority,
            is_listed=peers(settings.forwarded_peers) if settings.forwarded_peers else None,
            identities=identities,
        )
        self.onward = OnwardFeed(self.auth, token=settings.feed_token)
        trusted = peers(settings.trusted_peers)
        auth_port = AuthPort(judge, self.onward, is_trusted=trusted, identities=identities, siblings=siblings)
        self.proxy: Port[ClientConnection] = Port(begin=proxy.begin, report=self._report_proxy)
        self.auth_port: Port[ClientConnection] = Port(begin=auth_port.begin, report=self._report_auth)
        self._problems: list[str] | None = None
        self._tell_gauges()
        if siblings is None:  # the parent tells them for all
            tell_feeds(self.metrics, self.auth)

    async def keep_times(self) -> None:
        """End whatever is past its deadline, and tell the log when readiness changes."""
        while True:
            for part in (self.proxy, self.auth_port, self.pool):
                try:
                    part.sweep(monotonic())
                except Exception:
                    logger.exception("a connection past its deadline could not be ended")
            self.onward.tick()
            if self.certificate is not None:
                self.certificate.refresh()
            if self.policy is not None:
                self.policy.refresh()
            problems = self.auth.problems()
            if problems != self._problems:
                self._problems = problems
                logger.info("not ready: %s", ", ".join(problems)) if problems else logger.info("ready")
            await asyncio.sleep(_SWEEP_EVERY)

    async def drain(self, hurry: asyncio.Event) -> None:
        """End all connections, those at work within 10 s or until ``hurry``."""
        ports = (self.proxy, self.auth_port)
        for port in ports:
            port.drain()
        end = monotonic() + DRAIN_TIME
        while any(port.connections for port in ports) and not hurry.is_set():
            if monotonic() > end:
                logger.warning("some requests did not end in time and are cut")
                break
            await asyncio.sleep(0.02)
        for port in ports:
            for connection in tuple(port.connections):
                connection.abort()
        self.pool.close()

    def _report_proxy(self, request: RequestHead | None, status: int, seconds: float, code: str) -> None:
        self.metrics.requests["proxy", status // 100] += 1
        self._tell(request, status, seconds, code)

    def _report_auth(self, request: RequestHead | None, status: int, seconds: float, code: str) -> None:
        self.metrics.requests["auth", status // 100] += 1
        if request is None or asks_to_verify(request.path):  # probes and scrapes are no news
            self._tell(request, status, seconds, code)

    def _tell(self, request: RequestHead | None, status: int, seconds: float, code: str) -> None:
        if request is None:
            self.metrics.decisions[code] += 1
            self._access.tell("-", "-", status, seconds, code)
        else:
            self._access.tell(request.method.decode(), request.path.decode(), status, seconds, code)

    def _tell_gauges(self) -> None:
        gauge, verifier = self.metrics.gauge, self.auth.verifier
        gauge("authix_ready", "1 when tokens can be judged.", lambda: float(self.auth.ready()))
        gauge("authix_feed_age_seconds", "Age of the knowledge of logouts.", lambda: self.auth.freshness)
        gauge("authix_revocations", "Entries of the revocation map.", lambda: len(verifier.revocations))
        gauge(
            "authix_revocations_coarse_until_seconds",
            "Tokens issued up to this moment are refused because the revocation map was full; absent if it never was.",
            lambda: None if (coarse_us := verifier.revocations.coarse_us) is None else coarse_us / 1_000_000,
        )
        gauge("authix_keys", "Keys of the key set.", lambda: len(verifier.keys))
        gauge("authix_sidecar_streams", "Open tunnels and answers that still go on.", lambda: len(self.auth.streams))
        gauge(
            "authix_sidecar_feed_followers",
            "Who follows the feed passed on by this sidecar.",
            lambda: len(self.onward.followers),
        )
        gauge(
            "authix_sidecar_upstreams_down",
            "Servers of the upstream that are passed over.",
            lambda: self.pool.servers_down,
        )
        self.metrics.gauges(
            "authix_sidecar_connections",
            "Open connections, by side.",
            ("side",),
            lambda: {
                ("proxy",): len(self.proxy.connections),
                ("auth",): len(self.auth_port.connections),
                ("upstream",): len(self.pool.connections),
            },
        )
        if self.policy is not None:
            policy = self.policy
            self.metrics.counter(
                "authix_sidecar_policy_errors",
                "How often the policy file could not be taken while running.",
                lambda: policy.errors,
            )
            gauge(
                "authix_sidecar_policy_loaded_timestamp_seconds",
                "When the policy in force was read.",
                lambda: policy.loaded_at,
            )


def tell_feeds(metrics: Metrics, auth: Authix) -> None:
    """By position in AUTHIX_FEED, 1 is the preferred one, and by kind; a URL may say too much."""

    def tell(name: str, text: str, read: Callable[[FeedState], float | None]) -> None:
        def each() -> Samples:
            values = {(str(position), feed.kind): read(feed) for position, feed in enumerate(auth.feed_states, start=1)}
            return {labels: value for labels, value in values.items() if value is not None}

        metrics.gauges(name, text, ("position", "kind"), each)

    tell("authix_feed_followed", "1 when the feed is followed now.", lambda feed: feed.followed)
    tell("authix_feed_stale", "1 when the feed is followed in vain.", lambda feed: feed.stale)
    tell("authix_followed_feed_age_seconds", "Age of what a followed feed tells.", lambda feed: feed.age)


def try_out(settings: SidecarSettings, access: AccessLog) -> None:
    """Raise ``SettingsError`` when a sidecar could not begin, as far as no port is needed to tell."""
    _contexts(settings, Sidecar(settings, access).certificate)


async def serve(
    settings: SidecarSettings, access: AccessLog, siblings: Siblings | None = None, *, worker: str = ""
) -> None:
    """Serve until SIGINT or SIGTERM. Raises ``SettingsError`` when a port can't be listened on.

    With ``siblings``, as the one named ``worker``: until SIGTERM or the parent's end, on ports shared with the others.
    """
    loop = asyncio.get_running_loop()
    signalled, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurry if signalled.is_set() else signalled).set()

    for which in (signal.SIGINT, signal.SIGTERM) if siblings is None else (signal.SIGTERM,):
        loop.add_signal_handler(which, stop)
    sidecar = Sidecar(settings, access, siblings)
    if sidecar.policy is not None:
        loop.add_signal_handler(signal.SIGHUP, sidecar.policy.reload)
    shared = siblings is not None
    sockets = [bind(settings.host, port, name, shared=shared, listens=not shared) for name, port in settings.ports]
    contexts = _contexts(settings, sidecar.certificate)
    async with sidecar.auth:
        times = asyncio.create_task(sidecar.keep_times())
        if siblings is not None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            end_with_parent()
            await siblings.tell(worker, sidecar.metrics.text)
            with contextlib.suppress(NotReady):  # until then the others have the connections
                await sidecar.auth.wait_ready(_LISTEN_WITHIN)
        servers = [
            await loop.create_server(
                partial(ClientConnection, port),
                sock=sock,
                backlog=_BACKLOG,
                ssl=context,
                ssl_handshake_timeout=HEAD_TIME if context else None,
            )
            for port, sock, context in zip((sidecar.proxy, sidecar.auth_port), sockets, contexts, strict=True)
        ]
        proxy_at, auth_at = (sock.getsockname()[:2] for sock in sockets)
        logger.info(
            "proxy %s://%s:%d -> %s, auth port %s://%s:%d",
            "https" if contexts[0] else "http",
            *proxy_at,
            ", ".join(map(str, settings.upstream)),
            "https" if contexts[1] else "http",
            *auth_at,
        )
        gc.collect()
        gc.freeze()  # what lives as long as the program is not looked through again and again
        await signalled.wait()
        logger.info("stopping")
        for server in servers:
            server.close()
        await sidecar.drain(hurry)
        times.cancel()
    access.flush()


def _identities(settings: SidecarSettings, auth: Authix) -> Identities | None:
    if not settings.identity_key:
        return None
    audience = settings.identity_audience or str(settings.upstream[0])
    try:
        key = private_key(settings.identity_key)
    except ValueError as error:  # it has changed since the settings were read
        raise SettingsError(f"AUTHIX_IDENTITY_KEY {error}.") from None
    return Identities(key, audience=audience, now=auth.clock.now)


def _contexts(
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
                sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        # a name that can't be resolved has a negative number
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingsError(f"AUTHIX_HOST={host} {name}={port} can't be listened on ({why}): choose another.") from None
    return sock
