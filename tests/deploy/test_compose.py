"""Static checks of compose.yaml, which needs Docker to run: the names in it exist in the programs."""

from __future__ import annotations

import dataclasses
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from authix.settings import load
from authix_issuer.settings import IssuerSettings
from authix_sidecar.settings import SidecarSettings
from tests.deploy.dockerfiles import FOLDER, IMAGES, ROOT, stages
from tests.deploy.manifests import DEV, K8S

TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SECRETS = {"AUTHIX_SECRET": "s" * 44, "AUTHIX_FEED_TOKEN": "t" * 44}


def environment(service: str) -> dict[str, str]:
    image = {name: value for name, value in stages(service)[-1].pairs("ENV").items() if name.startswith("AUTHIX_")}
    declared = COMPOSE["services"][service]["environment"]
    return image | {name: SECRETS.get(name, str(value)) for name, value in declared.items()}


@pytest.mark.parametrize(("service", "settings"), [("issuer", IssuerSettings), ("sidecar", SidecarSettings)])
def test_compose_starts_each_program_with_settings_that_it_takes(service: str, settings: type[Any]) -> None:
    given = environment(service)
    known = {field.metadata["name"] for field in dataclasses.fields(settings)}
    assert set(given) <= known
    load(settings, given)


@pytest.mark.parametrize("service", IMAGES)
def test_compose_builds_each_program_by_its_dockerfile_and_confines_it(service: str) -> None:
    declared = COMPOSE["services"][service]
    assert declared["build"] == {"context": ".", "dockerfile": f"deploy/docker/{service}.Dockerfile"}
    assert (FOLDER / f"{service}.Dockerfile").exists()
    assert declared["read_only"] is True
    assert declared["cap_drop"] == ["ALL"]


def test_compose_waits_only_for_services_that_say_when_they_are_healthy() -> None:
    services = COMPOSE["services"]
    waited_for = {name for service in services.values() for name in service.get("depends_on", {})}
    assert waited_for == {"mongodb", "redis", "kafka", "issuer"}
    assert all("healthcheck" in services[name] for name in ("mongodb", "redis", "kafka"))
    assert stages("issuer")[-1].all("HEALTHCHECK")


def test_compose_runs_redis_so_that_it_keeps_what_it_acknowledged() -> None:
    command = " ".join(COMPOSE["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command


def test_compose_names_mongodbs_member_so_that_its_volume_knows_it_again() -> None:
    declared = COMPOSE["services"]["mongodb"]
    assert declared["hostname"] == "mongodb"
    (*_, looked_at) = declared["healthcheck"]["test"]
    assert 'host: "mongodb:27017"' in looked_at
    assert COMPOSE["services"]["issuer"]["environment"]["AUTHIX_USERS_URL"].startswith("mongodb://mongodb:27017/")
    manifests = list(yaml.safe_load_all((K8S / DEV / "mongodb.yaml").read_text(encoding="utf-8")))
    (container,) = manifests[1]["spec"]["template"]["spec"]["containers"]
    (*_, in_dev) = container["startupProbe"]["exec"]["command"]
    assert looked_at == in_dev.replace("mongodb-0.mongodb", "mongodb")  # healthy is a primary there too


def test_the_secrets_of_compose_are_written_once_and_stay_as_long_as_the_volumes(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("There is no openssl on this machine.")
    commands = "\n".join(re.findall(r"^#   (.*)$", TEXT, re.MULTILINE)).partition("docker compose")[0]
    file = tmp_path / ".env"
    written = set()
    for _ in range(2):
        subprocess.run(["sh", "-euc", commands], cwd=tmp_path, check=True)
        written.add(file.read_text(encoding="ascii"))
    (text,) = written
    made = dict(line.split("=", 1) for line in text.splitlines())
    assert set(made) == set(re.findall(r"\$\{(\w+):", TEXT)) == set(SECRETS)
    assert len({*made.values()}) == 2
    assert min(map(len, made.values())) == 44
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
