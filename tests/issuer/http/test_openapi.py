"""/openapi.json held against what the issuer does, both ways, and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from authix_issuer.app import build_app
from authix_issuer.settings import IssuerSettings
from tests.documented import assert_documented
from tests.programs import PASSWORD, IssuerProgram, bearer, login, register

METHODS = {"get", "post", "put", "patch", "delete", "head", "options", "trace"}
ABOUT_ITSELF = {"/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"}


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield path, method, operation


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_the_document_has_the_form_of_openapi_3(document: dict[str, Any], shared_issuer: IssuerProgram) -> None:
    assert re.fullmatch(r"3\.0\.\d+", document["openapi"])
    assert {"title", "version"} <= set(document["info"])
    assert document["servers"] == [{"url": shared_issuer.url}]
    assert set(document) <= {"openapi", "info", "servers", "paths", "components", "security", "tags", "externalDocs"}
    for path, _, operation in operations(document):
        assert path.startswith("/")
        assert operation["operationId"]
        assert operation["summary"]
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
            for media in response.get("content", {}).values():
                assert media["schema"]
        for parameter in operation.get("parameters", []):
            assert {"name", "in", "schema"} <= set(parameter)
            assert parameter["in"] in {"query", "header", "path", "cookie"}
        for requirement in operation.get("security", []):
            assert set(requirement) <= set(document["components"]["securitySchemes"])
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for reference in references(document):
        kind, _, name = reference.removeprefix("#/components/").partition("/")
        assert name in document["components"][kind]
    for schema in document["components"]["schemas"].values():
        assert set(schema["required"]) <= set(schema["properties"])


def test_every_route_is_documented_and_every_documented_route_exists(document: dict[str, Any]) -> None:
    app = build_app(IssuerSettings(issuer="http://127.0.0.1", audience="tests"), name="routes-of-the-issuer")
    served = {
        (re.sub(r"<(\w+)(?::\w+)?>", r"{\1}", f"/{route.path}"), method.lower())
        for route in app.router.routes
        for method in route.methods
        if method != "HEAD"
    }
    documented = {(path, method) for path, method, _ in operations(document)}
    assert documented == {(path, method) for path, method in served if path not in ABOUT_ITSELF}


Answers = dict[tuple[str, str, str], httpx.Response]
RACES = {
    ("/login", "post", "403"),  # needs an administrator: see test_admin
    ("/login", "post", "409"),
    ("/account", "get", "404"),
    ("/account/password", "post", "404"),
    ("/account/password", "post", "409"),
    ("/account/email", "post", "404"),
    ("/account/delete", "post", "404"),
    ("/account/delete", "post", "409"),
}
"""What is only answered while others change the same account."""


@pytest.fixture
def provoked(client: httpx.Client, unusual_client: httpx.Client, new_email: Callable[[], str]) -> Answers:
    """An answer of every documented status, but for the two stores and the hash queue that fail elsewhere."""
    email = new_email()
    good = {"email": email, "password": PASSWORD}
    json_type = {"Content-Type": "application/json"}
    answers = {("/register", "post", "201"): client.post("/register", json=good)}
    answers["/public_key", "get", "400"] = client.get("/public_key", headers={"Accept": ";"})
    answers["/register", "post", "409"] = client.post("/register", json=good)
    for path in ("/register", "/login"):
        answers[path, "post", "400"] = client.post(path, content=b"x", headers=json_type)
        answers[path, "post", "413"] = client.post(path, content=b"x" * 20000, headers=json_type)
        answers[path, "post", "415"] = client.post(path, content=b"x")
        answers[path, "post", "422"] = client.post(path, json={"email": email})
    answers["/login", "post", "401"] = client.post("/login", json=good | {"password": "x"})
    answers["/login", "post", "200"] = client.post("/login", json=good)
    answers["/access_token", "post", "200"] = client.post("/access_token")
    for method in ("post", "delete"):
        answers["/logout", method, "422"] = client.request(method, "/logout?scope=x")
        answers["/logout", method, "204"] = client.request(method, "/logout")
        answers["/logout", method, "401"] = client.request(method, "/logout")
        login(client, email)
    client.cookies.clear()
    answers["/access_token", "post", "401"] = client.post("/access_token")
    for path in ("/public_key", "/.well-known/jwks.json"):
        answers[path, "get", "200"] = client.get(path)
        answers[path, "get", "304"] = client.get(path, headers={"If-None-Match": "*"})
    answers["/revocations", "get", "200"] = client.get("/revocations")
    answers["/revocations", "get", "401"] = client.get("/revocations", headers={"Via": "1.1 proxy"})
    for path in ("/livez", "/readyz"):
        answers[path, "get", "200"] = client.get(path)
    pages = provoke_origins(client, client.get("/openapi.json").json())
    return pages | answers | provoke_account(client, new_email) | provoke_oauth(client, unusual_client)


def provoke_origins(client: httpx.Client, document: dict[str, Any]) -> Answers:
    """The refusal that every call has which may change something."""
    return {
        (path, method, "403"): client.request(method, path, headers={"Origin": "https://evil.example"})
        for path, method, _ in operations(document)
        if method in {"post", "put", "patch", "delete"} and not path.startswith("/admin/")
    }


def provoke_bodies(client: httpx.Client, path: str, headers: dict[str, str]) -> Answers:
    """The refusals that every route with a body has."""
    json_type = headers | {"Content-Type": "application/json"}
    return {
        (path, "post", "400"): client.post(path, content=b"x", headers=json_type),
        (path, "post", "413"): client.post(path, content=b"x" * 20000, headers=json_type),
        (path, "post", "415"): client.post(path, content=b"x", headers=headers),
        (path, "post", "422"): client.post(path, json={}, headers=headers),
    }


def provoke_oauth(client: httpx.Client, unusual_client: httpx.Client) -> Answers:
    headers, form = bearer("introspection+token/of-at-least-32~characters=="), {"token": "x"}
    answers = {
        ("/introspect", "post", "404"): client.post("/introspect", data=form),
        ("/introspect", "post", "401"): unusual_client.post("/introspect", data=form),
        ("/introspect", "post", "200"): unusual_client.post("/introspect", data=form, headers=headers),
        ("/revoke", "post", "200"): client.post("/revoke", data=form),
    }
    for path in ("/introspect", "/revoke"):
        answers[path, "post", "400"] = unusual_client.post(path, headers=headers)
        answers[path, "post", "413"] = unusual_client.post(path, data={"token": "x" * 20000}, headers=headers)
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
        answers[path, "get", "200"] = client.get(path)
        answers[path, "get", "304"] = client.get(path, headers={"If-None-Match": "*"})
    return answers


def provoke_account(client: httpx.Client, new_email: Callable[[], str]) -> Answers:
    email, wrong, new = new_email(), "wrong horse battery staple", "another horse battery staple"
    register(client, email)
    headers = bearer(login(client, email))
    answers = {
        ("/sessions", "get", "401"): client.get("/sessions"),
        ("/sessions", "get", "200"): client.get("/sessions", headers=headers),
        ("/sessions", "delete", "401"): client.delete("/sessions"),
        ("/sessions/{session}", "delete", "401"): client.delete("/sessions/x"),
        ("/sessions/{session}", "delete", "404"): client.delete("/sessions/x", headers=headers),
        ("/account", "get", "401"): client.get("/account"),
        ("/account", "get", "200"): client.get("/account", headers=headers),
    }
    calls: dict[str, dict[str, str]] = {
        "/account/password": {"current_password": PASSWORD, "new_password": new},
        "/account/email": {"password": new, "email": new_email()},
        "/account/delete": {"password": new},
    }
    for path, body in calls.items():
        confirmed = "current_password" if "current_password" in body else "password"
        answers |= provoke_bodies(client, path, headers)
        answers[path, "post", "401"] = client.post(path, json=body)
        answers[path, "post", "403"] = client.post(path, json=body | {confirmed: wrong}, headers=headers)
    answers["/account/email", "post", "409"] = client.post(
        "/account/email", json={"password": PASSWORD, "email": register_another(client, new_email)}, headers=headers
    )
    answers["/account/password", "post", "204"] = client.post(
        "/account/password", json=calls["/account/password"], headers=headers
    )
    headers = bearer(login(client, email, new))
    answers["/account/email", "post", "200"] = client.post(
        "/account/email", json=calls["/account/email"], headers=headers
    )
    headers = bearer(login(client, calls["/account/email"]["email"], new))
    answers["/sessions", "delete", "204"] = client.delete("/sessions", headers=headers)
    headers = bearer(login(client, calls["/account/email"]["email"], new))
    client.cookies.clear()
    headers = bearer(login(client, calls["/account/email"]["email"], new))
    ended = client.get("/sessions", headers=headers).json()["sessions"][1]["id"]
    answers["/sessions/{session}", "delete", "204"] = client.delete(f"/sessions/{ended}", headers=headers)
    answers["/account/delete", "post", "204"] = client.post(
        "/account/delete", json=calls["/account/delete"], headers=headers
    )
    return answers


def register_another(client: httpx.Client, new_email: Callable[[], str]) -> str:
    email = new_email()
    register(client, email)
    return email


def test_every_documented_status_is_real_and_its_body_is_as_documented(
    document: dict[str, Any], provoked: Answers
) -> None:
    for where, answer in provoked.items():
        assert_documented(document, where, answer)


def test_every_documented_status_was_provoked(document: dict[str, Any], provoked: Answers) -> None:
    documented = {
        (path, method, status)
        for path, method, operation in operations(document)
        for status in operation["responses"]
        if status not in {"429", "503"}  # see test_throttle, test_probes and test_overload
        and not path.startswith("/admin/")  # see test_admin
    }
    assert documented == set(provoked) | RACES


def test_the_cookie_of_the_profile_is_documented(document: dict[str, Any], unusual_client: httpx.Client) -> None:
    other = unusual_client.get("/openapi.json").json()
    names = [found["components"]["securitySchemes"]["refreshCookie"]["name"] for found in (document, other)]
    assert names == ["authix_refresh", "__Host-authix_refresh"]


@pytest.mark.parametrize("prefix", ["", "/auth"])
def test_the_page_loads_everything_from_the_issuer_itself_wherever_a_proxy_has_it(
    client: httpx.Client, prefix: str
) -> None:
    page, start = client.get("/docs"), client.get("/docs/start.js").text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text) + re.findall(r'url: "([^"]+)"', start)
    assert len(loaded) == 4
    seen_at = f"https://auth.example.com{prefix}"
    for link in loaded:
        target = urljoin(f"{seen_at}/docs", link)
        assert target.startswith(f"{seen_at}/"), link
        asset = client.get(target.removeprefix(seen_at))
        assert asset.status_code == 200, link
        assert len(asset.content) > 50, link
    assert "http" not in page.text.replace("<!doctype html>", "")


def test_the_page_is_allowed_nothing_from_elsewhere(client: httpx.Client) -> None:
    policy = dict(
        part.strip().partition(" ")[::2] for part in client.get("/docs").headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    for name, sources in policy.items():
        assert set(sources.split()) <= {"'none'", "'self'", "'unsafe-inline'", "data:"}, name
    assert policy["script-src"] == "'self'"


def test_the_page_shows_this_document_and_asks_no_validator_elsewhere(client: httpx.Client) -> None:
    start = client.get("/docs/start.js").text
    assert '"openapi.json"' in start
    assert "validatorUrl: null" in start
    assert "//" not in start
