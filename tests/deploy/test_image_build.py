"""What the images would contain starts: their build steps, run in a plain folder.

Rule: there need be no container engine. The build stage's steps run as they stand, only with ``/build``, ``/tools`` and
``/opt`` beneath a folder of the test and with this Python for the image's. What they made then runs as in the image: by
its entry point and environment, and where the system allows it, on a read-only file system.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from authix_issuer.argon2_build import Build, fastest
from tests.deploy.dockerfiles import IMAGES, LEVELS, ROOT, stages
from tests.programs import HOST, free_ports

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

GIVEN = {"AUTHIX_ISSUER": "http://127.0.0.1:8000", "AUTHIX_AUDIENCE": "demo", "AUTHIX_FEED_TOKEN": "t" * 44}


class Image:
    """What the Dockerfile of ``name`` makes, beneath ``folder``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        build, final = stages(name)
        # this system's Python comes first, as the image's own would
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AUTHIX_", "UV_", "PIP_"))}
        self._work = folder
        for instruction in build.instructions:
            match instruction.name:
                case "WORKDIR":
                    self._work = Path(self.mapped(instruction.words[0]))
                    self._work.mkdir(parents=True, exist_ok=True)
                    (folder / "opt").mkdir(exist_ok=True)
                case "COPY":
                    *sources, target = instruction.words
                    for source in sources:
                        self._copy(ROOT / source, target)
                case "RUN":
                    run = ["sh", "-eu", "-c", self.mapped(instruction.text)]
                    done = subprocess.run(
                        run,
                        env=env,
                        cwd=self._work,
                        stdin=subprocess.DEVNULL,
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    assert done.returncode == 0, done.stdout + done.stderr
        for instruction in final.all("COPY"):
            source, target = (self.mapped(word) for word in instruction.words)
            if instruction.option("from"):
                assert Path(source).is_dir(), source
            else:
                Path(target).write_text(self.mapped((ROOT / source).read_text(encoding="utf-8")), encoding="utf-8")
                Path(target).chmod(0o555)
        self.env = {
            name: self.mapped(value).replace("$PATH", env["PATH"]) for name, value in final.pairs("ENV").items()
        }
        self.data = Path(self.env.get("AUTHIX_DATA_DIR", folder / "unused"))
        self.data.mkdir(parents=True)
        (entry,) = final.all("ENTRYPOINT")
        (command,) = final.all("CMD")
        self.serve = [*entry.words, *command.words]

    def mapped(self, text: str) -> str:
        return re.sub(r"(?<![\w./])/(?=(build|tools|opt|var)\b)", f"{self.folder}/", text)

    def _copy(self, source: Path, target: str) -> None:
        place = self._work / target
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place)

    def start(self, settings: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        command = [str(self.folder / "opt/authix/bin" / self.serve[0]), *self.serve[1:]]
        with log.open("wb") as output:
            return subprocess.Popen(
                self.read_only(command), env=self.env | settings, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def read_only(self, command: Sequence[str]) -> Sequence[str]:
        """With everything mounted read-only but the volume, where mounting is allowed."""
        mounts = (
            "mount --bind $0 $0 && mount -o bind,remount,ro $0 && mount -o bind,remount,ro / "
            '&& mount -t tmpfs tmpfs $1 && shift && exec "$@"'
        )
        shell = ["unshare", "--map-root-user", "--mount", "sh", "-euc", mounts, str(self.folder), str(self.data)]
        if subprocess.run([*shell, "true"], capture_output=True, check=False).returncode:
            return command
        return [*shell, *command]

    def python(self, code: str, **env: str) -> str:
        run = [str(self.folder / "opt/authix/bin/python"), "-c", code]
        return subprocess.run(run, env=self.env | env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module", params=IMAGES)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(request.param, tmp_path_factory.mktemp(request.param) / "root")


def test_what_an_image_holds_starts_and_its_health_command_says_so(image: Image, tmp_path: Path) -> None:
    port, log = free_ports(2), tmp_path / "log"
    own = {"AUTHIX_PORT": str(port), "AUTHIX_PROXY_PORT": str(port + 1), "AUTHIX_AUTH_PORT": str(port)}
    settings = GIVEN | own | {"AUTHIX_UPSTREAM": "http://127.0.0.1:9", "AUTHIX_KEYS": "http://127.0.0.1:9/keys"}
    program = str(image.folder / "opt/authix/bin" / f"authix-{image.folder.parent.name.rstrip('0123456789')}")
    process = image.start(settings, log)

    def health() -> subprocess.CompletedProcess[str]:
        ask = [program, "health"]
        return subprocess.run(ask, env=image.env | settings, capture_output=True, text=True, check=False)

    try:
        end, alive = time.monotonic() + 60, False
        while not alive:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < end, log.read_text(encoding="utf-8")
            try:
                alive = httpx.get(f"http://{HOST}:{port}/livez", trust_env=False).is_success
            except httpx.TransportError:
                time.sleep(0.1)
        asked = health()
        if program.endswith("issuer"):
            assert asked.returncode == 0, asked.stdout + log.read_text(encoding="utf-8")
        else:  # it has no issuer here
            assert asked.returncode == 1
            assert "keys_missing" in asked.stdout
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text(encoding="utf-8")
    assert health().returncode == 1


def test_an_image_holds_nothing_that_installs_or_builds(image: Image) -> None:
    assert {path.name for path in (image.folder / "opt/authix/bin").iterdir()}.isdisjoint(
        {"pip", "uv", "cmake", "ninja"}
    )
    listed = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    held = set(image.python(listed, PYTHONPATH="").split())
    assert "authix" in held
    assert held.isdisjoint({"pip", "uv", "hatchling", "cmake", "ninja", "pytest", "ruff", "mypy"})


def test_the_sidecars_data_plane_is_compiled(image: Image) -> None:
    held = image.python("import authix.verifier as v, sys; print(v.__file__, *sys.path)", PYTHONPATH="").split()
    assert held[0].endswith(".py")  # what a program passes to the SDK may be of any type, which C would not take
    if (image.folder / "opt/authix/bin/authix-sidecar").exists():
        code = "import authix_sidecar.proxy as p, uvloop, asyncio; print(p.__file__)"
        assert image.python(code, PYTHONPATH="").endswith(".so")


def test_the_faster_argon2_is_found_where_it_runs_and_hashes_the_same(image: Image) -> None:
    folders = {build: image.folder / f"opt/argon2-{level}" for build, level in LEVELS.items()}
    if not folders[Build.AVX2].is_dir():
        return
    if platform.machine() != "x86_64":
        assert not any([*folder.iterdir()] for folder in folders.values())
        return
    code = (
        "import argon2.low_level as l; from authix_issuer.argon2_build import installed; "
        "print(installed().name, l.hash_secret(b'secret', b'salt' * 4, 2, 19456, 1, 32, l.Type.ID).decode())"
    )
    plain, its_hash = image.python(code).split()
    assert plain == "SSE2"
    for build, folder in folders.items():
        if build <= fastest():
            assert image.python(code, PYTHONPATH=str(folder)).split() == [build.name, its_hash]
