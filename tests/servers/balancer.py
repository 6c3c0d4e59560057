"""HAProxy as a balancer that takes turns, as Kubernetes leads to Pods: by a Service, and by an ingress before it.

Rule: nothing is sent twice. A Service chooses by connection: a new one goes to whoever is ready, one that is open stays
where it is, whatever is said of the instance since. An ingress chooses by request and keeps connections to the
instances. Ready is who answers 200 at ``/readyz`` and is not leaving.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.programs import HOST, eventually, free_port
from tests.servers.packages import HINT
from tests.servers.server import Server

_BEGIN = """\
global
  stats socket ipv4@{host}:{control} level admin
defaults
  balance roundrobin
  retries 0
  no option redispatch
  timeout connect 5s
  timeout client 10m
  timeout server 10m
  timeout check 4s
  option httpchk
  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host balancer
"""
_KINDS = {"service": "tcp", "ingress": "http"}


class Instance(NamedTuple):
    port: int
    probed_port: int


class Balancer(Server):
    """``fleets`` names the instances of each fleet."""

    def __init__(self, folder: Path, fleets: Mapping[str, Mapping[str, Instance]]) -> None:
        super().__init__(folder)
        self._fleets = fleets
        self._ports = {(fleet, kind): free_port() for fleet in fleets for kind in _KINDS}

    @classmethod
    def missing(cls) -> str | None:
        return None if cls._program() else f"There is no haproxy: {HINT}."

    @staticmethod
    def _program() -> str | None:
        return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")  # not on every user's PATH

    def url(self, fleet: str, kind: str = "service") -> str:
        return f"http://{HOST}:{self._ports[fleet, kind]}"

    def prepare(self) -> None:
        lines = [_BEGIN.format(host=HOST, control=self.port)]
        for (fleet, kind), port in self._ports.items():
            lines.append(f"listen {fleet}-{kind}\n  mode {_KINDS[kind]}\n  bind {HOST}:{port}\n")
            for name, instance in self._fleets[fleet].items():
                probe = f"check port {instance.probed_port} inter 500ms rise 1 fall 2"
                lines.append(f"  server {name} {HOST}:{instance.port} {probe}\n")
        (self.folder / "haproxy.cfg").write_text("".join(lines), encoding="utf-8")

    def command(self) -> Sequence[str]:
        return [str(self._program()), "-db", "-f", "haproxy.cfg"]

    def answers(self) -> bool:
        return "# " in self._say("show servers state")

    def leaves(self, fleet: str, name: str) -> None:
        """From now on nobody new comes to the instance."""
        self._set(fleet, name, "drain")

    def enters(self, fleet: str, name: str) -> None:
        """It takes part again once its probe answers; returns when it does."""
        self._set(fleet, name, "ready")
        eventually(lambda: self.takes_part(fleet, name), f"{fleet} {name} is probed as ready")

    def takes_part(self, fleet: str, name: str) -> bool:
        return all(self._status(f"{fleet}-{kind}", name) == "UP" for kind in _KINDS)

    def _set(self, fleet: str, name: str, state: str) -> None:
        for kind in _KINDS:
            said = self._say(f"set server {fleet}-{kind}/{name} state {state}").strip()
            assert not said, said

    def _status(self, backend: str, name: str) -> str:
        head, *rows = (line.split(",") for line in self._say("show stat").splitlines() if line)
        status = head.index("status")
        (found,) = [row[status] for row in rows if row[:2] == [backend, name]]
        return found

    def _say(self, command: str) -> str:
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall(f"{command}\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return answer.decode()
