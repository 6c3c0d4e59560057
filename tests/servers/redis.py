"""Redis: one server, or a cluster of three.

Rule: as durable as the issuer asks for. ``appendfsync always``: a write is answered when it is on disk; no RDB
snapshots, so the append-only file is all there is; ``noeviction``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from tests.programs import HOST, eventually, free_port
from tests.servers.certificates import Certificate
from tests.servers.packages import HINT, need
from tests.servers.server import START_WITHIN, Server

SLOTS = 16384


def install() -> str:
    need("redis-server", "redis-server")
    need("redis-cli", "redis-tools")
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return version.split()[2].removeprefix("v=")


class RedisServer(Server):
    """With ``certificate`` it listens on ``tls_port`` too."""

    def __init__(self, folder: Path, *options: str, password: str = "", certificate: Certificate | None = None) -> None:
        super().__init__(folder)
        self.options = (*options, *self._secured(password, certificate))
        self.url = f"redis://{HOST}:{self.port}/0"
        self._password = password

    def _secured(self, password: str, certificate: Certificate | None) -> Iterator[str]:
        if password:
            yield from ("--requirepass", password)
        if certificate is not None:
            self.tls_port = free_port()
            yield from ("--tls-port", str(self.tls_port), "--tls-auth-clients", "no")
            yield from ("--tls-cert-file", str(certificate.certificate), "--tls-key-file", str(certificate.key))

    @classmethod
    def missing(cls) -> str | None:
        found = shutil.which("redis-server") and shutil.which("redis-cli")
        return None if found else f"There is no redis-server on PATH: {HINT}."

    def command(self) -> Sequence[str]:
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction")
        place = ("--bind", HOST, "--port", str(self.port), "--dir", str(self.folder))
        return ["redis-server", *place, *durable, *self.options]

    def answers(self) -> bool:
        try:
            return self.cli("PING") == "PONG"  # LOADING while it reads the append-only file
        except subprocess.SubprocessError:
            return False

    def cli(self, *command: str) -> str:
        """What redis-cli prints for ``command``; an error answer raises."""
        call = ["redis-cli", "-e", "-h", HOST, "-p", str(self.port), *command]
        env = os.environ | ({"REDISCLI_AUTH": self._password} if self._password else {})
        return subprocess.run(call, env=env, capture_output=True, text=True, check=True, timeout=5).stdout.rstrip("\n")


class RedisCluster:
    """Three masters that share the slots; no replicas, so a dead node's slots wait for its return."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [self._node(folder / f"node-{number}") for number in (1, 2, 3)]
        self.url = self.nodes[0].url

    @staticmethod
    def _node(folder: Path) -> RedisServer:
        # Redis puts the bus on port + 10,000 by itself, which a high free port cannot have
        bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
        return RedisServer(folder, *bus)

    @classmethod
    def missing(cls) -> str | None:
        return RedisServer.missing()

    def start(self) -> Self:
        """Start every node; the first time, join them and share out the slots."""
        for node in self.nodes:
            node.start()
        if "cluster_slots_assigned:0" in self.nodes[0].cli("CLUSTER", "INFO").split():
            self._join()
        return self.wait_until_ok()

    def wait_until_ok(self) -> Self:
        """Wait until every node serves the whole cluster."""
        eventually(lambda: all(map(_is_ok, self.nodes)), "cluster_state:ok on every node", START_WITHIN)
        return self

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _join(self) -> None:
        share = SLOTS // len(self.nodes) + 1
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            node.cli("CLUSTER", "ADDSLOTSRANGE", str(share * number), str(min(share * (number + 1), SLOTS) - 1))
            if node is not first:
                bus = first.options[first.options.index("--cluster-port") + 1]
                node.cli("CLUSTER", "MEET", HOST, str(first.port), bus)


def _is_ok(node: RedisServer) -> bool:
    info = node.cli("CLUSTER", "INFO").split()
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info
