"""Other OpenID issuers' access tokens: their discovery documents, their key sets, their names for claims."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from authix import Authix, AuthixError
from authix.claims import ClaimPaths
from authix.events import UserRevoked
from authix.keys import VerificationKey
from tests.conftest import StartSidecar
from tests.programs import IssuerProgram, bearer, eventually, login, register

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint, Peer, Received, Send

Soon = Callable[..., Awaitable[None]]
API = "orders"


class Shape(NamedTuple):
    """What an issuer's tokens look like, and how a verifier is told."""

    path: str
    """Of the issuer, below its host; as in ``iss``."""
    header: dict[str, Any]
    payload: dict[str, Any]
    settings: dict[str, str]
    says: dict[str, Any]
    """What the verified claims must hold."""
    jwk: dict[str, Any]
    """What its keys say of themselves, besides ``kid`` and the numbers."""


KEYCLOAK = Shape(
    path="/realms/demo",
    header={"alg": "RS256", "typ": "JWT"},
    payload={
        "auth_time": 1_700_000_000,
        "jti": "onrtac:2f4e2a0e-7c50-45bc-a5b6-9f37a8dfc5a2",
        "aud": [API, "account"],
        "sub": "53f4f6c2-9c1a-44ea-9c0e-0c3c0a3f58c0",
        "typ": "Bearer",
        "azp": "shop",
        "sid": "8b1b6f0a-2ec8-4b2f-8f64-bdd4a3b7d2f3",
        "acr": "1",
        "allowed-origins": ["https://shop.example"],
        "realm_access": {"roles": ["offline_access", "default-roles-demo"]},
        "resource_access": {API: {"roles": ["buyer"]}, "account": {"roles": ["view-profile"]}},
        "scope": "openid email profile",
        "email_verified": True,
        "preferred_username": "ada",
    },
    settings={"token_types": "JWT", "claims": f"roles=realm_access.roles,roles=resource_access.{API}.roles"},
    says={
        "subject": "53f4f6c2-9c1a-44ea-9c0e-0c3c0a3f58c0",
        "session": "8b1b6f0a-2ec8-4b2f-8f64-bdd4a3b7d2f3",
        "roles": {"offline_access", "default-roles-demo", "buyer"},
    },
    jwk={"use": "sig", "alg": "RS256", "x5c": ["MIIC"], "x5t": "AAAA", "x5t#S256": "AAAA"},
)
AUTH0 = Shape(
    path="/",
    header={"alg": "RS256", "typ": "JWT"},
    payload={
        "https://example.com/roles": ["buyer", "reader"],
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": [API, "https://tenant.auth0.example/userinfo"],
        "azp": "my_client_id",
        "scope": "openid profile read:orders",
    },
    settings={"token_types": "JWT", "claims": 'roles="https://example.com/roles"'},
    says={"subject": "auth0|5f7c8ec7c33c6c004bbafe82", "session": None, "roles": {"buyer", "reader"}},
    jwk={"use": "sig", "alg": "RS256", "x5c": ["MIIC"], "x5t": "AAAA"},
)
AUTH0_RFC9068 = AUTH0._replace(
    header={"alg": "RS256", "typ": "at+jwt"},
    payload=AUTH0.payload | {"client_id": "my_client_id", "jti": "n9b4fVkAqCIrmJGTAd7S5w"},
    settings={"claims": "roles=scope"},
    says={"subject": "auth0|5f7c8ec7c33c6c004bbafe82", "roles": {"openid", "profile", "read:orders"}},
)
ENTRA = Shape(
    path="/8f0e4c60-7d33-4f5d-9f7d-3cf0f2b9b7f8/v2.0",
    header={"typ": "JWT", "alg": "RS256", "x5t": "T1St-dLTvyWRgxB_676u8krXS-I"},
    payload={
        "aud": API,
        "nbf": 1_700_000_000,
        "aio": "AXQAi/8TAAAA",
        "azp": "2d4d11a2-f814-46a7-890a-274a72a7309e",
        "azpacr": "1",
        "idp": "https://sts.windows.net/8f0e4c60-7d33-4f5d-9f7d-3cf0f2b9b7f8/",
        "oid": "f3a5b2f4-0c7e-4d9b-8e0a-0a8a5c1f7c55",
        "rh": "0.AAAA.",
        "roles": ["Orders.Admin"],
        "scp": "Orders.Read Orders.Write",
        "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
        "tid": "8f0e4c60-7d33-4f5d-9f7d-3cf0f2b9b7f8",
        "uti": "fqiBqXLPj0eQa82S-IYFAA",
        "ver": "2.0",
    },
    settings={"token_types": "at+jwt, JWT", "claims": "subject=oid, token_id=uti, roles=roles, roles=scp"},
    says={
        "subject": "f3a5b2f4-0c7e-4d9b-8e0a-0a8a5c1f7c55",
        "token_id": "fqiBqXLPj0eQa82S-IYFAA",
        "roles": {"Orders.Admin", "Orders.Read", "Orders.Write"},
    },
    jwk={"use": "sig", "x5c": ["MIIC"], "x5t": "AAAA", "issuer": "https://login.example/{tenantid}/v2.0"},
)
SHAPES = {"Keycloak": KEYCLOAK, "Auth0": AUTH0, "Auth0, RFC 9068 profile": AUTH0_RFC9068, "Entra": ENTRA}


class ForeignIssuer:
    """The peer plays an OpenID provider with RSA keys whose ids are its own choice."""

    def __init__(self, peer: Peer, mint: Mint, shape: Shape) -> None:
        self.name = peer.url + shape.path
        self.discovery = f"{peer.url}{shape.path.rstrip('/')}/.well-known/openid-configuration"
        self._peer, self._mint, self._shape = peer, mint, shape
        self._key = rsa.generate_private_key(65537, 2048)
        peer.answer = self._answer

    def auth(self, **settings: Any) -> Authix:
        said = {"issuer": self.name, "audience": API, "keys": self.discovery, "feed": "none", "algorithms": "RS256"}
        return Authix(**{**said, **self._shape.settings, **settings})

    def token(self, **changes: Any) -> str:
        now = int(time.time())
        payload = {"iss": self.name, "iat": now, "exp": now + 3600, **self._shape.payload, **changes}
        return self._mint.sign({**self._shape.header, "kid": "its-own_name"}, payload, "RS256", self._key)

    async def _answer(self, request: Received, send: Send) -> None:
        keys = {f"{self._peer.url}/certs": self._keys(), self.discovery: self._metadata()}
        body = keys.get(self._peer.url + request.path)
        await send(self._peer.http(json.dumps(body).encode()) if body else self._peer.http(status="404 Not Found"))

    def _metadata(self) -> dict[str, Any]:
        ends = {f"{end}_endpoint": f"{self._peer.url}/{end}" for end in ("authorization", "token", "userinfo")}
        return {
            "issuer": self.name,
            **ends,
            "jwks_uri": f"{self._peer.url}/certs",
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def _keys(self) -> dict[str, Any]:
        numbers = {name: VerificationKey(self._key.public_key()).jwk()[name] for name in ("kty", "n", "e")}
        encryption = {**numbers, "kid": "for-encryption", "use": "enc", "alg": "RSA-OAEP"}
        return {"keys": [encryption, {**numbers, "kid": "its-own_name", **self._shape.jwk}]}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> Shape:
    found: Shape = request.param
    return found


def code_of(auth: Authix, token: str) -> str:
    try:
        auth.verify(token)
    except AuthixError as error:
        return error.code
    return "accepted"


async def test_its_access_tokens_say_who_they_are_for(peer: Peer, mint: Mint, soon: Soon, shape: Shape) -> None:
    issuer = ForeignIssuer(peer, mint, shape)
    async with issuer.auth() as auth:
        await soon(auth.ready, "it is ready")
        claims = auth.verify(issuer.token())
        assert {name: getattr(claims, name) for name in shape.says} == shape.says
        assert claims.issuer == issuer.name
        assert claims.issued_at_us % 1_000_000 == 0, "a logout in its second refuses it"


async def test_what_its_claims_are_not_mapped_to_stays_to_be_read(peer: Peer, mint: Mint, soon: Soon) -> None:
    issuer = ForeignIssuer(peer, mint, ENTRA)
    async with issuer.auth() as auth:
        await soon(auth.ready, "it is ready")
        extra = auth.verify(issuer.token()).extra
        assert extra["sub"] == ENTRA.payload["sub"], "the subject is from elsewhere"
        assert extra["tid"] == ENTRA.payload["tid"]
        assert extra.keys().isdisjoint({"oid", "uti", "scp", "roles"})
    issuer = ForeignIssuer(peer, mint, KEYCLOAK)
    async with issuer.auth() as auth:
        await soon(auth.ready, "it is ready")
        assert auth.verify(issuer.token()).extra["realm_access"] == KEYCLOAK.payload["realm_access"]


async def test_its_other_tokens_are_refused(peer: Peer, mint: Mint, soon: Soon, shape: Shape) -> None:
    issuer = ForeignIssuer(peer, mint, shape)
    others = {
        "audience_wrong": issuer.token(aud="my_client_id"),  # an ID token
        "issuer_wrong": issuer.token(iss=issuer.name.rstrip("/") + ("" if shape.path == "/" else "/")),
        "token_expired": issuer.token(exp=int(time.time()) - 60),
        "token_not_yet_valid": issuer.token(nbf=int(time.time()) + 60),
        "claim_invalid": issuer.token(iat=None),
    }
    async with issuer.auth() as auth:
        await soon(auth.ready, "it is ready")
        assert {code: code_of(auth, token) for code, token in others.items()} == dict(zip(others, others, strict=True))


async def test_tokens_without_the_type_of_access_tokens_are_refused_unless_a_setting_says_so(
    peer: Peer, mint: Mint, soon: Soon
) -> None:
    untyped = KEYCLOAK._replace(header={"alg": "RS256"})
    issuer = ForeignIssuer(peer, mint, untyped)
    for types, verdict in {"at+jwt": "token_type_wrong", "JWT": "token_type_wrong", "JWT,none": "accepted"}.items():
        async with issuer.auth(token_types=types) as auth:
            await soon(auth.ready, "it is ready")
            assert code_of(auth, issuer.token()) == verdict
    jwt = ForeignIssuer(peer, mint, KEYCLOAK)
    for types, verdict in {"at+jwt": "token_type_wrong", "none": "token_type_wrong", "JWT": "accepted"}.items():
        async with jwt.auth(token_types=types) as auth:
            await soon(auth.ready, "it is ready")
            assert code_of(auth, jwt.token()) == verdict


class TestMapping:
    @pytest.mark.parametrize(
        ("roles", "payload", "found"),
        [
            ((("scope",),), {"scope": "a b"}, {"a", "b"}),
            ((("scope",),), {"scope": " a  b "}, {"a", "b"}),
            ((("scope",),), {"scope": ""}, set()),
            ((("scope",),), {}, set()),
            ((("scope",),), {"roles": ["admin"]}, set()),
            ((("a", "b", "c"),), {"a": {"b": {"c": ["x"]}}}, {"x"}),
            ((("a", "b", "c"),), {"a": {}}, set()),
            ((("a",), ("b",)), {"a": ["x"], "b": "y z"}, {"x", "y", "z"}),
        ],
    )
    def test_roles_are_found_where_they_are(
        self, mint: Mint, new_verifier: Callable[..., Any], roles: Any, payload: dict[str, Any], found: set[str]
    ) -> None:
        verifier = new_verifier(claims=ClaimPaths(roles=roles))
        token = mint(without=[] if "roles" in payload else ["roles"], **payload)
        assert verifier.verify(token, now=mint.now, monotonic=0).roles == found

    @pytest.mark.parametrize(
        ("claims", "payload", "claim"),
        [
            (ClaimPaths(roles=(("a", "b"),)), {"a": "x"}, "a.b"),
            (ClaimPaths(roles=(("a", "b"),)), {"a": {"b": 1}}, "a.b"),
            (ClaimPaths(roles=(("a",),)), {"a": ["x", 1]}, "a"),
            (ClaimPaths(roles=(("a",),)), {"a": None}, "a"),
            (ClaimPaths(session=("a", "b")), {"a": ["b"]}, "a.b"),
            (ClaimPaths(session=("a", "b")), {"a": {"b": ""}}, "a.b"),
            (ClaimPaths(subject=("oid",)), {}, "oid"),
            (ClaimPaths(subject=("oid",)), {"oid": "a b"}, "oid"),
            (ClaimPaths(subject=("a", "id")), {"a": {}}, "a.id"),
            (ClaimPaths(), {"roles": "admin"}, "roles"),
        ],
    )
    def test_what_is_not_as_it_must_be_is_refused_by_its_own_name(
        self, mint: Mint, new_verifier: Callable[..., Any], claims: ClaimPaths, payload: dict[str, Any], claim: str
    ) -> None:
        with pytest.raises(AuthixError) as caught:
            new_verifier(claims=claims).verify(mint(**payload), now=mint.now, monotonic=0)
        assert caught.value.code in {"claim_invalid", "claim_missing"}
        assert str(caught.value).startswith(f"claim {claim!r} ")


class TestWithoutAFeed:
    async def test_it_is_ready_with_its_keys_and_says_once_that_logouts_are_not_heard_of(
        self, peer: Peer, mint: Mint, soon: Soon, caplog: pytest.LogCaptureFixture
    ) -> None:
        issuer = ForeignIssuer(peer, mint, KEYCLOAK)
        async with issuer.auth() as auth:
            await soon(auth.ready, "it is ready")
            assert (auth.freshness, auth.feeds_in_use, auth.problems()) == (None, (), [])
            assert code_of(auth, issuer.token()) == "accepted"
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.getMessage() for record in warnings] == [
            "AUTHIX_FEED=none: logouts are not heard of, and every token is good until it expires"
        ]

    async def test_nothing_but_an_explicit_none_does_without_one(self, peer: Peer, mint: Mint, soon: Soon) -> None:
        issuer = ForeignIssuer(peer, mint, KEYCLOAK)
        async with issuer.auth(feed=None) as auth:
            await soon(lambda: auth.problems() == ["feed_replaying"], "the keys are here")
            assert code_of(auth, issuer.token()) == "not_ready"

    def test_a_sidecar_does_without_one_too(self, issuer: IssuerProgram, start_sidecar: StartSidecar) -> None:
        with issuer.client() as client:
            register(client, "ada@example.com")
            token = login(client, "ada@example.com")
            sidecar = start_sidecar(issuer.url, issuer.url, AUTHIX_FEED="none").ready()
            assert client.post("/logout", headers=bearer(token)).status_code == 204
        issuer.kill()
        answer = httpx.get(f"{sidecar.auth_url}/verify", headers=bearer(token), trust_env=False)
        assert answer.status_code == 200, "nobody tells it of the logout"
        metrics = httpx.get(f"{sidecar.auth_url}/metrics", trust_env=False).text
        assert "authix_ready 1" in metrics
        assert "\nauthix_feed_age_seconds " not in metrics
        eventually(lambda: "AUTHIX_FEED=none: logouts are not heard of" in sidecar.output(), "it says so")


async def test_a_logout_of_a_token_without_microseconds_goes_by_its_second(
    authority: Authority, live_mint: Mint, soon: Soon
) -> None:
    authority.mint, authority.keys = live_mint, live_mint.key_set()
    now = live_mint.now
    before, within, after = (live_mint(iat=now + apart, without=["iat_us"]) for apart in (-1, 0, 1))
    async with authority.auth() as auth:
        await soon(auth.ready, "it is ready")
        assert {code_of(auth, token) for token in (before, within, after)} == {"accepted"}
        authority.announce(UserRevoked(sub="user-1", since_us=now * 1_000_000 + 500_000, until=now + 4000))
        await soon(lambda: code_of(auth, before) == "token_revoked", "the logout is known")
        assert code_of(auth, within) == "token_revoked", "it may have been before"
        assert code_of(auth, after) == "accepted"
