"""kill -9 of the issuer while accounts change: a change happens with all that it means for the sessions, or not at all.

Rule: whichever it was is read from the account itself after the restart; nothing is asked of a change whose answer was
lost but that it is whole.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.programs import PASSWORD, IssuerProgram, bearer, eventually, login, register

NEW = "fjords and glaciers rarely quarrel"
USERS = 8


class Person(NamedTuple):
    """A user on two devices; by the one the password is changed."""

    email: str
    here: httpx.Client
    there: httpx.Client
    token_there: str


def new_person(issuer: IssuerProgram, email: str) -> Person:
    here, there = issuer.client(), issuer.client()
    register(here, email)
    login(here, email)
    return Person(email, here, there, login(there, email))


def change_password(person: Person) -> bool:
    """Whether the change was answered."""
    body = {"current_password": PASSWORD, "new_password": NEW}
    try:
        token = person.here.post("/access_token").json()["access_token"]
        answer = person.here.post("/account/password", json=body, headers=bearer(token))
    except httpx.TransportError:
        return False
    assert answer.status_code == 204, answer.text
    return True


def crash_and_look(issuer: IssuerProgram, name: str, after: float) -> tuple[int, int]:
    """How many changes were answered, and how many came about."""
    people = [new_person(issuer, f"{name}-{number}@example.com") for number in range(USERS)]
    with ThreadPoolExecutor(USERS) as pool:
        answered = [pool.submit(change_password, person) for person in people]
        time.sleep(after)  # the moment of the crash is random
        issuer.kill()
    issuer.start().ready()
    eventually(lambda: not left_half_done(issuer), "the issuer has made good what was left half done")
    changed = [is_whole(person, answered=change.result()) for person, change in zip(people, answered, strict=True)]
    for person in people:
        person.here.close()
        person.there.close()
    return sum(change.result() for change in answered), sum(changed)


def left_half_done(issuer: IssuerProgram) -> int:
    with closing(sqlite3.connect(Path(issuer.env["AUTHIX_DATA_DIR"]) / "users.db")) as users:
        count: int = users.execute("SELECT count(*) FROM users WHERE unsettled IS NOT NULL").fetchone()[0]
        return count


def is_whole(person: Person, *, answered: bool) -> bool:
    """Whether the password was changed, and then with all that belongs to it."""

    def refused_there() -> bool:
        token = person.there.get("/account", headers=bearer(person.token_there)).status_code
        return token == 401 and person.there.post("/access_token").status_code == 401

    assert refused_there() or not answered
    with_new = person.here.post("/login", json={"email": person.email, "password": NEW}).status_code
    with_old = person.here.post("/login", json={"email": person.email, "password": PASSWORD}).status_code
    assert {with_new, with_old} == {200, 401}
    if with_new == 200:
        assert refused_there()
        return True
    assert person.there.post("/access_token").status_code == 200
    return False


def crash_often(start_issuer: Callable[..., IssuerProgram], times: int) -> tuple[int, int]:
    issuer = start_issuer(AUTHIX_REFRESH_GRACE="300")
    lives = [crash_and_look(issuer, f"life-{life}", random.uniform(0.01, 0.06)) for life in range(times)]
    return sum(answered for answered, _ in lives), sum(changed for _, changed in lives)


def test_a_change_that_a_crash_cuts_off_is_whole_or_never_was(start_issuer: Callable[..., IssuerProgram]) -> None:
    crash_often(start_issuer, 2)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_change_is_left_half_done_in_forty_crashes(start_issuer: Callable[..., IssuerProgram]) -> None:
    answered, changed = crash_often(start_issuer, 40)
    assert 0 < answered <= changed < 40 * USERS
