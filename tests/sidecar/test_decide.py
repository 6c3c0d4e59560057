"""The decision over a request."""

from __future__ import annotations

import pytest

from authix.claims import Claims
from authix.errors import AuthixError, RoleMissing, TokenMalformed, TokenMissing
from authix.freshness import WhenStale
from authix_sidecar.decide import A_TOKEN, NOTHING, Policy, Requirement, decide, every_path_needs
from authix_sidecar.errors import ClaimRefused, TokenTooOld, refusal_of
from authix_sidecar.requests import RequestHead, read_request

CLAIMS = Claims(
    subject="user-1",
    session=None,
    roles=frozenset({"reader"}),
    issuer="https://auth.example.com",
    audience=("orders",),
    issued_at_us=1_000_000_000,
    expires_at=2,
    token_id=None,
    key_id="key",
    extra={"tenant": "a", "groups": ["x", "y", 7], "mfa": True, "level": 1, "share": 0.5, "org": {"tier": "gold"}},
)
TOKEN = b"Authorization: Bearer a.b.c"
NOW = 1_000.0 + 60


def verify(token: str, *, roles: frozenset[str], when_stale: WhenStale | None) -> Claims:
    """Knows one good token; its freshness is doubtful."""
    assert token == "a.b.c"
    if not roles <= CLAIMS.roles:
        raise RoleMissing
    if when_stale is WhenStale.REJECT:
        raise AuthixError("stale")
    return CLAIMS


def request(*lines: bytes, target: bytes = b"/") -> RequestHead:
    return read_request(b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: a", *lines, b"", b""]))


A_TOKEN_ANYWHERE = every_path_needs(A_TOKEN)


def decided(head: RequestHead, policy: Policy = A_TOKEN_ANYWHERE) -> Claims | None:
    return decide(head, policy(head), verify, lambda: NOW)


@pytest.mark.parametrize("target", [b"/", b"/admin", b"/livez", b"/verify", b"/.well-known/jwks.json", b"/favicon.ico"])
def test_by_default_no_path_is_open_without_a_token(target: bytes) -> None:
    with pytest.raises(TokenMissing):
        decided(request(target=target))


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_a_good_token_gives_its_claims(scheme: bytes) -> None:
    assert decided(request(b"Authorization: " + scheme + b" a.b.c")) is CLAIMS


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        pytest.param([b"Authorization: Bearer a.b.c", b"Authorization: Bearer a.b.c"], TokenMalformed, id="twice"),
        pytest.param([b"Authorization: Bearer a.b.c", b"authorization: Basic eA=="], TokenMalformed, id="and another"),
        pytest.param([b"Authorization: Bearer  a.b.c"], TokenMalformed, id="two spaces"),
        pytest.param([b"Authorization: Bearer a.b.c, Bearer d.e.f"], TokenMalformed, id="a list"),
        pytest.param([b"Authorization: Bearer \xe9"], TokenMalformed, id="no ASCII"),
        pytest.param([b"Authorization: Bearer"], TokenMalformed, id="no token"),
        pytest.param([b"Authorization: Basic eA=="], TokenMissing, id="another scheme"),
        pytest.param([b"Authorization:"], TokenMissing, id="nothing"),
        pytest.param([b"X-Authorization: Bearer a.b.c", b"Cookie: token=a.b.c"], TokenMissing, id="elsewhere"),
    ],
)
def test_exactly_one_bearer_token_in_exactly_one_field(lines: list[bytes], error: type[AuthixError]) -> None:
    with pytest.raises(error):
        decided(request(*lines))


def test_a_policy_sees_the_raw_path_and_may_ask_for_roles_or_nothing() -> None:
    def policy(head: RequestHead) -> Requirement:
        if head.path == b"/public%20file":
            return NOTHING
        return Requirement(roles=frozenset({"admin"})) if head.path == b"/admin" else A_TOKEN

    assert decided(request(target=b"/public%20file?x"), policy) is None
    assert decided(request(TOKEN), policy) is CLAIMS
    with pytest.raises(RoleMissing):
        decided(request(TOKEN, target=b"/admin"), policy)


def test_where_nothing_is_needed_a_token_is_not_looked_at() -> None:
    assert decided(request(b"Authorization: Bearer no token at all"), lambda _: NOTHING) is None


def test_a_token_may_be_too_old_for_a_path_and_is_told_so_as_one_to_refresh() -> None:
    assert decided(request(TOKEN), lambda _: Requirement(max_age=60)) is CLAIMS
    with pytest.raises(TokenTooOld) as refused:
        decided(request(TOKEN), lambda _: Requirement(max_age=59))
    refusal = refusal_of(refused.value)
    assert (refusal.status, refused.value.code) == (401, "token_too_old")
    assert 'error="invalid_token"' in dict(refusal.headers)["WWW-Authenticate"]


def test_a_path_has_a_say_about_freshness() -> None:
    assert decided(request(TOKEN), lambda _: Requirement(when_stale=WhenStale.ACCEPT)) is CLAIMS
    with pytest.raises(AuthixError, match="stale"):
        decided(request(TOKEN), lambda _: Requirement(when_stale=WhenStale.REJECT))


def needing(name: str, *values: object) -> Requirement:
    return Requirement(claims=((name, frozenset((type(value), value) for value in values)),))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tenant", ["a"]),
        ("tenant", ["b", "a"]),
        ("groups", ["y"]),
        ("groups", [7]),
        ("mfa", [True]),
        ("level", [1]),
    ],
)
def test_a_claim_must_have_one_of_the_values_or_hold_it(name: str, values: list[object]) -> None:
    assert decided(request(TOKEN), lambda _: needing(name, *values)) is CLAIMS


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tenant", ["b"]),
        ("tenant", ["A"]),
        ("tenant", [""]),
        ("groups", ["x,y"]),
        ("mfa", [1]),
        ("mfa", ["true"]),
        ("level", [True]),
        ("level", ["1"]),
        ("share", [0]),
        ("org", ["tier"]),
        ("absent", ["a"]),
        ("absent", ["None"]),
        ("sub", ["user-1"]),
    ],
)
def test_another_value_or_another_type_is_refused(name: str, values: list[object]) -> None:
    with pytest.raises(ClaimRefused) as refused:
        decided(request(TOKEN), lambda _: needing(name, *values))
    refusal = refusal_of(refused.value)
    assert (refusal.status, refused.value.code) == (403, "claim_refused")
    assert 'error="insufficient_scope"' in dict(refusal.headers)["WWW-Authenticate"]


def test_all_claims_are_needed() -> None:
    both = needing("tenant", "a").claims + needing("level", 2).claims
    with pytest.raises(ClaimRefused):
        decided(request(TOKEN), lambda _: Requirement(claims=both))
