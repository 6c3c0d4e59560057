"""What a server needs of the machine, and the folder where installed servers stay.

Rule: nothing is installed twice. An installation is named after the hash of its recipe and appears whole or not at all;
system packages are added only when a command is missing, by root, with apt-get.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".servers"
HINT = "run `python -m tests.servers.install`"


class NotInstallable(Exception):
    """Says what is missing and how to get it."""


def home(name: str, recipe: Path) -> Path:
    """Where the server installed by the files of ``recipe`` stays."""
    digest = hashlib.sha256()
    for file in sorted(recipe.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return CACHE / f"{name}-{digest.hexdigest()[:12]}"


def install_once(place: Path, fill: Callable[[Path], None]) -> None:
    """Have ``fill`` make the content of ``place`` unless it is there."""
    if place.is_dir():
        return
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="part-") as folder:
        part = Path(folder) / place.name
        part.mkdir()
        fill(part)
        try:
            part.rename(place)
        except OSError:
            if not place.is_dir():  # another installer was faster
                raise


def run(command: Sequence[str], purpose: str, hint: str = "") -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stdout + done.stderr).strip()[-2000:]
        raise NotInstallable(f"{purpose} failed. {hint}\n{tail}")


def need(command: str, package: str) -> None:
    """Have ``command`` on PATH, from Debian's ``package`` if it must be."""
    if shutil.which(command) is not None:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NotInstallable(f"`{command}` is not on PATH. Install it (Debian: apt-get install {package}).")
    _apt_get_update()
    # RUNLEVEL=1 keeps the package from starting a server of its own
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "--yes", "--quiet"]
    run([*quiet, "--no-install-recommends", package], f"apt-get install {package}")
    if shutil.which(command) is None:
        raise NotInstallable(f"The package {package} was installed and brought no `{command}`.")


@cache
def _apt_get_update() -> None:
    run(["apt-get", "update", "--quiet"], "apt-get update")
