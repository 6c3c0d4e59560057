"""The page on frameworks: what its examples say runs as it stands there, one program for each section."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "frameworks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
# An example may need what only its reader has, such as a project's settings: <!-- run … -->, unseen on the page
CODE = re.compile(r"^(?:```python|<!-- run)\n(.*?)^(?:```|-->)$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_examples_of_a_section_run(section: str, tmp_path: Path) -> None:
    code = "\n".join(CODE.findall(SECTIONS[section]))
    assert code
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    env = {**os.environ, "AUTHIX_ISSUER": "https://auth.example.com", "AUTHIX_AUDIENCE": "orders"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
