"""Dockerfiles as data: their stages and instructions, as far as ours go."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from authix_issuer.argon2_build import Build

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
IMAGES = ("issuer", "sidecar")
LEVELS = {Build.AVX2: "x86-64-v3", Build.AVX512: "x86-64-v4"}
"""What the issuer's image has Argon2 built for, beside the plain one."""


class Instruction(NamedTuple):
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of the exec form (a JSON list) or of the plain one, without options such as ``--chmod``."""
        plain = re.sub(r"^(--\S+\s+)+", "", self.text)
        return json.loads(plain) if plain.startswith("[") else shlex.split(plain)

    def option(self, name: str) -> str | None:
        found = re.search(rf"--{name}=(\S+)", self.text)
        return found[1] if found else None


class Stage(NamedTuple):
    base: str
    instructions: list[Instruction]

    def all(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]

    def pairs(self, name: str) -> dict[str, str]:
        """What ``ENV``, ``ARG`` or ``LABEL`` set."""
        words = (word.split("=", 1) for instruction in self.all(name) for word in instruction.words)
        return {pair[0]: pair[1] for pair in words if len(pair) == 2}


def stages(image: str) -> list[Stage]:
    text = (FOLDER / f"{image}.Dockerfile").read_text(encoding="utf-8")
    whole = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found: list[Stage] = []
    for line in filter(None, map(str.strip, whole.splitlines())):
        name, rest = line.split(None, 1)
        if name == "FROM":
            found.append(Stage(rest.split()[0], []))
        else:
            found[-1].instructions.append(Instruction(name, rest.strip()))
    return found
