"""Bad input on every call that the OpenAPI document has: each is refused with a coded problem, and nothing is changed.

The calls, their fields and their parameters are read from the document, so a new one is covered by being documented.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from authix_issuer import openapi
from tests.issuer.http.refused_bodies import MALFORMED
from tests.issuer.http.refused_forms import REFUSED_FORMS
from tests.programs import PASSWORD, IssuerProgram, bearer, login, register

COOKIE, JSON, FORM = "authix_refresh", "application/json", "application/x-www-form-urlencoded"
DOCUMENT = openapi.document(version="", issuer="http://127.0.0.1", cookie=COOKIE)
TOKENS = {
    "AUTHIX_FEED_TOKEN": "feed-token-of-at-least-32-characters",
    "AUTHIX_INTROSPECTION_TOKEN": "introspection-token-of-at-least-32-characters",
}
ROOT, ANN, BOB = "root@example.com", "ann@example.com", "bob@example.com"


class Call(NamedTuple):
    path: str
    method: str
    operation: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method.upper()} {self.path}"

    def fields(self, kind: str) -> dict[str, dict[str, Any]]:
        """The fields of its body of this type."""
        schema = self.operation["requestBody"]["content"][kind]["schema"]
        if "$ref" in schema:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        fields: dict[str, dict[str, Any]] = schema["properties"]
        return fields

    def takes(self, kind: str) -> bool:
        return kind in self.operation.get("requestBody", {}).get("content", {})

    def parameters(self, where: str) -> list[dict[str, Any]]:
        return [found for found in self.operation.get("parameters", ()) if found["in"] == where]


CALLS = [Call(path, method, found) for path, item in DOCUMENT["paths"].items() for method, found in item.items()]
WITH_JSON = [call for call in CALLS if call.takes(JSON)]
WITH_FORM = [call for call in CALLS if call.takes(FORM)]
WITH_PATH = [call for call in CALLS if call.parameters("path")]
WITH_QUERY = [call for call in CALLS if call.parameters("query")]
WITH_TOKEN = [call for call in CALLS if {"accessToken": []} in call.operation.get("security", ())]


def by_name(calls: list[Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", calls, ids=[call.name for call in calls])


class World:
    """An issuer with an administrator, two users and their sessions; ``send`` asks as whoever may ask for the call."""

    def __init__(self, issuer: IssuerProgram) -> None:
        made = issuer.run("users", "create", ROOT, "--admin", given=f"{PASSWORD}\n")
        assert made.returncode == 0, made.stderr
        self.client = issuer.client()
        self._root, self._ann = self._log_in(ROOT), ""
        register(self.client, ANN)
        self.names = {"user": register(self.client, BOB), "session": "none", "key": "none"}
        self._log_in(BOB)
        self._ann = self._log_in(ANN)
        answer = self.client.post("/login", json={"email": ANN, "password": PASSWORD})
        self._cookie = answer.cookies[COOKIE]
        self.client.cookies.clear()
        self.before = self.state()

    def _log_in(self, email: str) -> str:
        token = login(self.client, email)
        self.client.cookies.clear()
        return token

    def send(self, call: Call, *, names: Mapping[str, str] = {}, query: str = "", **more: Any) -> httpx.Response:
        """``names`` are path parameters as they stand in a URL, in place of what there is."""
        path = call.path.format_map({**self.names, **names})
        headers = self._credentials(call) | more.pop("headers", {})
        return self.client.request(call.method, path + query, headers=headers, **more)

    def _credentials(self, call: Call) -> dict[str, str]:
        schemes = {name for way in call.operation.get("security", ()) for name in way}
        if "refreshCookie" in schemes:
            return {"Cookie": f"{COOKIE}={self._cookie}"}
        if "accessToken" in schemes:
            return bearer(self._root if call.path.startswith("/admin/") else self._ann)
        if "introspectionToken" in schemes:
            return bearer(TOKENS["AUTHIX_INTROSPECTION_TOKEN"])
        return bearer(TOKENS["AUTHIX_FEED_TOKEN"]) if "feedToken" in schemes else {}

    def state(self) -> list[Any]:
        """All that a call could have changed: accounts, sessions, keys, revocations. The tokens above must be good."""
        client, root = self.client, bearer(self._root)
        users = client.get("/admin/users?limit=1000", headers=root).json()
        sessions = [
            client.get(f"/admin/users/{user['id']}/sessions", headers=root).json()["sessions"]
            for user in users["users"]
        ]
        own = client.get("/sessions", headers=bearer(self._ann)).json()["sessions"]
        keys = client.get("/admin/keys", headers=root).json()
        feed = client.get("/revocations", headers=bearer(TOKENS["AUTHIX_FEED_TOKEN"])).json()["revocations"]
        return [users, sessions, own, keys, feed]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    issuer = IssuerProgram(tmp_path_factory.mktemp("bad-input"), **TOKENS)
    try:
        world = World(issuer.start().ready())
        yield world
        world.client.close()
        assert issuer.stop() == 0
        assert "[error" not in issuer.output()
    finally:
        issuer.kill()


@pytest.fixture
def nothing_changes(world: World) -> Iterator[None]:
    yield
    before, world.before = world.before, world.state()
    assert world.before == before


def refused(answer: httpx.Response, what: object, *statuses: int, code: str = "") -> dict[str, Any]:
    """It is a problem with a code, of one of these statuses or any from 400 to 499."""
    said = (str(what)[:200], answer.status_code, answer.text[:500])
    assert answer.status_code in (statuses or range(400, 500)), said
    assert answer.headers["content-type"] == "application/problem+json", said
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code, said
    assert problem["code"], said
    assert problem["code"] == (code or problem["code"]), said
    return problem


# Bodies


@by_name(WITH_JSON)
@pytest.mark.usefixtures("nothing_changes")
def test_a_body_that_is_not_one_json_object_is_refused(world: World, call: Call) -> None:
    for what, body in MALFORMED.items():
        refused(world.send(call, content=body, headers={"Content-Type": JSON}), what, 400, code="body_malformed")


KINDS = [
    *("", "text/plain", "text/json", "application/problem+json", "application/json5", "application/jsonx"),
    *(FORM, "multipart/form-data; boundary=x", "application/json, text/plain", "*/*", "\xff"),
]


@by_name(WITH_JSON)
@pytest.mark.usefixtures("nothing_changes")
def test_json_that_is_not_declared_as_such_is_refused(world: World, call: Call) -> None:
    body = json.dumps(good(call)).encode()
    refused(world.send(call, content=body), "no type", 415, code="content_type_wrong")
    for kind in KINDS:
        answer = world.send(call, content=body, headers={"Content-Type": kind.encode("latin-1")})
        refused(answer, kind, 415, code="content_type_wrong")


@by_name(WITH_JSON + WITH_FORM)
@pytest.mark.usefixtures("nothing_changes")
def test_a_body_over_16_kib_is_refused(world: World, call: Call) -> None:
    kind = JSON if call.takes(JSON) else FORM
    body = json.dumps(good(call)).encode() if kind == JSON else b"token=x"
    answer = world.send(call, content=body.ljust(16 * 1024 + 1), headers={"Content-Type": kind})
    refused(answer, "too large", 413, code="body_too_large")


@by_name(WITH_FORM)
@pytest.mark.usefixtures("nothing_changes")
def test_a_form_that_does_not_give_a_token_once_is_refused(world: World, call: Call) -> None:
    for what, (kind, body) in REFUSED_FORMS.items():
        headers = {} if kind is None else {"Content-Type": kind}
        refused(world.send(call, content=body, headers=headers), what, 400, code="form_malformed")


def good(call: Call) -> dict[str, Any]:
    """A body that would do what the call is for."""
    kinds = {"string": "another horse battery staple", "array": ["editor"], "object": {"team": "blue"}, "boolean": True}
    named = {"email": "new@example.com", "current_password": PASSWORD, "state": "disabled"}
    if call.path.startswith("/account/"):
        named["password"] = PASSWORD
    return {name: named.get(name, kinds[schema["type"]]) for name, schema in call.fields(JSON).items()}


OTHER_TYPES = {
    "string": ["null", "true", "0", "-1.5", "[]", "{}", '["a"]', '{"$ne":""}'],
    "array": ["null", "false", "1", '"a"', "{}", "[null]", "[1]", '[["a"]]', '[{"a":1}]', '["a","a"]', '[""]'],
    "object": ["null", "true", "1", '"a"', "[]", '[["a",1]]'],
    "boolean": ["null", "0", "1", '"true"', "[]", "{}"],
}
NUMBERS = ["9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e308", "1E-400", "-0", "9" * 4000]
NO_NUMBERS = ["1e400", "-1e400", "NaN", "-Infinity", "0x10", "01", "1_000", "+1", "1.", ".5", "٣"]


@by_name(WITH_JSON)
@pytest.mark.usefixtures("nothing_changes")
def test_a_field_of_another_type_is_named(world: World, call: Call) -> None:
    body = good(call)
    for name, schema in call.fields(JSON).items():
        for value in OTHER_TYPES[schema["type"]] + NUMBERS + NO_NUMBERS:
            others = ",".join(f"{json.dumps(field)}:{json.dumps(body[field])}" for field in body if field != name)
            text = f'{{"{name}":{value}{"," if others else ""}{others}}}'
            problem = refused(
                world.send(call, content=text.encode(), headers={"Content-Type": JSON}), f"{name}: {value}", 400, 422
            )
            if problem["status"] == 422:
                assert {reason["field"] for reason in problem["reasons"]} == {name}, (text, problem)
            else:
                assert value not in OTHER_TYPES[schema["type"]], (text, problem)


NAUGHTY = {
    "empty": "",
    "spaces": " \t\r\n ",
    "a NUL": "a\0b",
    "control characters": "".join(map(chr, range(32))),
    "C1 controls": "".join(map(chr, range(127, 160))),
    "spaces of Unicode": "\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\ufeff",
    "invisible": "\u200b\u200c\u200d\u2060\u180e\u00ad\u034f",
    "right to left": "\u202etxet\u202c \u2066a\u2069 \u200f",
    "no characters": "\ufffe\uffff\U0010ffff\ufdd0",
    "private": "\ue000\U000f0000",
    "combining": "Z\u0351\u036b\u0343\u036a\u0302" * 40,
    "emoji": "👩‍👩‍👧‍👦🏳️‍⚧️🇺🇸👍🏿",
    "two spellings": "e\u0301\u00e9\u212b\u00c5",
    "longer in NFKC": "ﷺ" * 300,
    "longer in capitals": "ŉΐßﬃ" * 50,
    "dotless": "\u0131\u0130iI",
    "digits of others": "１２٣४",
    "a byte more than a password may have": "é" * 513,
    "long": "a" * 15_000,
    "a quote": "' OR ''='",
    "SQL": "1;DROP TABLE users;--",
    "a query of MongoDB": '{"$gt":""}',
    "a script of Redis": "*1\r\n$8\r\nFLUSHALL\r\n",
    "a line of a log": "x\n2026-01-01 [info] admin logged in",
    "a terminal's": "\x1b[2J\x1b]0;x\x07\x9b31m",
    "a format": "%s%n%(x)s{0.__class__}${jndi:ldap://x/}",
    "a path": "../../../etc/passwd\0.txt",
    "a header": "x\r\nSet-Cookie: a=b",
    "markup": '"><script>alert(1)</script><!--',
    "escapes": "%00%0a%ff%2e%2e%2f\\u0000\\",
    "words of languages": "null undefined NaN None true __proto__ constructor",
}  # fmt: skip


@by_name(WITH_JSON)
@pytest.mark.usefixtures("nothing_changes")
def test_a_text_that_is_none_of_an_email_or_of_this_password_is_refused(world: World, call: Call) -> None:
    """Texts that make no email, and where a password could be any text, for an account that there is not."""
    texts = [name for name, schema in call.fields(JSON).items() if schema["type"] == "string"]
    for what, text in NAUGHTY.items():
        for ascii_only in (True, False):
            body = {name: [text] if schema["type"] == "array" else text for name, schema in call.fields(JSON).items()}
            content = json.dumps(body, ensure_ascii=ascii_only).encode()
            answer = world.send(call, content=content, headers={"Content-Type": JSON}, names={"user": "nobody"})
            assert texts or answer.status_code == 422
            refused(answer, what, *range(400, 411), 413, 422)


EMAILS = [
    *('"ann"@example.com', '"ann smith"@example.com', '"a@b"@example.com', "ann(comment)@example.com"),
    *("ann@(comment)example.com", "ann@[127.0.0.1]", "ann@[IPv6:::1]", "ann@127.1", "ann@2130706433"),
    *("ann@example.com.", "ann@.example.com", "ann.@example.com", "ann@example.com..", "ann@example", "ann@com"),
    *("ann@bob@example.com", "ann@@example.com", "ann＠example.com", "ann\\@example.com", "annexample.com"),  # noqa: RUF001 - fullwidth on purpose
    *("ann@example.com, bob@example.com", "ann@example.com;bob@example.com", "Ann <ann@example.com>"),
    *("mailto:ann@example.com", "<ann@example.com>", "ann@example.com?subject=x", "ann@example.com/x"),
    *("ann@example.com\r\nBcc: bob@example.com", "ann@example.com\n", "\tann@example.com", "ann@example.com\0"),
    *("an\u200bn@example.com", "an\u00adn@example.com", "ann@exam\u200dple.com", "\ufeffann@example.com"),
    *("\u202eann@example.com", "ann\u2028@example.com", "\u0301ann@example.com", "\U000e0061nn@example.com"),
    *("ann@xn--a.com", "ann@xn--.com", "ann@\u2488com", "ann@-example.com", "ann@ex_ample.com", "ann@exa mple.com"),
    *("ann@example.invalid", "ann@example.local", "ann@example.onion", "ann@x.localhost", "ann@example.arpa"),
    *("a" * 260 + "@example.com", "ann@" + "b" * 64 + ".com", "ann@" + "b." * 126 + "com", "ann@" + "ü" * 60 + ".com"),
    *("\ufdfa" * 200 + "@example.com", "@" * 1000, "ann@example.com%00", "ann@ex%61mple.com", "", "@", "null"),
]
WITH_EMAIL = [call for call in WITH_JSON if "email" in call.fields(JSON)]


@by_name(WITH_EMAIL)
@pytest.mark.usefixtures("nothing_changes")
def test_what_only_looks_like_an_email_is_refused(world: World, call: Call) -> None:
    for email in EMAILS:
        problem = refused(world.send(call, json=good(call) | {"email": email}), ascii(email), 401, 422)
        if problem["status"] == 422:
            assert [reason["code"] for reason in problem["reasons"]] == ["email_invalid"], (email, problem)
        else:
            assert problem["code"] == "credentials_wrong", (email, problem)


# Queries, paths, methods, tokens


@by_name(WITH_QUERY)
@pytest.mark.usefixtures("nothing_changes")
def test_a_query_that_can_not_be_meant_is_refused(world: World, call: Call) -> None:
    for parameter in call.parameters("query"):
        name, schema = parameter["name"], parameter["schema"]
        for what, text in NAUGHTY.items():
            if re.fullmatch(schema.get("pattern", "a^"), text) is None:
                refused(world.send(call, query=f"?{name}={quote(text[:2000])}"), f"{name}: {what}", 422)
        for raw in ("%ff%fe", "%c0%af", "%ed%a0%80", "%00"):
            refused(world.send(call, query=f"?{name}={raw}"), f"{name}: {raw}", 400, 422)
        some = schema.get("default", "x")
        refused(world.send(call, query=f"?{name}={some}&{name}={some}"), f"{name} twice", 422)
        if schema["type"] == "integer":
            for number in ("0", "-1", "1.0", "1e2", "+1", " 1", "0x1", "1_0", "1001", "9" * 400, "٣", "NaN"):
                refused(world.send(call, query=f"?{name}={quote(number)}"), f"{name}: {number}", 422)


RAW_NAMES = ["%00", "%0a", "%ff%fe", "%c0%ae%c0%ae", "%ed%a0%80", "%2e%2e", "..%2f..%2fkeys", "%2f", "%5c", "%zz", "%"]


@by_name(WITH_PATH)
@pytest.mark.usefixtures("nothing_changes")
def test_a_path_that_names_nothing_is_not_found(world: World, call: Call) -> None:
    body: dict[str, Any] = {"json": good(call)} if call.takes(JSON) else {}
    for parameter in call.parameters("path"):
        name = parameter["name"]
        for what, text in NAUGHTY.items():
            answer = world.send(call, names={name: quote(text[:2000], safe="")}, **body)
            # without the last part, the path may be another call's
            refused(answer, f"{name}: {what}", *([404] if text else [404, 405]))
        for raw in RAW_NAMES:
            refused(world.send(call, names={name: raw}, **body), f"{name}: {raw}", 400, 404)


@pytest.mark.parametrize("path", sorted({call.path for call in CALLS}))
@pytest.mark.usefixtures("nothing_changes")
def test_a_path_has_the_methods_that_are_documented_and_no_others(world: World, path: str) -> None:
    documented = {call.method.upper() for call in CALLS if call.path == path}
    url = path.format_map(world.names)
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"} - documented:
        answer = world.client.request(method, url)
        refused(answer, method, 405, code="method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == documented, method


BAD_TOKENS = [
    *(b"", b"Bearer", b"Bearer x", b"bearer a.b.c", b"Bearer a b", b"Bearer  a.b.c", b"Bearer\ta.b.c"),
    *(b"Bearer " + b"a" * 7000, b"Bearer " + b"." * 2000, b"Bearer \xff\xfe", b"Bearer \xc3\xa9.b.c"),
    *(b"Basic YTpi", b"Basic \xff", b"Digest x", b"Bearer eyJhbGciOiJub25lIn0.e30.", b"Bearer null", b"Bearer {}"),
]  # fmt: skip


@by_name(WITH_TOKEN)
@pytest.mark.usefixtures("nothing_changes")
def test_what_is_no_token_opens_nothing(world: World, call: Call) -> None:
    for token in BAD_TOKENS:
        answer = world.send(call, headers={"Authorization": token, "Cookie": ""})
        refused(answer, token, 400, 401)
        assert ("www-authenticate" in answer.headers) is (answer.status_code == 401), token
