"""The signed identity: what an upstream can prove by it, and that nobody else can make or bring one."""

from __future__ import annotations

import json
import re
import runpy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from authix.claims import Claims
from authix.errors import SettingsError
from authix.keys import AlgorithmName, VerificationKey, new_private_key, thumbprint
from authix.settings import load
from authix_sidecar import identity
from authix_sidecar.identity import Identities, private_key
from authix_sidecar.settings import SidecarSettings
from tests.programs import DEADLINE, SidecarProgram

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sidecar.conftest import Answer, Fleet

ROOT = Path(__file__).parents[2]
ALGORITHMS: tuple[AlgorithmName, ...] = ("ES256", "EdDSA", "RS256")
POLICY = """
[[route]]
path = "/public/*"
public = true

[[route]]
path = "/*"
"""


def pem(key: Any, password: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return cast(bytes, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))


def key_file(folder: Path, key: Any) -> str:
    path = folder / "identity.pem"
    path.write_bytes(pem(key))
    return str(path)


def ask(fleet: Fleet, path: str, *lines: str) -> Answer:
    return fleet.call(fleet.get(path, *lines), fleet.sidecar.auth_port)


def as_an_upstream_reads_it(token: str, jwks: bytes, audience: str) -> dict[str, Any]:
    """By PyJWT alone, as the documentation shows it."""
    keys = jwt.PyJWKSet.from_json(jwks.decode())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    read = jwt.decode_complete(
        token,
        key,
        algorithms=list(ALGORITHMS),
        audience=audience,
        issuer="authix-sidecar",
        options={"require": ["exp", "iat", "aud", "iss", "sub"]},
    )
    assert read["header"]["typ"] == "authix-identity+jwt"
    return cast("dict[str, Any]", read["payload"])


def documented_upstream(folder: Path, auth_url: str) -> Callable[[str], dict[str, Any]]:
    """The example of the documentation, run with the sidecar at ``auth_url``."""
    page = (ROOT / "docs" / "sidecar.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?PyJWKClient.*?)```", page, re.DOTALL)
    (folder / "example.py").write_text(example.replace("http://127.0.0.1:8002", auth_url))
    return cast("Callable[[str], dict[str, Any]]", runpy.run_path(str(folder / "example.py"))["who"])


class TestOnTheWire:
    @pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])  # ES256 is below
    def test_an_upstream_verifies_it_by_the_published_key(
        self, start_fleet: Callable[..., Fleet], tmp_path: Path, algorithm: AlgorithmName
    ) -> None:
        fleet = start_fleet(AUTHIX_IDENTITY_KEY=key_file(tmp_path, new_private_key(algorithm)))
        published = ask(fleet, "/identity_keys")
        assert published.values("cache-control") == ["public, max-age=300"]
        assert published.values("content-type") == ["application/jwk-set+json"]
        for key in jwt.PyJWKSet.from_json(published.body.decode()).keys:
            assert key.algorithm_name == algorithm
        _, user_id, token = fleet.new_user()
        assert fleet.call(fleet.get("/a", token=token)).status == 200
        request = fleet.upstream.requests[-1]
        (carried,) = request.values("x-authix-identity")
        claims = as_an_upstream_reads_it(carried, published.body, fleet.upstream.url)
        access = jwt.decode(token, options={"verify_signature": False})
        assert {name: claims[name] for name in ("sub", "sid", "roles")} == {
            "sub": user_id,
            "sid": request.values("x-authix-session")[0],
            "roles": access["roles"],
        }
        assert 0 < claims["exp"] - claims["iat"] <= 60
        assert abs(claims["iat"] - time.time()) < DEADLINE
        answer = fleet.call(fleet.get("/b", token=carried))
        assert (answer.status, answer.code) == (401, "token_type_wrong")

    def test_no_identity_comes_in_and_public_routes_have_none(
        self, start_fleet: Callable[..., Fleet], tmp_path: Path
    ) -> None:
        (tmp_path / "authix.toml").write_text(POLICY)
        fleet = start_fleet(
            AUTHIX_IDENTITY_KEY=key_file(tmp_path, new_private_key("ES256")),
            AUTHIX_IDENTITY_AUDIENCE="orders",
            AUTHIX_POLICY=str(tmp_path / "authix.toml"),
        )
        jwks = ask(fleet, "/identity_keys").body
        forged = ("X-Authix-Identity: forged", "x_authix_identity: forged", "X-AUTHIX.IDENTITY: forged")
        for path in ("/private", "/public/a"):
            assert fleet.call(fleet.get(path, *forged)).status == 200
        protected, public = (request.headers for request in fleet.upstream.requests)
        named = [[pair for pair in headers if "identity" in pair[0]] for headers in (protected, public)]
        assert named[1] == []
        ((name, carried),) = named[0]
        assert name == "x-authix-identity"
        claims = as_an_upstream_reads_it(carried, jwks, "orders")
        for path, expected in (("/private", [claims["sub"]]), ("/public/a", [""])):
            told = ask(fleet, "/verify", "X-Original-Method: GET", f"X-Original-URI: {path}", *forged)
            assert told.status == 200
            (found,) = told.values("x-authix-identity")
            assert [found and as_an_upstream_reads_it(found, jwks, "orders")["sub"]] == expected

    def test_the_documented_upstream_takes_it_and_nothing_else(
        self, start_fleet: Callable[..., Fleet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("no_proxy", "*")
        key = new_private_key("ES256")
        fleet = start_fleet(AUTHIX_IDENTITY_KEY=key_file(tmp_path, key), AUTHIX_IDENTITY_AUDIENCE="orders")
        who = documented_upstream(tmp_path, fleet.sidecar.auth_url)
        assert fleet.call(fleet.get("/")).status == 200
        request = fleet.upstream.requests[-1]
        (carried,) = request.values("x-authix-identity")
        claims = who(carried)
        assert [claims["sub"]] == request.values("x-authix-subject")
        header = jwt.get_unverified_header(carried)
        for others in ({"aud": "billing"}, {"iss": "authix"}, {"exp": 1}):
            with pytest.raises(jwt.InvalidTokenError):
                who(jwt.encode(claims | others, key, "ES256", header))
        with pytest.raises(jwt.InvalidTokenError):
            who(jwt.encode(claims, key, "ES256", header | {"typ": "at+jwt"}))
        with pytest.raises(jwt.InvalidTokenError):
            who(jwt.encode(claims, new_private_key("ES256"), "ES256", header))

    def test_without_a_key_there_is_none(self, fleet: Fleet) -> None:
        assert fleet.call(fleet.get("/", "X-Authix-Identity: forged")).status == 200
        assert fleet.upstream.requests[-1].values("x-authix-identity") == []
        assert ask(fleet, "/verify").values("x-authix-identity") == []
        answer = ask(fleet, "/identity_keys")
        assert (answer.status, answer.code) == (404, "not_found")


class Clock:
    at = 1_000_000.9

    def now(self) -> float:
        return self.at


def claims_of(subject: str = "user-1", *, expires_at: float = 2e9, session: str | None = "session-1") -> Claims:
    return Claims(
        subject=subject,
        session=session,
        roles=frozenset({"b", "a"}),
        issuer="https://auth.example.com",
        audience=("orders",),
        issued_at_us=1,
        expires_at=expires_at,
        token_id=None,
        key_id="key",
        extra={"secret": "not for upstreams"},
    )


class TestLife:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def identities(self, clock: Clock) -> Identities:
        return Identities(new_private_key("EdDSA"), audience="orders", now=clock.now)

    def read(self, token: str) -> dict[str, Any]:
        return jwt.decode(token, options={"verify_signature": False})

    def test_it_says_nothing_but_what_is_listed(self, identities: Identities) -> None:
        said = {"iss": "authix-sidecar", "aud": "orders", "sub": "user-1", "roles": ["a", "b"]}
        times = {"iat": 1_000_000, "exp": 1_000_060}
        assert self.read(identities.of(claims_of())) == said | times | {"sid": "session-1"}
        assert self.read(identities.of(claims_of(session=None))) == said | times

    def test_whoever_gets_one_has_forty_seconds_of_it_left(self, identities: Identities, clock: Clock) -> None:
        claims, seen = claims_of(), set()
        for _ in range(200):
            token = identities.of(claims)
            seen.add(token)
            assert 40 <= self.read(token)["exp"] - clock.at <= 60
            clock.at += 0.5
        assert len(seen) <= 6

    def test_it_ends_with_its_token(self, identities: Identities, clock: Clock) -> None:
        assert self.read(identities.of(claims_of(expires_at=clock.at + 7)))["exp"] == 1_000_007

    def test_a_clock_set_back_brings_a_new_one(self, identities: Identities, clock: Clock) -> None:
        claims = claims_of()
        identities.of(claims)
        clock.at -= 3600
        assert self.read(identities.of(claims))["iat"] == int(clock.at)

    def test_it_is_never_another_users_however_many_come_and_go(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(identity, "CACHED", 8)
        identities = Identities(new_private_key("EdDSA"), audience="orders", now=clock.now)
        kept = claims_of("kept")
        for number in range(200):
            assert self.read(identities.of(claims_of(f"user-{number}")))["sub"] == f"user-{number}"
            assert self.read(identities.of(kept))["sub"] == "kept"
        assert len(identities) == 8


class TestTheKey:
    WRONG: tuple[tuple[str, Callable[[], bytes], str], ...] = (
        ("no PEM", lambda: b"secret-text", "must name a file with one private key in PEM"),
        ("P-384", lambda: pem(ec.generate_private_key(ec.SECP384R1())), "must name a private key of P-256, Ed25519"),
        ("RSA of 1024", lambda: pem(rsa.generate_private_key(65537, 1024)), "must name a private key of P-256"),
        ("encrypted", lambda: pem(new_private_key("ES256"), b"password"), "that is not encrypted"),
        (
            "public",
            lambda: (
                ed25519.Ed25519PrivateKey.generate()
                .public_key()
                .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            ),
            "must name a file with one private key in PEM",
        ),
    )

    @pytest.mark.parametrize(("content", "sentence"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
    def test_that_is_wrong_is_refused_with_a_sentence(
        self, tmp_path: Path, content: Callable[[], bytes], sentence: str
    ) -> None:
        path = tmp_path / "identity.pem"
        path.write_bytes(content())
        with pytest.raises(ValueError, match=sentence) as caught:
            private_key(str(path))
        assert "secret-text" not in str(caught.value)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_is_published_under_its_thumbprint_without_its_private_part(self, algorithm: AlgorithmName) -> None:
        key = new_private_key(algorithm)
        jwks = json.loads(Identities(key, audience="orders", now=time.time).jwks)
        assert jwks == {"keys": [VerificationKey(key.public_key()).jwk()]}
        assert jwks["keys"][0]["kid"] == thumbprint(jwks["keys"][0])
        assert {"d", "p", "q"}.isdisjoint(jwks["keys"][0])

    def test_that_is_wrong_stops_the_start(self, tmp_path: Path) -> None:
        path = tmp_path / "identity.pem"
        path.write_bytes(pem(ec.generate_private_key(ec.SECP384R1())))
        sidecar = SidecarProgram(
            tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", AUTHIX_IDENTITY_KEY=str(path)
        ).start()
        assert sidecar.process is not None
        assert sidecar.process.wait(DEADLINE) == 2
        assert sidecar.output().startswith("AUTHIX_IDENTITY_KEY must name a private key of P-256")
        assert len(sidecar.output().strip().splitlines()) == 1

    def test_must_be_there_where_an_audience_is(self) -> None:
        environ = {
            "AUTHIX_ISSUER": "http://127.0.0.1:1",
            "AUTHIX_AUDIENCE": "orders",
            "AUTHIX_UPSTREAM": "http://127.0.0.1:2",
            "AUTHIX_IDENTITY_AUDIENCE": "orders",
        }
        with pytest.raises(SettingsError, match="AUTHIX_IDENTITY_AUDIENCE needs AUTHIX_IDENTITY_KEY"):
            load(SidecarSettings, environ)
