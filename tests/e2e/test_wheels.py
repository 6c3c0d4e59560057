"""Each distribution alone, as pip would install it: one workspace environment hides a missing dependency."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("sdk", "issuer", "sidecar")
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if module.name not in sys.argv[2:] and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("imported")
"""


OPTIONAL = (
    "authix.aiohttp",
    "authix.django",
    "authix.fastapi",
    "authix.flask",
    "authix.grpc",
    "authix.kafka_connection",
    "authix.kafka_feed",
    "authix.metrics",
    "authix.rest_framework",
    "authix.sanic",
)
"""Modules for those who have something else installed."""


def run(*command: str | Path) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHON"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, cwd=ROOT, env=env)
    if "client error (Connect)" in done.stderr and os.environ.get("AUTHIX_TEST_SERVERS") != "required":
        pytest.skip("the package registry can't be reached, and this asks it for what pip would install")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for part in PARTS:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT / part, check=True, capture_output=True, timeout=60)
    return folder


@pytest.mark.parametrize(
    ("distribution", "package", "extras"),
    [
        ("authix", "authix", OPTIONAL),
        ("authix-issuer", "authix_issuer", ()),
        ("authix-sidecar", "authix_sidecar", ()),
    ],
)
def test_a_wheel_brings_all_that_its_modules_import(
    wheels: Path, tmp_path: Path, distribution: str, package: str, extras: tuple[str, ...]
) -> None:
    uv = Path(sys.executable).with_name("uv")
    environment = tmp_path / "venv"
    run(uv, "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    constraints = tmp_path / "versions.txt"
    constraints.write_text(run(uv, "pip", "freeze", "--exclude-editable", "--python", sys.executable), encoding="utf-8")
    install = (uv, "pip", "install", "--quiet", "--python", python, "--find-links", wheels)
    run(*install, "--constraint", constraints, distribution)
    assert run(python, "-I", "-c", IMPORT_ALL, package, *extras) == "imported\n"


def test_the_wheel_of_the_sdk_brings_its_types_and_its_pytest_plugin(wheels: Path) -> None:
    (wheel,) = wheels.glob("authix-*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        (points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert "pytest_authix" in files.read(points).decode()
    assert {"authix/py.typed", "pytest_authix.py"} <= names
