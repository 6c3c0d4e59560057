"""Emails as names of accounts."""

from __future__ import annotations

import unicodedata

import pytest

from authix_issuer.emails import read_email
from authix_issuer.errors import InputInvalid


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("ann@example.com", "ann@example.com"),
        ("Ann@Example.COM", "Ann@example.com"),
        ("ann+tag@example.com", "ann+tag@example.com"),
        ("a.n.n@example.com", "a.n.n@example.com"),
        ("ann@bücher.example.com", "ann@bücher.example.com"),
        ("ann@BÜCHER.example.com", "ann@bücher.example.com"),
        ("ann@xn--bcher-kva.example.com", "ann@bücher.example.com"),
        ("ann@ＥＸＡＭＰＬＥ.com", "ann@example.com"),  # noqa: RUF001 - fullwidth on purpose
        ("a\u0308nn@example.com", "änn@example.com"),
        ("用户@example.com", "用户@example.com"),
        ("!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~@example.com"),
    ],
)
def test_an_address_is_kept_as_written_but_for_its_form(written: str, address: str) -> None:
    assert read_email(written).address == address


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ann@example.com", "ANN@EXAMPLE.COM"),
        ("ann@example.com", "Ann@Example.com"),
        ("ann@bücher.example.com", "ANN@xn--bcher-kva.EXAMPLE.com"),
        ("änn@example.com", "a\u0308nn@example.com"),
        ("ﬁnn@example.com", "finn@example.com"),
        ("ａｎｎ@example.com", "ann@example.com"),  # noqa: RUF001 - fullwidth on purpose
        ("straße@example.com", "STRASSE@example.com"),
        ("σίσυφος@example.com", "ΣΊΣΥΦΟΣ@example.com"),
        ("ΐ@example.com", "ΐ@example.com".upper()),
        ("ᾷ@example.com", "ᾷ@example.com".upper()),
    ],
)
def test_addresses_that_differ_in_case_or_unicode_form_only_are_one_account(one: str, other: str) -> None:
    assert read_email(one).key == read_email(other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ann@example.com", "ann+tag@example.com"),
        ("ann@example.com", "a.nn@example.com"),
        ("ann@example.com", "ann@example.org"),
        ("ann@example.com", "аnn@example.com"),  # noqa: RUF001 - a Cyrillic letter on purpose
        ("ann@bücher.example.com", "ann@bucher.example.com"),
    ],
)
def test_addresses_that_only_look_alike_are_two_accounts(one: str, other: str) -> None:
    assert read_email(one).key != read_email(other).key


def test_every_letter_is_the_same_account_in_each_case_and_form() -> None:
    def key(local: str) -> str | None:
        try:
            return read_email(f"a{local}@example.com").key
        except InputInvalid:
            return None

    turkish = "\u0131"  # its capital is I, which Unicode folds to i for everyone else
    letters = [chr(code) for code in range(0x80, 0x3000) if chr(code).isalpha() and chr(code) != turkish]
    split = [
        letter
        for letter in letters
        for form in {letter.upper(), letter.lower(), letter.title(), unicodedata.normalize("NFD", letter)}
        if None not in (keys := {key(letter), key(form)}) and len(keys) > 1
    ]
    assert split == []


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "ann",
        "@example.com",
        "ann@",
        "ann@example",
        "ann@localhost",
        "ann@@example.com",
        "ann@example..com",
        "ann..ann@example.com",
        ".ann@example.com",
        "ann @example.com",
        " ann@example.com",
        "ann@example.com ",
        "ann@example.com\n",
        "ann@exa mple.com",
        "ann@-example.com",
        "ann@127.0.0.1",
        "ann@[127.0.0.1]",
        '"ann ann"@example.com',
        "Ann <ann@example.com>",
        "ann@example.com, bob@example.com",
        "ann@example.test",
        "ann\0@example.com",
        "ann\u202e@example.com",
        "ann\ud800@example.com",
        "ann@exam\udfffple.com",
        "ann@xn--a.com",
        "a" * 250 + "@example.com",
        "a@" + "b" * 64 + ".com",
        "a@" + "b." * 130 + "com",
        "a\u0301\u0327" * 5000 + "@example.com",
        "@" * 16000,
    ],
)
def test_what_is_no_address_is_refused_with_a_reason(written: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        read_email(written)
    (reason,) = refused.value.reasons
    assert (reason.field, reason.code) == ("email", "email_invalid")
    assert reason.detail.encode("utf-8")


def test_a_very_long_text_is_refused_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("a long text costs time")

    monkeypatch.setattr("authix_issuer.emails.validate_email", never)
    with pytest.raises(InputInvalid):
        read_email("a\u0301\u0327" * 5000 + "@example.com")
