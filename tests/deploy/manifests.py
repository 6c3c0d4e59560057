"""Kubernetes' objects as kustomize renders them, and what the programs in them would be given.

Rule: what a container gets is worked out as a kubelet does it: the image's environment, then ``envFrom``, then ``env``,
with the files of its volumes laid out in a folder.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.deploy.dockerfiles import ROOT, stages
from tests.servers.deploy_tools import KUSTOMIZE

K8S = ROOT / "deploy" / "k8s"
PRODUCTION = "overlays/production"
DEV = "overlays/dev"
KUSTOMIZATIONS = sorted(
    str(file.parent.relative_to(K8S))
    for file in K8S.rglob("kustomization.yaml")
    if yaml.safe_load(file.read_text(encoding="utf-8"))["kind"] == "Kustomization"
)
WHOLE = [name for name in KUSTOMIZATIONS if name not in {"base", "examples/service", "examples/forward-auth"}]
"""Those that are applied as they are; the others are parts of them."""

Object = dict[str, Any]


def render(name: str) -> list[Object]:
    done = subprocess.run([KUSTOMIZE, "build", K8S / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # kustomize warns of what it will drop one day
    return list(yaml.safe_load_all(done.stdout))


def secrets() -> dict[str, dict[str, str]]:
    """By name, what overlays/production/secrets.example.yaml asks an operator to make, filled in."""
    text = (K8S / PRODUCTION / "secrets.example.yaml").read_text(encoding="utf-8")
    return {
        made["metadata"]["name"]: made["stringData"] for made in yaml.safe_load_all(text.replace("REPLACE", "s" * 44))
    }


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [made for made in objects if made["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [made for made in of_kind(objects, kind) if made["metadata"]["name"] == name]
    return found


class Container(NamedTuple):
    """A container with all that surrounds it."""

    spec: Object
    pod: Object
    workload: Object
    objects: list[Object]

    @property
    def program(self) -> str | None:
        """``issuer`` or ``sidecar`` for one of ours."""
        image = self.spec["image"].rsplit("/", 1)[-1].partition(":")[0]
        return image.removeprefix("authix-") if image in {"authix-issuer", "authix-sidecar"} else None

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", [])}

    def port(self, name: str | int) -> int:
        return name if isinstance(name, int) else self.ports[name]

    @property
    def probes(self) -> dict[str, Object]:
        return {
            name: self.spec[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in self.spec
        }

    def environment(self) -> dict[str, str]:
        env = stages(self.program)[-1].pairs("ENV") if self.program else {}
        for source in self.spec.get("envFrom", []):
            env |= named(self.objects, "ConfigMap", source["configMapRef"]["name"])["data"]
        return env | {one["name"]: one["value"] for one in self.spec.get("env", [])}

    def settings(self, folder: Path) -> dict[str, str]:
        """Its ``AUTHIX_…`` environment, with the files that it names beneath ``folder``."""
        volumes = {volume["name"]: volume for volume in self.pod.get("volumes", [])}
        places: dict[str, Path] = {}
        for number, mount in enumerate(self.spec.get("volumeMounts", [])):
            places[mount["mountPath"]] = place = folder / str(number)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for name, content in self._files(volumes[mount["name"]]).items():
                (place / name).write_text(content, encoding="utf-8")

        def placed(value: str) -> str:
            for mounted, place in places.items():
                if value.startswith(mounted + "/"):
                    return str(place) + value.removeprefix(mounted)
            return value

        found = self.environment().items()
        return {name: placed(value) for name, value in found if name.startswith("AUTHIX_")}

    def _files(self, volume: Object) -> dict[str, str]:
        if "secret" in volume:
            return secrets()[volume["secret"]["secretName"]]
        if "configMap" in volume:
            files: dict[str, str] = named(self.objects, "ConfigMap", volume["configMap"]["name"])["data"]
            return files
        return {}


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each workload with its Pods' template."""
    for workload in of_kind(objects, "Deployment", "StatefulSet", "Job"):
        yield workload, workload["spec"]["template"]


def containers(objects: list[Object]) -> list[Container]:
    return [
        Container(spec, template["spec"], workload, objects)
        for workload, template in pods(objects)
        for spec in (*template["spec"].get("initContainers", []), *template["spec"]["containers"])
    ]


def programs(objects: list[Object], program: str | None = None) -> list[Container]:
    """Our own containers, or those of one program."""
    ours = [container for container in containers(objects) if container.program]
    return [container for container in ours if program in {None, container.program}]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector fits."""
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        condition["operator"] == "In" and labels.get(condition["key"]) in condition["values"]
        for condition in selector.get("matchExpressions", [])
    )
