"""The command line: ``authix-sidecar serve``, ``health``, ``config``, ``policy lint`` and ``policy explain``.

Rule: a missing or wrong setting, or a policy file that can't be taken, ends with exit code 2 and one sentence for each
problem. 1 is an answer: ``lint`` found something, ``explain`` says that the request is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from math import nan
from typing import Any

import msgspec

from authix import health, shown_settings
from authix.errors import SettingsError
from authix.log_level import LiveLevel
from authix.settings import add_flags, from_flags, reread
from authix_sidecar import logs, loops
from authix_sidecar.explain import Token, explain
from authix_sidecar.policy_file import load_policy, place
from authix_sidecar.policy_review import review
from authix_sidecar.server import serve
from authix_sidecar.settings import PolicySettings, SidecarSettings
from authix_sidecar.workers import serve_by_workers

_OLDEST = 1_000_000_000
"""Age in seconds up to which a token may be made up: more than thirty years."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="authix-sidecar", description="The Authix sidecar.")
    parser.add_argument("--version", action="version", version=version("authix-sidecar"))
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="serve the proxy port and the auth port")
    add_flags(serve_parser, SidecarSettings)
    serve_parser.set_defaults(run=_serve)
    health_parser = commands.add_parser("health", help="ask the sidecar that runs here; exit code 1 if it is not ready")
    add_flags(health_parser, SidecarSettings)
    health_parser.set_defaults(run=_health)
    config_parser = commands.add_parser("config", help="print the settings in force, and where each comes from")
    shown_settings.add_command(config_parser, SidecarSettings)
    config_parser.set_defaults(run=partial(shown_settings.report, SidecarSettings))
    policy = commands.add_parser("policy", help="look at a policy file").add_subparsers(dest="look", required=True)
    lint = policy.add_parser("lint", help="say what is wrong or odd in it")
    lint.set_defaults(run=_lint)
    explained = policy.add_parser("explain", help="say which route a request takes, and what is answered")
    explained.set_defaults(run=_explain)
    for command in (lint, explained):
        command.add_argument(
            "file",
            nargs="?",
            default=os.environ.get("AUTHIX_POLICY") or "authix.toml",
            help="default: AUTHIX_POLICY, or authix.toml",
        )
    explained.add_argument("method", help="such as GET")
    explained.add_argument("target", help="path and query as they stand on the wire, such as /orders/7")
    explained.add_argument("--host", default="localhost", help="the Host (default: localhost)")
    explained.add_argument("--token", action="store_true", help="with a good token; without this and those below: none")
    explained.add_argument("--roles", type=_roles, metavar="ROLE,ROLE", help="with a token that has these roles")
    explained.add_argument(
        "--claims", type=_claim, action="append", metavar="NAME=VALUE", help="with a token that has this claim too"
    )
    explained.add_argument("--age", type=_age, metavar="SECONDS", help="with a token that was issued so long ago")
    add_flags(explained, PolicySettings)
    return parser


def _serve(options: argparse.Namespace) -> int:
    settings = from_flags(SidecarSettings, options, whole=True)
    read_level = partial(reread, SidecarSettings, "log_level", Namespace(log_level=options.log_level))
    if settings.workers > 1:
        return serve_by_workers(settings, read_level)
    access = logs.set_up(settings.log, settings.log_level)
    loops.run(serve(settings, access, LiveLevel(settings.log_level, read_level)))
    return 0


def _health(options: argparse.Namespace) -> int:
    settings = from_flags(SidecarSettings, options, whole=True)
    return health.report(settings.host, settings.auth_port, tls=settings.tls_auth_port)


def _lint(options: argparse.Namespace) -> int:
    routes = load_policy(options.file).routes
    found = review(routes)
    for finding in found:
        print(f"{place(options.file, finding.route)} {finding.sentence}.")  # noqa: T201 - the answer of a command line
    if not found:
        print(f"{options.file}: {len(routes)} routes, nothing to mend.")  # noqa: T201 - the answer of a command line
    return 1 if found else 0


def _explain(options: argparse.Namespace) -> int:
    policy = load_policy(options.file, passes_authorization=from_flags(PolicySettings, options).pass_authorization)
    token = None
    if options.token or (options.roles, options.claims, options.age) != (None, None, None):
        token = Token(options.roles or frozenset(), dict(options.claims or ()), options.age or 0)
    said = explain(policy, options.file, options.method, options.target, host=options.host, token=token)
    print("\n".join(said.lines))  # noqa: T201 - the answer of a command line
    return 0 if said.allowed else 1


def _roles(value: str) -> frozenset[str]:
    return frozenset(role for role in value.split(",") if role)


def _age(value: str) -> float:
    try:
        age = float(value)
    except ValueError:
        age = nan
    if not 0 <= age <= _OLDEST:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 to {_OLDEST}, not {value!r}")
    return age


def _claim(value: str) -> tuple[str, Any]:
    """A value that is JSON is that, such as ``true`` or ``["a","b"]``; any other is text."""
    name, equals, said = value.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {value!r}")
    try:
        return name, msgspec.json.decode(said)
    except msgspec.DecodeError:
        return name, said
