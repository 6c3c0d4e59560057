"""The running sidecar: its parts put together, its life and its end.

Rule: everything is opened here, in order. The end: stop listening, cut what has no end of its own, let the rest finish
within ``AUTHIX_DRAIN_TIME`` (a second signal: at once), then close.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from functools import partial
from math import inf
from time import monotonic

from authix import Authix, tracing
from authix.accepting import accept_all
from authix.access_log import AccessLog
from authix.errors import NotReady, SettingsError
from authix.log_level import LiveLevel
from authix.workers import end_with_parent
from authix_sidecar import gauges
from authix_sidecar.auth_port import AuthPort
from authix_sidecar.decide import Requirement, every_path_needs
from authix_sidecar.downstream import HEAD_TIME, ClientConnection
from authix_sidecar.errors import BodyMalformed, RequestTooSlow
from authix_sidecar.failures import Failures
from authix_sidecar.forward_auth import asks_to_verify
from authix_sidecar.forwarded import peers
from authix_sidecar.identity import Identities, private_key
from authix_sidecar.judged import Judge
from authix_sidecar.listeners import BACKLOG, bind, contexts
from authix_sidecar.live_policy import LivePolicy
from authix_sidecar.metrics import Metrics
from authix_sidecar.onward import OnwardFeed
from authix_sidecar.pool import Pool
from authix_sidecar.ports import Ended, Port
from authix_sidecar.proxy import Proxy
from authix_sidecar.settings import SidecarSettings
from authix_sidecar.siblings import Siblings
from authix_sidecar.tls import Certificate, towards_upstream
from authix_sidecar.token_sources import TokenCookie
from authix_sidecar.upstream import Patience

logger = logging.getLogger("authix.sidecar")

_SWEEP_EVERY = 0.5
_OF_BODIES = frozenset({BodyMalformed.code, RequestTooSlow.code})
"""Refusals over a body, which no judge has counted whether or not it let the head pass."""
_LISTEN_WITHIN = 3.0  # seconds from which a worker's port says itself that it is not ready


class Sidecar:
    """Both ports with all that stands behind them."""

    def __init__(self, settings: SidecarSettings, access: AccessLog, siblings: Siblings | None = None) -> None:
        """With ``siblings`` it is one worker among several."""
        self.auth = Authix(settings=settings if siblings is None else siblings.follow(settings))
        self.metrics = Metrics()
        encrypted = any(origin.scheme == "https" for origin in settings.upstream)
        tls = towards_upstream(settings.upstream_ca) if encrypted else None
        patience = Patience(settings.upstream_timeout, settings.upstream_total_timeout or inf)
        self.pool = Pool(settings.upstream, patience, tls)
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
            lasting=not settings.cut_at_expiry,
            identities=identities,
        )
        self.onward = OnwardFeed(self.auth, token=settings.feed_token)
        trusted = peers(settings.trusted_peers)
        auth_port = AuthPort(judge, self.onward, is_trusted=trusted, identities=identities, siblings=siblings)
        self.proxy: Port[ClientConnection] = Port(begin=proxy.begin, report=self._report_proxy)
        self.auth_port: Port[ClientConnection] = Port(begin=auth_port.begin, report=self._report_auth)
        self._problems: list[str] | None = None
        self._was_ready = False
        gauges.tell_verifier(self.metrics, self.auth)
        if siblings is None:  # the parent tells them for all
            gauges.tell_feeds(self.metrics, self.auth)
        if self.policy is not None:
            gauges.tell_policy(self.metrics, self.policy)
        sides: dict[str, gauges.Side] = {"proxy": self.proxy, "auth": self.auth_port, "upstream": self.pool}
        gauges.tell_traffic(self.metrics, self.pool, self.onward, sides)

    async def keep_times(self, level: LiveLevel) -> None:
        """End whatever is past its deadline, tell the log when readiness changes, take up what files say anew."""
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
            level.tick()
            problems = self.auth.problems()
            if problems != self._problems:
                self._problems = problems
                if problems:  # at the start it is the way of things, later it is an outage
                    severity = logging.ERROR if self._was_ready else logging.INFO
                    logger.log(severity, "not ready: %s", ", ".join(problems))
                else:
                    self._was_ready = True
                    logger.info("ready")
            await asyncio.sleep(_SWEEP_EVERY)

    async def drain(self, hurry: asyncio.Event, within: float) -> None:
        """End all connections, those at work ``within`` seconds or until ``hurry``."""
        ports = (self.proxy, self.auth_port)
        for port in ports:
            port.drain()
        end = monotonic() + within
        while any(port.connections for port in ports) and not hurry.is_set():
            if monotonic() > end:
                logger.warning("some requests did not end in time and are cut")
                break
            await asyncio.sleep(0.02)
            for port in ports:
                port.sweep(monotonic())
        for port in ports:
            for connection in tuple(port.connections):
                connection.abort()
        self.pool.close()

    def _report_proxy(self, ended: Ended) -> None:
        self.metrics.answered("proxy", ended.status, ended.waited)
        self._tell(ended)

    def _report_auth(self, ended: Ended) -> None:
        self.metrics.answered("auth", ended.status, ended.waited)
        if ended.head is None or asks_to_verify(ended.head.path):  # probes and scrapes are no news
            self._tell(ended)

    def _tell(self, ended: Ended) -> None:
        head, method, path = ended.head, "-", "-"
        if head is None or ended.code in _OF_BODIES:
            self.metrics.decisions[ended.code] += 1
        if head is not None:
            method, path = head.method.decode(), head.path.decode()
        self._access.tell(method, path, ended.status, ended.seconds, ended.code, request_id=ended.request_id)


def try_out(settings: SidecarSettings, access: AccessLog) -> None:
    """Raise ``SettingsError`` when a sidecar could not begin, as far as no port is needed to tell."""
    contexts(settings, Sidecar(settings, access).certificate)


async def serve(
    settings: SidecarSettings,
    access: AccessLog,
    level: LiveLevel,
    siblings: Siblings | None = None,
    *,
    worker: str = "",
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

    def read_anew() -> None:
        level.refresh()
        if sidecar.policy is not None:
            sidecar.policy.reload()

    loop.add_signal_handler(signal.SIGHUP, read_anew)
    shared = siblings is not None
    sockets = [bind(settings.host, port, name, shared=shared, listens=not shared) for name, port in settings.ports]
    proxy_tls, auth_tls = contexts(settings, sidecar.certificate)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(tracing.set_up("authix-sidecar"))
        await stack.enter_async_context(sidecar.auth)
        times = asyncio.create_task(sidecar.keep_times(level))
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
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HEAD_TIME if tls else None,
            )
            for port, sock, tls in zip((sidecar.proxy, sidecar.auth_port), sockets, (proxy_tls, auth_tls), strict=True)
        ]
        proxy_at, auth_at = (sock.getsockname()[:2] for sock in sockets)
        logger.info(
            "proxy %s://%s:%d -> %s, auth port %s://%s:%d",
            "https" if proxy_tls else "http",
            *proxy_at,
            ", ".join(map(str, settings.upstream)),
            "https" if auth_tls else "http",
            *auth_at,
        )
        gc.collect()
        gc.freeze()  # what lives as long as the program is not looked through again and again
        await signalled.wait()
        logger.info("stopping")
        await accept_all(sockets)
        for server in servers:
            server.close()
        await sidecar.drain(hurry, settings.drain_time)
        times.cancel()
    access.flush()
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(which, signal.SIG_IGN)  # it ends already; while the loop is closed nobody could take one


def _identities(settings: SidecarSettings, auth: Authix) -> Identities | None:
    if not settings.identity_key:
        return None
    audience = settings.identity_audience or str(settings.upstream[0])
    try:
        key = private_key(settings.identity_key)
    except ValueError as error:  # it has changed since the settings were read
        raise SettingsError(f"AUTHIX_IDENTITY_KEY {error}.") from None
    return Identities(key, audience=audience, now=auth.clock.now)
