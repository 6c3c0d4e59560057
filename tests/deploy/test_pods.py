"""Pods as an operator needs them: confined, found, and gone without a lost request."""

from __future__ import annotations

import dataclasses

import pytest

from authix.workers import _KILL_AFTER
from authix_issuer.settings import IssuerSettings
from authix_sidecar.settings import SidecarSettings
from tests.deploy.conftest import Rendered
from tests.deploy.dockerfiles import IMAGES, stages
from tests.deploy.manifests import (
    DEV,
    KUSTOMIZATIONS,
    PRODUCTION,
    WHOLE,
    Container,
    containers,
    named,
    of_kind,
    pods,
    programs,
    selects,
)

HEARD_WITHIN = 5
"""Seconds in which proxies usually hear that an endpoint is gone."""
LEAVES = {
    program: int(next(str(field.default) for field in dataclasses.fields(settings) if field.name == "drain_time"))
    for program, settings in (("issuer", IssuerSettings), ("sidecar", SidecarSettings))
}


def sleep_before_end(container: Container) -> int:
    slept: int = container.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return slept


def pod_id(container: Container, name: str) -> object:
    """What the container runs by: its own word, else its Pod's."""
    return {**container.pod.get("securityContext", {}), **container.spec.get("securityContext", {})}.get(name)


@pytest.mark.parametrize("name", WHOLE)
def test_every_pod_is_one_that_restricted_pod_security_admits(name: str, rendered: Rendered) -> None:
    for container in containers(rendered(name)):
        own = container.spec["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert pod_id(container, "runAsNonRoot") is True
        assert isinstance(user := pod_id(container, "runAsUser"), int)
        assert user > 0
        assert pod_id(container, "seccompProfile") == {"type": "RuntimeDefault"}
        assert not [key for key in ("hostNetwork", "hostPID", "hostIPC") if container.pod.get(key)]
        allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        assert all(set(volume) - {"name"} <= allowed for volume in container.pod.get("volumes", []))
        assert "hostPort" not in str(container.spec.get("ports"))
        assert container.pod["automountServiceAccountToken"] is False
        assert "memory" in container.spec["resources"]["limits"]
        assert {"cpu", "memory"} <= container.spec["resources"]["requests"].keys()


@pytest.mark.parametrize("name", WHOLE)
def test_every_program_of_ours_writes_only_where_a_volume_is(name: str, rendered: Rendered) -> None:
    for container in programs(rendered(name)):
        assert container.spec["securityContext"]["readOnlyRootFilesystem"] is True
        image = stages(container.program or "")[-1]
        (user,) = image.all("USER")
        assert str(pod_id(container, "runAsUser")) == user.text
        cache = container.environment().get("AUTHIX_KEYS_CACHE")
        if cache:
            (mount,) = [one for one in container.spec["volumeMounts"] if cache.startswith(one["mountPath"] + "/")]
            assert {"name": mount["name"], "emptyDir": {"sizeLimit": "1Mi"}} in container.pod["volumes"]


@pytest.mark.parametrize("name", WHOLE)
def test_a_pod_that_leaves_serves_until_that_is_known_and_then_has_time_to_end(name: str, rendered: Rendered) -> None:
    for container in programs(rendered(name)):
        grace = container.pod["terminationGracePeriodSeconds"]
        before = max(sleep_before_end(other) for other in containers(rendered(name)) if other.pod is container.pod)
        assert before > HEARD_WITHIN
        # several workers: their parent waits longer for what hangs
        hangs = _KILL_AFTER if container.environment().get("AUTHIX_WORKERS", "1") != "1" else 0
        assert grace > before + max(LEAVES[container.program or ""], hangs)
        assert container.workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_sidecar_begins_before_the_app_and_ends_after_it(rendered: Rendered) -> None:
    (sidecar,) = programs(rendered("examples/echo"), "sidecar")
    assert sidecar.spec in sidecar.pod["initContainers"]
    assert sidecar.spec["restartPolicy"] == "Always"
    # ready, not merely alive: only then does the kubelet start the app
    assert sidecar.spec["startupProbe"]["httpGet"]["path"] == "/readyz"
    # its own preStop would not wait for the app
    assert "lifecycle" not in sidecar.spec
    (app,) = sidecar.pod["containers"]
    assert sleep_before_end(sidecar._replace(spec=app)) > HEARD_WITHIN


@pytest.mark.parametrize("name", WHOLE)
def test_services_budgets_and_policies_mean_pods_that_are_there(name: str, rendered: Rendered) -> None:
    objects = rendered(name)
    labels = [(template["metadata"]["labels"], template["spec"]) for _, template in pods(objects)]
    for service in of_kind(objects, "Service"):
        found = [pod for have, pod in labels if service["spec"]["selector"].items() <= have.items()]
        assert found, service["metadata"]["name"]
        ports = {
            value
            for pod in found
            for container in (*pod.get("initContainers", []), *pod["containers"])
            for port in container.get("ports", [])
            for value in (port["name"], port["containerPort"])
        }
        assert {port.get("targetPort", port["port"]) for port in service["spec"]["ports"]} <= ports
    for policy in of_kind(objects, "NetworkPolicy", "PodDisruptionBudget"):
        selector = policy["spec"].get("podSelector") or policy["spec"]["selector"]
        assert [have for have, _ in labels if selects(selector, have)], policy["metadata"]["name"]
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        target = named(objects, scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]  # every apply would undo the scaler's number
        assert scaler["spec"]["minReplicas"] > 1


def test_a_network_policy_lets_in_what_a_program_listens_on_and_the_issuer_out_to_its_engines(
    rendered: Rendered,
) -> None:
    for name in WHOLE:
        objects = rendered(name)
        for container in programs(objects):
            have = container.workload["spec"]["template"]["metadata"]["labels"]
            policies = [p["spec"] for p in of_kind(objects, "NetworkPolicy") if selects(p["spec"]["podSelector"], have)]
            let_in = {port["port"] for policy in policies for rule in policy["ingress"] for port in rule["ports"]}
            assert let_in == set(container.ports.values())
    (issuer,) = of_kind(rendered(PRODUCTION), "NetworkPolicy")
    out = {port["port"] for rule in issuer["spec"]["egress"] for port in rule["ports"]}
    assert {27017, 6380, 9093, 53} <= out  # what its settings and secrets.example.yaml name, and names themselves
    assert 4318 in out  # where its image's exporter of traces goes, OTLP over HTTP


def test_engines_without_passwords_are_open_to_the_issuer_alone(rendered: Rendered) -> None:
    stores = named(rendered(DEV), "NetworkPolicy", "stores")["spec"]
    for rule in stores["ingress"]:
        assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "authix-issuer"}}}]


def test_the_namespaces_of_both_overlays_admit_only_restricted_pods(rendered: Rendered) -> None:
    for name in (DEV, PRODUCTION):
        (namespace,) = of_kind(rendered(name), "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        others = {made["metadata"].get("namespace") for made in rendered(name) if made is not namespace}
        assert others == {namespace["metadata"]["name"]}


def test_no_kustomization_makes_a_secret_that_could_replace_an_operators(rendered: Rendered) -> None:
    assert [name for name in KUSTOMIZATIONS if of_kind(rendered(name), "Secret")] == []


@pytest.mark.parametrize("program", IMAGES)
def test_production_names_images_of_a_registry_of_its_own(program: str, rendered: Rendered) -> None:
    for container in programs(rendered(PRODUCTION), program):
        assert container.spec["image"].startswith(f"registry.example.com/authix-{program}:")
