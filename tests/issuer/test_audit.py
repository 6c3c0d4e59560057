"""The audit log: whole lines of JSON that nobody can forge, wherever they go and whatever happens to the file."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from authix.errors import SettingsError
from authix.settings import load
from authix_issuer.audit import Audit, Caller, Event
from authix_issuer.settings import IssuerSettings
from authix_issuer.wiring import open_issuer
from tests.programs import PASSWORD, IssuerProgram, login, register

ANN = Caller("203.0.113.7", "Browser/1.0", "admin-1", "request-1")
PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def lines(file: Path) -> list[dict[str, Any]]:
    """Every line of ``file``, which ends with one."""
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if "audit" in record.getMessage()]


def test_an_event_says_who_what_when_from_where_and_the_outcome(file: Path) -> None:
    before = datetime.now(UTC)
    with Audit(str(file)) as audit:
        audit.record(Event.LOGIN, "ok", ANN, subject="s1", session="session-1", scope="user", ended=2)
    (entry,) = lines(file)
    assert timedelta(0) <= datetime.fromisoformat(entry.pop("time")) - before < timedelta(minutes=1)
    assert entry == {
        "event": "login",
        "outcome": "ok",
        "subject": "s1",
        "session": "session-1",
        "actor": "admin-1",
        "address": "203.0.113.7",
        "agent": "Browser/1.0",
        "request_id": "request-1",
        "details": {"scope": "user", "ended": 2},
    }


def test_a_moment_is_told_in_utc(file: Path) -> None:
    with Audit(str(file)) as audit:
        audit.record(Event.LOGIN, "ok", ANN)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", lines(file)[0]["time"])


@pytest.mark.parametrize(
    ("agent", "kept"),
    [
        ('x\n{"event":"login","outcome":"ok"}', 'x{"event":"login","outcome":"ok"}'),
        ('x"}\r\n{"event":"login"}', 'x"}{"event":"login"}'),
        ("a\u2028b\u2029c\x85d\x0be\0f", "abcdef"),
        ("\x1b[2Jgone", "[2Jgone"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\udcff\ud800x", "x"),
        ("Dürer 🐴", "Dürer 🐴"),
        ("x" * 10_000, "x" * 256),
    ],
)
def test_what_a_client_sends_forges_no_line(file: Path, agent: str, kept: str) -> None:
    with Audit(str(file)) as audit:
        audit.record(Event.LOGIN, "ok", Caller(agent, agent, agent), subject=agent, session=agent, said=agent)
        audit.record(Event.LOGOUT, "ok", ANN)
    first, second = lines(file)
    assert (first["agent"], first["details"]) == (kept, {"said": kept})
    assert {first[name] for name in ("subject", "session", "actor", "address")} == {kept}
    assert second["event"] == "logout"


def test_the_file_is_private_and_appended_to(file: Path) -> None:
    for event in (Event.LOGIN, Event.LOGOUT):
        with Audit(str(file)) as audit:
            audit.record(event, "ok", ANN)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry["event"] for entry in lines(file)] == ["login", "logout"]


WRITER = """
import sys
from authix_issuer.audit import Audit, Caller, Event
with Audit(sys.argv[1]) as audit:
    for number in range(500):
        audit.record(Event.LOGIN, "ok", Caller(agent="x" * number), subject=sys.argv[2], number=number)
"""


def write_elsewhere(target: str, name: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", WRITER, target, name], check=True, timeout=20, **kwargs)


def test_processes_that_share_the_file_write_whole_lines(file: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        for run in [pool.submit(write_elsewhere, str(file), name) for name in "abc"]:
            run.result()
    written = lines(file)
    for name in "abc":
        numbers = [entry["details"]["number"] for entry in written if entry["subject"] == name]
        assert numbers == list(range(500))


def test_to_standard_output_go_the_lines_and_nothing_else() -> None:
    run = write_elsewhere("stdout", "a", capture_output=True)
    assert [json.loads(line)["details"]["number"] for line in run.stdout.splitlines()] == list(range(500))
    assert run.stderr == b""


def test_a_closed_standard_output_is_told_before_a_line_gets_into_another_file(file: Path) -> None:
    script = f"import os; os.open({str(file)!r}, os.O_CREAT | os.O_WRONLY)\n{WRITER}"
    run = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" stdout a >&-', sys.executable, script],
        check=False,
        timeout=20,
        capture_output=True,
    )
    assert b"SettingsError: AUTHIX_AUDIT=stdout can't be written" in run.stderr
    assert file.read_bytes() == b""


def test_off_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Audit("off") as audit:
        audit.record(Event.LOGIN, "ok", ANN)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [True, False])
def test_after_a_rotation_the_next_event_begins_a_new_file(file: Path, *, kept: bool) -> None:
    old = file.with_suffix(".1")
    with Audit(str(file)) as audit:
        audit.record(Event.LOGIN, "ok", ANN)
        file.rename(old)
        if not kept:
            old.unlink()
        open_before = len(list(Path("/dev/fd").iterdir()))
        audit.record(Event.LOGOUT, "ok", ANN)
        assert len(list(Path("/dev/fd").iterdir())) == open_before
    assert [entry["event"] for entry in lines(file)] == ["logout"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not kept or [entry["event"] for entry in lines(old)] == ["login"]


async def test_a_log_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "nowhere" / "audit.log")
    environ = {
        "AUTHIX_ISSUER": "https://auth.example.com",
        "AUTHIX_AUDIENCE": "services",
        "AUTHIX_DATA_DIR": str(tmp_path / "data"),
        "AUTHIX_AUDIT": str(tmp_path / "audit.log"),
    }
    with pytest.raises(SettingsError, match=r"^AUTHIX_AUDIT=.*audit\.log can't be written \(No such file.*\): .*\.$"):
        async with open_issuer(load(IssuerSettings, environ=environ)):
            pytest.fail("it started")


def test_a_log_that_fails_later_stops_nothing_is_told_once_and_says_what_it_lacks(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file.symlink_to("/dev/full")
    with Audit(str(file)) as audit:
        for _ in range(3):
            audit.record(Event.LOGIN, "ok", ANN)
        assert told(caplog) == [
            (logging.ERROR, "the audit log can't be written (No space left on device); lines are lost until it can")
        ]
        caplog.clear()
        file.unlink()
        for _ in range(2):
            audit.record(Event.LOGOUT, "ok", ANN)
    assert told(caplog) == [(logging.WARNING, "the audit log is written again; 3 of its lines are lost")]
    assert [(entry["event"], entry["details"]) for entry in lines(file)] == [
        ("audit.resumed", {"lost": 3}),
        ("logout", {}),
        ("logout", {}),
    ]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("rotated", [True, False])
def test_half_a_line_spoils_no_other(file: Path, caplog: pytest.LogCaptureFixture, *, rotated: bool) -> None:
    old = file.with_suffix(".1") if rotated else file
    with Audit(str(file)) as audit:
        audit.record(Event.LOGIN, "ok", ANN)
        with room_for(file.stat().st_size + 50):
            audit.record(Event.PASSWORD_CHANGED, "ok", ANN)
        file.rename(old)
        audit.record(Event.LOGOUT, "ok", ANN)
    first, half, *rest = old.read_text().splitlines()
    assert json.loads(first)["event"] == "login"
    assert len(half) == 50
    resumed = rest or file.read_text().splitlines()
    assert [json.loads(line)["event"] for line in resumed] == ["audit.resumed", "logout"]
    assert told(caplog)


LONG = "x" * 256


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def test_a_pipe_that_nobody_reads_stops_nothing_and_no_line_of_it_is_torn(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(file)
    read = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with closing(os.fdopen(read, "rb", buffering=0)), Audit(str(file)) as audit:
        began = time.monotonic()
        while audit.lost < 1000:
            audit.record(Event.LOGIN, "ok", Caller(agent=LONG))
        assert time.monotonic() - began < 10
        ((level, said),) = told(caplog)
        assert level == logging.ERROR
        assert said.startswith("the audit log can't be written (nobody reads ")
        taken = os.read(read, 1 << 20)
        audit.record(Event.LOGOUT, "ok", ANN)
        taken += os.read(read, 1 << 20)
    entries = [json.loads(line) for line in taken.splitlines()]
    assert [(entry["event"], entry["details"]) for entry in entries[-2:]] == [
        ("audit.resumed", {"lost": 1000}),
        ("logout", {}),
    ]
    assert {entry["agent"] for entry in entries[:-2]} == {LONG}


def test_a_reader_that_is_slow_for_a_moment_loses_nothing() -> None:
    command = f"{sys.executable} -c '{WRITER}' stdout a | (sleep 0.1; cat)"
    run = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True, timeout=20)
    assert [json.loads(line)["details"]["number"] for line in run.stdout.splitlines()] == list(range(500))


def test_an_issuer_whose_standard_output_nobody_reads_still_serves(
    tmp_path: Path, programs: Callable[[IssuerProgram], IssuerProgram]
) -> None:
    issuer = programs(IssuerProgram(tmp_path, AUTHIX_AUDIT="stdout"))
    with pipe() as (read, write), issuer.log.open("wb") as log:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        issuer.process = subprocess.Popen(issuer.command, env=issuer.env, stdout=write, stderr=log)
        with issuer.ready().client() as client:
            body = {"email": "eve@example.com", "password": PASSWORD}
            for _ in range(30):
                assert client.post("/login", json=body).status_code == 401
        assert "the audit log can't be written (nobody reads " in issuer.output()
        os.read(read, 1 << 20)
        with issuer.client() as client:
            client.post("/login", json=body)
        assert b'"audit.resumed"' in os.read(read, 1 << 20)
        assert issuer.stop() == 0


def test_what_users_do_is_on_record_by_their_ids_alone(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer = start_issuer(AUTHIX_AUDIT="stdout")
    email, unknown, headers = "ann@example.com", "eve@example.com", {"User-Agent": "Browser/1.0"}
    with issuer.client() as client:
        client.headers.update(headers)
        subject = register(client, email)
        for who, password in ((email, "wrong horse battery"), (unknown, PASSWORD)):
            assert client.post("/login", json={"email": who, "password": password}).status_code == 401
        login(client, email)
        assert client.post("/logout").status_code == 204
    recorded = [json.loads(line) for line in issuer.output().splitlines() if line.startswith("{")]
    entries = [entry for entry in recorded if not entry["event"].startswith("key.")]
    assert [(entry["event"], entry["outcome"], entry["subject"]) for entry in entries] == [
        ("user.registered", "ok", subject),
        ("login", "credentials_wrong", subject),
        ("login", "credentials_wrong", ""),
        ("login", "ok", subject),
        ("logout", "ok", subject),
    ]
    assert {(entry["address"], entry["agent"], entry["actor"]) for entry in entries} == {
        ("127.0.0.1", "Browser/1.0", "")
    }
    sessions = [entry["session"] for entry in entries]
    assert sessions[:3] == ["", "", ""]
    assert sessions[3] == sessions[4] != ""
    assert "example.com" not in issuer.output()


def test_the_page_explains_every_event_and_no_other() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("\n## Events\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w.]+)` \| \S", table, re.MULTILINE) == list(Event)
