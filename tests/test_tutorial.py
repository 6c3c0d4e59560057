"""The tutorial, done as it is written: its service, its commands in one shell, and what each of them prints."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.programs import IssuerProgram, Program, eventually, free_port, is_free

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
FLASK = "http://127.0.0.1:5000"
ISSUER = "http://127.0.0.1:8000"


class Step(NamedTuple):
    command: str
    shown: str
    """What it must print; ``…`` stands for anything within a string."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}[^\n]*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def steps() -> list[Step]:
    found = []
    for block in blocks("console"):
        command = ""
        for is_command, lines in groupby(block.splitlines(), lambda line: line.startswith("$ ")):
            if is_command:
                *silent, command = [line.removeprefix("$ ") for line in lines]
                found += [Step(line, "") for line in silent]
            else:
                found.append(Step(command, "\n".join(lines)))
                command = ""
        found += [Step(command, "")] if command else []
    return found


def run(shell: subprocess.Popen[str], command: str) -> str:
    """What the command prints in the shell, which keeps its variables for the next one."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{command}\nprintf '\\nDONE\\n'\n")
    shell.stdin.flush()
    lines = iter(shell.stdout.readline, "DONE\n")
    return "".join(lines).strip("\n")


def matches(shown: str, printed: str) -> bool:
    pattern = '[^"]*'.join(map(re.escape, shown.split("…")))
    return re.fullmatch(pattern, printed) is not None


@pytest.fixture
def moved(start_issuer: Callable[..., IssuerProgram]) -> Callable[[str], str]:
    """The page's text for an issuer and a service on ports that are free here."""
    issuer = start_issuer(AUTHIX_AUDIENCE="demo")
    service = f"http://127.0.0.1:{free_port()}"
    return lambda text: text.replace(ISSUER, issuer.url).replace(FLASK, service).replace("5000", service[-5:])


def test_the_tutorial_works_as_it_is_written(
    tmp_path: Path, moved: Callable[[str], str], programs: Callable[[Program], Program]
) -> None:
    (source,) = blocks("python")
    (tmp_path / "shop.py").write_text(moved(source), encoding="utf-8")
    (make, start) = blocks("sh")
    assert make == "make run\n"
    flask, *arguments = moved(start).split()
    assert flask == ".venv/bin/flask"
    service = programs(Program("flask", arguments, {}, tmp_path / "flask.log"))
    service.start()
    port = int(arguments[-1])
    eventually(lambda: not is_free(port), service.output)

    with subprocess.Popen(
        ["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as shell:
        for step in steps():
            check(shell, Step(*map(moved, step)))
        assert shell.stdin is not None
        shell.stdin.close()


def check(shell: subprocess.Popen[str], step: Step) -> None:
    if "token_revoked" in step.shown:  # a reader comes a moment later, this at once
        eventually(lambda: matches(step.shown, run(shell, step.command)), step.shown)
        return
    printed = run(shell, step.command)
    assert matches(step.shown, printed), (step, printed)


def test_make_run_has_the_issuer_that_the_tutorial_speaks_to() -> None:
    (source,) = blocks("python")
    demo = (Path(__file__).parents[1] / "examples" / "demo" / "run.py").read_text(encoding="utf-8")
    assert '"AUTHIX_AUDIENCE": "demo"' in demo
    assert 'audience="demo"' in source
