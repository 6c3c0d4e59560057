"""What looks at the rules in ``deploy/prometheus/``: promtool.

Rule: it does not ask the network when it runs. It is built without service discovery, which is most of it and of no use
here.
"""

from __future__ import annotations

from pathlib import Path

from tests.servers.packages import HINT, home, install_once, need, run

_RECIPE = Path(__file__).parent / "promtool"
_HOME = home("promtool", _RECIPE)
PROMTOOL = _HOME / "promtool"


def install() -> str:
    install_once(_HOME, _build)
    return f"promtool in {_HOME}"


def missing() -> str | None:
    return None if PROMTOOL.exists() else f"There is no promtool: {HINT}."


def _build(folder: Path) -> None:
    need("go", "golang-go")
    build = ["go", "build", "-C", str(_RECIPE), "-trimpath", "-tags", "remove_all_sd", "-ldflags", "-s -w"]
    package = "github.com/prometheus/prometheus/cmd/promtool"
    run(["env", "CGO_ENABLED=0", *build, "-o", str(folder / "promtool"), package], "go build of promtool")
