"""MongoDB's protocol: ``mongod`` where there is one, else FerretDB on SQLite.

Rule: either one answers a write with ``w: majority, j: true`` when it is on disk, and changes one document atomically.
"""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.programs import HOST
from tests.servers.packages import HINT, home, install_once, need, run
from tests.servers.server import Server

RECIPE = Path(__file__).parent / "ferretdb"
FERRETDB = home("ferretdb", RECIPE)


def install() -> str:
    if mongod := shutil.which("mongod"):
        return mongod
    install_once(FERRETDB, _build)
    return f"FerretDB in {FERRETDB}"


def _build(folder: Path) -> None:
    need("go", "golang-go")
    # neither C nor the PostgreSQL backend is needed
    build = ["go", "build", "-C", str(RECIPE), "-trimpath", "-tags", "ferretdb_no_postgresql", "-o", str(folder)]
    run(["env", "CGO_ENABLED=0", *build, "."], "go build of FerretDB", "It needs Go 1.24 or newer.")


class MongoServer(Server):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        self.url = f"mongodb://{HOST}:{self.port}"

    @classmethod
    def missing(cls) -> str | None:
        found = shutil.which("mongod") or FERRETDB.is_dir()
        return None if found else f"There is no mongod on PATH and no FerretDB: {HINT}."

    def prepare(self) -> None:
        self.data.mkdir(exist_ok=True)

    def command(self) -> Sequence[str]:
        if mongod := shutil.which("mongod"):
            return [mongod, "--bind_ip", HOST, "--port", str(self.port), "--dbpath", str(self.data)]
        return [str(FERRETDB / "ferretdb"), f"{HOST}:{self.port}", self.data.as_uri() + "/"]

    def answers(self) -> bool:
        return succeeded(self.run({"ping": 1, "$db": "admin"}))

    def run(self, command: Mapping[str, Any]) -> bytes:
        """The BSON answer to one command, by the wire protocol alone: no driver that could retry is in between."""
        body = struct.pack("<iB", 0, 0) + bson(command)  # no flags; a section of kind 0: the command
        with socket.create_connection((HOST, self.port), timeout=5) as connection, connection.makefile("rb") as answer:
            connection.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body)
            size = struct.unpack("<i", answer.read(4))[0]
            rest: bytes = answer.read(size - 4)
        if len(rest) != size - 4:
            raise ConnectionResetError("the answer ended early")
        return rest[17:]


def succeeded(answer: bytes) -> bool:
    """Whether the command was carried out without an error."""
    return b"\x01ok\x00" + struct.pack("<d", 1) in answer and b"writeErrors" not in answer


def bson(value: Mapping[str, Any]) -> bytes:
    """A document of integers, booleans, strings, lists and documents."""
    elements = b"".join(_element(name.encode() + b"\0", item) for name, item in value.items())
    return struct.pack("<i", len(elements) + 5) + elements + b"\0"


def _element(name: bytes, value: Any) -> bytes:
    match value:
        case bool():
            return b"\x08" + name + bytes([value])
        case int():
            return b"\x10" + name + struct.pack("<i", value)
        case str():
            text = value.encode() + b"\0"
            return b"\x02" + name + struct.pack("<i", len(text)) + text
        case list():
            return b"\x04" + name + bson({str(index): item for index, item in enumerate(value)})
        case dict():
            return b"\x03" + name + bson(value)
    raise TypeError(value)
