"""Alerts fire when they should, and they and the dashboard ask for what the programs tell."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from authix import Authix
from authix.metrics import VerifierMetrics
from authix_issuer.audit import Event
from tests.deploy.dockerfiles import ROOT
from tests.deploy.manifests import K8S, PRODUCTION
from tests.programs import IssuerProgram, SidecarProgram, bearer, free_port, login, register
from tests.servers.fixtures import require
from tests.servers.rule_tools import PROMTOOL, missing

RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "authix.json").read_text(encoding="utf-8"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    re.sub(r"\$__\w+", "5m", target["expr"]).replace("$issuer", ".*").replace("$verifier", ".*")
    for panel in PANELS
    for target in panel["targets"]
]


class Case(NamedTuple):
    """Series by which an alert fires, and by which it does not. A value is as promtool writes it, each 15 s apart."""

    fires: dict[str, str]
    silent: dict[str, str]


ISSUER = 'instance="a:9000", job="authix-issuer", namespace="authix"'
REQUESTS = f"authix_issuer_requests_total{{{ISSUER}, "
THEFTS = f'authix_issuer_events_total{{{ISSUER}, event="session.reused"}}'
LOGIN = f'authix_issuer_request_duration_seconds_bucket{{{ISSUER}, route="/login", le='
HOURLY_KEY = f"authix_issuer_signing_key_until_timestamp_seconds{{{ISSUER}}}"
NEXT_KEY = f"authix_issuer_next_key_ready_timestamp_seconds{{{ISSUER}}}"


def gauge(name: str, fires: float, silent: float, labels: str = ISSUER) -> Case:
    series = f"authix_{name}{{{labels}}}"
    return Case({series: f"{fires}x60"}, {series: f"{silent}x60"})


CASES = {
    "AuthixNoIssuer": Case({}, {f"authix_issuer_workers{{{ISSUER}}}": "1x60"}),
    "AuthixIssuerSilent": Case({f"up{{{ISSUER}}}": "0x60"}, {f"up{{{ISSUER}}}": "1x60"}),
    "AuthixErrors": Case(
        {REQUESTS + 'route="/login", status="5xx"}': "0+10x60", REQUESTS + 'route="/login", status="2xx"}': "0+90x60"},
        {REQUESTS + 'route="/readyz", status="5xx"}': "0+10x60", REQUESTS + 'route="/login", status="2xx"}': "0+90x60"},
    ),
    "AuthixStoreDown": gauge("issuer_sessions_store_up", 0, 1),
    "AuthixLoginsSlow": Case(
        {LOGIN + '"2.5"}': "0+90x60", LOGIN + '"5"}': "0+100x60", LOGIN + '"+Inf"}': "0+100x60"},
        {LOGIN + '"0.5"}': "0+100x60", LOGIN + '"5"}': "0+100x60", LOGIN + '"+Inf"}': "0+100x60"},
    ),
    "AuthixHashQueueFull": Case(
        {f"authix_issuer_hash_refusals_total{{{ISSUER}}}": "0+1x60"},
        {
            f"authix_issuer_hash_refusals_total{{{ISSUER}}}": "9x60",
            f"authix_issuer_hashing{{{ISSUER}}}": "100x60",
            f"authix_issuer_hashing_limit{{{ISSUER}}}": "130x60",
        },
    ),
    "AuthixLogoutsNotPublished": gauge("issuer_relay_lag_seconds", 6, 1),
    "AuthixOutboxGrows": Case(
        {f"authix_issuer_outbox_entries{{{ISSUER}}}": "1001+1x60"},
        {f"authix_issuer_outbox_entries{{{ISSUER}}}": "9999-1x60"},
    ),
    "AuthixTopicProblem": gauge("issuer_topic_problem", 1, 0),
    "AuthixNobodyLeads": gauge("issuer_relay_leads", 0, 1),
    "AuthixThefts": Case({THEFTS: "0+1x60"}, {THEFTS: "0x30 5x30"}),
    "AuthixGuessing": Case(
        {REQUESTS + 'route="/login", code="credentials_wrong"}': "0+150x60"},
        {
            REQUESTS + 'route="/login", code="credentials_wrong"}': "0+150x60",
            REQUESTS + 'route="/login", code="ok"}': "0+150x60",
        },
    ),
    "AuthixKeyOverdue": Case({HOURLY_KEY: "100x60"}, {HOURLY_KEY: "3600x60"}),
    "AuthixNoNextKey": Case({HOURLY_KEY: "3600x60"}, {HOURLY_KEY: "3600x60", NEXT_KEY: "900x60"}),
    "AuthixKeysNotKept": gauge("issuer_keys_problem", 1, 0),
    "AuthixChangesUnfinished": gauge("issuer_unfinished_changes", 1, 0),
    "AuthixAuditLost": gauge("issuer_audit_lines_lost", 1, 0),
    "AuthixVerifierNotReady": gauge("ready", 0, 1),
    "AuthixVerifierStale": gauge("feed_age_seconds", 16, 15),
    "AuthixLogoutsLate": gauge("feed_age_seconds", 6, 1.2),
    "AuthixFeedFollowedInVain": gauge("feed_stale", 1, 0, 'position="1", kind="kafka"'),
    "AuthixVerifierKeysOld": gauge("keys_age_seconds", 3601, 300),
    "AuthixMapFull": Case({"authix_revocations_coarse_until_seconds": "500x60"}, {}),
    "AuthixUpstreamDown": gauge("sidecar_upstreams_down", 1, 0),
    "AuthixPolicyRefused": Case(
        {"authix_sidecar_policy_errors_total": "0x30 1x30"}, {"authix_sidecar_policy_errors_total": "3x60"}
    ),
}


def promtool(*arguments: str | Path) -> None:
    require(missing())
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_ones_that_prometheus_takes() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_every_query_of_the_dashboard_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(QUERIES)]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}), encoding="utf-8")
    promtool("check", "rules", "--lint=none", file)


def test_every_alert_fires_by_what_it_is_for_and_by_nothing_less(tmp_path: Path) -> None:
    assert list(CASES) == [alert["alert"] for alert in ALERTS]
    file = tmp_path / "alerts.yaml"
    tests = [
        {
            "name": f"{name} {'fires' if fires else 'is silent'}",
            "interval": "15s",
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                    "eval_time": "12m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for name, case in CASES.items()
        for fires, given in ((True, case.fires), (False, case.silent))
    ]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests}))
    promtool("test", "rules", file)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    """What an issuer and a sidecar tell, and the SDK in a service, after a login, a theft and a logout."""
    folder, port = tmp_path_factory.mktemp("told"), free_port()
    issuer = IssuerProgram(folder, AUTHIX_METRICS_PORT=str(port), AUTHIX_REFRESH_GRACE="0")
    policy = folder / "authix.toml"
    policy.write_text('[[route]]\npath = "/public"\npublic = true\n', encoding="utf-8")
    sidecar = SidecarProgram(folder, issuer.url, "http://127.0.0.1:9", AUTHIX_POLICY=str(policy))
    with ExitStack() as stack:
        for program in (issuer, sidecar):
            stack.callback(program.kill)
            program.start()
        issuer.ready()
        sidecar.ready()
        with issuer.client() as client:
            register(client, "ada@example.com")
            login(client, "ada@example.com")
            first = client.cookies["authix_refresh"]
            for _ in range(2):
                client.post("/access_token")
            client.cookies.clear()
            client.post("/access_token", headers={"Cookie": f"authix_refresh={first}"})
            token = login(client, "ada@example.com")
            httpx.get(sidecar.proxy_url, headers=bearer(token), trust_env=False)
            client.post("/logout", headers=bearer(token))
        texts = [
            httpx.get(url, trust_env=False).raise_for_status().text
            for url in (f"http://127.0.0.1:{port}/metrics", f"{sidecar.auth_url}/metrics")
        ]
    registry = CollectorRegistry()
    registry.register(VerifierMetrics(lambda: [Authix(issuer=issuer.url, audience="tests")]))
    texts.append(generate_latest(registry).decode())
    return {family.name: family for text in texts for family in text_string_to_metric_families(text)}


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\bauthix_[a-z_]+", query))


def family_of(name: str, told: dict[str, Metric]) -> Metric:
    """The family that has samples of this name."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    for family in told.values():
        if name in {family.name + suffix for suffix in suffixes.get(family.type, ("",))}:
            return family
    pytest.fail(f"no program tells {name}")


@pytest.mark.parametrize("asked", [*(alert["expr"] for alert in ALERTS), *QUERIES])
def test_what_is_asked_for_is_told(asked: str, told: dict[str, Metric]) -> None:
    for name in names_in(asked):
        samples = family_of(name, told).samples
        labels = {label for sample in samples for label in sample.labels} | {"instance", "job", "namespace", "worker"}
        for selected in re.findall(rf"{name}{{([^}}]*)}}", asked):
            for label, operator, value in re.findall(r'(\w+)(=~|!~|=|!=)"([^"]*)"', selected):
                assert not samples or label in labels, f"{name} has no label {label}"
                if label == "event" and operator == "=":
                    assert value in {sample.labels[label] for sample in samples}


def test_every_number_is_on_the_page_and_every_number_of_the_page_is_told(told: dict[str, Metric]) -> None:
    rows = dict(re.findall(r"^\| `(authix_\w+)` \| (.+?) \|$", PAGE, re.MULTILINE))
    expected = {
        family.name + ("_total" if family.type == "counter" else ""): f"{family.type} | {family.documentation}"
        for family in told.values()
        if family.name.startswith("authix_")
    }
    assert rows == expected


def test_every_alert_says_what_it_means_and_the_runbook_what_to_do() -> None:
    sections = re.findall(r"^## (Authix\w+)$", RUNBOOK, re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in {"critical", "warning"}
    for section in re.split(r"^## Authix\w+\n", RUNBOOK, flags=re.MULTILINE)[1:]:
        for part in ("**It means**", "**Users notice**", "**Look at**", "**Mend it**"):
            assert section.count(part) == 1


def test_whatever_ends_a_session_is_in_its_panel(told: dict[str, Metric]) -> None:
    (panel,) = [panel for panel in PANELS if panel["title"] == "What ends sessions?"]
    (target,) = panel["targets"]
    selected = dict(re.findall(r'(event|outcome)=~"([^"]+)"', target["expr"]))
    assert {event.value for event in Event if re.fullmatch(selected["event"], event)} == {
        *("logout", "session.ended", "session.displaced", "session.reused", "token.revoked"),
        *("password.changed", "user.deleted"),
        *("admin.user.disabled", "admin.user.deleted", "admin.user.logged_out"),
        *("admin.password.set", "admin.session.ended"),
    }
    ended = [
        sample.labels["event"]
        for sample in told["authix_issuer_events"].samples
        if sample.value and all(re.fullmatch(pattern, sample.labels[label]) for label, pattern in selected.items())
    ]
    assert set(ended) == {"session.reused", "logout"}


def test_every_panel_answers_a_question() -> None:
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"].endswith("?"), panel["title"]
        assert panel["description"]


def test_prometheus_operator_is_given_the_same_rules() -> None:
    rule = yaml.safe_load((K8S / PRODUCTION / "prometheusrule.yaml").read_text(encoding="utf-8"))
    assert rule["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8"))
