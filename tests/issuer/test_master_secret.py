"""The master secret of the embedded default."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from authix.errors import SettingsError
from authix_issuer.master_secret import MasterSecret, kept_in


def test_the_first_start_makes_a_secret_that_only_its_owner_may_read(tmp_path: Path) -> None:
    kept_in(tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name == "secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text()) >= 64


def test_later_starts_keep_it(tmp_path: Path) -> None:
    assert kept_in(tmp_path).derive("purpose") == kept_in(tmp_path).derive("purpose")


def test_two_folders_have_two_secrets(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    assert kept_in(tmp_path / "one").derive("purpose") != kept_in(tmp_path / "other").derive("purpose")


def test_of_many_who_start_at_once_all_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: kept_in(tmp_path).derive("purpose"), range(64)))
    assert len(set(made)) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]


def test_each_purpose_has_a_key_of_its_own() -> None:
    master = MasterSecret("m" * 32)
    keys = {master.derive(purpose) for purpose in ("refresh-token", "signing-keys", "", "refresh-token ")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}


def test_of_two_secrets_one_writes_and_both_read() -> None:
    both, old, new = MasterSecret("n" * 32, "m" * 32), MasterSecret("m" * 32), MasterSecret("n" * 32)
    assert both.derive("purpose") == new.derive("purpose")
    assert both.derive_all("purpose") == [new.derive("purpose"), old.derive("purpose")]
    assert old.derive_all("purpose") == [old.derive("purpose")]


def test_the_kept_secret_writes_and_the_previous_one_is_read(tmp_path: Path) -> None:
    kept, previous = kept_in(tmp_path), MasterSecret("m" * 32)
    assert kept_in(tmp_path, "m" * 32).derive_all("purpose") == [kept.derive("purpose"), previous.derive("purpose")]


def test_a_printed_secret_shows_nothing() -> None:
    assert "m" * 8 not in repr(MasterSecret("m" * 32))


@pytest.mark.parametrize("content", [b"", b"short", b" " * 40, b"x" * 31 + b"\n", "é".encode() * 40])
def test_a_file_that_holds_no_secret_stops_the_start_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(SettingsError, match=r"AUTHIX_SECRET is not set and .*secret"):
        kept_in(tmp_path)


def test_a_secret_that_cannot_be_read_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with pytest.raises(SettingsError, match=r"AUTHIX_SECRET is not set and .*secret can't be kept \(Is a directory\)"):
        kept_in(tmp_path)


def test_a_secret_that_cannot_be_made_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"AUTHIX_SECRET is not set and .*secret"):
        kept_in(tmp_path / "missing")


def test_a_secret_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(SettingsError, match=r"can't be kept \(No space left on device\)"):
        kept_in(tmp_path)
    assert list(tmp_path.iterdir()) == []
