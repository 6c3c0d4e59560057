"""The page on testing: each of its examples is a test file that passes, and fails when logouts are not heard.

And the service of the README is one that can be tested so.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


def test_every_example_is_found() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") > 3


ALONE = [name for name, example in EXAMPLES.items() if "settings.configure(" in example]
"""A process has one Django project."""
RUNS = [[name] for name in ALONE] + [[name for name in EXAMPLES if name not in ALONE]]


@pytest.mark.parametrize("names", RUNS, ids=", ".join)
def test_every_example_passes(pytester: pytest.Pytester, names: list[str]) -> None:
    examples = [EXAMPLES[name] for name in names]
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(**{f"test_{n}": example for n, example in enumerate(examples)})
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov")
    done.assert_outcomes(passed="".join(examples).count("def test_"))


def test_the_service_of_the_readme_runs_as_written(pytester: pytest.Pytester) -> None:
    (service,) = re.findall(r"^```python\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    pytester.makepyfile(
        service=service,
        test_service="""
        from fastapi.testclient import TestClient
        from service import app


        def test_it_answers(authix_tokens):
            headers = authix_tokens.issue("u1", roles=["buyer"]).headers
            assert TestClient(app).get("/orders", headers=headers).json() == {"of": "u1"}
        """,
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov").assert_outcomes(passed=1)
