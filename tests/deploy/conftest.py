"""What several tests of ``deploy/`` ask for: the rendered manifests, once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from sanic import Sanic

from authix.settings import load
from authix_issuer.app import build_app
from authix_issuer.settings import IssuerSettings
from tests.deploy.manifests import Object, render
from tests.programs import SidecarProgram
from tests.servers.deploy_tools import missing
from tests.servers.fixtures import require

Rendered = Callable[[str], list[Object]]


@pytest.fixture(scope="session")
def rendered() -> Rendered:
    """The objects of a kustomization."""
    require(missing())
    return cache(render)


@pytest.fixture(scope="session")
def issuer_paths() -> frozenset[str]:
    """What the issuer serves."""
    settings = load(IssuerSettings, {"AUTHIX_ISSUER": "http://127.0.0.1:8000", "AUTHIX_AUDIENCE": "demo"})
    app = build_app(settings, "paths")
    paths = frozenset(f"/{route.path}" for route in app.router.routes)
    Sanic.unregister_app(app)
    return paths


@pytest.fixture(scope="session")
def lone_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProgram]:
    """A sidecar with a policy whose issuer is away, for what it tells whoever is there."""
    folder = tmp_path_factory.mktemp("lone")
    policy = folder / "authix.toml"
    policy.write_text('[[route]]\npath = "/public"\npublic = true\n', encoding="utf-8")
    program = SidecarProgram(folder, "http://127.0.0.1:9", "http://127.0.0.1:9", AUTHIX_POLICY=str(policy))
    try:
        program.start().wait_for(f"{program.auth_url}/livez")
        yield program
    finally:
        program.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mounted"
