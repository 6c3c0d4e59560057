"""``python -m authix explain``: what is wrong with a token, all of it, against a live issuer."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authix import Verifier, WhenStale
from authix.__main__ import main
from authix.claims import ClaimPaths
from authix.errors import TokenError
from authix.events import KeyRevoked, UserRevoked
from authix.explain import Explanation, explain
from tests.programs import IssuerProgram, bearer, login, register

if TYPE_CHECKING:
    from tests.sdk.conftest import Authority, Mint

Explain = Callable[..., Explanation]
Settings = Callable[..., None]

STEPS = [
    *("shape", "type", "algorithm", "key id", "signature"),
    *("issuer", "audience", "times", "claims", "revocation", "freshness"),
]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """``settings(AUTHIX_…="…")``: those of the environment."""

    def put(**environ: str) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.fixture
def token(issuer: IssuerProgram, settings: Settings) -> str:
    """Ada's, of a live issuer that the environment names."""
    settings(AUTHIX_ISSUER=issuer.url, AUTHIX_AUDIENCE="tests")
    with issuer.client() as client:
        register(client, "ada@example.com")
        return login(client, "ada@example.com")


@pytest.fixture
def explained(mint: Mint, new_verifier: Callable[..., Verifier]) -> Explain:
    """``explained(token, at=seconds, monotonic=…, leeway=…)``: by a verifier of the mint's tokens."""

    def look(
        token: str, *, at: float = 0, monotonic: float = 0, verifier: Verifier | None = None, **settings: Any
    ) -> Any:
        verifier = verifier or new_verifier(**settings)
        return explain(verifier, token, now=mint.now + at, monotonic=monotonic)

    return look


def codes(found: Explanation) -> dict[str, str]:
    """What was refused or is unknown, by its step."""
    return {step.name: step.code for step in found.steps if step.status != "ok"}


class TestAgainstALiveIssuer:
    def test_a_good_token_is_accepted_and_shown_without_its_signature(
        self, token: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["explain", token]) == 0
        text = capsys.readouterr().out
        assert [line.split()[0] for line in text.splitlines() if line.startswith("  ok")] == ["ok"] * len(STEPS)
        assert text.endswith("verdict\n  accepted\n")
        for shown in ('"typ": "at+jwt"', '"aud": "tests"', " UTC, in 0:0", " UTC, 0:00:"):
            assert shown in text
        assert token.rpartition(".")[2] not in text

    def test_a_logged_out_users_token_is_refused_for_that_alone(
        self, issuer: IssuerProgram, token: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with issuer.client() as client:
            assert client.post("/logout", headers=bearer(token)).status_code == 204
        assert main(["explain", token]) == 1
        (refused,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  refused  ")]
        assert "revocation" in refused
        assert "token_revoked" in refused

    def test_a_token_for_another_audience_is_shown_beside_the_expected_one(
        self, token: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["explain", token, "--audience", "billing"]) == 1
        text = capsys.readouterr().out
        assert (
            "audience_wrong: claim 'aud' does not name this audience: it is \"tests\", and AUTHIX_AUDIENCE is" in text
        )
        assert "refused: audience_wrong" in text

    def test_what_is_no_token_is_not_repeated(self, token: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["explain", "s3cret-but-no-token"]) == 1
        text = capsys.readouterr().out
        assert "token_malformed" in text
        assert "s3cret" not in text

    def test_it_reads_the_token_from_the_standard_input(self, issuer: IssuerProgram, token: str) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "authix", "explain", "-"],
            input=f"Bearer {token}\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.endswith("accepted\n")

    def test_without_its_issuer_it_says_why_it_can_not_judge(
        self, issuer: IssuerProgram, token: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        issuer.kill()
        assert main(["explain", token, "--wait", "0.5"]) == 2
        text = capsys.readouterr().out
        assert "can't be judged now: not_ready" in text
        assert f"{issuer.url}/.well-known/jwks.json: All connection attempts failed" in text
        assert f"{issuer.url}/revocations: All connection attempts failed" in text

    def test_what_is_refused_without_asking_anyone_is_refused_without_the_issuer_too(
        self, issuer: IssuerProgram, token: str, settings: Settings
    ) -> None:
        issuer.kill()
        assert main(["explain", token, "--wait", "0", "--audience", "billing"]) == 1


async def test_the_token_is_sent_nowhere(
    authority: Authority, live_mint: Mint, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    authority.keys = live_mint.key_set()
    settings(AUTHIX_ISSUER=live_mint.issuer, AUTHIX_AUDIENCE=live_mint.audience)
    settings(AUTHIX_KEYS=f"{authority.url}/keys", AUTHIX_FEED=f"{authority.url}/feed")
    token = live_mint.fresh()
    assert await asyncio.to_thread(main, ["explain", token]) == 0
    assert {request.path for request in authority.received} == {"/keys", "/feed"}
    assert all(part not in str(authority.received) for part in token.split("."))
    assert "authorization" not in str(authority.received).lower()


def test_a_missing_setting_is_named(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings(AUTHIX_ISSUER="https://auth.example.com")
    assert main(["explain", "x"]) == 2
    assert capsys.readouterr().err.startswith("AUTHIX_AUDIENCE is missing")


def test_the_file_of_the_last_good_keys_is_left_alone(
    token: str, settings: Settings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(AUTHIX_KEYS_CACHE=str(tmp_path / "keys.json"))
    monkeypatch.setattr("sys.stdin", io.StringIO(token))
    assert main(["explain", "-"]) == 0
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize("wait", ["nan", "inf", "-1", "soon"])
def test_a_wait_that_is_no_time_is_refused(wait: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", "x", f"--wait={wait}"])
    assert ended.value.code == 2
    assert f"--wait: must be a number of seconds such as 10, not {wait!r}" in capsys.readouterr().err


def test_whoever_reads_may_leave_early(settings: Settings) -> None:
    settings(AUTHIX_ISSUER="http://127.0.0.1:1", AUTHIX_AUDIENCE="orders")
    run = subprocess.Popen(
        [sys.executable, "-m", "authix", "explain", "x", "--wait", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    run.stdout.close()
    assert run.stderr is not None
    with run.stderr:
        assert (run.stderr.read(), run.wait(timeout=60)) == ("", 1)


def test_the_help_says_how_to_keep_the_token_out_of_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "give - and send the token to the standard input" in text
    assert "--audience" in text


class TestSteps:
    def test_each_is_told_in_order(self, mint: Mint, explained: Explain) -> None:
        assert [step.name for step in explained(mint()).steps] == STEPS

    def test_all_that_is_wrong_is_told_at_once(self, mint: Mint, explained: Explain) -> None:
        header = {"alg": "HS256", "kid": "unknown", "typ": "JWT"}
        payload = mint.payload(iss="https://elsewhere.example", aud="billing", sid=7, roles="admin")
        found = explained(mint.sign(header, payload), at=1000)
        assert codes(found) == {
            "type": "token_type_wrong",
            "algorithm": "algorithm_refused",
            "key id": "key_unknown",
            "signature": "",
            "issuer": "issuer_wrong",
            "audience": "audience_wrong",
            "times": "token_expired",
            "claims": "claim_invalid",
            "revocation": "",
        }
        reasons = [step.reason for step in found.steps if step.name == "claims"]
        assert len(reasons) == 2, "the session and the roles"

    @pytest.mark.parametrize(
        ("changes", "step", "code"),
        [
            ({"exp": "soon"}, "times", "claim_invalid"),
            ({"exp": float("inf")}, "times", "claim_invalid"),
            ({"iat": None}, "times", "claim_invalid"),
            ({"exp": 10**400}, "times", "claim_invalid"),
            ({"nbf": 1e10}, "times", "token_not_yet_valid"),
            ({"iat_us": 1e10}, "times", "claim_invalid"),
            ({"sub": ""}, "claims", "claim_invalid"),
            ({"aud": 1}, "audience", "claim_invalid"),
        ],
    )
    def test_a_wrong_claim_is_told_in_its_step(
        self, mint: Mint, explained: Explain, changes: dict[str, Any], step: str, code: str
    ) -> None:
        payload = json.dumps(mint.payload(**changes)).replace("Infinity", "1e999").encode()
        found = explained(mint.sign(mint.header(), payload))
        assert codes(found)[step] == code
        assert list(found.lines(mint.now))

    def test_a_missing_claim_is_told(self, mint: Mint, explained: Explain) -> None:
        assert codes(explained(mint(without=["sub", "exp"]))) == {
            "times": "claim_missing",
            "claims": "claim_missing",
            "revocation": "",
        }

    def test_a_changed_token_is_told_by_its_signature(self, mint: Mint, explained: Explain) -> None:
        head, _, tail = mint().split(".")
        body = mint(sub="admin").split(".")[1]
        assert codes(explained(f"{head}.{body}.{tail}")) == {"signature": "signature_invalid"}

    def test_a_logout_is_told(self, mint: Mint, new_verifier: Callable[..., Verifier], explained: Explain) -> None:
        verifier = new_verifier()
        verifier.apply(UserRevoked(sub="user-1", since_us=mint.now * 1_000_000, until=mint.now + 400), 0)
        assert codes(explained(mint(), verifier=verifier)) == {"revocation": "token_revoked"}
        both = explained(mint(aud="billing"), verifier=verifier)
        assert codes(both) == {"audience": "audience_wrong", "revocation": "token_revoked"}

    def test_a_revoked_key_is_told(self, mint: Mint, new_verifier: Callable[..., Verifier], explained: Explain) -> None:
        verifier = new_verifier()
        verifier.apply(KeyRevoked(kid=mint.public().key_id, until=mint.now + 400), 0)
        assert codes(explained(mint(), verifier=verifier)) == {"key id": "key_revoked", "signature": ""}

    def test_a_stale_feed_is_told_as_the_policy_has_it(self, mint: Mint, explained: Explain) -> None:
        stale = explained(mint(), monotonic=100)
        assert (codes(stale), stale.exit_code) == ({"freshness": "feed_stale"}, 2)
        assert explained(mint(), monotonic=100, when_stale=WhenStale.ACCEPT).exit_code == 0
        assert explained(mint(), monotonic=100, when_stale=WhenStale.CLAMP).exit_code == 0
        assert explained(mint(), at=70, monotonic=100, when_stale=WhenStale.CLAMP).exit_code == 2

    def test_without_a_feed_logouts_are_said_not_to_be_seen(self, mint: Mint, explained: Explain) -> None:
        found = explained(mint(), feed=False)
        assert found.exit_code == 0
        assert [step.reason for step in found.steps if step.status == "unknown"] == [
            "AUTHIX_FEED=none: logouts are not heard of"
        ]

    def test_other_issuers_claims_are_told_by_their_own_names(self, mint: Mint, explained: Explain) -> None:
        paths = ClaimPaths(subject=("user", "id"), roles=(("realm_access", "roles"),))
        found = explained(mint(user={"id": 7}, realm_access={"roles": 1}), claims=paths)
        reasons = [step.reason for step in found.steps if step.name == "claims"]
        assert [reason.split("'")[1] for reason in reasons] == ["user.id", "realm_access.roles"]

    def test_without_keys_they_are_what_is_missing(self, mint: Mint, explained: Explain) -> None:
        verifier = Verifier(issuer=mint.issuer, audience=mint.audience)
        found = explained(mint(), verifier=verifier)
        assert found.exit_code == 2
        assert codes(found) == {"key id": "not_ready", "signature": "", "revocation": "", "freshness": "not_ready"}

    def test_what_a_claim_holds_does_not_reach_the_terminal(self, mint: Mint, explained: Explain) -> None:
        found = explained(mint(**{"iss": "\x1b[2Jevil", "\x1b]0;x": "\u202e"}))
        text = "\n".join(found.lines(mint.now))
        assert text.isascii()
        assert "\x1b" not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["alg", "typ", "kid", "crit", "iss", "sub", "aud", "exp", "iat", "nbf", "iat_us", "sid", "roles"]
)


@given(header=st.dictionaries(NAMES, JSON, max_size=2), payload=st.dictionaries(NAMES, JSON, max_size=3))
@example(header={}, payload={"iat_us": True, "exp": 0, "nbf": 1e300})
@example(header={}, payload={"exp": 10**400, "iat_us": -(10**400)})
@example(header={"crit": ["x"]}, payload={"aud": []})
def test_the_steps_never_contradict_the_verdict(
    mint: Mint, verifier: Verifier, header: dict[str, Any], payload: dict[str, Any]
) -> None:
    check(mint, verifier, mint.sign({**mint.header(), **header}, {**mint.payload(), **payload}))


@given(st.text() | st.from_regex(r"[\w-]+\.[\w-]+\.[\w-]+", fullmatch=True))
@example("")
@example("a.b.c")
@example("x" * 10_000)
@example("eyJ9.e30.AA.AA.AA")
def test_any_text_is_explained(mint: Mint, verifier: Verifier, text: str) -> None:
    check(mint, verifier, text)


def check(mint: Mint, verifier: Verifier, token: str) -> None:
    code = "accepted"
    try:
        verifier.verify(token, now=mint.now, monotonic=0)
    except TokenError as error:
        code = error.code
    found = explain(verifier, token, now=mint.now, monotonic=0)
    assert list(found.lines(mint.now))
    refused = [step.code for step in found.steps if step.status == "refused"]
    if code == "accepted":
        assert (found.exit_code, refused) == (0, [])
    else:
        assert (found.exit_code, found.verdict.code) == (1, code)
        assert code in refused
