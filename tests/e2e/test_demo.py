"""What the README promises of ``make run`` and ``make demo``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import Program, eventually, free_ports, is_free

DEMO = Path(__file__).parents[2] / "examples" / "demo"


@pytest.fixture
def base_port() -> int:
    return free_ports(4)


@pytest.fixture
def start_demo(tmp_path: Path, base_port: int, programs: Callable[[Program], Program]) -> Callable[..., Program]:
    def start(*options: str) -> Program:
        arguments = ["--base-port", str(base_port), "--data-dir", str(tmp_path / "data"), *options]
        program = programs(Program(str(DEMO / "run.py"), arguments, {}, tmp_path / "run.log"))
        program.start()
        eventually(lambda: "Ctrl-C stops everything" in program.output(), program.output, within=60)
        return program

    return start


@pytest.fixture
def demo(start_demo: Callable[..., Program]) -> Program:
    return start_demo()


def test_the_walk_passes_against_what_make_run_starts(demo: Program, base_port: int) -> None:
    check_the_walk(demo, base_port)


@pytest.mark.usefixtures("engines_installed")
def test_the_walk_passes_on_mongodb_redis_and_kafka(start_demo: Callable[..., Program], base_port: int) -> None:
    demo = start_demo("--scale")
    check_the_walk(demo, base_port)
    assert demo.stop() == 0


def check_the_walk(demo: Program, base_port: int) -> None:
    walk = subprocess.run(
        [sys.executable, str(DEMO / "walk.py"), "--base-port", str(base_port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert walk.returncode == 0, walk.stdout + walk.stderr + demo.output()
    assert "token_revoked" in walk.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_make_run_leaves_no_process_however_it_is_stopped(demo: Program, base_port: int, how: signal.Signals) -> None:
    assert demo.process is not None
    children = _children(demo.process.pid)
    assert len(children) == 3
    assert demo.stop(how) == 0
    assert not any(_is_alive(child) for child in children)
    assert all(is_free(base_port + n) for n in range(4))
    assert "Traceback" not in demo.output()


def test_make_run_ends_with_an_error_when_a_port_is_taken(tmp_path: Path, base_port: int, demo: Program) -> None:
    second = Program(str(DEMO / "run.py"), ["--base-port", str(base_port)], {}, tmp_path / "second.log").start()
    assert second.process is not None
    assert second.process.wait(30) == 1
    assert f"port {base_port} is taken" in second.output()


def test_the_walk_says_what_is_wrong_when_nothing_runs(base_port: int) -> None:
    walk = subprocess.run(
        [sys.executable, str(DEMO / "walk.py"), "--base-port", str(base_port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert walk.returncode == 1
    assert "is `make run` running?" in walk.stderr


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
