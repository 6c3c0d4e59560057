"""``authix-issuer serve`` as a process: how it starts, refuses to start and ends."""

from __future__ import annotations

import os
import pty
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

import argon2
import httpx
import pytest

from authix_issuer.cli import main
from tests.programs import DEADLINE, PASSWORD, IssuerProgram, eventually, login, register

PROMPTLY = 8.0
"""Well under the 10 s after which connections are cut off."""


def refusal(issuer: IssuerProgram) -> str:
    """The one line with which it refuses to start."""
    assert issuer.process is not None
    assert issuer.process.wait(DEADLINE) == 2
    assert "Traceback" not in issuer.output()
    (line,) = issuer.output().splitlines()
    assert line.endswith(".")
    return line


@pytest.fixture
def program(tmp_path: Path, programs: Callable[[IssuerProgram], IssuerProgram]) -> Callable[..., IssuerProgram]:
    """``program(**environment)``: an issuer that is started and not waited for."""

    def start(**environment: str) -> IssuerProgram:
        return programs(IssuerProgram(tmp_path / "issuer", **environment)).start()

    return start


Start = Callable[..., IssuerProgram]


def test_a_port_in_use_is_told(program: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"AUTHIX_PORT={port} can't be listened on (Address already in use)" in refusal(program(AUTHIX_PORT=port))


def test_a_host_that_does_not_exist_is_told(program: Start) -> None:
    line = refusal(program(AUTHIX_HOST="nowhere.invalid", AUTHIX_FEED_TOKEN="t" * 40))
    assert line.startswith("AUTHIX_HOST=nowhere.invalid ")
    assert "Unknown error" not in line


def test_a_data_folder_that_cannot_be_made_is_told(program: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(program(AUTHIX_DATA_DIR=str(tmp_path / "file"))).startswith("AUTHIX_DATA_DIR=")


def test_a_file_that_is_no_database_is_told(program: Start, tmp_path: Path) -> None:
    (tmp_path / "users.db").write_bytes(b"no database" * 1000)
    line = refusal(program(AUTHIX_USERS_URL=f"sqlite:///{tmp_path / 'users.db'}"))
    assert "users.db can't be opened" in line
    assert "AUTHIX_DATA_DIR" in line


def test_another_master_secret_is_told_and_the_first_one_still_works(program: Start) -> None:
    issuer = program(AUTHIX_SECRET="s" * 40).ready()
    issuer.stop()
    issuer.log.unlink()
    issuer.env["AUTHIX_SECRET"] = "t" * 40
    line = refusal(issuer.start())
    assert line.startswith("AUTHIX_SECRET is not the secret that the stored signing keys were sealed with")
    issuer.env["AUTHIX_SECRET"] = "s" * 40
    issuer.start().ready()


def test_the_first_start_makes_private_files_that_the_next_one_uses(start_issuer: Start) -> None:
    issuer = start_issuer()
    data = issuer.log.parent / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()}
    assert {"secret", "users.db", "sessions.db"} <= set(modes)
    assert set(modes.values()) == {0o600}
    with issuer.client() as client:
        register(client, "ann@example.com")
        login(client, "ann@example.com")
        keys = client.get("/.well-known/jwks.json").content
        issuer.stop()
        issuer.start().ready()
        assert client.get("/.well-known/jwks.json").content == keys
        assert client.post("/access_token").status_code == 200
        assert login(client, "ann@example.com")


def parameters_of(issuer: IssuerProgram) -> argon2.Parameters:
    """Of the one password hash in the store."""
    with closing(sqlite3.connect(issuer.log.parent / "data" / "users.db", timeout=DEADLINE)) as store:
        ((password_hash,),) = store.execute("SELECT password_hash FROM users").fetchall()
    return argon2.extract_parameters(password_hash)


def test_after_a_restart_with_another_hash_profile_the_login_hashes_anew(start_issuer: Start) -> None:
    issuer = start_issuer(AUTHIX_HASH_PROFILE="cheapest")
    with issuer.client() as client:
        register(client, "ann@example.com")
        assert parameters_of(issuer).memory_cost == 8
        issuer.stop()
        issuer.env["AUTHIX_HASH_PROFILE"] = "original"
        issuer.start().ready()
        for _ in range(2):
            assert login(client, "ann@example.com")
            assert (parameters_of(issuer).memory_cost, parameters_of(issuer).time_cost) == (7168, 5)


def test_issuers_on_one_store_start_together_sign_with_one_key_and_share_every_session(
    tmp_path: Path, programs: Callable[[IssuerProgram], IssuerProgram]
) -> None:
    shared = {"AUTHIX_DATA_DIR": str(tmp_path / "data"), "AUTHIX_ISSUER": "http://localhost:8000"}
    one, other = (programs(IssuerProgram(tmp_path / name, **shared)) for name in ("one", "other"))
    for issuer in (one, other):
        issuer.start()
    with one.ready().client() as here, other.ready().client() as there:
        assert here.get("/.well-known/jwks.json").content == there.get("/.well-known/jwks.json").content
        register(here, "ann@example.com")
        login(there, "ann@example.com")
        here.cookies = there.cookies
        assert here.post("/access_token").status_code == 200
        with there.stream("GET", "/revocations", headers={"Accept": "text/event-stream"}) as feed:
            lines = feed.iter_lines()
            assert here.post("/logout").status_code == 204
            assert any('"type":"user"' in line for line in lines)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_although_followers_come_again(start_issuer: Start, how: signal.Signals) -> None:
    issuer = start_issuer()
    ended, following = threading.Event(), threading.Semaphore(0)

    def follow() -> None:
        with issuer.client() as client:
            while not ended.is_set():
                try:
                    with client.stream("GET", "/revocations", headers={"Accept": "text/event-stream"}) as feed:
                        for _ in feed.iter_raw():
                            following.release()
                except httpx.TransportError:
                    ended.wait(0.005)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(follow)
        for _ in range(8):
            assert following.acquire(timeout=DEADLINE)
        try:
            assert issuer.stop(how, within=PROMPTLY) == 0
        finally:
            ended.set()
    assert "Traceback" not in issuer.output()
    assert "[error" not in issuer.output()
    assert issuer.output().count("stopping") == 1


def test_a_request_in_flight_is_answered_before_the_end(start_issuer: Start) -> None:
    issuer = start_issuer(AUTHIX_HASH_PROFILE="rfc9106-low-memory", AUTHIX_HASH_THREADS="1")
    with issuer.client() as client, ThreadPoolExecutor(8) as pool:
        register(client, "ann@example.com")
        body = {"email": "ann@example.com", "password": PASSWORD}
        clients = [issuer.client() for _ in range(4)]
        for each in clients:
            each.get("/livez")
        in_flight = [pool.submit(each.post, "/login", json=body) for each in clients]
        eventually(lambda: "POST /login 200" in issuer.output(), "the first of them is answered")
        assert issuer.stop(within=PROMPTLY) == 0
        answers = [future.result() for future in in_flight if future.exception() is None]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert len(answers) >= 2
        for each in clients:
            each.close()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--version"], 0, [version("authix-issuer")]),
        (["--help"], 0, ["usage: authix-issuer", "serve"]),
        (["serve", "--help"], 0, ["AUTHIX_ISSUER", "AUTHIX_AUDIENCE", "AUTHIX_PORT", "AUTHIX_DATA_DIR"]),
        ([], 2, ["usage: authix-issuer"]),
        (["nonsense"], 2, ["usage: authix-issuer"]),
    ],
)
def test_help_and_version_are_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    captured = capsys.readouterr()
    text = captured.err if code else captured.out
    assert all(part in text for part in told)
    assert "AUTHIX_SECRET" not in text
    assert "AUTHIX_FEED_TOKEN" not in text


def through_a_shell(issuer: IssuerProgram, command: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of ``command``, in which ``$issuer`` is the program; its answers are written as they come."""
    env = {name: value for name, value in issuer.env.items() if name != "PYTHONUNBUFFERED"}
    run = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", command],
        env=env | {"issuer": f"{sys.executable} -m authix_issuer"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert "Traceback" not in run.stdout + run.stderr
    assert "Exception ignored" not in run.stderr
    return run


MADE = "$issuer users create ann@example.com --generate >/dev/null"
FULL = "The answer can't be written (No space left on device).\n"
BROKEN = {
    "no standard input": (
        "$issuer users create ann@example.com <&-",
        "No password was given, or not the same one twice.\n",
    ),
    "a closed pipe": ("$issuer config | true", ""),
    "a closed pipe, of help": ("$issuer serve --help | true", ""),
    "a closed pipe, of what opens the stores": (f"{MADE} && $issuer users list | true", ""),
    "a closed pipe, of what writes as it goes": ("$issuer doctor | true", ""),
    "a full disk": (f"{MADE} && $issuer users list >/dev/full", FULL),
    "a full disk, of help": ("$issuer --help >/dev/full", FULL),
    "a full disk, of the settings": ("$issuer config >/dev/full", FULL),
    "a full disk, of what writes as it goes": ("$issuer doctor >/dev/full", FULL),
    "no standard output": ("$issuer users list >&-", "Standard output is closed, so there would be no answer.\n"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_answer_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path, what: str) -> None:
    command, told = BROKEN[what]
    run = through_a_shell(IssuerProgram(tmp_path / "issuer", AUTHIX_AUDIT="off"), command)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", told)


@pytest.mark.parametrize("command", ["users list", "users logout --all", "keys list", "sessions list ann", "stats"])
def test_a_command_that_finds_no_store_makes_none(tmp_path: Path, command: str) -> None:
    issuer = IssuerProgram(tmp_path / "issuer")
    run = issuer.run(*command.split())
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("There is no ")
    assert "AUTHIX_DATA_DIR" in run.stderr
    assert not list(Path(issuer.env["AUTHIX_DATA_DIR"]).glob("*"))


@pytest.mark.parametrize("command", ["serve", "users list"])
def test_without_a_standard_error_nothing_is_done(tmp_path: Path, command: str) -> None:
    issuer = IssuerProgram(tmp_path / "issuer")
    run = through_a_shell(issuer, f"$issuer {command} 2>&-")
    assert run.returncode == 1
    assert run.stdout.startswith("Standard error is closed")
    assert not (tmp_path / "issuer" / "data").exists()


def test_an_interrupt_while_a_password_is_awaited_ends_it(tmp_path: Path) -> None:
    issuer = IssuerProgram(tmp_path / "issuer")
    keyboard, terminal = pty.openpty()
    with closing(os.fdopen(keyboard, "r+b", buffering=0)) as hands:
        run = subprocess.Popen(
            # who runs the tests in the background may have SIGINT ignored
            [
                "/usr/bin/env",
                "--default-signal=INT",
                sys.executable,
                "-m",
                "authix_issuer",
                "users",
                "create",
                "ann@a.b",
            ],
            env=issuer.env,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,  # so that it asks here, not at the terminal of whoever runs the tests
        )
        os.close(terminal)
        shown = b""
        while b"New password: " not in shown:
            shown += hands.read(1024)
        run.send_signal(signal.SIGINT)
        try:
            assert run.wait(DEADLINE) == 130
        finally:
            run.kill()
        with suppress(OSError):  # the terminal is gone
            while more := hands.read(1024):
                shown += more
    assert b"Traceback" not in shown


def test_an_address_of_ipv6_is_told_as_a_url_has_it(program: Start) -> None:
    issuer = program(AUTHIX_HOST="::1")
    eventually(lambda: "listens on " in issuer.output(), "it listens")
    assert f"listens on http://[::1]:{issuer.port} " in issuer.output()


def test_the_console_script_is_installed() -> None:
    run = subprocess.run(
        [Path(sys.executable).parent / "authix-issuer", "--version"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert run.stdout.strip() == version("authix-issuer")
