"""``authix-issuer users``, ``sessions`` and ``stats``, beside an issuer that runs and without one."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from authix import SyncAuthix
from authix_issuer import admin_commands
from authix_issuer.cli import main
from tests.issuer.services import refuses, service_of
from tests.programs import PASSWORD, IssuerProgram, bearer, eventually, login, register

NEW = "another horse battery staple"


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def run(shared_issuer: IssuerProgram, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``run("users", "list", given="…")``: a command on the stores of the issuer that runs, as from outside it."""
    for name, value in shared_issuer.env.items():
        if name.startswith("AUTHIX_"):
            monkeypatch.setenv(name, value)

    def command(*arguments: str, given: str = "") -> Answer:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        capfd.readouterr()
        code = main(arguments)
        return Answer(code, *capfd.readouterr())

    return command


@pytest.fixture(scope="module")
def service(shared_issuer: IssuerProgram) -> Iterator[SyncAuthix]:
    """A service that follows the issuer's feed."""
    with service_of(shared_issuer) as auth:
        yield auth


def test_what_a_command_changes_reaches_the_verifiers_of_the_running_issuer(
    run: Run, client: httpx.Client, user: str, access_token: str, service: SyncAuthix
) -> None:
    assert not refuses(service, access_token)
    shown = run("users", "roles", user, "reader", "writer", "--json").json()
    assert shown["roles"] == ["reader", "writer"]
    eventually(lambda: refuses(service, access_token), "the feed passes on what another process wrote", within=5)
    run("users", "claims", user, '{"tenant": "acme"}')
    claims = service.authenticate(client.post("/access_token").json()["access_token"])
    assert claims.roles == {"reader", "writer"}
    assert claims.extra["tenant"] == "acme"
    assert run("users", "roles", user, "--none", "--json").json()["roles"] == []
    assert run("users", "claims", user, "{}", "--json").json()["claims"] == {}


def test_the_first_administrator_is_made_before_the_first_start(
    start_issuer: Callable[..., IssuerProgram], tmp_path: Path
) -> None:
    issuer = IssuerProgram(tmp_path / "issuer")
    issuer.env["AUTHIX_AUDIT"] = "stdout"
    made = issuer.run("users", "create", "root@example.com", "--admin", "--generate", "--json")
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)  # of nothing but the answer, although the audit log is to be on standard output
    events = [json.loads(line) for line in made.stderr.splitlines()]
    assert [(event["actor"], event["subject"]) for event in events if event["event"] == "admin.user.created"] == [
        ("cli", answer["id"])
    ]
    assert answer["password"] not in made.stderr
    started = start_issuer()
    with started.client() as client:
        token = login(client, "root@example.com", answer["password"])
        assert client.get("/admin/users", headers=bearer(token)).json()["users"][0]["roles"] == ["authix-admin"]


def test_an_account_is_made_found_changed_and_deleted(
    run: Run, client: httpx.Client, new_email: Callable[[], str]
) -> None:
    email = new_email()
    made = run("users", "create", email, "--role", "a", "--role", "b", "--json", given=f"{PASSWORD}\n").json()
    assert "password" not in made
    assert (made["email"], made["roles"], made["state"]) == (email, ["a", "b"], "active")
    for who in (email, email.upper(), made["id"]):
        assert run("users", "show", who, "--json").json() == made
    login(client, email)
    assert run("users", "disable", email, "--json").json()["state"] == "disabled"
    assert client.post("/access_token").status_code == 401
    assert run("users", "enable", email, "--json").json()["state"] == "active"
    assert run("users", "reset-password", email, given=f"{NEW}\r\n").out == "Done.\n"
    login(client, email, NEW)
    assert run("users", "logout", email).code == 0
    assert client.post("/access_token").status_code == 401
    assert run("users", "delete", email).out == "Done.\n"
    assert run("users", "show", email).code == 1
    register(client, email)


def test_one_command_logs_everybody_out(start_issuer: Callable[..., IssuerProgram]) -> None:
    issuer = start_issuer()
    with issuer.client() as ada, issuer.client() as bob:
        for client, email in ((ada, "ada@example.com"), (bob, "bob@example.com")):
            register(client, email)
            login(client, email)
        for wrong in (["users", "logout"], ["users", "logout", "ada@example.com", "--all"]):
            refused = issuer.run(*wrong)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert refused.stderr.startswith("Name one account, or --all")
        done = issuer.run("users", "logout", "--all")
        assert (done.returncode, done.stdout) == (0, "2 accounts are logged out.\n")
        assert re.fullmatch(r"2 accounts are logged out; to go on from here: --after \w+\n", done.stderr)
        assert [client.post("/access_token").status_code for client in (ada, bob)] == [401, 401]
    last = done.stderr.split()[-1]
    assert issuer.run("users", "logout", "--all", "--after", last, "--json").stdout == '{"logged_out": 0}\n'


def test_sessions_are_listed_and_ended_and_a_user_agent_moves_no_cursor(
    run: Run, client: httpx.Client, user: str
) -> None:
    agent = "a \x9b2J phone".encode()  # the control character that begins what moves a terminal's cursor
    opened = client.post("/login", json={"email": user, "password": PASSWORD}, headers={b"User-Agent": agent})
    assert opened.status_code == 200
    (session,) = run("sessions", "list", user, "--json").json()["sessions"]
    table = run("sessions", "list", user).out.splitlines()
    assert len(table) == 2
    assert table[1].startswith(session["id"])
    assert table[1].endswith("a 2J phone")
    assert run("sessions", "end", user, session["id"]).out == "Done.\n"
    assert client.post("/access_token").status_code == 401
    assert run("sessions", "end", user, session["id"]).code == 1


def test_the_accounts_are_paged_through(run: Run, client: httpx.Client, new_email: Callable[[], str]) -> None:
    for _ in range(3):
        register(client, new_email())
    first = run("users", "list", "--limit", "2", "--json").json()
    after = first["after"]
    second = run("users", "list", "--limit", "2", "--after", after, "--json").json()
    assert [len(page["users"]) for page in (first, second)] == [2, 2]
    assert after == first["users"][-1]["id"] < second["users"][0]["id"]
    assert run("users", "list", "--limit", "2").out.splitlines()[-1] == f"More: --after {after}"


def test_the_figures_are_told(run: Run, client: httpx.Client, user: str) -> None:
    stats = run("stats", "--json").json()
    assert stats["users"] >= 1
    assert stats["degraded"] == {}
    assert {key["state"] for key in stats["keys"]} >= {"signing", "next"}
    table = run("stats").out
    assert f"users        {stats['users']}" in table
    assert stats["keys"][0]["id"] in table


NO_ID = "After must be the id of an account, which is 32 hexadecimal digits (0-9, a-f)."
REFUSED = {
    "an unknown id": (["users", "show", "nobody"], "There is no such account."),
    "an unknown email": (["users", "delete", "nobody@example.com"], "There is no such account."),
    "an id that is no text": (["users", "show", "\udcff"], "There is no such account."),
    "no email": (["users", "show", "x@"], "There must be something after the @-sign."),
    "an unknown session": (["sessions", "end", "{user}", "x"], "There is no such session; it may have ended."),
    "no roles": (["users", "roles", "{user}"], "Name the roles, or --none to take all away."),
    "roles and none": (["users", "roles", "{user}", "a", "--none"], "Name the roles, or --none to take all away."),
    "a role with a comma": (["users", "roles", "{user}", "a,b"], "Each role must be 1 to 64"),
    "claims that are no JSON": (["users", "claims", "{user}", "tenant=acme"], "The claims are not one JSON object"),
    "claims that are no text": (["users", "claims", "{user}", '{"a":"\udcff"}'], "The claims are not one JSON object"),
    "a claim of ours": (["users", "claims", "{user}", '{"sub":"x"}'], "Sub can't be set: a token says"),
    "a page of none": (["users", "list", "--limit", "0"], "--limit must be from 1 to 1000."),
    "a page after nothing": (["users", "list", "--after", "a b"], NO_ID),
    "a page after no id": (["users", "list", "--after", "zzz"], NO_ID),
    "everybody after no id": (["users", "logout", "--all", "--after", "zzz"], NO_ID),
    "everybody after an email": (["users", "logout", "--all", "--after", "zoe@example.com"], NO_ID),
    "everybody after an id in capitals": (["users", "logout", "--all", "--after", "F" * 32], NO_ID),
    "no password": (["users", "create", "x@example.com"], "The password has fewer than 15 characters."),
    "no new password": (["users", "reset-password", "{user}"], "The password has fewer than 15 characters."),
    "a taken email": (["users", "create", "{user}", "--generate"], "There already is an account with this email."),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_told_in_a_sentence(run: Run, user: str, what: str) -> None:
    arguments, told = REFUSED[what]
    answer = run(*(user if argument == "{user}" else argument for argument in arguments))
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(told)
    assert answer.err.endswith(".\n")
    assert answer.err.count("\n") == 1


def test_a_wrong_setting_is_told_before_anything_is_done(run: Run) -> None:
    answer = run("users", "list", "--algorithm", "none")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("AUTHIX_ALGORITHM must be one of")


def test_two_passwords_that_differ_are_not_taken(
    run: Run, user: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def typing(*typed: str) -> int:
        answers = iter(typed)
        monkeypatch.setattr(admin_commands, "getpass", lambda _: next(answers))
        monkeypatch.setattr("sys.stdin", Terminal())
        return main(["users", "reset-password", user])

    assert typing(NEW, PASSWORD) == 1
    assert capfd.readouterr().err == "No password was given, or not the same one twice.\n"
    assert typing(NEW, NEW) == 0
