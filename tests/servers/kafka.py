"""Apache Kafka: one KRaft node that is broker and controller, or three, from its Maven Central jars.

Rule: as a careful operator sets it, at the size of a test: topics are never made by themselves, and the flush settings
are Kafka's own. Kafka leaves flushing to the kernel and to replicas, so an acknowledged record survives ``kill -9`` of
the process (the page cache is the kernel's), and on one node would not survive the machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Self

from tests.programs import HOST, free_port
from tests.servers.certificates import Certificate
from tests.servers.packages import CACHE, HINT, NotInstallable, home, install_once, need, run
from tests.servers.server import Server

RECIPE = Path(__file__).parent / "kafka_jars"
KAFKA = home("kafka", RECIPE)
CLUSTER_ID = "AuthixTestsKafkaNode0A"  # 16 bytes in base64
ARCHIVE = "classes.jsa"
SETTINGS = "server.properties"
USER = "authix"
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
USE_ARCHIVE = f"-XX:SharedArchiveFile={KAFKA / ARCHIVE}"


def install() -> str:
    need("java", "default-jre-headless")
    install_once(KAFKA, _download)
    if not (KAFKA / ARCHIVE).exists():
        _archive_classes()
    return f"Kafka in {KAFKA}"


def _download(folder: Path) -> None:
    need("mvn", "maven")
    copy = ["mvn", "--batch-mode", "--quiet", "--file", str(RECIPE / "pom.xml"), "dependency:copy-dependencies"]
    run([*copy, f"-DoutputDirectory={folder}"], "The download of Kafka by Maven")
    found = "".join(f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n" for jar in sorted(folder.iterdir()))
    if found != (RECIPE / "jars.sha256").read_text():
        (CACHE / "jars.sha256").write_text(found)
        raise NotInstallable(f"The jars are not those of {RECIPE}/jars.sha256; {CACHE}/jars.sha256 lists what came.")


def _archive_classes() -> None:
    """Let a first run write down the loaded classes: every later start takes half the time. It tests the jars, too."""
    with tempfile.TemporaryDirectory(prefix="authix-kafka-") as folder:
        part = KAFKA / f"{ARCHIVE}.{os.getpid()}"
        server = KafkaServer(Path(folder), classes=f"-XX:ArchiveClassesAtExit={part}")
        try:
            server.start().stop()
        except AssertionError as failed:
            raise NotInstallable(f"Kafka does not start.\n{failed}") from None
        finally:
            server.kill()
        part.rename(KAFKA / ARCHIVE)


class KafkaServer(Server):
    """``proxied_port`` is for a proxy: whoever comes by that port is told to come by ``proxy_port`` again.

    A Kafka client asks for the brokers' addresses and connects to those, so a proxy in front of the first port alone
    would be left at once. With ``certificate`` there is ``secure_port`` too: ``USER`` over TLS, by PLAIN or SCRAM.
    """

    def __init__(
        self,
        folder: Path,
        proxy_port: int | None = None,
        classes: str = USE_ARCHIVE,
        *,
        certificate: Certificate | None = None,
        password: str = "",
    ) -> None:
        super().__init__(folder)
        self.node_id = 1
        self.nodes = [self]
        self.controller_port = free_port()
        self.secure_port = free_port()
        self._certificate = certificate
        self._password = password
        self.bootstrap = f"{HOST}:{self.port}"
        self.proxied_port = free_port()
        self.proxy_port = proxy_port
        self._classes = classes

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("java") is None:
            return f"There is no java on PATH: {HINT}."
        return None if KAFKA.is_dir() else f"Kafka is not in {KAFKA}: {HINT}."

    def prepare(self) -> None:
        settings = self.folder / SETTINGS
        settings.write_text("".join(f"{name}={value}\n" for name, value in self._settings().items()))
        if not (self.folder / "data" / "meta.properties").exists():
            alone = ["--standalone"] if len(self.nodes) == 1 else []
            users = [f"--add-scram={name}=[name={USER},password={self._password}]" for name in SCRAM if self._password]
            run(
                self.java("kafka.tools.StorageTool", "format", *alone, *users, "-t", CLUSTER_ID, "-c", str(settings)),
                "Formatting Kafka's storage",
                "Kafka needs Java 17 or newer.",
            )

    def command(self) -> Sequence[str]:
        return self.java("kafka.Kafka", str(self.folder / SETTINGS))

    def java(self, main: str, *arguments: str, level: str = "info") -> list[str]:
        """A command that runs one of Kafka's own programs, such as ``org.apache.kafka.tools.TopicCommand``."""
        jars = ":".join(str(jar) for jar in sorted(KAFKA.glob("*.jar")))
        small = ["-Xms32m", "-Xmx384m", "-XX:+UseSerialGC"]
        quick = ["-XX:TieredStopAtLevel=1", "-Xshare:auto", self._classes]
        logs = ["-Dorg.slf4j.simpleLogger.showDateTime=true", f"-Dorg.slf4j.simpleLogger.defaultLogLevel={level}"]
        return ["java", *small, *quick, *logs, "-cp", jars, main, *arguments]

    def tool(self, main: str, *arguments: str, stdin: str = "") -> str:
        """What one of Kafka's own tools prints; an exit code other than 0 raises."""
        command = [*self.java(f"org.apache.kafka.tools.{main}", level="error"), "--bootstrap-server", self.bootstrap]
        done = subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def answers(self) -> bool:
        return self.known_brokers(self.port) == len(self.nodes)

    @classmethod
    def advertised(cls, port: int) -> int | None:
        """Where the broker tells those to connect who ask at ``port``; None until it is registered and unfenced."""
        reply = cls._metadata(port)
        brokers, _node, host_length = struct.unpack_from(">iih", reply, 4)
        found: int = struct.unpack_from(">i", reply, 14 + host_length)[0]
        return found if brokers else None

    @classmethod
    def known_brokers(cls, port: int) -> int:
        """How many brokers are registered and unfenced, as the one at ``port`` knows."""
        found: int = struct.unpack_from(">i", cls._metadata(port), 4)[0]
        return found

    @staticmethod
    def _metadata(port: int) -> bytes:
        request = struct.pack(">hhihi", 3, 1, 1, -1, 0)  # Metadata, version, correlation, no client id, no topics
        with socket.create_connection((HOST, port), timeout=5) as connection, connection.makefile("rb") as answer:
            connection.sendall(struct.pack(">i", len(request)) + request)
            size: int = struct.unpack(">i", _exactly(answer, 4))[0]
            return _exactly(answer, size)

    def _settings(self) -> dict[str, object]:
        listeners = {"DIRECT": self.port, "PROXIED": self.proxied_port, "CONTROLLER": self.controller_port}
        advertised = {"DIRECT": self.port, "PROXIED": self.proxy_port or self.proxied_port}
        protocols = dict.fromkeys(listeners, "PLAINTEXT")
        if self._certificate is not None:
            listeners["SECURE"] = advertised["SECURE"] = self.secure_port
            protocols["SECURE"] = "SASL_SSL"
        return {
            "process.roles": "broker,controller",
            "node.id": self.node_id,
            **self._quorum(),
            **self._security(),
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "DIRECT",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            # one node, so one copy of Kafka's own topics, and few threads and little memory
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "log.cleaner.dedupe.buffer.size": 4 << 20,
            "num.network.threads": 1,
            "num.io.threads": 2,
            "background.threads": 2,
            # a test does not wait for a group to gather, nor minutes for old segments to go
            "group.initial.rebalance.delay.ms": 0,
            "log.retention.check.interval.ms": 1000,
            "log.segment.delete.delay.ms": 1000,
            # a broker that was killed is believed gone soon, so that its return is not taken for a double
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3000,
        }

    def _quorum(self) -> dict[str, object]:
        if len(self.nodes) == 1:
            return {"controller.quorum.bootstrap.servers": f"{HOST}:{self.controller_port}"}
        voters = ",".join(f"{node.node_id}@{HOST}:{node.controller_port}" for node in self.nodes)
        return {"controller.quorum.voters": voters}

    def _security(self) -> dict[str, object]:
        if self._certificate is None:
            return {}
        listener, modules = "listener.name.secure", "org.apache.kafka.common.security"
        scram = {
            f"{listener}.{name.lower()}.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;"
            for name in SCRAM
        }
        return {
            f"{listener}.ssl.keystore.type": "PEM",
            f"{listener}.ssl.keystore.location": self._certificate.both,
            f"{listener}.sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM)),
            f"{listener}.plain.sasl.jaas.config": (
                f'{modules}.plain.PlainLoginModule required user_{USER}="{self._password}";'
            ),
            **scram,
        }


class KafkaCluster:
    """Three nodes, each broker and controller: two of them are a majority of both."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [KafkaServer(folder / f"node-{number}") for number in (1, 2, 3)]
        for number, node in enumerate(self.nodes, 1):
            node.node_id, node.nodes = number, self.nodes
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes)

    @classmethod
    def missing(cls) -> str | None:
        return KafkaServer.missing()

    def start(self) -> Self:
        """Start the nodes that do not run, and wait until each knows all."""
        for node in self.nodes:
            if node.process is None or node.process.poll() is not None:
                node.launch()
        for node in self.nodes:
            node.wait()
        return self

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def __exit__(self, *_: object) -> None:
        self.kill()


def _exactly(stream: BufferedReader, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ConnectionResetError("the answer ended early")
    return data
