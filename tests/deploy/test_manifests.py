"""The manifests fit Kubernetes, and what they say of the programs is so."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from authix.settings import load
from authix_issuer.adapters.kafka_topic import PARTITIONS, REPLICAS, lossy_settings
from authix_issuer.settings import IssuerSettings
from authix_sidecar.policy_file import load_policy
from authix_sidecar.settings import SidecarSettings
from tests.deploy.conftest import Rendered
from tests.deploy.dockerfiles import IMAGES, ROOT
from tests.deploy.manifests import (
    DEV,
    K8S,
    KUSTOMIZATIONS,
    PRODUCTION,
    WHOLE,
    containers,
    named,
    of_kind,
    programs,
    render,
    secrets,
    selects,
)
from tests.programs import SidecarProgram
from tests.servers.deploy_tools import WHEELS

SETTINGS: dict[str, type[Any]] = {"issuer": IssuerSettings, "sidecar": SidecarSettings}
CUSTOM = {  # no schema of these is at hand; test_gateways.py and the tests below look at what they name
    "PodMonitor", "PrometheusRule", "ServiceMonitor",
    "HTTPRoute", "SecurityPolicy", "ClientTrafficPolicy",
    "IngressRoute", "Middleware",
    "AuthorizationPolicy", "RequestAuthentication",
}  # fmt: skip


def test_every_object_fits_the_schemas_of_three_versions_of_kubernetes(rendered: Rendered) -> None:
    objects = {json.dumps(made): made for name in KUSTOMIZATIONS for made in rendered(name)}
    checked = [made for made in objects.values() if made["kind"] not in CUSTOM]
    assert len(checked) > 30
    script = Path(__file__).parent / "check_schemas.py"
    env = os.environ | {"PYTHONPATH": str(WHEELS)}
    done = subprocess.run(
        [sys.executable, script], input=json.dumps(checked), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", WHOLE)
def test_every_program_takes_the_settings_that_it_is_given(name: str, rendered: Rendered, folder: Path) -> None:
    ours = programs(rendered(name))
    assert ours
    for container in ours:
        settings = SETTINGS[container.program or ""]
        given = container.settings(folder)
        known = {field.metadata["name"] for field in dataclasses.fields(settings)}
        assert {setting.removesuffix("_FILE") for setting in given} <= known
        taken = load(settings, given)
        if isinstance(taken, SidecarSettings):
            own = {port for _, port in taken.ports}
            assert set(container.ports.values()) <= own
            if taken.policy:
                load_policy(taken.policy)
        else:
            assert set(container.ports.values()) == {taken.port, taken.metrics_port}


def test_the_issuers_of_every_overlay_keep_nothing_in_their_pods(rendered: Rendered, folder: Path) -> None:
    for overlay in (DEV, PRODUCTION):
        (issuer,) = programs(rendered(overlay), "issuer")
        taken = load(IssuerSettings, issuer.settings(folder))
        assert taken.users_in_mongodb
        assert taken.sessions_in_redis
        assert taken.kafka
        assert taken.secret
        # a hash in each thread takes a core
        assert taken.workers <= taken.hash_threads


def test_a_secret_is_a_file_and_its_template_names_it(rendered: Rendered, folder: Path) -> None:
    used: dict[str, set[str]] = {}
    for name in WHOLE:
        for container in containers(rendered(name)):
            volumes = {volume["name"]: volume for volume in container.pod.get("volumes", [])}
            environment = container.environment()
            assert not [setting for setting in environment if setting in SECRET_SETTINGS and name == PRODUCTION]
            paths = [*environment.values(), *(arg.partition("=")[2] for arg in container.spec.get("args", []))]
            for mount in container.spec.get("volumeMounts", []):
                if secret := volumes.get(mount["name"], {}).get("secret"):
                    at = mount["mountPath"] + "/"
                    keys = {path.removeprefix(at) for path in paths if path.startswith(at)}
                    used.setdefault(secret["secretName"], set()).update(keys)
    assert used == {name: set(content) for name, content in secrets().items()}


SECRET_SETTINGS = {
    field.metadata["name"] for cls in SETTINGS.values() for field in dataclasses.fields(cls) if field.metadata["secret"]
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_argument_is_a_command_that_the_program_has(name: str, rendered: Rendered) -> None:
    for container in programs(rendered(name)):
        assert "command" not in container.spec  # the image's entry point stays
        assert container.spec["args"] == ["serve"]


@pytest.mark.parametrize("program", IMAGES)
def test_the_programs_have_the_commands_that_images_and_manifests_run(program: str) -> None:
    for command in ("serve", "health"):
        run = [sys.executable, "-m", f"authix_{program}", command, "--help"]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", WHOLE)
def test_probes_ask_paths_that_are_there_and_mean_what_they_say(
    name: str, rendered: Rendered, issuer_paths: frozenset[str], lone_sidecar: SidecarProgram, folder: Path
) -> None:
    for container in programs(rendered(name)):
        settings = load(SETTINGS[container.program or ""], container.settings(folder))
        asked = {probe: spec["httpGet"] for probe, spec in container.probes.items()}
        assert {probe: get["path"] for probe, get in asked.items()} == {
            "startupProbe": "/readyz",
            "readinessProbe": "/readyz",
            "livenessProbe": "/livez",
        }
        assert {"/readyz", "/livez"} <= issuer_paths
        port = settings.auth_port if isinstance(settings, SidecarSettings) else settings.port
        assert {container.port(get["port"]) for get in asked.values()} == {port}


def test_every_image_of_ours_has_the_version_of_the_programs(rendered: Rendered) -> None:
    from importlib.metadata import version

    for name in WHOLE:
        for container in programs(rendered(name)):
            assert container.spec["image"].endswith(f":{version('authix')}")


def test_the_topic_job_makes_a_topic_that_the_issuer_takes(rendered: Rendered, folder: Path) -> None:
    job = named(rendered(PRODUCTION), "Job", "authix-topic")
    (container,) = [one for one in containers(rendered(PRODUCTION)) if one.workload is job]
    arguments = [argument.removeprefix("--").partition("=")[::2] for argument in container.spec["args"]]
    config = dict(value.split("=") for name, value in arguments if name == "config")
    said = dict(arguments)
    assert lossy_settings("t", config, replicas=int(said["replication-factor"]), brokers=REPLICAS) == []
    assert said["partitions"] == str(PARTITIONS)
    (issuer,) = programs(rendered(PRODUCTION), "issuer")
    taken = load(IssuerSettings, issuer.settings(folder))
    assert said["topic"] == taken.topic
    assert said["bootstrap-server"] == "$(AUTHIX_KAFKA)"
    assert container.environment()["AUTHIX_KAFKA"] == taken.kafka


def test_the_dev_overlay_runs_redis_so_that_it_keeps_what_it_acknowledged(rendered: Rendered) -> None:
    (redis,) = [one for one in containers(rendered(DEV)) if one.spec["name"] == "redis"]
    command = " ".join(redis.spec["args"])
    assert "--appendonly yes --appendfsync always --maxmemory-policy noeviction" in command
    assert redis.workload["spec"]["volumeClaimTemplates"]


def test_what_prometheus_asks_for_is_told(rendered: Rendered, lone_sidecar: SidecarProgram) -> None:
    import httpx

    objects = rendered(PRODUCTION)
    told = httpx.get(f"{lone_sidecar.auth_url}/metrics", trust_env=False).raise_for_status().text
    (rule,) = of_kind(objects, "PrometheusRule")
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    assert alerts
    for alert in alerts:
        for metric in re.findall(r"\bauthix_(?!issuer_)[a-z_]+", alert["expr"]):
            assert f"# TYPE {metric} " in told or f"# TYPE {metric.removesuffix('_total')}_total " in told, metric
        assert set(alert) == {"alert", "expr", "for", "labels", "annotations"} - ({"for"} - set(alert))
    (monitor,) = of_kind(objects, "PodMonitor")
    (sidecar,) = programs(rendered("examples/echo"), "sidecar")
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert endpoint["port"] in sidecar.ports
        assert httpx.get(f"{lone_sidecar.auth_url}{endpoint['path']}", trust_env=False).is_success


@pytest.mark.parametrize("name", [name for name in WHOLE if name != PRODUCTION])
def test_every_verifier_is_asked_for_its_metrics(name: str, rendered: Rendered) -> None:
    (monitor,) = of_kind(rendered(PRODUCTION), "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for sidecar in programs(rendered(name), "sidecar"):
        assert selects(monitor["spec"]["selector"], sidecar.workload["spec"]["template"]["metadata"]["labels"])
        assert endpoint["port"] in sidecar.ports


def test_the_issuers_metrics_are_asked_for_where_they_are(rendered: Rendered, folder: Path) -> None:
    objects = rendered(PRODUCTION)
    (issuer,) = programs(objects, "issuer")
    (monitor,) = of_kind(objects, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [made for made in of_kind(objects, "Service") if wanted <= made["metadata"]["labels"].items()]
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = [one for one in service["spec"]["ports"] if one["name"] == endpoint["port"]]
    assert issuer.port(port["targetPort"]) == load(IssuerSettings, issuer.settings(folder)).metrics_port
    assert endpoint["path"] == "/metrics"


def kustomization_of_a_service(folder: Path) -> str:
    """Renders what docs/kubernetes.md shows, for the service of the examples."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n# kustomization.yaml of the service\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    example = K8S / "examples"
    deployment, service = yaml.safe_load_all((example / "service" / "service.yaml").read_text(encoding="utf-8"))
    deployment["metadata"]["labels"]["authix-sidecar"] = "yes"
    service["spec"]["ports"][0]["targetPort"] = 8001
    folder.mkdir()
    (folder.parent / "authix").symlink_to(ROOT)
    for name, content in {
        "kustomization.yaml": shown,
        "deployment.yaml": yaml.safe_dump(deployment),
        "service.yaml": yaml.safe_dump(service),
        "authix.toml": (example / "echo" / "authix.toml").read_text(encoding="utf-8"),
    }.items():
        (folder / name).write_text(content, encoding="utf-8")
    return str(folder)


def test_the_page_shows_a_kustomization_that_puts_a_sidecar_of_the_registry_before_a_service(
    rendered: Rendered, folder: Path, tmp_path: Path
) -> None:
    objects = render(kustomization_of_a_service(tmp_path / "orders"))
    (sidecar,) = programs(objects, "sidecar")
    (in_production,) = programs(rendered(PRODUCTION), "issuer")
    assert sidecar.spec["image"] == in_production.spec["image"].replace("issuer", "sidecar")
    taken = load(SidecarSettings, sidecar.settings(folder))
    assert taken.audience == "orders"
    load_policy(taken.policy)


def test_a_service_without_its_sidecar_any_more_leaves_others_their_network_policy(
    rendered: Rendered, tmp_path: Path
) -> None:
    """Of one namespace: an object of the same name would go with it."""
    (own,) = of_kind(render(kustomization_of_a_service(tmp_path / "orders")), "NetworkPolicy")
    (other,) = of_kind(rendered("examples/echo"), "NetworkPolicy")
    assert own["metadata"]["name"] != other["metadata"]["name"]
    assert own["spec"] == other["spec"]
