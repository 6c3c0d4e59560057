"""The Dockerfiles say what is so; that what they build starts is test_image_build.py's to show."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from authix_issuer.argon2_build import fastest
from authix_issuer.settings import IssuerSettings
from authix_sidecar.settings import SidecarSettings
from tests.deploy.dockerfiles import FOLDER, IMAGES, LEVELS, ROOT, stages
from tests.servers.deploy_tools import HADOLINT, missing
from tests.servers.fixtures import require

SETTINGS: dict[str, type[Any]] = {"issuer": IssuerSettings, "sidecar": SidecarSettings}
LOADER = "/lib64/ld-linux-x86-64.so.2"
PORTS = {"issuer": ["8000"], "sidecar": ["8001", "8002"]}


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str) -> None:
    require(missing())
    done = subprocess.run([HADOLINT, FOLDER / f"{image}.Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_whatever_is_copied_is_there_and_is_sent_to_the_engine(image: str) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    for stage in stages(image):
        for copied in stage.all("COPY"):
            if copied.option("from") is None:
                *sources, _ = copied.words
                assert set(sources) <= sent
                assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("image", IMAGES)
def test_what_runs_is_unprivileged_and_asked_for_its_health(image: str) -> None:
    final = stages(image)[-1]
    (user,), (health,), (entry,), (command,) = (
        final.all(name) for name in ("USER", "HEALTHCHECK", "ENTRYPOINT", "CMD")
    )
    assert user.text.isdecimal()
    assert int(user.text) > 0
    assert re.search(rf'CMD \["authix-{image}", "health"\]$', health.text)
    assert entry.words in ([f"authix-{image}"], ["issuer-entrypoint"])
    assert command.words == ["serve"]
    assert final.instructions.index(user) < final.instructions.index(entry)


@pytest.mark.parametrize("image", IMAGES)
def test_the_environment_and_the_ports_are_the_programs_own(image: str) -> None:
    final = stages(image)[-1]
    fields = {field.metadata["name"]: field for field in dataclasses.fields(SETTINGS[image])}
    for name, value in final.pairs("ENV").items():
        if name.startswith("AUTHIX_"):
            fields[name].metadata["parse"](value)
    (exposed,) = final.all("EXPOSE")
    defaults = [str(field.default) for name, field in fields.items() if name.endswith("_PORT") and field.default]
    assert exposed.words == defaults == PORTS[image]


@pytest.mark.parametrize("image", IMAGES)
def test_the_labels_are_those_of_oci_and_the_version_is_the_programs(image: str) -> None:
    final = stages(image)[-1]
    labels = final.pairs("LABEL")
    assert {name.removeprefix("org.opencontainers.image.") for name in labels} == {
        "title", "description", "licenses", "version", "revision",
    }  # fmt: skip
    assert final.pairs("ARG")["VERSION"] == version(f"authix-{image}")
    project = tomllib.loads((ROOT / image / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_is_installed_but_by_its_hash(image: str) -> None:
    for stage in stages(image):
        for run in stage.all("RUN"):
            for step in re.split(r"&&|;", run.text):
                if re.search(r"\bpip install\b", step):
                    assert re.search(r"--require-hashes|--constraint requirements\.lock", step), step
                    # what is built, is built by what a lock names
                    assert re.search(
                        r"--require-hashes|--build-constraint requirements\.lock|--no-build-isolation", step
                    )
            assert not re.search(r"\b(curl|wget|apt-get|git)\b", run.text)


@pytest.mark.parametrize(
    ("supported", "folder"),
    [
        (("x86-64-v4", "x86-64-v3", "x86-64-v2"), "/opt/argon2-x86-64-v4"),
        (("x86-64-v3", "x86-64-v2"), "/opt/argon2-x86-64-v3"),
        (("x86-64-v2",), "plain"),
        ((), "plain"),
        (None, "plain"),
    ],
)
def test_the_issuers_entry_point_prefers_the_fastest_argon2_that_the_cpu_can_run(
    supported: tuple[str, ...] | None, folder: str, tmp_path: Path
) -> None:
    loader = tmp_path / "ld.so"
    if supported is not None:
        levels = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
        told = [f"  {level}{' (supported, searched)' * (level in supported)}" for level in levels]
        loader.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(["Usage:", *told, "END", ""]), encoding="utf-8")
        loader.chmod(0o755)
    assert _prefers(str(loader), tmp_path) == folder


@pytest.mark.parametrize(("given", "found"), [("/opt/argon2-x86-64-v3", "/opt/argon2-x86-64-v3"), ("", "plain")])
def test_an_operator_may_choose_another(given: str, found: str, tmp_path: Path) -> None:
    loader = tmp_path / "ld.so"
    loader.write_text("#!/bin/sh\necho '  x86-64-v4 (supported, searched)'\n", encoding="utf-8")
    loader.chmod(0o755)
    assert _prefers(str(loader), tmp_path, PYTHONPATH=given) == found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have no such levels")
def test_the_entry_point_reads_what_this_systems_loader_says(tmp_path: Path) -> None:
    level = LEVELS.get(fastest())
    assert _prefers(LOADER, tmp_path) == (f"/opt/argon2-{level}" if level else "plain")


def _prefers(loader: str, folder: Path, **env: str) -> str:
    """The folder that comes first for Python, with this loader for the system's."""
    entry = (FOLDER / "issuer-entrypoint.sh").read_text(encoding="utf-8")
    assert LOADER in entry
    program = folder / "authix-issuer"
    program.write_text('#!/bin/sh\necho "$1 ${PYTHONPATH:-plain}"\n', encoding="utf-8")
    program.chmod(0o755)
    env["PATH"] = f"{folder}:{os.environ['PATH']}"
    run = ["sh", "-c", entry.replace(LOADER, loader), "entry", "serve"]
    command, found = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert command == "serve"
    return found
