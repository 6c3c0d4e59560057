"""The units say what systemd understands, and start the programs with settings that they take."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from authix.settings import load
from authix.workers import _KILL_AFTER
from authix_issuer.settings import IssuerSettings
from authix_sidecar.settings import SidecarSettings
from tests.deploy.dockerfiles import IMAGES, ROOT

FOLDER = ROOT / "deploy" / "systemd"
SETTINGS: dict[str, type[Any]] = {"issuer": IssuerSettings, "sidecar": SidecarSettings}
OWN = {  # what the units leave to /etc/authix/….env
    "AUTHIX_ISSUER": "https://auth.example.com",
    "AUTHIX_AUDIENCE": "example",
    "AUTHIX_UPSTREAM": "http://127.0.0.1:8003",
}


def unit(program: str) -> dict[str, list[str]]:
    """The values of each key, of all sections."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / f"authix-{program}.service").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("There is no systemd-analyze on this machine.")
    for program in IMAGES:
        text = (FOLDER / f"authix-{program}.service").read_text(encoding="utf-8")
        here = text.replace("/opt/authix/bin", str(Path(sys.executable).parent))  # it asks whether there is a program
        (tmp_path / f"authix-{program}.service").write_text(here, encoding="utf-8")
    verify = ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("program", IMAGES)
def test_a_unit_starts_its_program_with_settings_that_it_takes(program: str, tmp_path: Path) -> None:
    said = unit(program)
    assert said["ExecStart"] == [f"/opt/authix/bin/authix-{program} serve"]
    places = {"%d": "CredentialsDirectory", "%S": "StateDirectory", "%C": "CacheDirectory"}
    for name in said["LoadCredential"]:
        credential, source = name.split(":")
        assert source.startswith("/etc/authix/")
        folder = tmp_path / places["%d"]
        folder.mkdir(exist_ok=True)
        (folder / credential).write_text("s" * 44, encoding="utf-8")
    for key in ("StateDirectory", "CacheDirectory"):
        for name in said.get(key, []):
            (tmp_path / key / name).mkdir(parents=True)
    given = dict(pair.split("=", 1) for line in said["Environment"] for pair in line.split())
    given = {name: re.sub("%[dSC]", lambda m: str(tmp_path / places[m[0]]), value) for name, value in given.items()}
    known = {field.metadata["name"] for field in dataclasses.fields(SETTINGS[program])}
    assert {name.removesuffix("_FILE") for name in given} <= known
    taken = load(
        SETTINGS[program],
        OWN | given if program == "sidecar" else {k: v for k, v in (OWN | given).items() if k != "AUTHIX_UPSTREAM"},
    )
    assert taken.feed_token == "s" * 44
    for name, value in given.items():
        if name in {"AUTHIX_DATA_DIR", "AUTHIX_KEYS_CACHE"}:  # else the program could not write there
            assert Path(value).is_dir() or Path(value).parent.is_dir()


@pytest.mark.parametrize("program", IMAGES)
def test_a_unit_gives_its_program_time_to_end(program: str) -> None:
    said = unit(program)
    (within,) = said["TimeoutStopSec"]
    assert int(within) > _KILL_AFTER
    assert said["KillSignal"] == ["SIGTERM"]
    assert said["KillMode"] == ["mixed"]  # the parent of several workers tells them


@pytest.mark.parametrize("program", IMAGES)
def test_a_unit_confines_its_program(program: str) -> None:
    said = unit(program)
    for key, value in {
        "DynamicUser": "yes",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "RestrictSUIDSGID": "yes",
        "UMask": "0077",
    }.items():
        assert said[key] == [value]


def test_the_issuer_may_write_the_audit_log_where_its_page_shows_it() -> None:
    said = unit("issuer")
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"such as `(/var/log/[^`]+)`", page)
    assert Path(shown).parent == Path("/var/log", *said["LogsDirectory"])
    assert said["LogsDirectoryMode"] == ["0700"]


def test_the_page_shows_how_root_runs_commands_on_the_stores_of_the_unit() -> None:
    said = unit("issuer")
    page = (ROOT / "docs" / "administration.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```sh\n(\(set -a$.*?)^```$", page, re.MULTILINE | re.DOTALL)
    given = dict(re.findall(r"(AUTHIX_\w+)=(\S+)", shown))
    (state,), (logs,) = said["StateDirectory"], said["LogsDirectory"]
    credentials = dict(name.split(":") for name in said["LoadCredential"])
    assert given == {
        "AUTHIX_DATA_DIR": f"/var/lib/{state}",
        "AUTHIX_SECRET_FILE": credentials["secret"],
        "AUTHIX_AUDIT": f"/var/log/{logs}/commands.log",
    }
    assert f". {said['EnvironmentFile'][0]}\n" in shown
    assert said["ExecStart"][0].removesuffix(" serve") in shown
