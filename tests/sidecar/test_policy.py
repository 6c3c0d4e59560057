"""The policy: which route a request takes, and that no spelling of a path takes it elsewhere."""

from __future__ import annotations

import posixpath
import random
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix.claims import Claims
from authix.errors import AuthixError, RoleMissing, SettingsError, TokenMissing
from authix.freshness import WhenStale
from authix_sidecar.cli import main
from authix_sidecar.decide import decide
from authix_sidecar.errors import MethodRefused, RequestRefused
from authix_sidecar.live_policy import LivePolicy
from authix_sidecar.policy import Routes, host_name, segments_of
from authix_sidecar.policy_file import load_policy, read_policy
from authix_sidecar.policy_review import review
from authix_sidecar.requests import RequestHead, read_request

EXAMPLE = """
[[route]]
path = "/healthz"
methods = ["GET"]
public = true

[[route]]
path = "/static/*"
public = true

[[route]]
path = "/orders/{id}"
methods = ["DELETE", "GET"]
roles = ["support"]

[[route]]
path = "/admin/*"
roles = ["admin"]

[[route]]
path = "/orders/{id}/items/"

[[route]]
path = "/*"
host = "*.intern.example"
roles = ["staff"]
"""


def policy(text: str, *, host: str = "") -> Routes:
    return read_policy(text, "authix.toml", host=host)


def routes(*lines: str) -> Routes:
    """One route each."""
    return policy("".join(f"[[route]]\n{line}\n" for line in lines))


def head(
    target: str, *, method: str = "GET", host: str = "a", fields: tuple[str, ...] = (), version: str = "1.1"
) -> RequestHead:
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields, "", ""]
    return read_request("\r\n".join(lines).encode("latin-1"))


def taken(by: Routes, request: RequestHead) -> int:
    """The position of the route that ``request`` takes; 0: none."""
    route = by.route(request)
    return route.position if route is not None else 0


class TestMatching:
    @pytest.mark.parametrize(
        ("method", "target", "position"),
        [
            ("GET", "/healthz", 1),
            ("HEAD", "/healthz", 1),
            ("GET", "/healthz?a=/b", 1),
            ("POST", "/healthz", 0),
            ("GET", "/healthz/", 0),
            ("GET", "/Healthz", 0),
            ("GET", "/healthz/x", 0),
            ("GET", "/healthzx", 0),
            ("GET", "/static/", 2),
            ("PUT", "/static/a/b/c", 2),
            ("GET", "/static", 0),
            ("GET", "/staticx", 0),
            ("GET", "/static-x/y", 0),
            ("GET", "/x/static/y", 0),
            ("DELETE", "/orders/7", 3),
            ("HEAD", "/orders/7", 3),
            ("DELETE", "/orders/7/", 3),
            ("PATCH", "/orders/7", 0),
            ("DELETE", "/orders/", 0),
            ("DELETE", "/orders", 0),
            ("DELETE", "/orders/7/8", 0),
            ("GET", "/admin", 4),
            ("GET", "/admin/", 4),
            ("GET", "/admin/users/7", 4),
            ("GET", "/administration", 0),
            ("GET", "/orders/7/items/", 5),
            ("GET", "/orders/7/items", 5),
            ("GET", "/orders/7/items/8", 0),
            ("GET", "/", 0),
        ],
    )
    def test_is_by_method_and_segments(self, method: str, target: str, position: int) -> None:
        assert taken(policy(EXAMPLE), head(target, method=method)) == position

    @pytest.mark.parametrize(
        ("host", "position"),
        [
            ("a.intern.example", 6),
            ("A.Intern.EXAMPLE:8443", 6),
            ("a.b.intern.example.", 6),
            ("intern.example", 0),
            ("xintern.example", 0),
            ("intern.example.evil.example", 0),
            ("[::1]:80", 0),
        ],
    )
    def test_of_a_host_is_without_port_and_case(self, host: str, position: int) -> None:
        assert taken(policy(EXAMPLE), head("/", host=host)) == position

    @pytest.mark.parametrize("host", ["orders.example", "ORDERS.example:80", "orders.example."])
    def test_of_one_host_means_that_one(self, host: str) -> None:
        only = routes('path = "/*"\nhost = "Orders.Example"\nroles = ["x"]')
        assert taken(only, head("/", host=host)) == 1
        assert taken(only, head("/", host=f"a.{host}")) == 0

    def test_takes_a_request_without_host_for_one_to_the_host_it_is_sent_on_with(self) -> None:
        text = '[[route]]\npath = "/*"\nhost = "behind"\nroles = ["x"]\n'
        assert taken(policy(text, host="behind:8003"), head("/", host="", version="1.0")) == 1
        assert taken(policy(text, host="other"), head("/", host="", version="1.0")) == 0

    def test_takes_the_first_route_of_several(self) -> None:
        several = routes('path = "/a/b"', 'path = "/a/{x}"', 'path = "/{x}/b"', 'path = "/*"')
        assert [taken(several, head(target)) for target in ("/a/b", "/a/c", "/c/b", "/c/c")] == [1, 2, 3, 4]
        turned = routes('path = "/{x}/b"', 'path = "/a/{x}"')
        assert taken(turned, head("/a/b")) == 1

    def test_goes_on_to_the_next_route_where_the_method_is_not_listed(self) -> None:
        several = routes('path = "/a"\nmethods = ["POST"]', 'path = "/a"\nmethods = ["PUT"]', 'path = "/{x}"')
        assert [taken(several, head("/a", method=method)) for method in ("POST", "PUT", "GET")] == [1, 2, 3]

    @pytest.mark.parametrize(
        ("path", "target"),
        [
            ("/café", "/caf%C3%A9"),
            ("/café", "/caf%c3%a9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a+b", "/a%2Bb"),
            ("/a%2bb", "/a+b"),
            ("/a%20b", "/a%20b"),
            ("/{x}", "/a%20b"),
            ("/a%2Ab", "/a*b"),
            ("/a%3Fb", "/a%3Fb"),
        ],
    )
    def test_is_by_what_octets_stand_for(self, path: str, target: str) -> None:
        assert taken(routes(f'path = "{path}"\nroles = ["x"]'), head(target)) == 1

    def test_finds_the_route_that_one_finds_by_going_through_them(self) -> None:
        choose = random.Random(7)
        words, hosts = ("a", "b", "{x}", ""), ("", "a.example", "*.example")
        for _ in range(300):
            lines = []
            for _ in range(choose.randint(1, 12)):
                path = "/" + "/".join(choose.choices(words, k=choose.randint(1, 3)))
                path = posixpath.normpath(path).replace("//", "/") + choose.choice(("", "/*", "/"))
                line = f'path = "{path.replace("//", "/")}"\npublic = {choose.choice(("true", "false"))}'
                if host := choose.choice(hosts):
                    line += f'\nhost = "{host}"'
                if choose.random() < 0.5:
                    line += f'\nmethods = ["{choose.choice(("GET", "POST"))}"]'
                lines.append(line)
            try:
                by = routes(*lines)
            except SettingsError as error:
                assert "is public there" in str(error)  # noqa: PT017 - the one thing that may be wrong with them
                continue
            for _ in range(60):
                path = (
                    "/" + "/".join(choose.choices(("a", "b", "c"), k=choose.randint(0, 3))) + choose.choice(("", "/"))
                )
                request = head(
                    path.replace("//", "/"),
                    method=choose.choice(("GET", "POST", "HEAD")),
                    host=choose.choice(("a.example", "b.example", "c")),
                )
                name, segments = host_name(request.host or b""), segments_of(request.path)
                slowly = next((route for route in by.routes if route.matches(request.method, name, segments)), None)
                assert by.route(request) == slowly, (lines, request.target)

    def test_costs_little_with_many_routes(self) -> None:
        many = routes(*(f'path = "/api/v1/{name}{n}/{{id}}"' for name in ("orders", "users") for n in range(40)))
        request = head("/api/v1/users39/7")
        assert taken(many, request) == 80
        few = routes('path = "/api/v1/users39/{id}"')
        times = [min(timeit.repeat(partial(by, request), number=2000, repeat=5)) for by in (few, many)]
        assert times[1] < 10 * times[0]

    @pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x_http_method_override", "X-Method-Override"])
    def test_refuses_whoever_asks_to_be_taken_for_another_method(self, name: str) -> None:
        request = head("/healthz", fields=(f"{name}: DELETE",))
        with pytest.raises(MethodRefused):
            policy(EXAMPLE)(request)
        assert not policy(EXAMPLE)(head("/static/x", fields=(f"{name}: DELETE",))).token  # methods play no part there


class TestFile:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "authix.toml has no [[route]]: write one, or unset AUTHIX_POLICY"),
            ('authorization = "pass"', "authix.toml has no [[route]]"),
            ("[[route]\n", "authix.toml is not TOML: "),
            ("a = " + "[" * 5000, "authix.toml is not TOML: "),
            ('[route]\npath = "/"', "`route`: expected `array`, got `object`: begin each route with [[route]]"),
            ('routes = 1\n[[route]]\npath = "/"', "unknown key `routes`: the keys are route, authorization"),
            (
                '\n\n[[route]]\npath = "/a"\nrole = ["x"]',
                "authix.toml:3: route 1 (/a): unknown key `role`: the keys are ",
            ),
            ('[[route]]\npath = "/a"\n[[ route ]]\nroles = ["x"]', "authix.toml:3: route 2: no `path`"),
            ('[[route]]\npath = "/a"\npublic = "yes"', "route 1 (/a): `public`: expected `bool`, got `str`"),
            ('[[route]]\npath = "/a"\nroles = "x"', "`roles`: expected `array`, got `str`"),
            ('[[route]]\npath = "/a"\nroles = []', "`roles` is empty: leave it out or fill it"),
            ('[[route]]\npath = "/a"\nmethods = []', "`methods` is empty"),
            ('[[route]]\npath = "/a"\nclaims = {}', "`claims` is empty"),
            ('[[route]]\npath = "/a"\nclaims = { a = [] }', "`claims` has no value for 'a'"),
            ('[[route]]\npath = "/a"\nclaims = { a = 1.5 }', "expected `bool | int | str | array`, got `float`"),
            ('[[route]]\npath = "/a"\nclaims = { roles = "x" }', "`claims` has 'roles', which is judged already: see"),
            ('[[route]]\npath = "/a"\nmax_age = 0', "`max_age` must be at least 1 second"),
            ('[[route]]\npath = "/a"\nmax_age = "1m"', "`max_age`: expected `int`, got `str`"),
            ('[[route]]\npath = "/a"\nwhen_stale = "no"', "'no': it is reject, clamp or accept"),
            ('[[route]]\npath = "/a"\nauthorization = "no"', "'no': it is pass or remove"),
            ('[[route]]\npath = "/a"\npublic = true\nroles = ["x"]', "it is public, where no token is looked at, and"),
            ('[[route]]\npath = "/a"\npublic = true\nmax_age = 1', "and has `max_age`: leave out one of them"),
            ('[[route]]\npath = "/a"\npublic = true\nclaims = {a = 1}', "and has `claims`"),
            ('[[route]]\npath = "/a"\npublic = true\nwhen_stale = "accept"', "and has `when_stale`"),
            ('[[route]]\npath = "a"', "`path` must begin with /"),
            ('[[route]]\npath = ""', "`path` must begin with /"),
            ('[[route]]\npath = "/a*"', "'a*' is neither text nor {name}"),
            ('[[route]]\npath = "/*/a"', "'*' is neither text nor {name}"),
            ('[[route]]\npath = "/**"', "'**' is neither text nor {name}"),
            ('[[route]]\npath = "/a{b}"', "'a{b}' is neither text nor {name}"),
            ('[[route]]\npath = "/{b}.json"', "'{b}.json' is neither text nor {name}"),
            ('[[route]]\npath = "/:id"', "':id' is no parameter: write {id}"),
            ('[[route]]\npath = "/a?b"', "`path` has a ?"),
            ('[[route]]\npath = "/a/../b"', "'..' is in no request that passes: the path has a dot segment"),
            ('[[route]]\npath = "/%61"', "'%61' is in no request that passes"),
            ('[[route]]\npath = "/a b"', "'a b' is in no request that passes"),
            ("[[route]]\npath = '/a\\b'", "is in no request that passes"),
            ('[[route]]\npath = "/a;b"', "'a;b' is in no request that passes"),
            ('[[route]]\npath = "/a#b"', "'a#b' is in no request that passes"),
            ('[[route]]\npath = "/a%2fb"', "'a%2fb' is in no request that passes"),
            ('[[route]]\npath = "/a//b"', "is in no request that passes"),
            ('[[route]]\npath = "/a"\nmethods = ["get"]', "`methods` has 'get', which no request that passes has"),
            ('[[route]]\npath = "/a"\nmethods = ["TRACE"]', "`methods` has 'TRACE'"),
            ('[[route]]\npath = "/a"\nmethods = ["DELET"]', "`methods` has 'DELET'"),
            ('[[route]]\npath = "/a"\nmethods = ["GET /x HTTP/1.1\\r\\nA: b\\r\\n\\r\\nGET"]', "`methods` has 'GET /x"),
            ('[[route]]\npath = "/a"\nhost = "http://a"', "`host` must be a name such as orders.example.com"),
            ('[[route]]\npath = "/a"\nhost = "a:80"', "`host` must be a name"),
            ('[[route]]\npath = "/a"\nhost = "a.*"', "`host` must be a name"),
            (
                '[[route]]\npath = "/a/*"\npublic = true\n[[route]]\npath = "/a/b"\nroles = ["x"]',
                "authix.toml:4: route 2 (/a/b) is never reached, because route 1 (/a/*) before it is public there",
            ),
        ],
    )
    def test_with_a_mistake_is_told_where_it_is_and_what_to_do(self, text: str, sentence: str) -> None:
        with pytest.raises(SettingsError) as refused:
            policy(text)
        assert sentence in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1

    def test_with_several_mistakes_is_told_each(self) -> None:
        with pytest.raises(SettingsError) as refused:
            routes('path = "a"', 'path = "/a"', 'path = "/b"\nmax_age = -1')
        assert [line.partition(" (")[0] for line in str(refused.value).splitlines()] == [
            "authix.toml:1: route 1",
            "authix.toml:5: route 3",
        ]

    def test_that_can_not_be_read_is_told_too(self, tmp_path: object) -> None:
        with pytest.raises(SettingsError, match=r"can't be read \(IsADirectoryError\)"):
            load_policy(str(tmp_path))

    def test_may_say_what_a_route_needs(self) -> None:
        needs = routes(
            'path = "/"\nroles = ["a", "b"]\nclaims = { t = ["x", "y"], mfa = true }\nmax_age = 60\n'
            'when_stale = "clamp"\nauthorization = "remove"'
        )(head("/"))
        assert (needs.token, needs.roles, needs.max_age) == (True, frozenset({"a", "b"}), 60)
        assert dict(needs.claims) == {"t": {(str, "x"), (str, "y")}, "mfa": {(bool, True)}}
        assert (needs.when_stale, needs.passes_authorization) == (WhenStale.CLAMP, False)

    def test_of_the_documentation_is_a_good_one(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
        shown = policy(page.partition("```toml\n")[2].partition("```")[0])
        assert [route.path for route in shown.routes] == ["/healthz", "/static/*", "/payments/{id}", "/admin/*"]
        assert review(shown.routes) == []

    def test_says_for_all_whether_upstreams_see_the_token_and_a_route_may_say_otherwise(self) -> None:
        by = policy(
            'authorization = "remove"\n[[route]]\npath = "/a"\n[[route]]\npath = "/b"\nauthorization = "pass"\n'
        )
        assert [by(head(target)).passes_authorization for target in ("/a", "/b", "/c")] == [False, True, False]
        assert routes('path = "/a"')(head("/c")).passes_authorization


class TestReview:
    @pytest.mark.parametrize(
        ("lines", "found"),
        [
            (['path = "/a"\npublic = true', 'path = "/*"\nroles = ["x"]'], []),
            (['path = "/a"\nmethods = ["GET"]\npublic = true', 'path = "/a"\nroles = ["x"]'], []),
            (['path = "/a/{x}/c"\npublic = true', 'path = "/a/*"\nroles = ["x"]'], []),
            (
                ['path = "/a/*"\npublic = true', 'path = "/a"\nroles = ["x"]'],  # there is /a/
                [(2, "is open in part, because route 1 (/a/*)")],
            ),
            (['path = "/*"', 'path = "/a"\npublic = true'], [(2, "is never reached, because route 1 (/*)")]),
            (['path = "/a"\nroles = ["x"]', 'path = "/a/"\nroles = ["y"]'], [(2, "is never reached")]),
            (['path = "/a"\nroles = ["x"]', 'path = "/a"\nroles = ["x"]'], [(2, "repeats route 1 (/a)")]),
            (
                [
                    'path = "/a"\nmethods = ["GET"]',
                    'path = "/a"\nmethods = ["PUT"]',
                    'path = "/a"\nmethods = ["PUT", "HEAD"]',
                ],
                [(3, "is never reached, because route 1 (/a) and route 2 (/a)")],
            ),
            (['path = "/{x}"', 'path = "/a"'], [(2, "is never reached")]),
            (['path = "/{x}"\nhost = "*.b.c"', 'path = "/a"\nhost = "a.b.c"'], [(2, "is never reached")]),
            (['path = "/{x}"\nhost = "a.b.c"', 'path = "/a"\nhost = "*.b.c"'], []),
            (['path = "/{x}"\nhost = "a.b.c"', 'path = "/a"'], []),
            (
                ['path = "/a/*"\nmethods = ["GET"]\npublic = true', 'path = "/a/b"\nroles = ["x"]'],
                [(2, "is open in part, because route 1 (/a/*) before it is public")],
            ),
            (
                ['path = "/{x}/info"\npublic = true', 'path = "/admin/*"\nroles = ["x"]'],
                [(2, "is open in part, because route 1 (/{x}/info) before it is public")],
            ),
            (
                ['path = "/a/*"\nhost = "a.b"\npublic = true', 'path = "/a/b"\nhost = "c.d"\nroles = ["x"]'],
                [],
            ),
            (
                ['path = "/a/*"\nmethods = ["GET"]\npublic = true', 'path = "/a/b"\nmethods = ["PUT"]\nroles = ["x"]'],
                [],
            ),
            (['path = "/*"\npublic = true'], [(1, "makes every path public")]),
        ],
    )
    def test_tells_what_is_hardly_meant(self, lines: list[str], found: list[tuple[int, str]]) -> None:
        said = review(routes(*lines).routes)
        assert [finding.route.position for finding in said] == [position for position, _ in found]
        for finding, (_, sentence) in zip(said, found, strict=True):
            assert finding.sentence.startswith(sentence)

    @pytest.mark.parametrize(
        "lines",
        [
            ['path = "/*"\npublic = true', 'path = "/admin/*"\nroles = ["x"]'],
            ['path = "/a/*"\npublic = true', 'path = "/a/"'],
            ['path = "/a/{x}"\npublic = true', 'path = "/a/b"'],
            ['path = "/a"\nmethods = ["GET"]\npublic = true', 'path = "/a"\nmethods = ["GET"]\nroles = ["x"]'],
            ['path = "/a"\nmethods = ["GET"]\npublic = true', 'path = "/*"', 'path = "/a"\nmethods = ["HEAD"]'],
        ],
    )
    def test_takes_no_file_that_opens_what_it_protects(self, lines: list[str]) -> None:
        with pytest.raises(SettingsError, match=r"is public there: put it first\."):
            routes(*lines)


class Case(NamedTuple):
    """A policy, and in other words than its own what it opens and what it keeps for admins."""

    policy: Routes
    is_open: Callable[[str, str], bool]
    """By method and path."""
    for_admins: Callable[[str, str], bool]


def below(folder: str) -> Callable[[str], bool]:
    return lambda path: path == folder or path.startswith(f"{folder}/")


NEVER: Callable[[str, str], bool] = lambda method, path: False  # noqa: E731 - two of a kind in one line each
ADMIN = below("/admin")
CASES = {
    "a token everywhere": Case(routes('path = "/*"'), NEVER, NEVER),
    "an open path": Case(
        routes('path = "/healthz"\npublic = true', 'path = "/admin/*"\nroles = ["admin"]'),
        lambda method, path: path == "/healthz",
        lambda method, path: ADMIN(path),
    ),
    "an open folder": Case(
        routes('path = "/admin"\nroles = ["admin"]', 'path = "/static/*"\npublic = true'),
        lambda method, path: below("/static")(path),
        lambda method, path: path == "/admin",
    ),
    "an open folder with a closed one inside": Case(
        routes('path = "/static/admin/*"\nroles = ["admin"]', 'path = "/static/*"\npublic = true'),
        lambda method, path: below("/static")(path) and not below("/static/admin")(path),
        lambda method, path: below("/static/admin")(path),
    ),
    "an open segment": Case(
        routes('path = "/{any}/logo"\npublic = true', 'path = "/admin/{id}"\nroles = ["admin"]'),
        lambda method, path: path.count("/") == 2 and path.endswith("/logo") and path != "//logo",
        lambda method, path: (
            path.startswith("/admin/") and path.count("/") == 2 and path not in {"/admin/", "/admin/logo"}
        ),
    ),
    "reading is open": Case(
        routes(
            'path = "/admin/*"\nroles = ["admin"]',
            'path = "/static/*"\nmethods = ["GET"]\npublic = true',
            'path = "/*"',
        ),
        lambda method, path: method in {"GET", "HEAD"} and below("/static")(path),
        lambda method, path: ADMIN(path),
    ),
    "names that are not ASCII": Case(
        routes(
            'path = "/café"\nroles = ["admin"]', 'path = "/a+b"\nroles = ["admin"]', 'path = "/static/*"\npublic = true'
        ),
        lambda method, path: below("/static")(path),
        lambda method, path: path in {"/café", "/a+b"},
    ),
}


def readings(target: str) -> Iterator[str]:
    """The paths that upstreams, from the strictest to the most lenient, take ``target`` for."""
    path = target.partition("?")[0]
    yield path
    once = unquote(path)
    yield once
    for decoded in (path, once, unquote(once)):
        slashes = decoded.replace("\\", "/")
        for cut in (slashes, slashes.partition("\0")[0], slashes.partition("#")[0]):
            bare = "/".join(segment.partition(";")[0] for segment in cut.split("/"))
            for form in (cut, bare):
                yield "/" + posixpath.normpath(form or "/").lstrip("/")


TRICKS = (
    *(
        "/admin",
        "/admin/",
        "/admin/users",
        "/admin/7",
        "/ADMIN",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/admin/.",
        "/admin/..",
    ),
    *("/static/../admin", "/static/..%2fadmin", "/static/%2e%2e/admin", "/static/.%2e/admin", "/static/..;/admin"),
    *(
        "/static/..\\admin",
        "/static/..%5cadmin",
        "/static/%2e%2e%2fadmin",
        "/static/%252e%252e/admin",
        "/static//../admin",
    ),
    *("/static/./../admin", "/static/x/../../admin", "/static/%c0%ae%c0%ae/admin", "/static/%uff0e%uff0e/admin"),
    *(
        "/static;/../admin",
        "/static/%2e%2e;/admin",
        "/static/..%00/admin",
        "/static/..%0d%0a/admin",
        "/static\\..\\admin",
    ),
    *("/healthz/../admin", "/healthz/..;/admin", "/healthz%2f..%2fadmin", "/healthz;/../admin", "/healthz%00/admin"),
    *(
        "/admin;x=1",
        "/admin;/users",
        "/;/admin",
        "/admin%00",
        "/admin%20",
        "/admin%09",
        "/admin%2f",
        "/admin%5c",
        "/admin\\",
    ),
    *(
        "/%61dmin",
        "/adm%69n",
        "/%41DMIN",
        "/admin?",
        "/admin?x=/healthz",
        "/admin#/healthz",
        "/healthz?/../admin",
        "/healthz#",
    ),
    *(
        "http://a/admin",
        "//a/admin",
        "a/admin",
        "*",
        "?/admin",
        "/static?/../admin",
        "/static/?/../../admin",
        "/static%3f/../admin",
    ),
    *("/healthz/", "/healthz/x", "/healthz%20", "/healthz.json", "/Healthz", "/healthz;x", "/healthz%2e", "/healthz//"),
    *("/static", "/static%2fx", "/staticx", "/static..", "/static/..", "/static/...", "/static./x", "/static%20/x"),
    *("/static/admin", "/static/admin/", "/static/admin/x", "/static/x/../admin", "/static//admin", "/static/%61dmin"),
    *(
        "/static/./admin",
        "/static/admin;x",
        "/static/admin%2f",
        "/static/admin\\x",
        "/static/admin%5cx",
        "/static/;/admin",
    ),
    *(
        "/x/logo",
        "//logo",
        "/admin/logo",
        "/admin/7/logo",
        "/admin%2f7/logo",
        "/x/logo/",
        "/x/../logo",
        "/%2e%2e/logo",
        "/x//logo",
    ),
    *(
        "/caf%C3%A9",
        "/caf%c3%a9",
        "/caf%C3%A9/",
        "/cafe%CC%81",
        "/caf%E9",
        "/a+b",
        "/a%2Bb",
        "/a%2bb",
        "/a%2Bb/",
        "/a%20b",
    ),
)


def passes(case: Case, method: str, target: str, *, roles: frozenset[str] | None) -> bool:
    """Whether the request passes, by the steps that the proxy port takes; ``roles`` None: it has no token."""

    def verify(_: str, **needed: object) -> Claims:
        if roles is None:
            raise TokenMissing
        if not needed["roles"] <= roles:  # type: ignore[operator] # they are roles
            raise RoleMissing
        return Claims(
            subject="u",
            session=None,
            roles=roles,
            issuer="",
            audience=(),
            issued_at_us=0,
            expires_at=0,
            token_id=None,
            key_id="",
            extra={},
        )

    field = "Authorization: Bearer a.b.c\r\n" if roles is not None else ""
    wire = f"{method} {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n".encode("utf-8", "surrogateescape")
    try:
        request = read_request(wire)
        decide(request, case.policy(request), verify, lambda: 0.0)
    except (RequestRefused, AuthixError):
        return False
    assert request.target == target.encode("utf-8", "surrogateescape")  # exactly these bytes are sent on
    return True


def check(case: Case, method: str, target: str) -> None:
    if passes(case, method, target, roles=None):
        assert all(case.is_open(method, path) for path in readings(target)), (method, target)
    if passes(case, method, target, roles=frozenset({"user"})):
        assert not any(case.for_admins(method, path) for path in readings(target)), (method, target)


class TestTricks:
    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_reach_nothing_protected(self, case: Case) -> None:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "get", "PROPFIND"):
            for target in TRICKS:
                check(case, method, target)

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_leave_what_is_open_and_what_is_allowed_as_it_is(self, case: Case) -> None:
        plain = [
            "/healthz",
            "/static/x",
            "/static/a%20b",
            "/x/logo",
            "/admin",
            "/admin/7",
            "/caf%C3%A9",
            "/a+b",
            "/other",
        ]
        for target in plain:
            path = unquote(target)
            assert passes(case, "GET", target, roles=frozenset({"admin"}))
            assert passes(case, "GET", target, roles=None) == case.is_open("GET", path), target
            needs_admin = case.for_admins("GET", path)
            assert passes(case, "GET", target, roles=frozenset({"user"})) != needs_admin, target

    PIECES = st.sampled_from(
        [
            *(
                "/",
                "/",
                "/",
                "admin",
                "static",
                "healthz",
                "logo",
                "x",
                "7",
                "café",
                "caf%C3%A9",
                "caf%c3%a9",
                "a+b",
                "a%2Bb",
            ),
            *(
                ".",
                "..",
                "%2e",
                "%2E",
                "%2e%2e",
                "%2f",
                "%5c",
                "\\",
                ";",
                ";x=1",
                "%3b",
                "%00",
                "%25",
                "%252e",
                "%2",
                "%61",
            ),
            *(
                "?",
                "#",
                "%23",
                "%3f",
                " ",
                "%20",
                "\t",
                "~",
                "%7e",
                "%c0%ae",
                "%u002e",
                "\u2215",
                "\uff0e",
                "//",
                "/./",
                "/../",
            ),
            *("http://a", "@", ":80", "*", "\x00", "\x7f", "\udc80"),
        ]
    )

    @given(
        st.sampled_from(list(CASES.values())),
        st.sampled_from(["GET", "HEAD", "POST"]),
        st.lists(PIECES, max_size=8).map("".join),
    )
    def test_made_up_at_random_reach_nothing_protected_either(self, case: Case, method: str, rest: str) -> None:
        check(case, method, f"/{rest}")

    @given(st.data())
    def test_made_from_a_protected_path_reach_it_in_no_other_spelling(self, data: st.DataObject) -> None:
        case = data.draw(st.sampled_from(list(CASES.values())))
        path = data.draw(
            st.sampled_from(["/admin", "/admin/users", "/static/admin/x", "/static/../admin", "/x/../admin"])
        )
        spelt = ""
        for character in path:
            ways = [character, f"%{ord(character):02x}", f"%{ord(character):02X}", f"%25{ord(character):02x}"]
            spelt += data.draw(st.sampled_from([*[character] * 6, *ways]))
            spelt += data.draw(st.sampled_from([*[""] * 12, "/", ";", "/.", "%00", "\\"]))
        check(case, "GET", spelt)


class TestLive:
    """The file in force, looked at as the sidecar does twice a second."""

    OPEN, SHUT = '[[route]]\npath = "/a"\npublic = true\n', '[[route]]\npath = "/a"\nroles = ["x"]\n'

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "authix.toml"
        file.write_text(self.OPEN)
        return file

    def test_a_file_is_taken_only_once_it_has_come_to_rest(self, file: Path) -> None:
        live = LivePolicy(str(file))
        written = self.SHUT + '[[route]]\npath = "/b"\nroles = ["y"]\n'
        for part in (self.SHUT, written):
            file.write_text(part)
            live.refresh()
            assert not live(head("/a")).token
        live.refresh()
        assert live(head("/b")).roles == {"y"}

    def test_a_file_that_stays_is_not_read_again(self, file: Path) -> None:
        live = LivePolicy(str(file))
        before = live.routes
        for _ in range(5):
            live.refresh()
        assert live.routes is before

    def test_a_broken_file_is_told_once_until_it_changes(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        live = LivePolicy(str(file))
        since = live.loaded_at
        for broken in ("[[route]]\n", ""):
            file.write_text(broken)
            for _ in range(5):
                live.refresh()
        assert live.errors == len(caplog.records) == 2
        assert all(record.levelname == "ERROR" for record in caplog.records)
        assert not live(head("/a")).token
        assert live.loaded_at == since

    def test_what_is_odd_in_a_file_is_logged_when_it_is_taken(
        self, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file.write_text(self.OPEN + self.OPEN)
        LivePolicy(str(file))
        assert [record.getMessage() for record in caplog.records] == [
            f"{file}:4: route 2 (/a) repeats route 1 (/a): leave it out."
        ]


class TestCommands:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("AUTHIX_POLICY", raising=False)
        Path("authix.toml").write_text(EXAMPLE)
        return "authix.toml"

    def test_lint_has_nothing_to_say_about_a_good_file(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["policy", "lint"]) == 0
        assert capsys.readouterr().out == "authix.toml: 6 routes, nothing to mend.\n"

    def test_lint_tells_what_is_odd_and_ends_with_1(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        Path("other.toml").write_text('[[route]]\npath = "/*"\n\n[[route]]\npath = "/a"\nroles = ["x"]\n')
        assert main(["policy", "lint", "other.toml"]) == 1
        assert capsys.readouterr().out == (
            "other.toml:4: route 2 (/a) is never reached, because route 1 (/*) before it matches all of it: "
            "put it first.\n"
        )

    def test_both_end_with_2_and_the_sentences_of_a_file_that_can_not_be_taken(
        self, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("broken.toml").write_text('[[route]]\npath = "/a"\npublic = true\nroles = ["x"]\n')
        monkeypatch.setenv("AUTHIX_POLICY", "broken.toml")
        for command in (["lint"], ["explain", "GET", "/a"]):
            assert main(["policy", *command]) == 2
            said = capsys.readouterr()
            assert said.err.startswith("broken.toml:1: route 1 (/a): it is public, where no token is looked at, and")
            assert said.out == ""
        assert main(["policy", "lint", "none.toml"]) == 2
        assert "none.toml can't be read (FileNotFoundError)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "exit_code", "last"),
        [
            (["GET", "/healthz"], 0, "answer: allowed"),
            (["POST", "/healthz"], 1, "answer: 401 token_missing"),
            (["POST", "/healthz", "--token"], 0, "answer: allowed"),
            (["GET", "/orders/7", "--roles", "admin"], 1, "answer: 403 role_missing"),
            (["authix.toml", "GET", "/orders/7", "--roles", "admin,support"], 0, "answer: allowed"),
            (["GET", "/x", "--token", "--host", "a.intern.example"], 1, "answer: 403 role_missing"),
            (["GET", "/static/../admin"], 1, "answer: 400 path_not_canonical"),
            (["TRACE", "/"], 1, "answer: 400 method_refused"),
            (["GET", "/\udcff"], 1, "answer: 400 request_malformed"),
            (["GET", "/", "--host", "\udcff"], 1, "answer: 400 host_refused"),
        ],
    )
    def test_explain_tells_what_would_be_answered(
        self, file: str, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, last: str
    ) -> None:
        assert main(["policy", "explain", *arguments]) == exit_code
        assert capsys.readouterr().out.splitlines()[-1] == last

    def test_explain_tells_why(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        main(["policy", "explain", "DELETE", "/orders/7", "--roles", "support"])
        assert capsys.readouterr().out.splitlines() == [
            "DELETE /orders/7, Host: localhost",
            "  authix.toml:2: route 1 (/healthz): another path",
            "  authix.toml:7: route 2 (/static/*): another path",
            "authix.toml:11: route 3 (/orders/{id}) matches",
            "needs: an access token, the roles support",
            "the upstream gets the Authorization field",
            "answer: allowed",
        ]
        main(["policy", "explain", "POST", "/healthz"])
        said = capsys.readouterr().out.splitlines()
        assert said[1] == "  authix.toml:2: route 1 (/healthz): only for GET, HEAD"
        assert said[6] == "  authix.toml:23: route 6 (/*): another host than localhost"
        assert said[7:9] == ["authix.toml: no route matches", "needs: an access token"]

    def test_explain_shows_bytes_that_are_no_text(self, file: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        main(["policy", "explain", "GET", "/\udcff"])
        assert capfdbinary.readouterr().out.startswith(b"GET /\\xff, Host: localhost\n")

    @pytest.mark.parametrize("age", ["nan", "inf", "-1", "1e300", "old"])
    def test_explain_wants_an_age_that_a_token_can_have(
        self, file: str, capsys: pytest.CaptureFixture[str], age: str
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["policy", "explain", "GET", "/b", f"--age={age}"])
        assert ended.value.code == 2
        assert f"--age: must be a number of seconds from 0 to 1000000000, not '{age}'" in capsys.readouterr().err

    def test_explain_knows_claims_and_age(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        Path(file).write_text(
            '[[route]]\npath = "/a"\nclaims = { t = ["x", "y"], mfa = true }\nmax_age = 60\nwhen_stale = "reject"\n'
            'authorization = "remove"\n'
        )
        for arguments, exit_code in (
            (["--claims", "t=x", "--claims", "mfa=true"], 0),
            (["--claims", 't=["z","y"]', "--claims", "mfa=true", "--age", "60"], 0),
            (["--claims", "t=x", "--claims", "mfa=true", "--age", "60.5"], 1),
            (["--claims", "t=x", "--claims", "mfa=1"], 1),
            (["--claims", "t=x"], 1),
            (["--token"], 1),
        ):
            assert main(["policy", "explain", "GET", "/a", *arguments]) == exit_code, arguments
        said = capsys.readouterr().out.splitlines()
        assert said[2:5] == [
            'needs: an access token, t = "x" or "y", mfa = true, issued 60 s ago or less',
            "when logouts are not heard of: reject",
            "the upstream does not get the Authorization field",
        ]

    def test_explain_goes_by_the_setting_where_the_file_leaves_it_open(
        self, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gets, gets_not = (
            "the upstream gets the Authorization field",
            "the upstream does not get the Authorization field",
        )
        asked = ["policy", "explain", "GET", "/orders/7", "--roles", "support"]
        monkeypatch.setenv("AUTHIX_PASS_AUTHORIZATION", "no")
        for arguments, said in (([], gets_not), (["--pass-authorization", "yes"], gets)):
            assert main([*asked, *arguments]) == 0
            assert said in capsys.readouterr().out.splitlines()
        monkeypatch.setenv("AUTHIX_PASS_AUTHORIZATION", "maybe")
        assert main(asked) == 2
        assert capsys.readouterr().err == "AUTHIX_PASS_AUTHORIZATION must be yes or no, not 'maybe'.\n"
