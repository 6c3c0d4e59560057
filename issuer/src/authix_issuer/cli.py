"""The command line: ``authix-issuer serve``.

Rule: a missing or wrong setting ends the start with exit code 2 and one sentence for each problem.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from sanic import Sanic

from authix.errors import SettingsError
from authix.settings import add_flags, from_flags
from authix_issuer import logs
from authix_issuer.app import build_app
from authix_issuer.settings import IssuerSettings

logger = logging.getLogger("authix.issuer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="authix-issuer", description="The Authix issuer.")
    parser.add_argument("--version", action="version", version=version("authix-issuer"))
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="serve the issuer's HTTP interface")
    add_flags(serve_parser, IssuerSettings)
    options = parser.parse_args(arguments)
    try:
        serve(from_flags(IssuerSettings, options))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return 2
    return 0


def serve(settings: IssuerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises ``SettingsError``."""
    logs.set_up(settings.log)
    app = build_app(settings)
    listener = _listen(settings.host, settings.port)

    @app.after_server_start
    async def tell(_: Sanic[Any, Any]) -> None:
        logger.info("issuer %s listens on http://%s:%d", settings.issuer, *listener.getsockname()[:2])

    app.run(sock=listener, single_process=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(
            f"AUTHIX_HOST={host} AUTHIX_PORT={port} can't be listened on ({os.strerror(error.errno or 0)}): "
            "choose another."
        ) from None
