"""The access token in a cookie: which requests it speaks for, and what of it the upstream sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from authix_sidecar.origins import origins
from authix_sidecar.policy_file import read_policy
from authix_sidecar.requests import read_request
from authix_sidecar.settings import SidecarSettings
from authix_sidecar.token_sources import TokenCookie, cookie_name, page_origins
from tests.programs import SidecarProgram

if TYPE_CHECKING:
    from tests.sidecar.conftest import Answer, Fleet, Fleets

NAME = "__Host-access"
LISTED = "https://app.example"
OWN = "http://orders.example"
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SAME, CROSS = "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"
POLICY = """
authorization = "remove"

[[route]]
path = "/open"
public = true

[[route]]
path = "/kept"
authorization = "pass"
"""


def request(*lines: str, method: str = "GET", target: str = "/", host: str = "orders.example") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1")


class Service:
    """A fleet whose sidecar knows the cookie."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.cookie = f"{NAME}={fleet.token}"

    def ask(self, *lines: str, cookie: bool = True, port: int = 0, **how: str) -> Answer:
        own = [f"Cookie: {self.cookie}"] if cookie else []
        return self.fleet.call(request(*own, *lines, **how), port)

    def verify(self, *lines: str, cookie: bool = True, **how: str) -> Answer:
        return self.ask(*lines, cookie=cookie, port=self.fleet.sidecar.auth_port, **{"target": "/verify", **how})

    def passed_on(self) -> int:
        self.fleet.settle()
        return len(self.fleet.upstream.requests)


@pytest.fixture(scope="module")
def _services(_fleets: Fleets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    """Without a policy and the tokens removed by the setting, and with one; started once for all tests here."""
    folder, patient = tmp_path_factory.mktemp("cookies"), _fleets.patient
    (folder / "authix.toml").write_text(POLICY)
    own = {"AUTHIX_TOKEN_COOKIE": NAME, "AUTHIX_COOKIE_ORIGINS": LISTED}
    sidecars = [
        SidecarProgram(folder, patient.issuer.url, patient.upstream.url, **own, **more)
        for more in ({"AUTHIX_PASS_AUTHORIZATION": "no"}, {"AUTHIX_POLICY": str(folder / "authix.toml")})
    ]
    try:
        for sidecar in sidecars:
            sidecar.start()
        plain, by_policy = (
            Service(dataclasses.replace(patient, sidecar=sidecar.ready(), wires=[], users=[])) for sidecar in sidecars
        )
        yield plain, by_policy
    finally:
        for sidecar in sidecars:
            sidecar.stop()


@pytest.fixture
def service(_services: tuple[Service, Service]) -> Iterator[Service]:
    yield from _lend(_services[0])


@pytest.fixture
def judged_by_policy(_services: tuple[Service, Service]) -> Iterator[Service]:
    yield from _lend(_services[1])


def _lend(service: Service) -> Iterator[Service]:
    service.fleet.upstream.forget()
    yield service
    service.fleet.hang_up()
    assert service.fleet.upstream.problems == []


# what is sent, and whether it may pass; for each the request is made with a good token in its cookie
CASES: list[tuple[str, tuple[str, ...], str, bool]] = [
    # whatever page asks for it, a safe request changes nothing
    ("GET", (), "orders.example", True),
    ("HEAD", (CROSS,), "orders.example", True),
    ("OPTIONS", ("Origin: https://evil.example",), "orders.example", True),
    # the browser says whose page it is
    ("POST", (SAME,), "orders.example", True),
    ("POST", (SAME, "Origin: null"), "orders.example", True),
    ("POST", (), "orders.example", False),
    ("POST", (CROSS,), "orders.example", False),
    ("POST", ("Sec-Fetch-Site: same-site", f"Origin: {OWN}"), "orders.example", False),
    ("POST", ("Sec-Fetch-Site: none",), "orders.example", False),
    ("POST", ("Sec-Fetch-Site: Same-Origin",), "orders.example", False),
    ("POST", (SAME, SAME), "orders.example", False),
    ("POST", (SAME, CROSS, f"Origin: {OWN}"), "orders.example", False),
    ("PUT", (SAME,), "orders.example", True),
    ("PUT", (), "orders.example", False),
    ("PATCH", (CROSS,), "orders.example", False),
    ("DELETE", (), "orders.example", False),
    ("PROPFIND", (), "orders.example", False),
    # an older browser names the page
    ("POST", (f"Origin: {OWN}",), "orders.example", True),
    ("POST", (f"Origin: {OWN}",), "orders.example:80", True),
    ("POST", (f"Origin: {OWN}:80",), "ORDERS.example", True),
    ("POST", (f"Origin: {OWN}:8080",), "orders.example:8080", True),
    ("POST", ("Origin: http://[::1]:8001",), "[::1]:8001", True),
    ("POST", (f"Origin: {OWN}:8080",), "orders.example", False),
    ("POST", (f"Origin: {OWN}",), "orders.example:443", False),
    ("POST", ("Origin: https://orders.example",), "orders.example", False),
    ("POST", ("Origin: http://evil.example",), "orders.example", False),
    ("POST", ("Origin: http://orders.example.evil.example",), "orders.example", False),
    ("POST", ("Origin: null",), "orders.example", False),
    ("POST", ("Origin: null",), "null", False),
    ("POST", ("Origin: http://a:99999",), "a:99999", False),
    ("POST", (f"Origin: {OWN}, {OWN}",), "orders.example", False),
    ("POST", (f"Origin: {OWN}", f"Origin: {OWN}"), "orders.example", False),
    ("POST", (f"Origin: {OWN}", "Origin: http://evil.example"), "orders.example", False),
    ("POST", ("Referer: http://orders.example/",), "orders.example", False),
    # the operator names pages elsewhere
    ("POST", (f"Origin: {LISTED}",), "orders.example", True),
    ("POST", (f"Origin: {LISTED}:443", CROSS), "orders.example", True),
    ("POST", ("Origin: http://app.example", CROSS), "orders.example", False),
    ("POST", ("Origin: https://app.example.evil.example", CROSS), "orders.example", False),
    ("POST", (f"Origin: {LISTED}", f"Origin: {LISTED}"), "orders.example", False),
    # a request may be safe by its method and something else by its fields
    ("GET", ("X-HTTP-Method-Override: DELETE",), "orders.example", False),
    ("GET", ("x_http_method_override: DELETE",), "orders.example", False),
    ("GET", ("X-HTTP-Method-Override: DELETE", SAME), "orders.example", True),
    ("GET", WEBSOCKET, "orders.example", False),
    ("GET", (*WEBSOCKET, "Origin: http://evil.example"), "orders.example", False),
    ("GET", (*WEBSOCKET, "Origin: http://evil.example", CROSS), "orders.example", False),
    ("GET", (*WEBSOCKET, f"Origin: {OWN}"), "orders.example", True),
]


class TestWhoseRequestItIs:
    def test_only_a_page_of_the_same_or_a_listed_origin_changes_anything(self, service: Service) -> None:
        wrong = []
        for method, lines, host, allowed in CASES:
            answer = service.ask(*lines, method=method, host=host)
            found = (answer.status, "" if answer.status == 200 else answer.code)
            if found != ((200, "") if allowed else (403, "cross_site_refused")):
                wrong.append((method, lines, host, found))
        assert wrong == []
        assert service.passed_on() == sum(allowed for *_, allowed in CASES)

    def test_a_header_needs_no_proof_and_wins_and_a_bad_cookie_is_as_a_bad_token(self, service: Service) -> None:
        good = f"Authorization: Bearer {service.fleet.token}"
        cookie = f"Cookie: {service.cookie}"
        bad = f"Cookie: {NAME}={service.fleet.token[:-8]}AAAAAAAA"
        for lines, method, expected in (
            ((good,), "POST", "200"),
            ((good, bad, CROSS), "POST", "200"),
            ((good, cookie, cookie), "GET", "200"),
            (("Authorization: Bearer a.b.c", cookie), "GET", "token_malformed"),
            (("Authorization: Basic eA==", cookie), "GET", "token_missing"),
            ((good, good, cookie), "GET", "token_malformed"),
            ((bad,), "GET", "signature_invalid"),
            ((bad, CROSS), "POST", "cross_site_refused"),
            ((cookie, cookie), "GET", "token_malformed"),
            ((cookie, f"Cookie: a=b; {NAME}=x"), "GET", "token_malformed"),
            ((f"{cookie}; {service.cookie}",), "GET", "token_malformed"),
            ((f"{cookie};{NAME} = x",), "GET", "token_malformed"),
            ((f"{cookie}; {NAME}",), "GET", "token_malformed"),
            ((f'Cookie: {NAME}="{service.fleet.token}"',), "GET", "token_malformed"),
            ((f"Cookie: {NAME}=",), "GET", "token_malformed"),
            ((f"Cookie: {service.cookie.lower()}",), "GET", "token_missing"),
            ((f"Cookie: other={service.fleet.token}",), "POST", "token_missing"),
            ((f"Cookie: a=b;{service.cookie}  ; c",), "GET", "200"),
            (("Cookie: a=b", cookie), "GET", "200"),
        ):
            answer = service.ask(*lines, cookie=False, method=method)
            assert ("200" if answer.status == 200 else answer.code) == expected, lines
            if answer.status == 401:
                assert answer.values("www-authenticate")[0].startswith('Bearer realm="authix"')

    def test_without_the_setting_a_cookie_is_no_token(self, fleet: Fleet) -> None:
        answer = fleet.call(request(f"Cookie: {NAME}={fleet.token}", SAME))
        assert (answer.status, answer.code) == (401, "token_missing")

    def test_a_logged_out_users_cookie_is_refused(self, service: Service) -> None:
        client, _, token = service.fleet.new_user()
        assert client.post("/logout", headers={"Authorization": f"Bearer {token}"}).status_code == 204
        service.fleet.until_refused(token)
        answer = service.ask(f"Cookie: {NAME}={token}", cookie=False)
        assert (answer.status, answer.code) == (401, "token_revoked")


class TestVerify:
    def test_without_a_policy_the_method_is_unknown_and_the_proof_always_needed(self, service: Service) -> None:
        for lines, status in (
            ((), 403),
            (("X-Original-Method: GET", "X-Original-URI: /"), 403),
            ((f"Origin: {OWN}",), 403),  # the Host is the proxy's word for this sidecar
            ((SAME,), 200),
            ((f"Origin: {LISTED}",), 200),
        ):
            answer = service.verify(*lines)
            assert answer.status == status, lines
            assert status == 200 or answer.code == "cross_site_refused"
        assert service.verify(f"Authorization: Bearer {service.fleet.token}", cookie=False).status == 200

    def test_with_a_policy_the_original_method_counts(self, judged_by_policy: Service) -> None:
        service = judged_by_policy
        for method, lines, status in (
            ("GET", (), 200),
            ("GET", (CROSS,), 200),
            ("POST", (), 403),
            ("POST", (CROSS,), 403),
            ("POST", ("Origin: http://unnamed",), 403),
            ("POST", (f"Origin: {OWN}",), 403),
            ("POST", (SAME,), 200),
            ("POST", (f"Origin: {LISTED}", CROSS), 200),
            ("GET", ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",), 403),
            ("GET", ("X-Method-Override: DELETE",), 403),
        ):
            answer = service.verify(f"X-Original-Method: {method}", "X-Original-URI: /a", *lines)
            assert answer.status == status, (method, lines)
            assert status == 200 or answer.code == "cross_site_refused"
        assert service.verify(target="/verify/a").status == 200
        assert service.verify(target="/verify/a", method="POST").code == "cross_site_refused"
        assert service.verify(CROSS, "X-Original-Method: POST", "X-Original-URI: /open").status == 200


class TestWhatTheUpstreamSees:
    def test_is_neither_token_where_the_policy_removes_them_and_both_where_it_does_not(
        self, judged_by_policy: Service
    ) -> None:
        service = judged_by_policy
        token = f"Authorization: Bearer {service.fleet.token}"
        for target, lines in (
            ("/a", (f"Cookie: a=1; {service.cookie}; b=2",)),
            ("/a", (f"Cookie: a=1; {service.cookie}; b=2", token)),
            ("/open", (f"Cookie: a=1; {service.cookie}; b=2", token)),
        ):
            assert service.ask(*lines, cookie=False, target=target).status == 200
            seen = service.fleet.upstream.requests[-1]
            assert seen.values("cookie") == ["a=1; b=2"], (target, lines)
            assert seen.values("authorization") == []
        assert service.ask(token, target="/kept").status == 200
        seen = service.fleet.upstream.requests[-1]
        assert seen.values("cookie") == [service.cookie]
        assert seen.values("authorization") == [f"Bearer {service.fleet.token}"]
        assert service.ask(target="/kept").status == 200
        assert service.fleet.upstream.requests[-1].values("authorization") == []

    def test_is_no_token_where_the_setting_says_no_and_no_policy_is_there(self, service: Service) -> None:
        assert service.ask(f"Authorization: Bearer {service.fleet.token}", "Cookie: a=b").status == 200
        seen = service.fleet.upstream.requests[-1]
        assert (seen.values("authorization"), seen.values("cookie")) == ([], ["a=b"])
        assert len(seen.values("x-authix-subject")[0]) > 0

    @pytest.mark.parametrize("default", [True, False])
    @pytest.mark.parametrize("file", ["", "pass", "remove"])
    @pytest.mark.parametrize("route", ["", "pass", "remove"])
    def test_is_said_by_the_route_then_by_the_file_then_by_the_setting(
        self, route: str, file: str, *, default: bool
    ) -> None:
        text = f'authorization = "{file}"\n' * bool(file) + '[[route]]\npath = "/a"\n'
        text += f'authorization = "{route}"\n' * bool(route)
        policy = read_policy(text, "authix.toml", passes_authorization=default)
        beyond = file == "pass" if file else default
        assert policy(read_request(request(target="/b"))).passes_authorization is beyond
        expected = route == "pass" if route else beyond
        assert policy(read_request(request(target="/a"))).passes_authorization is expected

    @pytest.mark.parametrize(
        ("value", "left"),
        [
            (b"a=1; s=x; b=2", [b"a=1; b=2"]),
            (b"s=x; a=1;b = 2", [b"a=1;b = 2"]),
            (b"a=1;  b; s=x", [b"a=1;  b"]),
            (b"s=x; s=y", []),
            (b" s = x ", []),
            (b's="x"; a="s=1"', [b'a="s=1"']),
            (b"ss=1;S=2;  ;", [b"ss=1;S=2;  ;"]),
            (b"a=s=x", [b"a=s=x"]),
            (b"\xe9=1;s=x", [b"\xe9=1"]),
        ],
    )
    def test_are_the_other_cookies_as_they_came(self, value: bytes, left: list[bytes]) -> None:
        found = [(b"cOOkie", value), (b"Cookie2", b"s=x")]
        expected = [*((b"cOOkie", each) for each in left), (b"Cookie2", b"s=x")]
        assert TokenCookie("s").taken_out(found) == expected


class TestSettings:
    @pytest.mark.parametrize("name", ["", "a b", "a=b", "a;b", "a,b", '"a"', "ä", "a\n", "a/b", "(a)"])
    def test_take_no_name_that_no_cookie_has(self, name: str) -> None:
        with pytest.raises(ValueError, match="must be a cookie's name"):
            cookie_name(name)

    @pytest.mark.parametrize(
        "value", ["", "null", "*", "app.example", "https://a/", "https://*.a", "unix:/a", "https://a,", "ftp://a"]
    )
    def test_take_no_origin_that_no_page_has(self, value: str) -> None:
        with pytest.raises(ValueError, match="must be origins such as"):
            page_origins(value)

    def test_take_no_origins_without_a_cookie(self) -> None:
        needed = {"issuer": "http://127.0.0.1:1", "audience": "tests", "upstream": origins("http://127.0.0.1:2")}
        with pytest.raises(ValueError, match="AUTHIX_COOKIE_ORIGINS needs AUTHIX_TOKEN_COOKIE"):
            SidecarSettings(**needed, cookie_origins=page_origins(LISTED))  # type: ignore[arg-type] # of three kinds
