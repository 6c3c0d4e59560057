"""Which passwords are acceptable (NIST SP 800-63B-4)."""

from __future__ import annotations

import time
import unicodedata

import httpx
import pytest

from authix.settings import load
from authix_issuer.emails import read_email
from authix_issuer.errors import InputInvalid
from authix_issuer.passwords import MAX_BYTES, password_bytes, read_new_password, words_of
from authix_issuer.settings import IssuerSettings

ANN = read_email("Ann.Archer@bakery.example.com")


def refusal(password: str, min_length: int = 15, words: frozenset[str] = frozenset()) -> str | None:
    """The code of the refusal."""
    try:
        read_new_password(password, ANN, min_length=min_length, words=words)
    except InputInvalid as error:
        (reason,) = error.reasons
        assert reason.field == "password"
        assert len(password) < 10 or password not in reason.detail
        return reason.code
    return None


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "just lowercase letters",
        "               x               y",
        "0429 8831 7753 1920",
        "кровать лошадь скрепка",
        "密码密码马电池订书机正确的马电池钉",
        "🐴🔋📎✅🐴🔋📎✅🐴🔋📎🐎🔌✔📌",
        "tab\tnull\0newline\n and so on",
        "e\u0301" * 7 + " and enough letters",
        "x" * 7 + "y" * 8 + "z",
        "annarchitecture of old",
    ],
)
def test_any_text_of_enough_characters_is_acceptable(password: str) -> None:
    assert refusal(password) is None


@pytest.mark.parametrize(
    ("password", "min_length", "code"),
    [
        ("", 8, "password_too_short"),
        ("sevench", 8, "password_too_short"),
        ("eight ch", 8, None),
        ("fourteen chars", 15, "password_too_short"),
        ("fifteen chars !", 15, None),
        ("🐴🔋📎✅🐴🔋📎", 8, "password_too_short"),
        ("🐴🔋📎✅🐴🔋📎🐎", 8, None),
    ],
)
def test_length_is_counted_in_characters(password: str, min_length: int, code: str | None) -> None:
    assert refusal(password, min_length) == code


@pytest.mark.parametrize("password", ["\ufdfa", "\ufdfa\ufdfa", "ﬃ" * 6, "e\u0301" * 8])
def test_a_character_counts_once_however_unicode_spells_it(password: str) -> None:
    assert refusal(password) == "password_too_short"


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("ab cd" * 204 + "abcd", None),
        ("ab cd" * 204 + "abcde", "password_too_long"),
        ("é…ü" * 146 + "é", None),
        ("é…ü" * 146 + "éa", "password_too_long"),
        ("é…ü" * 147, "password_too_long"),
        ("\ufdfa" * 40, "password_too_long"),
        ("word " * 200_000, "password_too_long"),
        ("half a pair \ud800 of surrogates", "password_too_long"),
    ],
)
def test_at_most_1024_bytes_are_taken_and_never_a_part(password: str, code: str | None) -> None:
    assert refusal(password) == code


@pytest.mark.parametrize("tail", ["a", "b"])
def test_the_last_of_1024_bytes_counts(tail: str) -> None:
    text = "passphrase " * 93
    password = text + tail
    assert len(password) == MAX_BYTES
    assert password_bytes(password) == password.encode()


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_password_is_the_same_in_every_unicode_form(form: str) -> None:
    password = "Ångström ﬁle ½ ｗｉｄｅ ñ"  # noqa: RUF001 - several forms on purpose
    spelled = unicodedata.normalize(form, password)  # type: ignore[arg-type]  # a parameter is a plain str
    assert password_bytes(spelled) == password_bytes(password)


@pytest.mark.parametrize(
    ("one", "other"), [("Password Phrase", "password phrase"), ("with space ", "with space"), ("a b", "a  b")]
)
def test_case_and_spaces_count(one: str, other: str) -> None:
    assert password_bytes(one) != password_bytes(other)


@pytest.mark.parametrize(
    "password",
    [
        "password",
        "PASSWORD",
        "passwordpassword",
        "PasswordPassword",
        "password12345678",
        "12345678password!!!",
        "  password  2024  ",
        "iloveyouiloveyou",
        "qwertyuiop",
        "1234567890123456",
        "9876543210987654",
        "abcdefghijklmnop",
        "zyxwvutsrqponmlk",
        "aaaaaaaaaaaaaaaa",
        "abababababababab",
        "0000000000000000",
        "123123123123123",
        "Password2024Password2024",
        "password-password",
        "iloveyou-forever-2024",
        "1q2w3e4r5t6y7u8i9o0p",
        "asdfghjklqwertyuiop",
        "monkey dragon 1987",
        "love5830!love5830!",
    ],
)
def test_what_attackers_try_first_is_refused(password: str) -> None:
    assert refusal(password, min_length=8) == "password_common"


@pytest.mark.parametrize(
    "password",
    [
        "ann.archer@bakery.example.com",
        "Ann.Archer@Bakery.Example.com",
        "ann.archer12345",
        "!!ann.archer!!!",
        "archer archer archer",
        "bakery.example.com",
        "bakery archer 1",
        "archer@bakery 99",
    ],
)
def test_what_is_made_of_the_email_is_refused(password: str) -> None:
    assert refusal(password, min_length=8) == "password_derived"


SERVICE = words_of("authix", "login.rocket-skates.example.com", "orders", "Acme Corp.")


@pytest.mark.parametrize(
    "password",
    [
        "authixauthixauthix",
        "Rocket-Skates-2024!",
        "ACME.CORP.ACME.CORP",
        "rocket orders 12345",
        "authix password 2024",
        "login for ann.archer",
        "bakery orders 77!",
    ],
)
def test_what_is_made_of_the_services_name_is_refused(password: str) -> None:
    assert refusal(password, words=SERVICE) == "password_derived"
    assert refusal(password) is None or "ann.archer" in password


@pytest.mark.parametrize(
    "password",
    [
        "my orders of skates never come",
        "rockets rarely run on time",
        "mon 0429 8831 7753 key",
        "corporate 5 %kQ zm8!!",
    ],
)
def test_a_word_of_the_service_or_a_common_one_within_a_long_password_is_acceptable(password: str) -> None:
    assert refusal(password, words=SERVICE) is None


def test_the_service_is_known_by_issuer_audience_and_the_words_that_are_set(client: httpx.Client) -> None:
    environ = {
        "AUTHIX_ISSUER": "https://login.rocket-skates.example.com:8443/auth",
        "AUTHIX_AUDIENCE": "orders",
        "AUTHIX_BLOCKED_WORDS": "Acme Corp., Road-Runner",
    }
    words = load(IssuerSettings, environ=environ).password_words
    assert words == SERVICE | {"road", "runner"}
    body = {"email": "ann@example.com", "password": "authix for tests 1"}  # the audience of the issuers in tests
    answer = client.post("/register", json=body)
    assert answer.status_code == 422
    assert [reason["code"] for reason in answer.json()["reasons"]] == ["password_derived"]


def test_the_longest_password_is_judged_at_once() -> None:
    began = time.perf_counter()
    for password in ("ab cd" * 204, "monkey" * 170, "authix " * 146, "ab" * 511 + "c"):
        for _ in range(10):
            refusal(password, words=SERVICE)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("password", ["archer likes warm bread", "the bakery opens at six"])
def test_a_part_of_the_email_within_a_long_password_is_acceptable(password: str) -> None:
    assert refusal(password) is None


def test_a_password_is_judged_even_when_the_email_is_not_one() -> None:
    with pytest.raises(InputInvalid):
        read_new_password("short", None, min_length=15)
    assert read_new_password("correct horse battery", None, min_length=15) == b"correct horse battery"
