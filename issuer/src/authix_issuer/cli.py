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
from sanic.worker.loader import AppLoader

from authix.errors import SettingsError
from authix.settings import add_flags, from_flags
from authix_issuer.app import build_app
from authix_issuer.doctor import report
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
            return report(settings)
        serve(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return 2
    return 0


def serve(settings: IssuerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises ``SettingsError``."""
    listener = _listen(settings.host, settings.port)
    loader = AppLoader(factory=partial(build_app, settings))
    app = loader.load()

    @app.main_process_ready
    @app.after_server_start
    async def tell(_: Sanic[Any, Any], **__: Any) -> None:
        logger.info("issuer %s listens on http://%s:%d", settings.issuer, *listener.getsockname()[:2])

    if settings.workers == 1:
        app.run(sock=listener, single_process=True)
        return
    asyncio.run(_try_out(settings))
    app.prepare(sock=listener, workers=settings.workers)
    Sanic.serve(primary=app, app_loader=loader)


async def _try_out(settings: IssuerSettings) -> None:
    """Open everything once, so that what is wrong is said once and what has to be made is made by one."""
    async with open_issuer(settings):
        return


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(
            f"AUTHIX_HOST={host} AUTHIX_PORT={port} can't be listened on ({os.strerror(error.errno or 0)}): "
            "choose another."
        ) from None
