"""The capacity model's arithmetic, on loads whose answer is known."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from authix.events import LOG_WINDOW
from benchmarks.model import HELP, OWN_WORK, Costs, Load, plan, table

ROOT = Path(__file__).parents[1]
COSTS = Costs()


def value(name: str, load: Load) -> float:
    return plan(load, COSTS)[name].value


def test_without_logouts_maps_are_empty_and_heartbeats_are_all_that_goes_out() -> None:
    load = replace(Load(), logouts_per_day=0)
    for name in ("logouts", "entries", "map_bytes", "replay"):
        assert value(name, load) == 0
    assert value("kafka_out", load) == value("kafka_heartbeats", load) > 0


@pytest.mark.parametrize("name", ["kafka_out", "kafka_cores", "http_out", "http_cores", "http_memory"])
def test_twice_the_verifiers_are_twice_the_fan_out(name: str) -> None:
    assert value(name, replace(Load(), verifiers=20_000)) == pytest.approx(2 * value(name, Load()))


def test_verifiers_are_no_matter_to_issuers_and_stores() -> None:
    few, many = (plan(replace(Load(), verifiers=count), COSTS) for count in (1, 1_000_000))
    for name in ("issuers", "redis_bytes", "mongo_bytes", "map_bytes", "kafka_in"):
        assert few[name] == many[name]


def test_sidecars_that_pass_it_on_make_fewer_followers() -> None:
    assert value("followers", replace(Load(), verifiers=10_001, behind_one=10)) == 1_001


def test_an_entry_lives_for_the_log_window() -> None:
    load = replace(Load(), logouts_per_day=86_400, peak=1)
    assert (value("logouts", load), value("entries", load)) == (1, LOG_WINDOW)
    assert value("map_bytes", load) == LOG_WINDOW * COSTS.map_bytes


def test_a_million_active_users_refresh_once_in_each_life_of_a_token() -> None:
    load = replace(Load(), users=1_000_000, active_share=1, access_ttl=300)
    assert value("refreshes", load) == pytest.approx(3_333, rel=0.001)
    assert value("refreshes", replace(load, access_ttl=600)) == pytest.approx(1_667, rel=0.001)


def test_there_are_never_fewer_than_three_issuers() -> None:
    assert value("issuers", Load(users=1, logins_per_day=0, logouts_per_day=0)) == 3


def test_the_issuers_costs_are_those_last_measured(tmp_path: Path) -> None:
    file = tmp_path / "issuer.json"
    found = [
        ("login", "owasp", 24_000.0),
        ("login", OWN_WORK, 900.0),
        ("refresh", OWN_WORK, 100.0),
        ("verify", "Authix", 1.0),
    ]
    figures = [{"what": what, "who": who, "micros": micros} for what, who, micros in found]
    file.write_text(json.dumps({"figures": figures}))
    assert Costs.measured(file) == replace(COSTS, refresh=100.0, login=900.0)


def test_each_option_is_explained_and_the_page_shows_the_table_of_the_defaults() -> None:
    assert list(HELP) == [field.name for field in fields(Load)]
    assert table(plan(Load(), COSTS)) in (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
