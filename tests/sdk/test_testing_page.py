"""The page on testing: each of its examples is a test file that passes, and fails when logouts are not heard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


def test_every_example_is_found() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") > 3


def test_every_example_passes(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(**{f"test_{n}": example for n, example in enumerate(EXAMPLES.values())})
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov")
    done.assert_outcomes(passed="".join(EXAMPLES.values()).count("def test_"))
