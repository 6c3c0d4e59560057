"""Other languages' JWT libraries as programs, and Project Wycheproof's test vectors.

Rule: of pinned versions and built once, where ``tests.servers`` keeps its servers. A library's program is told where
the key set is, the issuer, the audience and the algorithm; it reads tokens, one a line, and answers each with one line
of JSON: its claims, or why it was refused. A client's program is told the issuer and the audience and finds out the
rest; its lines say what to do with a token.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.packages import HINT, home, install_once, need, run

HERE = Path(__file__).parent


class Installed(ABC):
    """Something that is built by the files of a folder here, from packages of its language."""

    recipe: Path
    runs_with: str | None = None
    """The command that must be there whenever it is used."""

    @property
    def place(self) -> Path:
        return home(self.recipe.name, self.recipe)

    def install(self) -> str:
        install_once(self.place, self.build)
        return str(self.place)

    def missing(self) -> str | None:
        if self.runs_with is not None and shutil.which(self.runs_with) is None:
            return f"`{self.runs_with}` is not on PATH: {HINT}."
        return None if self.place.is_dir() else f"{self.recipe.name}'s program is not built: {HINT}."

    @abstractmethod
    def build(self, folder: Path) -> None: ...


class Library(Installed):
    """A JWT library in a small program."""

    @abstractmethod
    def command(self) -> Sequence[str]: ...

    def verify(self, tokens: Sequence[str], *, keys: str, issuer: str, audience: str, algorithm: str) -> list[Any]:
        """For each token ``{"claims": …}`` or ``{"refused": …}``."""
        done = subprocess.run(
            [*self.command(), keys, issuer, audience, algorithm],
            input="".join(f"{token}\n" for token in tokens),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


class NodePackages(Installed):
    recipe = HERE / "node"
    runs_with = "node"

    def build(self, folder: Path) -> None:
        need("node", "nodejs")
        need("npm", "npm")
        shutil.copytree(self.recipe, folder, dirs_exist_ok=True)
        run(
            ["npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"],
            "npm ci of jose and openid-client",
        )


class Jose(NodePackages, Library):
    """Node's jose."""

    def command(self) -> Sequence[str]:
        return ["node", str(self.place / "verify.mjs")]


class GoProgram(Installed):
    """A program in Go, built of what its recipe pins."""

    def build(self, folder: Path) -> None:
        build_go(self.recipe, folder)

    def command(self) -> Sequence[str]:
        return [str(self.place / "verify")]


class GolangJwt(GoProgram, Library):
    """Go's golang-jwt."""

    recipe = HERE / "go"


class JavaProgram(Installed):
    """A program in Java, beside what its recipe pins."""

    runs_with = "java"

    def build(self, folder: Path) -> None:
        need("javac", "default-jdk-headless")
        need("mvn", "maven")
        copy = ["mvn", "--batch-mode", "--quiet", "--file", str(self.recipe / "pom.xml")]
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        run([*copy, *goal], f"The download of {self.recipe.name}'s packages by Maven")
        run(
            ["javac", "-d", str(folder), "-cp", f"{folder}/*", str(self.recipe / "Verify.java")],
            f"javac of {self.recipe.name}'s program",
            "It needs Java 17 or newer.",
        )

    def command(self) -> Sequence[str]:
        return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{self.place}:{self.place}/*", "Verify"]


class Jjwt(JavaProgram, Library):
    """Java's jjwt."""

    recipe = HERE / "java"


class Client(Installed):
    """A client that configures itself from the issuer's URL."""

    @abstractmethod
    def command(self) -> Sequence[str]: ...

    def do(self, lines: Sequence[str], *, issuer: str, audience: str, secret: str) -> list[Any]:
        """For each line, such as ``verify TOKEN``, what came of it."""
        done = subprocess.run(
            [*self.command(), issuer, audience, secret],
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


class OpenidClient(NodePackages, Client):
    """Node's openid-client."""

    def command(self) -> Sequence[str]:
        return ["node", str(self.place / "discover.mjs")]


class GoOidc(GoProgram, Client):
    """Go's go-oidc, which oauth2-proxy uses. It only verifies."""

    recipe = HERE / "go_oidc"


class SpringSecurity(JavaProgram, Client):
    """Spring Security. It knows no EdDSA."""

    recipe = HERE / "spring"


class Wycheproof(Installed):
    """Test vectors of signatures and keys, each with what a right implementation makes of it."""

    recipe = HERE / "vectors"

    def build(self, folder: Path) -> None:
        need("go", "golang-go")
        dump = ["go", "run", "-C", str(self.recipe), "-trimpath", ".", str(folder)]
        run(["env", "CGO_ENABLED=0", *dump], "go run of the vectors' module", "It needs Go 1.26.4 or newer.")

    def groups(self, name: str) -> list[dict[str, Any]]:
        """The test groups of one file."""
        found: list[dict[str, Any]] = json.loads((self.place / f"{name}_test.json").read_bytes())["testGroups"]
        return found


def build_go(recipe: Path, folder: Path) -> None:
    need("go", "golang-go")
    build = ["go", "build", "-C", str(recipe), "-trimpath", "-o", str(folder / "verify"), "."]
    run(["env", "CGO_ENABLED=0", *build], f"go build of {recipe.name}'s program", "It needs Go 1.25 or newer.")


LIBRARIES: tuple[Library, ...] = (Jose(), GolangJwt(), Jjwt())
CLIENTS: tuple[Client, ...] = (OpenidClient(), GoOidc())
SPRING = SpringSecurity()
VECTORS = Wycheproof()
