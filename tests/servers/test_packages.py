"""How servers are installed: once, whole, and with a sentence where that is not possible."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.servers import packages
from tests.servers.packages import NotInstallable, home, install_once, need


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "CACHE", tmp_path / "servers")
    return tmp_path / "servers" / "kafka"


def test_what_is_installed_is_not_installed_again(place: Path) -> None:
    install_once(place, lambda folder: (folder / "kafka.jar").touch())

    def again(_: Path) -> None:
        raise AssertionError("installed a second time")

    install_once(place, again)
    assert [file.name for file in place.iterdir()] == ["kafka.jar"]


def test_an_installation_that_fails_leaves_nothing_behind(place: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.jar").touch()
        raise NotInstallable("the network went away")

    with pytest.raises(NotInstallable):
        install_once(place, fail)
    assert list(place.parent.iterdir()) == []


def test_another_recipe_is_another_installation(tmp_path: Path) -> None:
    (tmp_path / "pom.xml").write_text("4.2.0")
    before = home("kafka", tmp_path)
    assert home("kafka", tmp_path) == before
    (tmp_path / "pom.xml").write_text("4.2.1")
    assert home("kafka", tmp_path) != before


def test_who_may_not_install_is_told_which_package_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotInstallable, match="apt-get install no-such-package"):
        need("no-such-command", "no-such-package")
