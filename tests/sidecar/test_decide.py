"""The decision over a request."""

from __future__ import annotations

import pytest

from authix.claims import Claims
from authix.errors import AuthixError, RoleMissing, TokenMalformed, TokenMissing
from authix_sidecar.decide import A_TOKEN, Requirement, decide, every_path_needs_a_token
from authix_sidecar.requests import RequestHead, read_request

CLAIMS = Claims(
    subject="user-1",
    session=None,
    roles=frozenset({"reader"}),
    issuer="https://auth.example.com",
    audience=("orders",),
    issued_at_us=1,
    expires_at=2,
    token_id=None,
    key_id="key",
    extra={},
)


def verify(token: str, *, roles: frozenset[str]) -> Claims:
    """Knows one good token."""
    assert token == "a.b.c"
    if not roles <= CLAIMS.roles:
        raise RoleMissing
    return CLAIMS


def request(*lines: bytes, target: bytes = b"/") -> RequestHead:
    return read_request(b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: a", *lines, b"", b""]))


@pytest.mark.parametrize("target", [b"/", b"/admin", b"/livez", b"/verify", b"/.well-known/jwks.json", b"/favicon.ico"])
def test_by_default_no_path_is_open_without_a_token(target: bytes) -> None:
    with pytest.raises(TokenMissing):
        decide(request(target=target), every_path_needs_a_token, verify)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_a_good_token_gives_its_claims(scheme: bytes) -> None:
    assert decide(request(b"Authorization: " + scheme + b" a.b.c"), every_path_needs_a_token, verify) is CLAIMS


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
        decide(request(*lines), every_path_needs_a_token, verify)


def test_a_policy_sees_the_raw_path_and_may_ask_for_roles_or_nothing() -> None:
    def policy(head: RequestHead) -> Requirement | None:
        if head.path == b"/public%20file":
            return None
        return Requirement(frozenset({"admin"})) if head.path == b"/admin" else A_TOKEN

    token = b"Authorization: Bearer a.b.c"
    assert decide(request(target=b"/public%20file?x"), policy, verify) is None
    assert decide(request(token), policy, verify) is CLAIMS
    with pytest.raises(RoleMissing):
        decide(request(token, target=b"/admin"), policy, verify)
