"""An operator's way: something is broken, ``authix-issuer doctor`` says what and how to mend it, and it is mended."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.programs import DEADLINE, IssuerProgram, free_port
from tests.servers.redis import RedisServer

PASSWORD = "pass-w0rd-of-an-engine"


@pytest.fixture
def settings(mongodb_url: str, redis_server: RedisServer, kafka_bootstrap: str) -> Mapping[str, str]:
    """Those of an issuer with all three engines, of which Redis is the test's own."""
    return {
        "AUTHIX_USERS_URL": f"{mongodb_url.rstrip('/')}/{secrets.token_hex(6)}",
        "AUTHIX_SESSIONS_URL": redis_server.url,
        "AUTHIX_KAFKA": kafka_bootstrap,
        "AUTHIX_TOPIC": f"logout-{secrets.token_hex(4)}",
        "AUTHIX_SECRET": secrets.token_urlsafe(32),
        "AUTHIX_HASH_PROFILE": "owasp",
    }


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[[Mapping[str, str]], tuple[int, list[str]]]:
    """``doctor(settings)``: its exit code, and what it finds wrong."""

    def ask(settings: Mapping[str, str]) -> tuple[int, list[str]]:
        answer = IssuerProgram(tmp_path / "issuer", **settings).run("doctor")
        assert answer.stderr == ""
        assert PASSWORD not in answer.stdout
        return answer.returncode, [line for line in answer.stdout.splitlines() if line.startswith("wrong")]

    return ask


Doctor = Callable[[Mapping[str, str]], tuple[int, list[str]]]


def test_redis_is_broken_and_mended(doctor: Doctor, settings: Mapping[str, str], redis_server: RedisServer) -> None:
    redis_server.pause()
    code, (wrong,) = doctor(settings)
    assert code == 1
    assert "AUTHIX_SESSIONS_URL names a Redis that does not answer in time: it hangs" in wrong
    redis_server.resume()
    assert doctor(settings) == (0, [])
    redis_server.kill()
    code, (wrong,) = doctor(settings)
    assert code == 1
    assert wrong == (
        "wrong   sessions (Redis): AUTHIX_SESSIONS_URL names a Redis that does not answer, for nobody listens there: "
        "start it, or mend host and port in the URL."
    )
    redis_server.start()
    assert doctor(settings) == (0, [])


def test_each_engine_that_is_away_is_told_with_its_setting_and_the_remedy(doctor: Doctor) -> None:
    port = free_port()
    nobody = "does not answer, for nobody listens there: start it, or mend host and port in the URL."
    code, wrong = doctor(
        {
            "AUTHIX_USERS_URL": f"mongodb://ann:{PASSWORD}@127.0.0.1:{port}/x?serverSelectionTimeoutMS=500",
            "AUTHIX_SESSIONS_URL": f"redis://:{PASSWORD}@127.0.0.1:{port}",
            "AUTHIX_KAFKA": f"127.0.0.1:{port}",
            "AUTHIX_SECRET": secrets.token_urlsafe(32),
            "AUTHIX_HASH_PROFILE": "owasp",
        }
    )
    assert code == 1
    users, sessions, topic = wrong
    assert users == f"wrong   users (MongoDB): AUTHIX_USERS_URL names a MongoDB that {nobody}"
    assert sessions == f"wrong   sessions (Redis): AUTHIX_SESSIONS_URL names a Redis that {nobody}"
    assert f"AUTHIX_KAFKA=127.0.0.1:{port} is not to be used: " in topic
    assert "Start it, or mend the setting; logouts are kept meanwhile" in topic


def nothing(_: Path) -> None:
    pass


def garbage(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


def of_a_newer_version(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 99")


def of_a_newer_version_that_is_not_in_the_file_itself_yet(file: Path) -> None:
    """As a crash leaves it: what was written last is in the file beside it."""
    copied = file.with_name("copied")
    with closing(sqlite3.connect(copied, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA user_version = 99")
        for end in ("", "-wal", "-shm"):
            file.with_name(f"{file.name}{end}").write_bytes(file.with_name(f"copied{end}").read_bytes())
    copied.unlink()


NEWER = "was written by a newer Authix"
FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no file yet": (nothing, ""),
    "an empty file": (Path.touch, ""),
    "garbage": (garbage, "can't be opened (file is not a database)"),
    "a folder": (Path.mkdir, "can't be opened ("),
    "a newer version": (of_a_newer_version, NEWER),
    "a newer version, after a crash": (of_a_newer_version_that_is_not_in_the_file_itself_yet, NEWER),
}


def content(folder: Path) -> dict[str, bytes]:
    """What stands in each file; of a -shm, an index that each reader may mend, only that it is there."""
    return {
        path.name: b"" if path.is_dir() or path.name.endswith("-shm") else path.read_bytes()
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("which", ["users", "sessions"])
def test_of_a_file_the_doctor_says_what_a_start_would_and_changes_nothing(
    tmp_path: Path, programs: Callable[[IssuerProgram], IssuerProgram], which: str, what: str
) -> None:
    make, told = FILES[what]
    issuer = programs(IssuerProgram(tmp_path / "issuer", AUTHIX_HASH_PROFILE="owasp"))
    data = tmp_path / "issuer" / "data"
    data.mkdir()
    make(data / f"{which}.db")
    before = content(data)
    answer = issuer.run("doctor")
    assert content(data) == before
    wrong = [line for line in answer.stdout.splitlines() if line.startswith("wrong")]
    assert answer.returncode == bool(told)
    assert [line.partition(" (SQLite): ")[0].split()[1] for line in wrong] == [which] * bool(told)
    assert all(told in line for line in wrong)
    issuer.start()
    if told:
        assert issuer.process is not None
        assert issuer.process.wait(DEADLINE) == 2
        assert told in issuer.output()
    else:
        issuer.ready()


def test_of_the_files_of_an_issuer_that_runs_or_ran_the_doctor_says_that_they_are_well(issuer: IssuerProgram) -> None:
    issuer.env["AUTHIX_HASH_PROFILE"] = "owasp"
    assert issuer.run("doctor").returncode == 0
    issuer.stop()
    before = content(issuer.log.parent / "data")
    assert issuer.run("doctor").returncode == 0
    assert content(issuer.log.parent / "data") == before


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = IssuerProgram(tmp_path / "issuer", AUTHIX_DATA_DIR=str(tmp_path / "file" / "data")).run("doctor")
    assert answer.returncode == 1
    assert f"wrong   users (SQLite): {tmp_path / 'file'} is no folder that can be written" in answer.stdout
