"""What Schemathesis can't see from the OpenAPI document: who asks, and which credentials are good.

Rule: nothing here judges an answer, and data that is meant to be bad stays as it is.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import httpx
import schemathesis
from schemathesis import AuthContext, HookContext
from schemathesis.core.transport import Response

Case = schemathesis.Case[Any]

PASSWORD, ADMIN_EMAIL, ADMIN_ID = (os.environ[name] for name in ("PASSWORD", "ADMIN_EMAIL", "ADMIN_ID"))
FEED_TOKEN, INTROSPECTION_TOKEN = os.environ["AUTHIX_FEED_TOKEN"], os.environ["AUTHIX_INTROSPECTION_TOKEN"]
FORMS = {"/introspect", "/revoke"}

_client = httpx.Client(base_url=os.environ["AUTHIX_ISSUER"], trust_env=False, timeout=20)
_numbers = itertools.count()


class Person:
    """Somebody who logs in again as soon as what was done may have ended the session."""

    def __init__(self, email: str) -> None:
        self.email = email
        self.access_token = self.cookie = ""

    def logged_in(self) -> Person:
        if not self.access_token:
            answer = self._log_in()
            if answer.status_code != 200:  # the account was deleted, disabled or given another password
                self.email = new_email()
                _client.post("/register", json={"email": self.email, "password": PASSWORD})
                answer = self._log_in()
            self.take(answer.json()["access_token"], answer.headers["set-cookie"])
        return self

    def take(self, access_token: str, set_cookie: str) -> None:
        self.access_token, self.cookie = access_token, set_cookie.partition("=")[2].partition(";")[0]

    def forget(self) -> None:
        self.access_token = self.cookie = ""

    def _log_in(self) -> httpx.Response:
        answer = _client.post("/login", json={"email": self.email, "password": PASSWORD})
        _client.cookies.clear()
        return answer


def new_email() -> str:
    return f"walker-{next(_numbers)}@example.com"


administrator, user = Person(ADMIN_EMAIL), Person(new_email())


def _is_walk(case: Case) -> bool:
    """Whether it is a step of a walk along the links, with data that is meant to be good."""
    return case.meta is not None and case.meta.phase.name == "stateful" and case.meta.generation.mode.is_positive


class _Bearer:
    """Shows one bearer token."""

    def set(self, case: Case, data: str, _: AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.auth(refresh_interval=None).apply_to(path_regex="^/admin/")
class _Administrator(_Bearer):
    def get(self, _: Case, __: AuthContext) -> str:
        return administrator.logged_in().access_token


@schemathesis.auth(refresh_interval=None).apply_to(path_regex="^/(account|sessions)")
class _User(_Bearer):
    def get(self, _: Case, __: AuthContext) -> str:
        return user.logged_in().access_token


@schemathesis.auth(refresh_interval=None).apply_to(path_regex="^/(access_token|logout)$")
class _Browser:
    def get(self, _: Case, __: AuthContext) -> str:
        return user.logged_in().cookie

    def set(self, case: Case, data: str, _: AuthContext) -> None:
        case.cookies["authix_refresh"] = data


@schemathesis.auth(refresh_interval=None).apply_to(path="/introspect")
class _Service(_Bearer):
    def get(self, _: Case, __: AuthContext) -> str:
        return INTROSPECTION_TOKEN


@schemathesis.auth(refresh_interval=None).apply_to(path="/revocations")
class _Verifier(_Bearer):
    def get(self, _: Case, __: AuthContext) -> str:
        return FEED_TOKEN


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Let a walk succeed: new addresses, and the one password that everybody has. The administrator stays one."""
    if case.path_parameters.get("user") == ADMIN_ID:
        case.path_parameters["user"] = "nobody"
    body = case.body
    if not _is_walk(case) or not isinstance(body, dict):
        return
    if "email" in body and case.path != "/login":
        body["email"] = new_email()
    for name in {"password", "current_password", "new_password"} & body.keys():
        body[name] = PASSWORD
    if "token" in body and case.path in FORMS:
        body["token"] = user.logged_in().access_token


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    """Go on as whoever has just logged in, and log in anew where the session may have ended."""
    ok = 200 <= response.status_code < 300
    if ok and case.path in {"/login", "/access_token"}:
        user.take(response.json()["access_token"], response.headers["set-cookie"][0])
    elif response.status_code == 401 or (ok and case.method.upper() != "GET"):
        administrator.forget()
        user.forget()
        if ok and case.path == "/account/email":
            user.email = response.json()["email"]
        if ok and case.path == "/admin/users" and _is_walk(case):
            Person(response.json()["email"]).logged_in()  # so that there is a session to look at
