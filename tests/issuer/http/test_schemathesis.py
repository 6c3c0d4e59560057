"""The issuer held against its own OpenAPI document by Schemathesis, which calls everything there is in every way.

It runs as a program of its own, as users of it do: it changes Hypothesis for the whole process that it is in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import PASSWORD, IssuerProgram

HERE = Path(__file__).parent
ADMIN_EMAIL = "root@example.com"
TOKENS = {
    "AUTHIX_FEED_TOKEN": "feed-token-of-at-least-32-characters",
    "AUTHIX_INTROSPECTION_TOKEN": "introspection-token-of-at-least-32-characters",
}
Search = Callable[..., str]


@pytest.fixture
def issuer(start_issuer: Callable[..., IssuerProgram]) -> IssuerProgram:
    return start_issuer(AUTHIX_PASSWORD_MIN_LENGTH="8", **TOKENS)


@pytest.fixture
def search(issuer: IssuerProgram, tmp_path: Path) -> Search:
    """``search("--option", …)``: what Schemathesis says, after it found nothing."""
    created = issuer.run("users", "create", ADMIN_EMAIL, "--admin", "--json", given=f"{PASSWORD}\n")
    told = {"PASSWORD": PASSWORD, "ADMIN_EMAIL": ADMIN_EMAIL, "ADMIN_ID": json.loads(created.stdout)["id"]}
    hooks = {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py"), "NO_COLOR": "1"}

    def run(*options: str, timeout: float = 100) -> str:
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
                *("run", f"{issuer.url}/openapi.json", *options),
            ],
            env=os.environ | TOKENS | told | hooks | {"AUTHIX_ISSUER": issuer.url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run


def answered(issuer: IssuerProgram) -> set[tuple[str, str]]:
    """What was answered with success: method and path, whose parameters are all ``{}``."""
    found = re.findall(r"([A-Z]+) (/\S*) 2\d\d \d", issuer.output())
    return {(method, re.sub(r"<[^>]*>", "{}", path)) for method, path in found}


def operations(issuer: IssuerProgram) -> set[tuple[str, str]]:
    with issuer.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    return {(method.upper(), re.sub(r"{[^}]*}", "{}", path)) for path, item in paths.items() for method in item}


def test_no_call_is_answered_otherwise_than_documented(issuer: IssuerProgram, search: Search) -> None:
    documented = operations(issuer)
    told = search("--seed", "1")
    assert f"{len(documented)} selected / {len(documented)} total" in told
    links = re.search(r"Links:\s+(\d+) covered / (\d+) selected", told)
    assert links, told
    assert 2 * int(links[1]) >= int(links[2]) > 0  # most of them are walked, each time others
    assert "[error" not in issuer.output()
    # else it would only have seen refusals; which way its walks take, it leaves to chance
    assert len(documented - answered(issuer)) <= len(documented) // 5


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_call_of_very_many_is_answered_otherwise_than_documented(issuer: IssuerProgram, search: Search) -> None:
    search("--max-time", "1200", "--continue-on-failure", timeout=3500)
    assert "[error" not in issuer.output()
