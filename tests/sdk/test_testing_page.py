"""The page on testing: each of its examples is a test file that passes, and fails when logouts are not heard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


def test_every_example_is_found() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") > 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_passes(pytester: pytest.Pytester, name: str) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(EXAMPLES[name])
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov")
    outcomes = done.parseoutcomes()
    assert outcomes.get("passed", 0) > 0
    assert "failed" not in outcomes
    assert "errors" not in outcomes
