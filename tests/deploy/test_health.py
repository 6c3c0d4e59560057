"""The health commands, which the images name: what a program says of itself becomes an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from authix_issuer.cli import main as issuer_command
from authix_sidecar.cli import main as sidecar_command
from tests.conftest import StartSidecar
from tests.programs import HOST, IssuerProgram, Program, SidecarProgram
from tests.servers.certificates import Authority


def as_in_its_container(program: Program, monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    for name, value in {**program.env, **more}.items():
        if name.startswith("AUTHIX_"):
            monkeypatch.setenv(name, value)


def test_the_issuers_health_is_its_readiness(
    issuer: IssuerProgram, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_in_its_container(issuer, monkeypatch)
    assert issuer_command(["health"]) == 0
    # where it listens everywhere, it is asked here
    assert issuer_command(["health", "--host", "0.0.0.0"]) == 2
    assert "AUTHIX_FEED_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("AUTHIX_FEED_TOKEN", "t" * 44)
    assert issuer_command(["health", "--host", "0.0.0.0"]) == 0
    issuer.kill()
    assert issuer_command(["health"]) == 1
    assert f"{HOST} port {issuer.port} does not answer (ConnectionRefusedError)" in capsys.readouterr().out


def test_a_sidecar_that_can_judge_nothing_is_not_healthy_and_says_why(
    lone_sidecar: SidecarProgram, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_in_its_container(lone_sidecar, monkeypatch)
    assert sidecar_command(["health"]) == 1
    assert "keys_missing" in capsys.readouterr().out


def test_a_sidecars_health_is_asked_by_tls_where_its_auth_port_has_it(
    issuer: IssuerProgram, start_sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Authority(tmp_path).issue("sidecar")
    tls = {"AUTHIX_TLS_CERT": str(made.certificate), "AUTHIX_TLS_KEY": str(made.key), "AUTHIX_TLS_AUTH_PORT": "yes"}
    sidecar = start_sidecar(issuer.url, "http://127.0.0.1:9", **tls)
    as_in_its_container(sidecar, monkeypatch)
    from tests.programs import eventually

    eventually(lambda: sidecar_command(["health"]) == 0, sidecar.output)
