"""The command line: ``authix-issuer serve`` and ``authix-issuer doctor``.

Rule: a missing or wrong setting ends the start with exit code 2 and one sentence for each problem.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from sanic import Sanic

from authix.errors import SettingsError
from authix.settings import add_flags, from_flags
from authix.workers import Workers, end_with_parent
from authix_issuer import logs
from authix_issuer.app import build_app
from authix_issuer.settings import IssuerSettings
from authix_issuer.wiring import open_issuer

logger = logging.getLogger("authix.issuer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="authix-issuer", description="The Authix issuer.")
    parser.add_argument("--version", action="version", version=version("authix-issuer"))
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="serve the issuer's HTTP interface")
    add_flags(serve_parser, IssuerSettings)
    doctor_parser = commands.add_parser("doctor", help="look at every setting and engine; exit code 1 if one is wrong")
    add_flags(doctor_parser, IssuerSettings)
    options = parser.parse_args(arguments)
    try:
        settings = from_flags(IssuerSettings, options)
        if options.command == "doctor":
            from authix_issuer.doctor import report  # noqa: PLC0415 - it imports every engine's driver

            return report(settings)
        return serve(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return 2


def serve(settings: IssuerSettings) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Raises ``SettingsError``."""
    listener = _listen(settings.host, settings.port)
    if settings.workers == 1:
        serve_on(settings, listener)
        return 0
    logs.set_up(settings.log)
    asyncio.run(_try_out(settings))
    _tell(settings, listener)
    return Workers(partial(serve_on, settings, listener), settings.workers).run()


def serve_on(settings: IssuerSettings, listener: socket.socket, _worker: int = 1) -> None:
    """Serve on a socket that listens, in this process alone."""
    app = build_app(settings)

    @app.after_server_start
    async def begin(_: Sanic[Any, Any]) -> None:
        if settings.workers == 1:
            _tell(settings, listener)
        end_with_parent()

    app.run(sock=listener, single_process=True)


def _tell(settings: IssuerSettings, listener: socket.socket) -> None:
    logger.info("issuer %s listens on http://%s:%d", settings.issuer, *listener.getsockname()[:2])


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
