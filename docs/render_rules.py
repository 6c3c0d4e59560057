"""Renders the PrometheusRule of deploy/k8s, for Prometheus' operator, from deploy/prometheus/rules.yaml.

Rule: the rules are written once; a test holds the object against them.
"""

from __future__ import annotations

import sys
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
PAGE = DEPLOY / "k8s" / "overlays" / "production" / "prometheusrule.yaml"

HEAD = """# The rules of deploy/prometheus/rules.yaml, written by docs/render_rules.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: authix
spec:
"""


def render() -> str:
    _, _, groups = RULES.read_text(encoding="utf-8").partition("\ngroups:\n")
    return HEAD + "".join(f"  {line}".rstrip() + "\n" for line in ("groups:", *groups.splitlines()))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
