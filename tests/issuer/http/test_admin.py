"""The administration over HTTP, with an issuer, administrators, other people and a service that verifies tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from authix import SyncAuthix
from authix_issuer.audit import Event
from tests.documented import assert_documented
from tests.issuer.services import refuses, service_of
from tests.programs import PASSWORD, IssuerProgram, bearer, eventually, login

AssertProblem = Callable[..., dict[str, Any]]
ROOT = "root@example.com"
NEW = "another horse battery staple"
HUGE = "a" * 5000


class Person(NamedTuple):
    """Somebody who is logged in; the refresh token is in the client's jar."""

    id: str
    email: str
    client: httpx.Client
    token: str


People = Callable[..., Person]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProgram]:
    """An issuer whose first administrator was made on its command line."""
    issuer = IssuerProgram(tmp_path_factory.mktemp("administered"))
    try:
        issuer.start().ready()
        made = issuer.run("users", "create", ROOT, "--admin", given=f"{PASSWORD}\n")
        assert made.returncode == 0, made.stderr
        yield issuer
        assert issuer.stop() == 0
        assert "Traceback" not in issuer.output()
    finally:
        issuer.kill()


@pytest.fixture(scope="module")
def admin(issuer: IssuerProgram) -> Iterator[httpx.Client]:
    """The first administrator's client: it has an access token and no cookie."""
    with issuer.client() as client:
        token = login(client, ROOT)
        client.cookies.clear()
        client.headers.update(bearer(token))
        yield client


@pytest.fixture(scope="module")
def service(issuer: IssuerProgram) -> Iterator[SyncAuthix]:
    """A service that follows the issuer's feed."""
    with service_of(issuer) as auth:
        yield auth


@pytest.fixture
def people(issuer: IssuerProgram, admin: httpx.Client, new_email: Callable[[], str]) -> Iterator[People]:
    """``people(roles=[…], claims={…})``: somebody new, who has just logged in."""
    clients = []

    def new(**granted: Any) -> Person:
        email, client = new_email(), issuer.client()
        clients.append(client)
        answer = admin.post("/admin/users", json={"email": email, "password": PASSWORD, **granted})
        assert answer.status_code == 201, answer.text
        return Person(answer.json()["id"], email, client, login(client, email))

    yield new
    for client in clients:
        client.close()


@pytest.fixture
def bob(people: People) -> Person:
    return people()


def refreshed(person: Person) -> str:
    answer = person.client.post("/access_token")
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


def is_out(person: Person) -> bool:
    return person.client.post("/access_token").status_code == 401


def recorded(issuer: IssuerProgram, subject: str) -> list[dict[str, Any]]:
    """What the audit log says of an account."""
    lines = (issuer.log.parent / "audit.log").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["subject"] == subject]


def test_new_roles_and_claims_revoke_and_come_with_the_next_refresh(
    admin: httpx.Client, service: SyncAuthix, bob: Person
) -> None:
    assert service.authenticate(bob.token).roles == frozenset()
    new = {"roles": ["reader", "shop:writer"], "claims": {"tenant": "acme", "plan": {"seats": 3}}}
    answer = admin.patch(f"/admin/users/{bob.id}", json=new)
    assert (answer.status_code, answer.json()["roles"]) == (200, new["roles"])
    eventually(lambda: refuses(service, bob.token), "the service refuses the token of before")
    claims = service.authenticate(refreshed(bob))
    assert claims.roles == {"reader", "shop:writer"}
    assert {name: claims.extra[name] for name in ("tenant", "plan")} == new["claims"]
    assert admin.get(f"/admin/users/{bob.id}").json() == answer.json()


def test_what_is_not_given_stays(admin: httpx.Client, people: People) -> None:
    person = people(roles=["reader"], claims={"tenant": "acme"})
    for change, roles, claims in (
        ({"roles": ["writer"]}, ["writer"], {"tenant": "acme"}),
        ({"claims": {}}, ["writer"], {}),
        ({"state": "active"}, ["writer"], {}),
        ({"roles": []}, [], {}),
    ):
        shown = admin.patch(f"/admin/users/{person.id}", json=change).json()
        assert (shown["roles"], shown["claims"], shown["state"]) == (roles, claims, "active")


def test_who_is_disabled_is_out_and_stays_out_until_enabled(
    admin: httpx.Client, service: SyncAuthix, bob: Person, assert_problem: AssertProblem
) -> None:
    assert admin.patch(f"/admin/users/{bob.id}", json={"state": "disabled"}).json()["state"] == "disabled"
    eventually(lambda: refuses(service, bob.token), "the service refuses the token of before")
    assert is_out(bob)
    credentials = {"email": bob.email, "password": PASSWORD}
    assert_problem(bob.client.post("/login", json=credentials), 403, "account_disabled")
    assert_problem(bob.client.post("/login", json=credentials | {"password": NEW}), 401, "credentials_wrong")
    admin.patch(f"/admin/users/{bob.id}", json={"state": "active"})
    assert not refuses(service, login(bob.client, bob.email))


def test_who_is_deleted_is_gone_and_the_email_is_free_again(
    admin: httpx.Client, service: SyncAuthix, bob: Person, assert_problem: AssertProblem
) -> None:
    assert admin.delete(f"/admin/users/{bob.id}").status_code == 204
    eventually(lambda: refuses(service, bob.token), "the service refuses the token of before")
    assert is_out(bob)
    assert_problem(admin.get(f"/admin/users/{bob.id}"), 404, "account_unknown")
    assert admin.get("/admin/users", params={"email": bob.email}).json()["users"] == []
    again = admin.post("/admin/users", json={"email": bob.email, "password": PASSWORD})
    assert again.status_code == 201
    assert again.json()["id"] != bob.id


def test_who_is_logged_out_is_out_everywhere_and_may_come_back(
    admin: httpx.Client, issuer: IssuerProgram, service: SyncAuthix, bob: Person
) -> None:
    with issuer.client() as phone:
        other = login(phone, bob.email)
        assert admin.post(f"/admin/users/{bob.id}/logout").status_code == 204
        eventually(lambda: refuses(service, bob.token), "the service refuses the token of before")
        eventually(lambda: refuses(service, other), "the service refuses the other token of before")
        assert is_out(bob)
        assert phone.post("/access_token").status_code == 401
    assert not refuses(service, login(bob.client, bob.email))


def test_a_reset_password_ends_every_session_and_is_the_one_that_works(
    admin: httpx.Client, service: SyncAuthix, bob: Person, assert_problem: AssertProblem
) -> None:
    assert admin.post(f"/admin/users/{bob.id}/password", json={"password": NEW}).status_code == 204
    eventually(lambda: refuses(service, bob.token), "the service refuses the token of before")
    assert is_out(bob)
    old = bob.client.post("/login", json={"email": bob.email, "password": PASSWORD})
    assert_problem(old, 401, "credentials_wrong")
    assert login(bob.client, bob.email, NEW)


def test_one_session_is_ended_and_the_others_go_on(
    admin: httpx.Client, issuer: IssuerProgram, service: SyncAuthix, bob: Person, assert_problem: AssertProblem
) -> None:
    with issuer.client() as phone:
        phone.headers["User-Agent"] = "a phone"
        token = login(phone, bob.email)
        path = f"/admin/users/{bob.id}/sessions"
        first, _ = admin.get(path).json()["sessions"]
        assert first["user_agent"] == "a phone"
        assert "current" not in first
        assert admin.delete(f"{path}/{first['id']}").status_code == 204
        eventually(lambda: refuses(service, token), "the service refuses the ended session's token")
        assert phone.post("/access_token").status_code == 401
    assert not refuses(service, bob.token)
    assert len(admin.get(path).json()["sessions"]) == 1
    assert_problem(admin.delete(f"{path}/{first['id']}"), 404, "session_unknown")


def test_a_session_is_ended_of_its_own_user_only(
    admin: httpx.Client, people: People, assert_problem: AssertProblem
) -> None:
    one, other = people(), people()
    (session,) = admin.get(f"/admin/users/{one.id}/sessions").json()["sessions"]
    assert_problem(admin.delete(f"/admin/users/{other.id}/sessions/{session['id']}"), 404, "session_unknown")
    assert refreshed(one)


def test_an_account_is_found_by_any_spelling_of_its_email(admin: httpx.Client, bob: Person) -> None:
    for spelling in (bob.email, bob.email.upper()):
        answer = admin.get("/admin/users", params={"email": spelling})
        assert [user["id"] for user in answer.json()["users"]] == [bob.id]
        assert answer.json()["after"] is None
    assert admin.get("/admin/users", params={"email": "nobody@example.com"}).json()["users"] == []


def test_the_accounts_are_paged_through_each_once(admin: httpx.Client, people: People) -> None:
    made = {people().id for _ in range(3)}
    everybody = [user["id"] for user in admin.get("/admin/users", params={"limit": 1000}).json()["users"]]
    found: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = admin.get("/admin/users", params=query).json()
        found += [user["id"] for user in page["users"]]
        if page["after"] is None:
            break
        assert len(page["users"]) == 2
        query["after"] = page["after"]
    assert found == everybody == sorted(everybody)
    assert made <= set(found)


def test_no_answer_holds_a_password_or_the_hash_of_one(admin: httpx.Client, bob: Person) -> None:
    for path in ("/admin/users", f"/admin/users/{bob.id}", "/admin/keys", "/admin/stats"):
        assert "argon2" not in admin.get(path).text
        assert PASSWORD not in admin.get(path).text


CALLS = [
    ("GET", "/admin/users"),
    ("POST", "/admin/users"),
    ("GET", "/admin/users/{user}"),
    ("PATCH", "/admin/users/{user}"),
    ("DELETE", "/admin/users/{user}"),
    ("POST", "/admin/users/{user}/logout"),
    ("POST", "/admin/users/{user}/password"),
    ("GET", "/admin/users/{user}/sessions"),
    ("DELETE", "/admin/users/{user}/sessions/{session}"),
    ("GET", "/admin/keys"),
    ("POST", "/admin/keys/rotate"),
    ("DELETE", "/admin/keys/{key}"),
    ("GET", "/admin/stats"),
]


def test_these_are_all_calls(admin: httpx.Client) -> None:
    paths = admin.get("/openapi.json").json()["paths"]
    assert set(CALLS) == {
        (method.upper(), path) for path, item in paths.items() for method in item if path.startswith("/admin/")
    }


def test_nobody_and_no_cookie_gets_in(issuer: IssuerProgram, people: People, assert_problem: AssertProblem) -> None:
    administrator = people(roles=["authix-admin"])  # whose client has a session's cookie and sends it
    for method, path in CALLS:
        answer = administrator.client.request(method, path)
        assert_problem(answer, 401, "token_missing")
        assert answer.headers["www-authenticate"] == 'Bearer realm="authix"'
        assert_problem(administrator.client.request(method, path, headers=bearer("x.y.z")), 401, "token_malformed")
    assert not [entry for entry in recorded(issuer, "") if entry["event"] == Event.ADMIN_REFUSED]


def test_who_has_other_roles_is_forbidden_everything_and_put_on_record(
    admin: httpx.Client, issuer: IssuerProgram, people: People
) -> None:
    person = people(roles=["authix-administrator", "admin", "AUTHIX-ADMIN"])
    for method, path in CALLS:
        answer = httpx.request(method, issuer.url + path, headers=bearer(person.token), trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (403, "role_missing"), path
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    refused = [entry for entry in recorded(issuer, person.id) if entry["event"] == Event.ADMIN_REFUSED]
    assert [entry["outcome"] for entry in refused] == ["role_missing"] * len(CALLS)
    assert admin.get(f"/admin/users/{person.id}").status_code == 200


@pytest.mark.parametrize("how", ["roles", "disabled", "deleted", "logged out", "own logout"])
def test_a_revoked_administrator_is_nobody_at_once(
    admin: httpx.Client, issuer: IssuerProgram, people: People, assert_problem: AssertProblem, how: str
) -> None:
    other = people(roles=["authix-admin"])
    headers, path = bearer(other.token), f"/admin/users/{other.id}"
    assert other.client.get("/admin/stats", headers=headers).status_code == 200
    match how:
        case "roles":
            admin.patch(path, json={"roles": ["reader"]})
        case "disabled":
            admin.patch(path, json={"state": "disabled"})
        case "deleted":
            admin.delete(path)
        case "logged out":
            admin.post(f"{path}/logout")
        case "own logout":
            other.client.post("/logout")
    assert_problem(other.client.get("/admin/stats", headers=headers), 401, "token_revoked")
    assert (Event.ADMIN_REFUSED, "token_revoked") in [(it["event"], it["outcome"]) for it in recorded(issuer, other.id)]
    if how == "roles":
        answer = other.client.get("/admin/stats", headers=bearer(refreshed(other)))
        assert answer.json()["code"] == "role_missing"


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("DELETE", None),
        ("PATCH", {"state": "disabled"}),
        ("PATCH", {"roles": []}),
        ("PATCH", {"roles": ["reader"], "claims": {"a": 1}}),
    ],
)
def test_nobody_takes_the_administration_from_oneself(
    people: People, assert_problem: AssertProblem, method: str, body: dict[str, Any] | None
) -> None:
    me = people(roles=["authix-admin"])
    headers = bearer(me.token)
    answer = me.client.request(method, f"/admin/users/{me.id}", json=body, headers=headers)
    assert_problem(answer, 409, "self_lockout")
    shown = me.client.get(f"/admin/users/{me.id}", headers=headers).json()  # the token is as good as it was
    assert (shown["roles"], shown["claims"], shown["state"]) == (["authix-admin"], {}, "active")
    others = {"roles": ["authix-admin", "reader"]}
    assert me.client.patch(f"/admin/users/{me.id}", json=others, headers=headers).status_code == 200


BAD_ROLES = ["", " ", "a b", "a,b", "é", "a\n", "%", '"', "x" * 65]
BODIES: dict[tuple[str, str], dict[str, tuple[object, set[str]]]] = {
    ("POST", "/admin/users"): {
        "nothing": ({}, {"email_missing", "password_missing"}),
        "wrong types": (
            {"email": 1, "password": None, "roles": "reader", "claims": [1]},
            {"email_malformed", "password_malformed", "roles_malformed", "claims_malformed"},
        ),
        "a role of another type": ({"email": "a@b.cd", "password": NEW, "roles": [1]}, {"roles_malformed"}),
        "an unknown field": ({"email": "a@example.com", "password": NEW, "role": ["x"]}, {"field_unknown"}),
        "no email": ({"email": "x", "password": NEW}, {"email_invalid"}),
        "a short password": ({"email": "a@example.com", "password": "x"}, {"password_too_short"}),
        "bad grants": (
            {"email": "a@example.com", "password": NEW, "roles": ["a b"], "claims": {"sub": "x"}},
            {"role_malformed", "claim_reserved"},
        ),
    },
    ("PATCH", "/admin/users/{user}"): {
        "nothing": ({}, {"nothing_to_change"}),
        "null": ({"roles": None, "claims": None}, {"roles_malformed", "claims_malformed"}),
        "an unknown state": ({"state": "deleted"}, {"state_malformed"}),
        "a field of an account": ({"id": "x", "email": "a@example.com"}, {"field_unknown"}),
        "a thousand unknown fields": ({f"f{n}": 1 for n in range(1000)}, {"field_unknown"}),
        "a role twice": ({"roles": ["a", "a"]}, {"role_repeated"}),
        "too many roles": ({"roles": [f"r{n}" for n in range(65)]}, {"roles_too_many"}),
        "too long roles": ({"roles": [f"{n:064}" for n in range(40)]}, {"roles_too_many"}),
        **{f"the role {role!r}": ({"roles": [role]}, {"role_malformed"}) for role in BAD_ROLES},
        "a claim of ours": ({"claims": {"roles": ["authix-admin"], "iat_us": 1}}, {"claim_reserved"}),
        "large claims": ({"claims": {"a": "x" * 2048}}, {"claims_too_large"}),
        "claims that a token spells longer": ({"claims": {"a": "é" * 400}}, {"claims_too_large"}),
        "deep claims": ({"claims": {"a": [[[[[[[[1]]]]]]]]}}, {"claims_too_deep"}),
        "an infinite number": ('{"claims": {"a": [1e999]}}', {"claim_number"}),
        "a number beyond all": ({"claims": {"a": 2**64}}, {"claim_number"}),
    },
    ("POST", "/admin/users/{user}/password"): {
        "nothing": ({}, {"password_missing"}),
        "a number": ({"password": 1}, {"password_malformed"}),
        "a short one": ({"password": "short"}, {"password_too_short"}),
        "an unknown field": ({"password": NEW, "old": "x"}, {"field_unknown"}),
    },
    ("POST", "/admin/keys/rotate"): {
        "a text": ({"now": "yes"}, {"now_malformed"}),
        "an unknown field": ({"force": True}, {"field_unknown"}),
    },
}  # fmt: skip


@pytest.mark.parametrize(("call", "what"), [(call, what) for call, bodies in BODIES.items() for what in bodies])
def test_a_wrong_body_is_refused_field_by_field_and_changes_nothing(
    admin: httpx.Client, root: dict[str, Any], assert_problem: AssertProblem, call: tuple[str, str], what: str
) -> None:
    body, codes = BODIES[call][what]
    content = body if isinstance(body, str) else json.dumps(body)
    path, headers = call[1].format(user=root["id"]), {"Content-Type": "application/json"}
    problem = assert_problem(admin.request(call[0], path, content=content, headers=headers), 422, "input_invalid")
    assert {reason["code"] for reason in problem["reasons"]} == codes
    assert len(problem["reasons"]) <= 10
    assert admin.get(f"/admin/users/{root['id']}").json() == root


@pytest.fixture
def root(admin: httpx.Client) -> dict[str, Any]:
    (shown,) = admin.get("/admin/users", params={"email": ROOT}).json()["users"]
    account: dict[str, Any] = shown
    return account


def test_the_largest_grants_fit_into_a_token(admin: httpx.Client, people: People, service: SyncAuthix) -> None:
    roles = [f"{n:02}" + "r" * 26 for n in range(64)]
    claims = {"a": "x" * 2040}
    person = people(roles=roles, claims=claims)
    assert len(person.token) < 7000
    assert service.authenticate(person.token).roles == set(roles)


QUERIES = [
    *("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=%D9%A1", "limit=1&limit=2", "limit=", "page=2"),
    *("email=x", "email=", "email=a@example.com&limit=1", "email=%ff", f"email={HUGE}"),
    *("after=%00", "after=a%20b", "after=zzz", f"after={HUGE}"),
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_wrong_query_is_refused(admin: httpx.Client, assert_problem: AssertProblem, query: str) -> None:
    assert assert_problem(admin.get(f"/admin/users?{query}"), 422, "input_invalid")["reasons"]


IDS = ["x", "%41", "%ff%fe", "%00", "%2e%2e", "%C3%A9", "..%2fusers", "'%20OR%201=1", "{$ne:1}", HUGE]


@pytest.mark.parametrize("name", IDS)
def test_an_id_that_is_none_is_not_found(admin: httpx.Client, assert_problem: AssertProblem, name: str) -> None:
    user = f"/admin/users/{name}"
    calls: list[tuple[str, str, object]] = [
        ("GET", user, None),
        ("PATCH", user, {"roles": []}),
        ("DELETE", user, None),
        ("POST", f"{user}/logout", None),
        ("POST", f"{user}/password", {"password": NEW}),
        ("GET", f"{user}/sessions", None),
    ]
    for method, path, body in calls:
        assert_problem(admin.request(method, path, json=body), 404, "account_unknown")
    for path in (f"{user}/sessions/x", f"/admin/users/x/sessions/{name}"):
        assert_problem(admin.delete(path), 404, "session_unknown")
    assert_problem(admin.delete(f"/admin/keys/{name}"), 404, "key_unknown")


def test_keys_are_rotated_and_revoked_and_their_tokens_refused(
    admin: httpx.Client, service: SyncAuthix, people: People, issuer: IssuerProgram, assert_problem: AssertProblem
) -> None:
    administrator = people(roles=["authix-admin"])
    assert_problem(admin.post("/admin/keys/rotate", json={}), 409, "key_not_ready")
    first = next(key for key in admin.get("/admin/keys").json()["keys"] if key["state"] == "signing")
    rotated = admin.post("/admin/keys/rotate", json={"now": True}).json()
    assert rotated["state"] == "signing"
    assert rotated["id"] != first["id"]
    assert service.authenticate(refreshed(administrator)).key_id == rotated["id"]
    later = bearer(refreshed(administrator))
    revoked = administrator.client.delete(f"/admin/keys/{first['id']}", headers=later)
    assert (revoked.json()["state"], revoked.json()["announced"]) == ("revoked", True)
    assert admin.get("/admin/stats").json()["code"] == "key_revoked"
    admin.headers.update(bearer(login(admin, ROOT)))
    admin.cookies.clear()
    by = {
        entry["event"]: entry["actor"]
        for line in (issuer.log.parent / "audit.log").read_text(encoding="utf-8").splitlines()
        if (entry := json.loads(line))["details"].get("key") in {first["id"], rotated["id"]} and entry["actor"]
    }
    assert by[Event.KEY_REVOKED] == administrator.id


def test_the_figures_are_those_of_this_issuer(admin: httpx.Client, people: People) -> None:
    before = admin.get("/admin/stats").json()
    person = people()
    admin.post(f"/admin/users/{person.id}/logout")
    stats = admin.get("/admin/stats").json()
    assert stats["users"] == before["users"] + 1
    assert stats["revocations"] == before["revocations"] + 1
    assert {key["state"] for key in stats["keys"]} >= {"signing", "next"}
    assert all(key["age"] is None or 0 <= key["age"] < 600 for key in stats["keys"])
    assert 0 == stats["hashing"]["passwords"] < stats["hashing"]["at_most"]
    assert stats["degraded"] == {}


def test_all_of_it_is_on_record_with_who_did_it_and_without_secrets(
    admin: httpx.Client, issuer: IssuerProgram, root: dict[str, Any], bob: Person
) -> None:
    path = f"/admin/users/{bob.id}"
    admin.patch(path, json={"roles": ["reader"], "claims": {"tenant": "a secret"}})
    admin.patch(path, json={"state": "disabled"})
    admin.patch(path, json={"state": "active"})
    admin.patch(path, json={"roles": ["a b"]})
    (session,) = people_sessions(admin, bob)
    admin.delete(f"{path}/sessions/{session}")
    admin.post(f"{path}/logout")
    admin.post(f"{path}/password", json={"password": NEW})
    admin.delete(path)
    entries = [entry for entry in recorded(issuer, bob.id) if entry["event"].startswith("admin.")]
    assert [(entry["event"], entry["outcome"], entry["details"]) for entry in entries] == [
        (Event.ADMIN_USER_CREATED, "ok", {"roles": ""}),
        (Event.ADMIN_ROLES_SET, "ok", {"roles": "reader"}),
        (Event.ADMIN_CLAIMS_SET, "ok", {"claims": "tenant"}),
        (Event.ADMIN_USER_DISABLED, "ok", {}),
        (Event.ADMIN_USER_ENABLED, "ok", {}),
        (Event.ADMIN_ROLES_SET, "input_invalid", {"roles": "a b"}),
        (Event.ADMIN_SESSION_ENDED, "ok", {"scope": "session"}),
        (Event.ADMIN_USER_LOGGED_OUT, "ok", {}),
        (Event.ADMIN_PASSWORD_SET, "ok", {}),
        (Event.ADMIN_USER_DELETED, "ok", {}),
    ]
    assert {entry["actor"] for entry in entries} == {root["id"]}
    assert {entry["address"] for entry in entries} == {"127.0.0.1"}
    written = (issuer.log.parent / "audit.log").read_text(encoding="utf-8") + issuer.output()
    for secret in (PASSWORD, NEW, "a secret", bob.token, admin.headers["authorization"], bob.email):
        assert secret not in written


def people_sessions(admin: httpx.Client, person: Person) -> list[str]:
    login(person.client, person.email)
    found = admin.get(f"/admin/users/{person.id}/sessions").json()["sessions"]
    return [session["id"] for session in found]


def test_every_documented_answer_is_as_documented(
    admin: httpx.Client, people: People, new_email: Callable[[], str]
) -> None:
    document = admin.get("/openapi.json").json()
    documented = {
        (path, method, status)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        for status in operation["responses"]
        if path.startswith("/admin/") and status != "503"
    }
    answers = dict(provoked(admin, people, new_email))
    for where, answer in answers.items():
        assert_documented(document, where, answer)
    # an account that others change at the same moment is busy: see the stores' conformance
    assert documented - set(answers) == {
        ("/admin/users/{user}/logout", "post", "409"),
        ("/admin/users/{user}/password", "post", "409"),
    }


Answer = tuple[tuple[str, str, str], httpx.Response]


def provoked(admin: httpx.Client, people: People, new_email: Callable[[], str]) -> Iterator[Answer]:
    """An answer of every documented status."""
    me, other = people(roles=["authix-admin"]), people()
    own, reader = bearer(me.token), bearer(other.token)
    users, user, sessions = "/admin/users", "/admin/users/{user}", "/admin/users/{user}/sessions"
    session, key = "/admin/users/{user}/sessions/{session}", "/admin/keys/{key}"
    bare = admin.base_url
    for method, path in CALLS:
        name = method.lower()
        yield (path, name, "401"), httpx.request(method, f"{bare}{path}", trust_env=False)
        yield (path, name, "403"), httpx.request(method, f"{bare}{path}", headers=reader, trust_env=False)
    for method, path in BODIES:
        at, name = path.format(user=other.id), method.lower()
        declared = {"Content-Type": "application/json"}
        yield (path, name, "400"), admin.request(method, at, content=b"x", headers=declared)
        yield (path, name, "413"), admin.request(method, at, content=b"x" * 20000, headers=declared)
        yield (path, name, "415"), admin.request(method, at, content=b"{}")
        yield (path, name, "422"), admin.request(method, at, json={"x": 1})
    for method, path in CALLS:
        if "{" in path:
            unknown = path.format(user="x", session="x", key="x")
            body: object = {"password": NEW} if path.endswith("password") else {"roles": []}
            yield (path, method.lower(), "404"), admin.request(method, unknown, json=body)
    yield (users, "get", "200"), admin.get(users)
    yield (users, "get", "422"), admin.get(users, params={"limit": 0})
    new = {"email": new_email(), "password": PASSWORD}
    yield (users, "post", "201"), admin.post(users, json=new)
    yield (users, "post", "409"), admin.post(users, json=new)
    at, mine = user.format(user=other.id), user.format(user=me.id)
    yield (user, "get", "200"), admin.get(at)
    yield (user, "patch", "409"), me.client.patch(mine, json={"roles": []}, headers=own)
    yield (user, "delete", "409"), me.client.delete(mine, headers=own)
    yield (user, "patch", "200"), admin.patch(at, json={"roles": ["reader"]})
    found = admin.get(f"{at}/sessions")
    yield (sessions, "get", "200"), found
    yield (session, "delete", "204"), admin.delete(f"{at}/sessions/{found.json()['sessions'][0]['id']}")
    yield (f"{user}/logout", "post", "204"), admin.post(f"{at}/logout")
    yield (f"{user}/password", "post", "204"), admin.post(f"{at}/password", json={"password": NEW})
    yield (user, "delete", "204"), admin.delete(at)
    keys = admin.get("/admin/keys")
    yield ("/admin/keys", "get", "200"), keys
    yield ("/admin/keys/rotate", "post", "409"), admin.post("/admin/keys/rotate", json={})
    yield ("/admin/keys/rotate", "post", "200"), admin.post("/admin/keys/rotate", json={"now": True})
    waiting = next(found for found in admin.get("/admin/keys").json()["keys"] if found["state"] == "next")
    yield (key, "delete", "200"), admin.delete(f"/admin/keys/{waiting['id']}")
    yield ("/admin/stats", "get", "200"), admin.get("/admin/stats")
