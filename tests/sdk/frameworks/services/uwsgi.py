"""The walk's Flask service under uWSGI: ``uwsgi.py PORT PROCESSES``; the application is loaded before it forks."""

from __future__ import annotations

import sys

import pyuwsgi  # type: ignore[import-not-found] # it ships no types

port, processes = sys.argv[1:]
pyuwsgi.run(
    [
        f"--http-socket=127.0.0.1:{port}",
        "--module=tests.sdk.frameworks.services.flask_service:app",
        f"--processes={processes}",
        "--master",
        "--enable-threads",
        "--die-on-term",
    ]
)
