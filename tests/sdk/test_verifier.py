"""The verifier's judgement: what a good token says, and how time, keys, logouts and freshness change the verdict."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authix import AuthixError, Claims, FeedStale, NotReady, TokenExpired, TokenRevoked, Verifier, WhenStale
from authix.errors import AlgorithmRefused, TokenMalformed, TokenNotYetValid
from authix.events import Heartbeat, KeyRevoked, SessionRevoked, UserRevoked
from authix.keys import ALGORITHMS, KeySet

if TYPE_CHECKING:
    from tests.sdk.conftest import Mint

NewVerifier = Callable[..., Verifier]
NOW_US = 1_700_000_000_000_000


def code_of(
    verifier: Verifier, token: str, now: float, monotonic: float = 0, when_stale: WhenStale | None = None
) -> str:
    try:
        verifier.verify(token, now=now, monotonic=monotonic, when_stale=when_stale)
    except AuthixError as error:
        return error.code
    return "accepted"


@pytest.fixture
def judge(mint: Mint, verifier: Verifier) -> Callable[..., str]:
    """``judge(token, at=seconds)``: the code, or accepted."""
    return lambda token, at=0.0: code_of(verifier, token, mint.now + at)


class TestClaims:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_good_token_says_who_it_is_for(self, mint: Mint, verifier: Verifier, algorithm: str) -> None:
        claims = verifier.verify(mint(algorithm, tenant="acme"), now=mint.now, monotonic=0)
        assert claims == Claims(
            subject="user-1",
            session="session-1",
            roles=frozenset({"reader"}),
            issuer=mint.issuer,
            audience=(mint.audience,),
            issued_at_us=NOW_US,
            expires_at=mint.now + 300,
            token_id="jti-1",
            key_id=mint.public(algorithm).key_id,
            extra={"tenant": "acme"},
        )

    def test_only_iss_sub_aud_exp_and_iat_are_required(self, mint: Mint, verifier: Verifier) -> None:
        claims = verifier.verify(mint(without=["jti", "sid", "roles", "iat_us"]), now=mint.now, monotonic=0)
        assert (claims.token_id, claims.session, claims.roles) == (None, None, frozenset())

    def test_one_audience_of_several_is_enough(self, mint: Mint, verifier: Verifier) -> None:
        claims = verifier.verify(mint(aud=["others", mint.audience]), now=mint.now, monotonic=0)
        assert claims.audience == ("others", mint.audience)

    @pytest.mark.parametrize("name", ["a", "!" * 128, "~"])
    def test_a_name_is_1_to_128_visible_characters(self, mint: Mint, verifier: Verifier, name: str) -> None:
        assert verifier.verify(mint(sub=name, sid=name, jti=name), now=mint.now, monotonic=0).subject == name

    def test_claims_can_not_be_changed_by_the_request_that_got_them(self, mint: Mint, verifier: Verifier) -> None:
        claims = verifier.verify(mint(tenant="acme"), now=mint.now, monotonic=0)
        changeable: Any = claims
        with pytest.raises(AttributeError):
            changeable.subject = "admin"
        with pytest.raises(TypeError):
            changeable.extra["tenant"] = "evil"


class TestTime:
    """The leeway is 5 s."""

    @pytest.mark.parametrize(
        ("at", "verdict"),
        [
            (0, "accepted"),
            (304.999, "accepted"),
            (305, "token_expired"),
            (306, "token_expired"),
            (1e9, "token_expired"),
        ],
    )
    def test_a_token_lives_until_exp_and_the_leeway(
        self, mint: Mint, judge: Callable[..., str], at: float, verdict: str
    ) -> None:
        token = mint()
        assert judge(token, at=at) == verdict
        assert judge(token) == "accepted"
        assert judge(token, at=at) == verdict, "a token that was seen before"

    @pytest.mark.parametrize("claim", ["iat", "nbf"])
    @pytest.mark.parametrize(("ahead", "verdict"), [(5, "accepted"), (5.5, "token_not_yet_valid")])
    def test_a_token_may_come_from_the_future_by_the_leeway(
        self, mint: Mint, judge: Callable[..., str], claim: str, ahead: float, verdict: str
    ) -> None:
        changes: dict[str, Any] = {claim: mint.now + ahead}
        assert judge(mint(**changes)) == verdict

    @pytest.mark.parametrize(("ahead_us", "verdict"), [(5_000_000, "accepted"), (5_500_000, "token_not_yet_valid")])
    def test_iat_us_may_come_from_the_future_by_the_leeway(
        self, mint: Mint, judge: Callable[..., str], ahead_us: int, verdict: str
    ) -> None:
        assert judge(mint(iat_us=NOW_US + ahead_us)) == verdict

    def test_a_token_seen_before_is_refused_by_a_clock_that_stepped_back_behind_it(
        self, mint: Mint, judge: Callable[..., str]
    ) -> None:
        token = mint()
        assert judge(token) == "accepted"
        assert judge(token, at=-6) == "token_not_yet_valid"

    def test_without_leeway_a_token_dies_with_its_exp(self, mint: Mint, new_verifier: NewVerifier) -> None:
        verifier = new_verifier(leeway=0)
        verifier.verify(mint(), now=mint.now + 299.999, monotonic=0)
        with pytest.raises(TokenExpired):
            verifier.verify(mint(), now=mint.now + 300, monotonic=0)


class TestLogout:
    @pytest.mark.parametrize(("since_us", "verdict"), [(NOW_US - 1, "accepted"), (NOW_US, "token_revoked")])
    @pytest.mark.parametrize("scope", ["user", "session"])
    @pytest.mark.parametrize("seen", [False, True])
    def test_a_logout_refuses_tokens_up_to_and_with_its_own_microsecond(
        self,
        mint: Mint,
        verifier: Verifier,
        judge: Callable[..., str],
        *,
        since_us: int,
        verdict: str,
        scope: str,
        seen: bool,
    ) -> None:
        token = mint()
        if seen:
            assert judge(token) == "accepted"
        until = since_us // 1_000_000 + 425
        verifier.apply(
            UserRevoked(sub="user-1", since_us=since_us, until=until)
            if scope == "user"
            else SessionRevoked(sub="user-1", sid="session-1", since_us=since_us, until=until),
            monotonic=0,
        )
        assert judge(token) == verdict
        assert judge(mint(sub="user-2", sid="session-2")) == "accepted"

    def test_a_token_of_the_next_microsecond_is_good(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        verifier.apply(UserRevoked(sub="user-1", since_us=NOW_US, until=10**10), monotonic=0)
        assert judge(mint(iat_us=NOW_US + 1)) == "accepted"

    @pytest.mark.parametrize(
        ("iat", "since_us", "verdict"),
        [
            (1_700_000_000, NOW_US - 1, "accepted"),
            (1_700_000_000, NOW_US, "token_revoked"),
            (1_700_000_000, NOW_US + 999_999, "token_revoked"),
            (1_700_000_000.9, NOW_US + 1, "token_revoked"),
            (1_700_000_001, NOW_US + 999_999, "accepted"),
        ],
    )
    def test_without_iat_us_the_start_of_its_second_counts(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str], *, iat: float, since_us: int, verdict: str
    ) -> None:
        verifier.apply(UserRevoked(sub="user-1", since_us=since_us, until=10**10), monotonic=0)
        assert judge(mint(iat=iat, without=["iat_us"])) == verdict

    def test_iat_us_is_what_counts_when_iat_says_otherwise(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        verifier.apply(UserRevoked(sub="user-1", since_us=NOW_US - 50_000_000, until=10**10), monotonic=0)
        assert judge(mint(iat=mint.now - 100)) == "accepted"
        assert judge(mint(iat_us=NOW_US - 60_000_000)) == "token_revoked"

    def test_a_token_without_a_session_is_refused_by_the_logout_of_its_user_only(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        token = mint(without=["sid"])
        verifier.apply(SessionRevoked(sub="user-1", sid="session-1", since_us=NOW_US, until=10**10), monotonic=0)
        assert judge(token) == "accepted"
        verifier.apply(UserRevoked(sub="user-1", since_us=NOW_US, until=10**10), monotonic=0)
        assert judge(token) == "token_revoked"

    @pytest.mark.parametrize("seen", [False, True])
    def test_a_token_older_than_what_was_forgotten_is_refused(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str], *, seen: bool
    ) -> None:
        token = mint(sub="user-2", sid="session-2")
        if seen:
            assert judge(token) == "accepted"
        verifier.apply(UserRevoked(sub="user-1", since_us=NOW_US, until=mint.now + 420), monotonic=0)
        verifier.revocations.evict(mint.now + 421)
        assert judge(token) == "token_expired"


class TestKeys:
    def test_a_key_that_left_the_set_verifies_nothing_from_then_on(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        token = mint("ES256")
        assert judge(token) == "accepted"
        verifier.use_keys(mint.key_set("EdDSA"))
        assert judge(token) == "key_unknown"
        assert judge(mint("EdDSA")) == "accepted"
        verifier.use_keys(mint.key_set())
        assert judge(token) == "accepted"

    def test_a_key_swapped_under_its_id_no_longer_verifies_what_the_old_one_signed(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        token = mint("ES256")
        assert judge(token) == "accepted"
        key = type(mint.public())(mint.strangers["ES256"].public_key(), key_id=mint.public().key_id)
        verifier.use_keys(KeySet([key]))
        assert judge(token) == "signature_invalid"

    @pytest.mark.parametrize("seen", [False, True])
    def test_a_revoked_key_is_refused_at_once(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str], *, seen: bool
    ) -> None:
        token = mint("ES256")
        if seen:
            assert judge(token) == "accepted"
        verifier.apply(KeyRevoked(kid=mint.public().key_id, until=mint.now + 420), monotonic=0)
        assert judge(token) == "key_revoked"
        assert judge(mint("EdDSA")) == "accepted"

    def test_a_revoked_key_does_not_come_back_with_a_key_set_from_before(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        verifier.apply(KeyRevoked(kid=mint.public().key_id, until=mint.now + 420), monotonic=0)
        verifier.use_keys(mint.key_set())
        assert judge(mint("ES256")) == "key_revoked"

    def test_a_revoked_key_stays_away_when_its_revocation_is_forgotten(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        verifier.apply(KeyRevoked(kid=mint.public().key_id, until=mint.now + 420), monotonic=0)
        verifier.revocations.evict(mint.now + 1000)
        later = mint.now + 1000
        assert judge(mint("ES256", iat=later, iat_us=later * 1_000_000, exp=later + 300), at=1000) == "key_unknown"

    def test_without_any_key_nothing_can_be_judged(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        verifier.use_keys(KeySet())
        assert judge(mint()) == "not_ready"

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_good_token_of_another_than_the_configured_algorithm_is_refused(
        self, mint: Mint, new_verifier: NewVerifier, algorithm: str
    ) -> None:
        verifier = new_verifier(algorithms=[name for name in ALGORITHMS if name != algorithm])
        with pytest.raises(AlgorithmRefused):
            verifier.verify(mint(algorithm), now=mint.now, monotonic=0)


class TestFreshness:
    """The feed is stale from 15 s on."""

    def test_nothing_is_accepted_before_the_feed_was_replayed(self, mint: Mint) -> None:
        for policy in WhenStale:
            verifier = Verifier(issuer=mint.issuer, audience=mint.audience, when_stale=policy)
            verifier.use_keys(mint.key_set())
            verifier.apply(UserRevoked(sub="user-2", since_us=NOW_US, until=10**10), monotonic=0)
            with pytest.raises(NotReady):
                verifier.verify(mint(), now=mint.now, monotonic=0)

    def test_a_bad_token_is_refused_as_such_before_the_feed_was_replayed(self, mint: Mint) -> None:
        verifier = Verifier(issuer=mint.issuer, audience=mint.audience)
        verifier.use_keys(mint.key_set())
        verifier.apply(UserRevoked(sub="user-1", since_us=NOW_US, until=10**10), monotonic=0)
        with pytest.raises(TokenRevoked):
            verifier.verify(mint(), now=mint.now, monotonic=0)

    @pytest.mark.parametrize("seen", [False, True])
    @pytest.mark.parametrize(
        ("policy", "age", "verdict"),
        [
            (WhenStale.REJECT, 0, "feed_stale"),
            (WhenStale.ACCEPT, 0, "accepted"),
            (WhenStale.ACCEPT, 299, "accepted"),
            (WhenStale.CLAMP, 0, "accepted"),
            (WhenStale.CLAMP, 59.9, "accepted"),
            (WhenStale.CLAMP, 60, "feed_stale"),
            (WhenStale.CLAMP, 299, "feed_stale"),
        ],
    )
    def test_a_stale_feed_is_met_by_the_policy(
        self, mint: Mint, new_verifier: NewVerifier, policy: WhenStale, age: float, verdict: str, *, seen: bool
    ) -> None:
        verifier, token = new_verifier(when_stale=policy), mint()
        if seen:
            verifier.verify(token, now=mint.now, monotonic=0)
        now = mint.now + age
        assert code_of(verifier, token, now, 15) == "accepted"
        assert code_of(verifier, token, now, 15.1) == verdict
        verifier.apply(Heartbeat(at_us=1, complete_until_us=1), monotonic=16)
        assert code_of(verifier, token, now, 31) == "accepted"

    def test_a_clamped_verifier_does_not_take_a_clock_that_stepped_back_for_a_young_token(
        self, mint: Mint, new_verifier: NewVerifier
    ) -> None:
        verifier, token = new_verifier(when_stale=WhenStale.CLAMP), mint()
        verifier.verify(token, now=mint.now, monotonic=0)
        with pytest.raises(TokenNotYetValid):
            verifier.verify(token, now=mint.now - 3600, monotonic=100)

    @pytest.mark.parametrize("policy", WhenStale)
    def test_a_known_logout_counts_whatever_the_policy(
        self, mint: Mint, new_verifier: NewVerifier, policy: WhenStale
    ) -> None:
        verifier = new_verifier(when_stale=policy)
        verifier.apply(UserRevoked(sub="user-1", since_us=NOW_US, until=10**10), monotonic=0)
        with pytest.raises(TokenRevoked):
            verifier.verify(mint(), now=mint.now, monotonic=1000)

    @pytest.mark.parametrize("own", WhenStale)
    @pytest.mark.parametrize(
        ("asked", "verdict"),
        [(WhenStale.REJECT, "feed_stale"), (WhenStale.CLAMP, "feed_stale"), (WhenStale.ACCEPT, "accepted")],
    )
    def test_a_call_may_bring_its_own_policy(
        self, mint: Mint, new_verifier: NewVerifier, own: WhenStale, asked: WhenStale, verdict: str
    ) -> None:
        verifier, now = new_verifier(when_stale=own), mint.now + 100
        assert code_of(verifier, mint(), now, 100, asked) == verdict
        assert code_of(verifier, mint(), now, 0, asked) == "accepted", "nothing is stale"

    def test_without_a_feed_nothing_is_stale(self, mint: Mint) -> None:
        verifier = Verifier(issuer=mint.issuer, audience=mint.audience, feed=False)
        verifier.use_keys(mint.key_set())
        assert code_of(verifier, mint(), mint.now, 1000) == "accepted"

    def test_a_feed_is_stale_by_the_lag_alone(self, mint: Mint, new_verifier: NewVerifier) -> None:
        verifier = new_verifier()
        verifier.apply(Heartbeat(at_us=17_000_000, complete_until_us=1_000_000), monotonic=1)
        with pytest.raises(FeedStale):
            verifier.verify(mint(), now=mint.now, monotonic=1)


class TestMemory:
    def test_a_cache_of_one_token_judges_as_one_without_end(self, mint: Mint, new_verifier: NewVerifier) -> None:
        verifier = new_verifier(cache_entries=1)
        tokens = [mint(sub=f"user-{n}") for n in range(3)]
        for _ in range(2):
            for n, token in enumerate(tokens):
                assert verifier.verify(token, now=mint.now, monotonic=0).subject == f"user-{n}"

    def test_a_long_token_is_judged_each_time(self, mint: Mint, judge: Callable[..., str]) -> None:
        token = mint(x="x" * 3000)
        assert judge(token) == judge(token) == "accepted"

    @pytest.mark.parametrize(
        ("setting", "value", "verdict"),
        [
            ("issuer", "https://other.example", "issuer_wrong"),
            ("audience", "others", "audience_wrong"),
            ("algorithms", frozenset({"EdDSA"}), "algorithm_refused"),
            ("types", frozenset({"jwt"}), "token_type_wrong"),
            ("leeway", -400, "token_expired"),
        ],
    )
    def test_a_token_seen_before_is_judged_by_the_settings_of_now(
        self, mint: Mint, new_verifier: NewVerifier, setting: str, value: object, verdict: str
    ) -> None:
        verifier = new_verifier()
        assert code_of(verifier, mint(), mint.now) == "accepted"
        token = mint()
        assert code_of(verifier, token, mint.now) == "accepted"
        setattr(verifier, setting, value)
        assert code_of(verifier, token, mint.now) == verdict

    @pytest.mark.parametrize("size", [0, 1100])
    def test_memory_stays_bounded_however_many_tokens_come(
        self, mint: Mint, new_verifier: NewVerifier, size: int
    ) -> None:
        """400 tokens are kept of 2,400, at most 2 KiB each and twice that with what they say."""
        verifier = new_verifier(cache_entries=400)
        tracemalloc.start()
        try:
            for n in range(2400):
                verifier.verify(mint("EdDSA", jti=f"j{n}", x="x" * size), now=mint.now, monotonic=0)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 400 * 3 * 2048

    def test_a_refused_token_is_not_remembered_as_good(
        self, mint: Mint, verifier: Verifier, judge: Callable[..., str]
    ) -> None:
        verifier.use_keys(mint.key_set("EdDSA"))
        assert judge(mint("ES256", jti="same")) == "key_unknown"
        bad = mint.sign(mint.header(), mint.payload(), key=mint.strangers["ES256"])
        assert judge(bad) == judge(bad) != "accepted"

    @settings(max_examples=50)
    @given(st.data())
    def test_a_token_seen_before_gets_the_same_verdict_as_a_new_one(
        self, mint: Mint, new_verifier: NewVerifier, data: st.DataObject
    ) -> None:
        """Whatever happens in between, in any order, and whichever way the clock steps."""
        tokens = [mint(sub=f"user-{n}", sid=f"s{n}", iat_us=NOW_US + n, nbf=mint.now + n) for n in range(3)]
        tokens.append(mint(sub="user-0", iat_us=NOW_US + 3, without=["sid"]))
        remembering = new_verifier(when_stale=WhenStale.CLAMP, max_revocations=2)
        forgetful = new_verifier(when_stale=WhenStale.CLAMP, max_revocations=2, cache_entries=0)
        steps = st.lists(
            st.one_of(
                st.builds(
                    UserRevoked,
                    sub=st.sampled_from(["user-0", "user-1", "user-9"]),
                    since_us=st.integers(NOW_US - 1, NOW_US + 3),
                    until=st.just(1),
                ),
                st.builds(
                    SessionRevoked, sub=st.just("-"), sid=st.just("s2"), since_us=st.just(NOW_US + 2), until=st.just(1)
                ),
                st.builds(KeyRevoked, kid=st.just(mint.public().key_id), until=st.just(1)),
                st.builds(Heartbeat, at_us=st.just(1), complete_until_us=st.integers(0, 9)),
                st.just("forget"),
                st.floats(-20, 400),
            ),
            min_size=1,
            max_size=8,
        )
        for monotonic, step in enumerate(data.draw(steps)):
            at = step if isinstance(step, float) else 0.0
            for verifier in (remembering, forgetful):
                if isinstance(step, str):
                    verifier.revocations.evict(mint.now)
                elif not isinstance(step, float):
                    verifier.apply(step, monotonic=monotonic)
            for token in tokens:
                one, other = (code_of(v, token, mint.now + at, monotonic + at) for v in (remembering, forgetful))
                assert one == other

    def test_threads_may_verify_while_logouts_arrive(self, mint: Mint, new_verifier: NewVerifier) -> None:
        """Each thread sees every user good before its logout and refused ever after."""
        verifier = new_verifier(cache_entries=8)
        tokens = {f"user-{n}": mint(sub=f"user-{n}", sid=f"s-{n}") for n in range(40)}
        gone: set[str] = set()
        wrong: list[object] = []
        begin = threading.Barrier(5)

        def verify() -> None:
            begin.wait()
            while len(gone) < len(tokens):
                for subject, token in tokens.items():
                    was_gone = subject in gone
                    verdict = code_of(verifier, token, mint.now)
                    if verdict not in {"accepted", "token_revoked"} or (was_gone and verdict == "accepted"):
                        wrong.append((subject, verdict))

        threads = [threading.Thread(target=verify) for _ in range(4)]
        for thread in threads:
            thread.start()
        begin.wait()
        for subject in tokens:
            verifier.apply(UserRevoked(sub=subject, since_us=NOW_US, until=10**10), monotonic=0)
            gone.add(subject)
        for thread in threads:
            thread.join()
        assert wrong == []


@pytest.mark.parametrize("thing", [b"", b"a.b.c", None, 5, ["a"], {}, ...], ids=repr)
def test_what_is_no_text_is_refused_as_any_junk(thing: Any) -> None:
    verifier = Verifier(issuer="https://auth.example.com", audience="orders")
    with pytest.raises(TokenMalformed):
        verifier.verify(thing, now=0.0, monotonic=0.0)
