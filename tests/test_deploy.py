"""Static checks of what needs Docker to run: the names in it exist in the programs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from authix.settings import load
from authix_issuer.settings import IssuerSettings
from authix_sidecar.settings import SidecarSettings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SECRETS = {"AUTHIX_SECRET": "s" * 44, "AUTHIX_FEED_TOKEN": "t" * 44}


def environment(service: str) -> dict[str, str]:
    declared = COMPOSE["services"][service]["environment"]
    return {name: SECRETS.get(name, str(value)) for name, value in declared.items()}


@pytest.mark.parametrize(("service", "settings"), [("issuer", IssuerSettings), ("sidecar", SidecarSettings)])
def test_compose_starts_each_program_with_settings_that_it_takes(service: str, settings: type[Any]) -> None:
    given = environment(service)
    known = {field.metadata["name"] for field in dataclasses.fields(settings)}
    assert set(given) <= known
    load(settings, given | {"AUTHIX_HOST": "0.0.0.0"})


def test_compose_builds_targets_that_the_dockerfile_has() -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    built = {service["build"]["target"] for service in COMPOSE["services"].values() if "build" in service}
    assert built <= targets


def test_compose_waits_only_for_services_that_say_when_they_are_healthy() -> None:
    services = COMPOSE["services"]
    waited_for = {name for service in services.values() for name in service.get("depends_on", {})}
    assert waited_for == {"mongodb", "redis", "kafka", "issuer"}
    assert all("healthcheck" in services[name] for name in ("mongodb", "redis", "kafka"))


def test_compose_runs_redis_so_that_it_keeps_what_it_acknowledged() -> None:
    command = " ".join(COMPOSE["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command
