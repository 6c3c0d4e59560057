"""Settings from a mounted folder, ``config``, and the log level that changes while the program runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from authix import SettingsError, VerifierSettings
from authix.settings import load
from tests.programs import DEADLINE, IssuerProgram, SidecarProgram, eventually

SECRET = "s3cret-s3cret-s3cret-s3cret-s3cret"
NEEDED = {"AUTHIX_ISSUER": "https://auth.example.com", "AUTHIX_AUDIENCE": "orders"}


@pytest.fixture
def mounted(tmp_path: Path) -> Callable[..., Path]:
    """``mounted(NAME="text")``: a folder as Kubernetes mounts one, each file a link into a folder that is a link."""

    def mount(**files: str) -> Path:
        folder = tmp_path / "settings"
        real = folder / "..2026_01"
        real.mkdir(parents=True)
        (folder / "..data").symlink_to(real.name)
        for name, text in files.items():
            (real / name).write_text(f"{text}\n")
            (folder / name).symlink_to(f"..data/{name}")
        return folder

    return mount


Mount = Callable[..., Path]


def run(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTHIX_")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=kept | env,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


class TestFolder:
    def test_it_gives_what_is_given_nowhere_else(self, mounted: Mount, tmp_path: Path) -> None:
        folder = mounted(
            **NEEDED, AUTHIX_FEED_TOKEN=SECRET, AUTHIX_LEEWAY="7", AUTHIX_STALE_AFTER="8", AUTHIX_WHEN_STALE=""
        )
        file = tmp_path / "stale"
        file.write_text("9")
        environ = {"AUTHIX_SETTINGS_DIR": str(folder), "AUTHIX_STALE_AFTER_FILE": str(file), "AUTHIX_AUDIENCE": "env"}
        settings = load(VerifierSettings, environ, {"leeway": 3})
        assert (settings.issuer, settings.feed_token) == (NEEDED["AUTHIX_ISSUER"], SECRET)
        assert (settings.leeway, settings.audience, settings.stale_after) == (3, "env", 9)
        assert settings.when_stale.value == "reject"

    def test_a_value_that_is_wrong_is_told_as_any_other(self, mounted: Mount) -> None:
        folder = mounted(**NEEDED, AUTHIX_LEEWAY="long")
        with pytest.raises(SettingsError, match=r"^AUTHIX_LEEWAY must be a whole number from"):
            load(VerifierSettings, {"AUTHIX_SETTINGS_DIR": str(folder)})

    def test_one_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        environ = NEEDED | {"AUTHIX_SETTINGS_DIR": str(tmp_path / "none")}
        with pytest.raises(SettingsError, match=r"AUTHIX_SETTINGS_DIR=.*none is no folder that can be read"):
            load(VerifierSettings, environ)

    def test_a_program_refuses_a_name_that_is_none_of_its_settings(self, mounted: Mount) -> None:
        folder = mounted(**NEEDED, AUTHIX_HASH_PROFLE="owasp", PATH="ignored", README="ignored")
        for command in ("config", "doctor"):
            answer = run("authix_issuer", command, AUTHIX_SETTINGS_DIR=str(folder))
            assert answer.returncode == 2
            assert answer.stderr == (
                f"AUTHIX_HASH_PROFLE in AUTHIX_SETTINGS_DIR={folder} is no setting of this program: "
                "rename it to AUTHIX_HASH_PROFILE if that is meant, or remove it.\n"
            )

    def test_a_service_may_keep_what_it_likes_there(self, mounted: Mount) -> None:
        folder = mounted(**NEEDED, AUTHIX_UPSTREAM="http://127.0.0.1:8003")
        assert load(VerifierSettings, {"AUTHIX_SETTINGS_DIR": str(folder)}).audience == "orders"


class TestConfig:
    def settings(self, mounted: Mount, tmp_path: Path) -> Mapping[str, str]:
        (tmp_path / "token").write_text(SECRET)
        folder = mounted(AUTHIX_AUDIENCE="orders", AUTHIX_LOG="json")
        return {
            "AUTHIX_SETTINGS_DIR": str(folder),
            "AUTHIX_ISSUER": "https://auth.example.com",
            "AUTHIX_FEED_TOKEN_FILE": str(tmp_path / "token"),
            "AUTHIX_UPSTREAM": "http://127.0.0.1:8003",
        }

    @pytest.mark.parametrize("program", ["authix_issuer", "authix_sidecar"])
    def test_it_prints_every_setting_and_its_source_but_no_secret(
        self, mounted: Mount, tmp_path: Path, program: str
    ) -> None:
        env = self.settings(mounted, tmp_path)
        answer = run(program, "config", "--workers", "1", **env)
        assert (answer.returncode, answer.stderr) == (0, "")
        shown = {line.split()[0]: line.split()[1] for line in answer.stdout.splitlines()}
        assert shown["AUTHIX_ISSUER=https://auth.example.com"] == "environment"
        assert shown["AUTHIX_AUDIENCE=orders"] == f"{env['AUTHIX_SETTINGS_DIR']}/AUTHIX_AUDIENCE"
        assert shown["AUTHIX_FEED_TOKEN=(secret)"] == env["AUTHIX_FEED_TOKEN_FILE"]
        assert shown["AUTHIX_WORKERS=1"] == "flag"
        assert shown["AUTHIX_LOG_LEVEL=info"] == "default"
        as_json = run(program, "config", "--json", **env)
        found: dict[str, Any] = {entry["name"]: entry for entry in json.loads(as_json.stdout)}
        assert found["AUTHIX_FEED_TOKEN"] == {
            "name": "AUTHIX_FEED_TOKEN",
            "value": None,
            "source": env["AUTHIX_FEED_TOKEN_FILE"],
        }
        assert len(found) == len(shown)
        assert SECRET not in answer.stdout + as_json.stdout

    @pytest.mark.parametrize("module", ["authix_issuer", "authix_sidecar"])
    def test_what_is_refused_for_a_password_is_not_printed(self, module: str) -> None:
        answer = run(module, "config", **NEEDED | {"AUTHIX_ISSUER": "http://ann:hunter2@auth.example.com"})
        assert answer.returncode == 2
        assert "AUTHIX_ISSUER=(secret)" in answer.stdout
        assert "hunter2" not in answer.stdout + answer.stderr

    def test_it_says_what_is_wrong_beside_what_there_is(self) -> None:
        answer = run("authix_issuer", "config", AUTHIX_ISSUER="nowhere", AUTHIX_SECRET=SECRET, AUTHIX_SECRET_FILE="/x")
        assert answer.returncode == 2
        assert "AUTHIX_ISSUER=nowhere" in answer.stdout
        problems = answer.stderr.splitlines()
        assert [problem.split()[0] for problem in problems] == ["AUTHIX_ISSUER", "AUTHIX_AUDIENCE", "AUTHIX_SECRET"]
        assert SECRET not in answer.stdout + answer.stderr


def write(folder: Path, level: str) -> None:
    new = folder / ".new"
    new.write_text(level)
    new.replace(folder / "AUTHIX_LOG_LEVEL")


class TestLevel:
    def test_of_an_issuer_it_is_read_again_at_a_hangup_and_a_wrong_one_changes_nothing(
        self, start_issuer: Callable[..., IssuerProgram], mounted: Mount
    ) -> None:
        folder = mounted(AUTHIX_LOG_LEVEL="warning")
        issuer = start_issuer(AUTHIX_SETTINGS_DIR=str(folder))
        assert issuer.process is not None
        assert issuer.output() == "", "at warning a good start has nothing to tell"
        write(folder, "debug")
        issuer.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the log level is debug now" in issuer.output(), "the level is taken up")
        httpx.get(f"{issuer.url}/livez", trust_env=False)
        eventually(lambda: "GET /livez: ok" in issuer.output(), "decisions are told")
        write(folder, "loud")
        issuer.process.send_signal(signal.SIGHUP)
        sentence = (
            "AUTHIX_LOG_LEVEL must be one of debug, info, warning, error, not 'loud'. The level from before stays"
        )
        eventually(lambda: sentence in issuer.output(), "the wrong one is told")
        write(folder, "error")
        eventually(lambda: "the log level is error now" in issuer.output(), "the file is looked at without a signal")
        before = issuer.output()
        assert httpx.get(f"{issuer.url}/livez", trust_env=False).status_code == 200
        assert issuer.stop() == 0
        assert issuer.output() == before

    def test_of_a_sidecar_it_is_taken_up_by_each_worker(
        self,
        shared_issuer: IssuerProgram,
        mounted: Mount,
        tmp_path: Path,
        programs: Callable[[SidecarProgram], SidecarProgram],
    ) -> None:
        folder = mounted(AUTHIX_LOG_LEVEL="warning")
        sidecar = SidecarProgram(
            tmp_path, shared_issuer.url, "http://127.0.0.1:1", AUTHIX_SETTINGS_DIR=str(folder), AUTHIX_WORKERS="2"
        )
        programs(sidecar).start()
        sidecar.ready()
        assert httpx.get(sidecar.proxy_url, trust_env=False).status_code == 401
        assert "401" not in sidecar.output()
        write(folder, "debug")
        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGHUP)
        eventually(lambda: sidecar.output().count("the log level is debug now") == 3, "the parent's and two workers'")
        answer = httpx.get(f"{sidecar.proxy_url}/orders", headers={"X-Request-Id": "seen-1"}, trust_env=False)
        assert answer.headers["x-request-id"] == "seen-1"
        eventually(lambda: sidecar.output().count("request_id=seen-1") == 2, "the decision's line and the request's")
        (decision,) = [line for line in sidecar.output().splitlines() if "[debug" in line and "seen-1" in line]
        assert "GET /orders: token_missing (" in decision
