"""The command line: ``authix-sidecar serve``.

Rule: a missing or wrong setting ends the start with exit code 2 and one sentence for each problem.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version

from authix.errors import SettingsError
from authix.settings import add_flags, from_flags
from authix_sidecar import logs
from authix_sidecar.server import serve
from authix_sidecar.settings import SidecarSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="authix-sidecar", description="The Authix sidecar.")
    parser.add_argument("--version", action="version", version=version("authix-sidecar"))
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="serve the proxy port and the auth port")
    add_flags(serve_parser, SidecarSettings)
    options = parser.parse_args(arguments)
    try:
        settings = from_flags(SidecarSettings, options)
        asyncio.run(serve(settings, logs.set_up(settings.log)))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return 2
    return 0
