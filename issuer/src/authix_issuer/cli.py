"""The command line: ``authix-issuer serve``, what looks after it, and what administers it.

Rule: a missing or wrong setting ends the start with exit code 2 and one sentence for each problem. An answer that can't
be written ends a command with exit code 1 and a sentence, or without one where nobody waits for it (a closed pipe).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sanic import Sanic

from authix import health, shown_settings
from authix.errors import SettingsError
from authix.log_level import LiveLevel
from authix.settings import add_flags, from_flags, reread
from authix.workers import Workers, end_with_parent
from authix_issuer import admin_commands, calibrate, key_commands, logs
from authix_issuer.app import build_app
from authix_issuer.connections import PromptHttpProtocol
from authix_issuer.console import fail, say
from authix_issuer.gauges import tell_issuer
from authix_issuer.settings import IssuerSettings
from authix_issuer.wiring import open_issuer

if TYPE_CHECKING:
    from authix_issuer.metrics_port import MetricsPort

logger = logging.getLogger("authix.issuer")

ReadLevel = Callable[[], str]
"""What AUTHIX_LOG_LEVEL is now; it is sent to the workers."""
_END_WITHIN = 10.0
"""Seconds that a worker has after its drain, to publish what is left and to close what is open."""
_INTERRUPTED = 130
"""The exit code after SIGINT, as shells have it."""


class _Unwritten(Exception):
    """The answer can't be written; the cause says why."""


class _Answer(io.TextIOBase):
    """Standard output, whose failures are told from those of anything else."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def write(self, text: str) -> int:
        try:
            return self._output.write(text)
        except OSError as error:
            raise _Unwritten from error

    def flush(self) -> None:
        try:
            self._output.flush()
        except OSError as error:
            raise _Unwritten from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    if sys.stderr is None:
        say("Standard error is closed, so nothing that goes wrong could be told: send it somewhere, if to /dev/null.")
        return 1
    try:
        with _answering():
            return _main(arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _Unwritten as lost:
        return _give_up(lost.__cause__)


@contextmanager
def _answering() -> Iterator[None]:
    """All that is said within is written at the end. Raises ``_Unwritten`` when it can't be."""
    if sys.stdout is None:
        yield
        return
    with redirect_stdout(_Answer(sys.stdout)) as answer:
        try:
            yield
        finally:
            answer.flush()


def _give_up(cause: BaseException | None) -> int:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())  # Python would write at its end what it still has, and fail again
    os.close(null)
    if isinstance(cause, BrokenPipeError):
        return 1
    return fail(f"the answer can't be written ({cause.strerror if isinstance(cause, OSError) else cause})")


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="authix-issuer", description="The Authix issuer.")
    parser.add_argument("--version", action="version", version=version("authix-issuer"))
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="serve the issuer's HTTP interface")
    add_flags(serve_parser, IssuerSettings)
    doctor_parser = commands.add_parser("doctor", help="look at every setting and engine; exit code 1 if one is wrong")
    add_flags(doctor_parser, IssuerSettings)
    health_parser = commands.add_parser("health", help="ask the issuer that runs here; exit code 1 if it is not ready")
    add_flags(health_parser, IssuerSettings)
    config_parser = commands.add_parser("config", help="print the settings in force, and where each comes from")
    shown_settings.add_command(config_parser, IssuerSettings)
    hash_parser = commands.add_parser("hash", help="what hashing passwords costs on this machine")
    hash_commands = hash_parser.add_subparsers(dest="hash_command", required=True)
    calibrate_parser = hash_commands.add_parser("calibrate", help="measure it; print the setting for a target")
    calibrate_parser.add_argument(
        "--target", type=calibrate.duration, default="250ms", metavar="TIME", help="how long a hash is to take (250ms)"
    )
    key_commands.add_commands(commands.add_parser("keys", help="list, rotate or revoke the signing keys"))
    admin_commands.add_commands(
        commands.add_parser("users", help="add, find, change and delete accounts"),
        commands.add_parser("sessions", help="list and end the sessions of an account"),
        commands.add_parser("stats", help="how many accounts, keys and revocations there are, and what is degraded"),
    )
    options = parser.parse_args(arguments)
    if sys.stdout is None and options.command != "serve":
        return fail("standard output is closed, so there would be no answer")
    if options.command == "hash":
        return calibrate.report(options.target)
    if options.command == "config":
        return shown_settings.report(IssuerSettings, options)
    try:
        return _run(from_flags(IssuerSettings, options, whole=True), options)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return 2


def _run(settings: IssuerSettings, options: argparse.Namespace) -> int:
    match options.command:
        case "doctor":
            from authix_issuer.doctor import report  # noqa: PLC0415 - it imports every engine's driver

            return report(settings)
        case "health":
            return health.report(settings.host, settings.port)
        case "keys":
            _check_store(settings)
            return key_commands.run(settings.for_a_command(), options)
        case "users" | "sessions" | "stats":
            if options.command != "users" or options.users_command != "create":
                _check_store(settings)
            return admin_commands.run(settings.for_a_command(), options)
    return serve(settings, partial(reread, IssuerSettings, "log_level", options))


def _check_store(settings: IssuerSettings) -> None:
    """Raises ``SettingsError`` for a command that would make a store, and say of its nothing that all is done."""
    path = settings.database_path("users")
    if not settings.users_in_mongodb and not Path(path).exists():
        raise SettingsError(f"There is no {path}: have AUTHIX_DATA_DIR name the issuer's, or start the issuer first.")


def serve(settings: IssuerSettings, read_level: ReadLevel) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Raises ``SettingsError``."""
    listener = _listen(settings.host, settings.port)
    port = None
    if settings.metrics_port:
        from authix_issuer.metrics_port import MetricsPort  # noqa: PLC0415 - it imports an HTTP server of its own

        port = MetricsPort(settings.metrics_host, settings.metrics_port).listen()
    if settings.workers == 1:
        serve_on(settings, listener, port, read_level)
        return 0
    logs.set_up(settings.log, settings.log_level)
    asyncio.run(_try_out(settings))
    tellers = port.ask_workers(settings.workers) if port else []
    _tell(settings, listener)
    return Workers(
        partial(serve_as_one_of_several, settings, listener, tellers, read_level),
        settings.workers,
        pass_on=(signal.SIGHUP,),
        look=LiveLevel(settings.log_level, read_level).tick,
        ending=listener.close,  # else clients connect to it, and nobody answers them
        kill_after=settings.drain_time + _END_WITHIN,
    ).run()


def serve_on(
    settings: IssuerSettings, listener: socket.socket, metrics: MetricsPort | None, read_level: ReadLevel
) -> None:
    """Serve on a socket that listens, in this process alone."""

    async def begin(app: Sanic[Any, Any]) -> None:
        _tell(settings, listener)
        if metrics:
            tell_issuer(app.ctx.metrics, app.ctx.issuer)
            metrics.ask_here(app.ctx.metrics)

    _serve(settings, listener, begin, read_level)


def serve_as_one_of_several(
    settings: IssuerSettings,
    listener: socket.socket,
    tellers: Sequence[socket.socket],
    read_level: ReadLevel,
    worker: int,
) -> None:
    """Serve on a socket that others accept from too; metrics are told to the parent where there are ``tellers``."""

    async def begin(app: Sanic[Any, Any]) -> None:
        if tellers:
            from authix_issuer.metrics_port import tell  # noqa: PLC0415 - it imports an HTTP server of its own

            tell_issuer(app.ctx.metrics, app.ctx.issuer)
            app.ctx.telling = await tell(app.ctx.metrics, tellers[worker - 1])
        end_with_parent()

    _serve(settings, listener, begin, read_level)


def _serve(
    settings: IssuerSettings,
    listener: socket.socket,
    begin: Callable[[Sanic[Any, Any]], Coroutine[Any, Any, None]],
    read_level: ReadLevel,
) -> None:
    app = build_app(settings)
    app.ctx.listeners = (listener,)
    app.after_server_start(begin)
    level = LiveLevel(settings.log_level, read_level)

    @app.after_server_start
    async def follow_level(app: Sanic[Any, Any]) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, level.refresh)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        app.ctx.level = asyncio.create_task(level.follow())

    @app.before_server_stop
    async def heed_a_second_signal(app: Sanic[Any, Any]) -> None:
        logger.info("stopping")
        app.ctx.level.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, _end_at_once, number)

    app.run(sock=listener, single_process=True, protocol=PromptHttpProtocol)


def _end_at_once(number: signal.Signals) -> None:
    """Nothing that was answered is lost: it is durable, and what is not published yet another issuer publishes."""
    logger.warning("told a second time to end; what is not answered yet is cut")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _tell(settings: IssuerSettings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    logger.info("issuer %s listens on http://%s:%d", settings.issuer, f"[{host}]" if ":" in host else host, port)


async def _try_out(settings: IssuerSettings) -> None:
    """Open everything once, so that what is wrong is said once and what has to be made is made by one."""
    async with open_issuer(settings):
        return


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise SettingsError(
            f"AUTHIX_HOST={host} AUTHIX_PORT={port} can't be listened on ({reason}): choose another."
        ) from None
