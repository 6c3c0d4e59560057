"""Settings: from the environment, a file or an argument; every problem named at once; no secret ever shown."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

import certifi
import pytest

from authix import Authix, SettingsError, VerifierSettings, WhenStale
from authix.claims import ClaimPaths
from authix.settings import add_flags, from_flags, load
from authix.verifier_settings import NO_FEED, FeedUrl

NEEDED = {"AUTHIX_ISSUER": "https://auth.example.com", "AUTHIX_AUDIENCE": "orders"}
SECRET = "s3cret-s3cret-s3cret-s3cret-s3cret"
FIELDS = {field.metadata["name"]: field for field in dataclasses.fields(VerifierSettings)}

# name -> another text than the default, and the value it stands for
GIVEN: dict[str, tuple[str, Any]] = {
    "AUTHIX_ISSUER": ("https://other.example.com", "https://other.example.com"),
    "AUTHIX_AUDIENCE": ("billing", "billing"),
    "AUTHIX_KEYS": ("https://keys.example.com/jwks", "https://keys.example.com/jwks"),
    "AUTHIX_KEYS_CACHE": (__file__ + ".json", __file__ + ".json"),
    "AUTHIX_FEED": ("none", (NO_FEED,)),
    "AUTHIX_FEED_TOKEN": (SECRET, SECRET),
    "AUTHIX_ALLOW_HTTP": ("yes", True),
    "AUTHIX_ALGORITHM": ("EdDSA, RS256", frozenset({"EdDSA", "RS256"})),
    "AUTHIX_CA": (certifi.where(), certifi.where()),
    "AUTHIX_TOKEN_TYPES": ("at+jwt, application/jwt,none", frozenset({"at+jwt", "jwt", "none"})),
    "AUTHIX_CLAIMS": ("roles=scope", ClaimPaths(roles=(("scope",),))),
    "AUTHIX_LEEWAY": ("7", 7),
    "AUTHIX_STALE_AFTER": ("30", 30),
    "AUTHIX_WHEN_STALE": ("clamp", WhenStale.CLAMP),
}


class Hidden:
    """As pydantic's ``SecretStr``."""

    def __init__(self, text: str) -> None:
        self.text = text


def problems(environ: Mapping[str, str], **arguments: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(VerifierSettings, environ, arguments)
    assert caught.value.code == "settings_invalid"
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("name", "given"), GIVEN.items())
class TestEachSetting:
    def test_it_comes_from_the_environment(self, name: str, given: tuple[str, Any]) -> None:
        assert value(load(VerifierSettings, {**NEEDED, name: given[0]}), name) == given[1]

    def test_it_comes_from_a_file(self, tmp_path: Path, name: str, given: tuple[str, Any]) -> None:
        path = tmp_path / "setting"
        path.write_text(given[0] + "\n")
        environ = {key: text for key, text in NEEDED.items() if key != name}
        assert value(load(VerifierSettings, {**environ, f"{name}_FILE": str(path)}), name) == given[1]

    def test_an_argument_wins_over_the_environment(self, name: str, given: tuple[str, Any]) -> None:
        environ = {**NEEDED, name: GIVEN["AUTHIX_AUDIENCE"][0] if name == "AUTHIX_AUDIENCE" else "nonsense"}
        for argument in given:
            assert value(load(VerifierSettings, environ, {FIELDS[name].name: argument}), name) == given[1]

    def test_it_is_not_taken_from_environment_and_file_at_once(
        self, tmp_path: Path, name: str, given: tuple[str, Any]
    ) -> None:
        (problem,) = problems({**NEEDED, name: given[0], f"{name}_FILE": str(tmp_path / "x")})
        assert problem == f"{name} and {name}_FILE are both set: keep one."

    def test_a_flag_wins_over_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, name: str, given: tuple[str, Any]
    ) -> None:
        for key, text in NEEDED.items():
            monkeypatch.setenv(key, text)
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_flags(parser, VerifierSettings)
        flag = "--" + FIELDS[name].name.replace("_", "-")
        if name == "AUTHIX_FEED_TOKEN":
            assert flag not in parser.format_help(), "a secret would show in the process list"
        else:
            options = parser.parse_args([flag, given[0]])
            assert value(from_flags(VerifierSettings, options), name) == given[1]

    def test_authix_takes_it_as_an_argument(
        self, monkeypatch: pytest.MonkeyPatch, name: str, given: tuple[str, Any]
    ) -> None:
        for key, text in NEEDED.items():
            monkeypatch.setenv(key, text)
        for argument in given:
            arguments: dict[str, Any] = {FIELDS[name].name: argument}
            assert value(Authix(**arguments).settings, name) == given[1]


def value(settings: VerifierSettings, name: str) -> object:
    found: object = getattr(settings, FIELDS[name].name)
    return found


class TestDefaults:
    def test_keys_and_feed_come_from_the_issuer(self) -> None:
        settings = load(VerifierSettings, NEEDED)
        assert settings.keys_url == "https://auth.example.com/.well-known/jwks.json"
        assert [feed.url for feed in settings.feeds] == ["https://auth.example.com/revocations"]

    def test_they_are_those_of_the_documentation(self) -> None:
        settings = load(VerifierSettings, NEEDED)
        assert settings.algorithms == frozenset({"ES256"})
        assert (settings.leeway, settings.stale_after, settings.when_stale) == (5, 15, WhenStale.REJECT)

    def test_an_empty_variable_is_as_none(self) -> None:
        assert load(VerifierSettings, {**NEEDED, "AUTHIX_KEYS": "", "AUTHIX_LEEWAY": ""}) == load(
            VerifierSettings, NEEDED
        )

    def test_the_help_says_them_as_one_would_set_them(self) -> None:
        parser = argparse.ArgumentParser()
        add_flags(parser, VerifierSettings)
        text = " ".join(parser.format_help().split())
        assert "AUTHIX_ALGORITHM: the accepted signature algorithms, comma-separated (default: ES256)" in text
        assert "plain http beyond this machine (default: no)" in text
        assert "AUTHIX_LEEWAY: the clock leeway in seconds (default: 5)" in text


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that another user may come to, unlike ``tmp_path``."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        Path(name).chmod(0o755)


class TestProblems:
    def test_all_are_named_at_once(self) -> None:
        found = problems({"AUTHIX_ISSUER": "nonsense", "AUTHIX_LEEWAY": "61", "AUTHIX_WHEN_STALE": "maybe"})
        assert [problem.split()[0] for problem in found] == [
            "AUTHIX_ISSUER",
            "AUTHIX_AUDIENCE",
            "AUTHIX_LEEWAY",
            "AUTHIX_WHEN_STALE",
        ]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            *(("AUTHIX_AUDIENCE", text) for text in (" ", " orders", "orders ", "a\nb")),
            *(("AUTHIX_LEEWAY", text) for text in ("-1", "61", "1.5", "five", "\u0665", "5 s")),
            *(("AUTHIX_STALE_AFTER", text) for text in ("0", "1", "3601", "never")),
            *(("AUTHIX_WHEN_STALE", text) for text in ("Reject", "ignore")),
            *(("AUTHIX_ALGORITHM", text) for text in ("HS256", "none", "ES256,none", "es256", ",")),
            *(("AUTHIX_ALLOW_HTTP", text) for text in ("y", "on", "2")),
            *(("AUTHIX_KEYS_CACHE", text) for text in ("/not/there/keys.json", "/", str(Path(__file__).parent))),
            *(("AUTHIX_CA", text) for text in ("/not/there.pem", "/", __file__)),
            *(("AUTHIX_TOKEN_TYPES", text) for text in (",", "JWT,", "a b", "application/", "é")),
            *(("AUTHIX_CLAIMS", text) for text in ("roles", "role=x", "roles=", "roles=a..b", "roles=a.", 'roles="')),
            *(("AUTHIX_CLAIMS", text) for text in ("roles=a,,session=b", "roles=a,", "roles=a b", "roles=a session=b")),
            *(("AUTHIX_FEED", text) for text in ("none,https://a.example/feed", "None", "https://a.example/feed,none")),
            *(("AUTHIX_FEED_TOKEN", text) for text in ("short", "x" * 31, "x" * 40 + " ", "a b" * 20, "é" * 40)),
        ],
    )
    def test_a_wrong_value_is_named_with_its_setting(self, name: str, text: str) -> None:
        (problem,) = problems({**NEEDED, name: text})
        assert problem.startswith(f"{name} must ")

    @pytest.mark.parametrize("name", ["AUTHIX_ISSUER", "AUTHIX_KEYS", "AUTHIX_FEED"])
    @pytest.mark.parametrize(
        "text",
        [
            *(
                "auth.example.com",
                "ftp://auth.example.com",
                "https://",
                "https:///x",
                "https://a.example/",
                "//a.example",
            ),
            *(
                "https://a.example?x",
                "https://a.example/#",
                "https://a.example/x?",
                "https://a. example",
                "https://a b",
            ),
            *("https://a.\nexample", "https://[::1", "https://a.example:99999", "https://a.example:x", "https://a\\b"),
        ],
    )
    def test_a_url_is_plain_and_absolute(self, name: str, text: str) -> None:
        (problem,) = problems({**NEEDED, name: text})
        assert problem.startswith(f"{name} must ")

    def test_only_roles_are_from_several_claims(self) -> None:
        (problem,) = problems({**NEEDED, "AUTHIX_CLAIMS": "subject=oid,subject=sub"})
        assert problem == "AUTHIX_CLAIMS names subject twice: only roles may stand in several places."

    def test_an_issuer_with_a_slash_at_its_end_is_only_one_whose_keys_are_named(self) -> None:
        slashed = {**NEEDED, "AUTHIX_ISSUER": "https://tenant.example/"}
        (problem,) = problems(slashed)
        assert problem.startswith("AUTHIX_ISSUER must have no slash at the end, unless AUTHIX_KEYS names ")
        settings = load(VerifierSettings, {**slashed, "AUTHIX_KEYS": "https://tenant.example/keys"})
        assert settings.issuer == "https://tenant.example/"
        assert [feed.url for feed in settings.feeds] == ["https://tenant.example/revocations"]

    @pytest.mark.parametrize("argument", [61, -1, 10**9, 2.5])
    def test_an_argument_has_the_same_bounds_as_a_text(self, argument: float) -> None:
        (problem,) = problems(NEEDED, leeway=argument)
        assert problem.startswith("AUTHIX_LEEWAY must be a whole number from 0 to 60")

    @pytest.mark.parametrize(
        ("field", "argument"),
        [
            ("audience", ["a", "b"]),
            ("audience", b"orders"),
            ("issuer", SplitResult("https", "auth.example.com", "", "", "")),
            ("feed", ["https://a.example/feed"]),
            ("feed", ({"url": "https://a.example/feed"},)),
            ("feed", (FeedUrl(b"https://a.example/feed"),)),  # type: ignore[arg-type] # as a program without types does
            ("feed_token", Hidden(SECRET)),
            ("feed_token", SECRET.encode()),
            ("allow_http", ["yes"]),
            ("algorithms", ["ES256"]),
            ("algorithms", frozenset({"ES256", "HS256"})),
            ("algorithms", frozenset({1})),
            ("algorithms", frozenset()),
            ("token_types", ["at+jwt"]),
            ("token_types", frozenset({"a b"})),
            ("claims", {"subject": "oid"}),
            ("claims", ClaimPaths(subject="oid")),  # type: ignore[arg-type] # as above
            ("claims", ClaimPaths(roles=("scope",))),  # type: ignore[arg-type] # as above
            ("leeway", timedelta(seconds=5)),
            ("leeway", Decimal(5)),
            ("stale_after", float("nan")),
            ("when_stale", ["reject"]),
        ],
    )
    def test_an_argument_that_is_neither_its_text_nor_its_value_is_named_with_its_setting(
        self, field: str, argument: Any
    ) -> None:
        (problem,) = problems(NEEDED, **{field: argument})
        (name,) = (name for name, found in FIELDS.items() if found.name == field)
        assert problem.startswith(f"{name} must ")
        assert problem.endswith(".")
        assert SECRET not in problem

    @pytest.mark.parametrize(
        ("field", "argument", "expected"),
        [
            ("feed", (), ()),
            ("feed", (NO_FEED,), (NO_FEED,)),
            ("feed", (FeedUrl("kafka://a:1/t", "a:1", "t"),), (FeedUrl("kafka://a:1/t", "a:1", "t"),)),
            ("keys_cache", Path(__file__ + ".json"), __file__ + ".json"),
            ("allow_http", True, True),
            ("token_types", frozenset({"application/jwt"}), frozenset({"jwt"})),
            ("claims", ClaimPaths(roles=(("scope",),)), ClaimPaths(roles=(("scope",),))),
        ],
    )
    def test_an_argument_may_be_its_value(self, field: str, argument: Any, expected: object) -> None:
        assert getattr(load(VerifierSettings, NEEDED, {field: argument}), field) == expected

    def test_a_number_of_any_length_is_told_in_short(self) -> None:
        (problem,) = problems({**NEEDED, "AUTHIX_LEEWAY": "9" * 5000})
        assert problem == "AUTHIX_LEEWAY must be a whole number from 0 to 60, not '999999999999...9999999999999'."
        assert load(VerifierSettings, {**NEEDED, "AUTHIX_LEEWAY": "007"}).leeway == 7

    def test_a_folder_whose_files_can_not_be_reached_is_all_that_is_named(self, open_folder: Path) -> None:
        """It may be listed, but not gone into."""
        for name, text in NEEDED.items():
            (open_folder / name).write_text(text)
        open_folder.chmod(0o644)
        look = "import authix.settings, authix.verifier_settings as v; authix.settings.load(v.VerifierSettings)"
        give_up_root = "import os; os.getuid() or (os.setgid(65534), os.setuid(65534))"
        run = subprocess.run(
            [sys.executable, "-c", f"import authix.runtime; {give_up_root}; {look}"],
            env={"AUTHIX_SETTINGS_DIR": str(open_folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        told = f"AUTHIX_SETTINGS_DIR={open_folder} is no folder that can be read (PermissionError): mend the path.\n"
        assert run.stderr.endswith(f"authix.errors.SettingsError: {told}")

    def test_a_file_that_can_not_be_read_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "missing"
        (problem,) = problems({**NEEDED, "AUTHIX_FEED_TOKEN_FILE": str(path)})
        assert (
            problem
            == f"AUTHIX_FEED_TOKEN can't be read from AUTHIX_FEED_TOKEN_FILE={path} (FileNotFoundError): mend the path."
        )


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("session=a", ClaimPaths(session=("a",))),
        ("roles=realm_access.roles , subject=oid", ClaimPaths(subject=("oid",), roles=(("realm_access", "roles"),))),
        ("roles=a,roles=b.c", ClaimPaths(roles=(("a",), ("b", "c")))),
        ('roles="https://example.com/roles"', ClaimPaths(roles=(("https://example.com/roles",),))),
        ('roles=a."b.c"."d,roles=e"', ClaimPaths(roles=(("a", "b.c", "d,roles=e"),))),
        ("token_id=urn:x/y", ClaimPaths(token_id=("urn:x/y",))),
    ],
)
def test_a_claim_is_named_by_its_path_with_quotes_around_odd_names(text: str, paths: ClaimPaths) -> None:
    assert load(VerifierSettings, {**NEEDED, "AUTHIX_CLAIMS": text}).claims == paths


def test_no_feed_is_none_at_all() -> None:
    assert load(VerifierSettings, {**NEEDED, "AUTHIX_FEED": "none"}).feeds == ()


class TestPlainHttp:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"])
    def test_it_is_good_on_this_machine(self, host: str) -> None:
        assert load(VerifierSettings, {**NEEDED, "AUTHIX_ISSUER": f"http://{host}"}).keys_url.startswith("http://")

    @pytest.mark.parametrize(
        "host",
        ["auth.example.com", "10.0.0.1", "0.0.0.0", "localhost.example.com", "127.0.0.1.example.com", "[::2]", "127.1"],
    )
    def test_beyond_it_keys_and_feed_are_refused_unless_allowed(self, host: str) -> None:
        environ = {**NEEDED, "AUTHIX_ISSUER": f"http://{host}"}
        found = problems(environ)
        assert [problem.split()[0] for problem in found] == ["AUTHIX_KEYS", "AUTHIX_FEED"]
        assert all("AUTHIX_ALLOW_HTTP=yes" in problem for problem in found)
        assert load(VerifierSettings, {**environ, "AUTHIX_ALLOW_HTTP": "yes"}).allow_http

    def test_an_issuer_named_by_http_is_good_when_keys_and_feed_are_not(self) -> None:
        https = {"AUTHIX_KEYS": "https://a.example/keys", "AUTHIX_FEED": "https://a.example/feed"}
        settings = load(VerifierSettings, {**NEEDED, **https, "AUTHIX_ISSUER": "http://a.example"})
        assert settings.keys_url == "https://a.example/keys"


def test_a_wrong_argument_of_authix_is_a_settings_error() -> None:
    with pytest.raises(SettingsError) as caught:
        Authix(issuer="nonsense", audience="", feed="nonsense", leeway=1000)
    assert [problem.split()[0] for problem in str(caught.value).splitlines()] == [
        "AUTHIX_ISSUER",
        "AUTHIX_AUDIENCE",
        "AUTHIX_FEED",
        "AUTHIX_LEEWAY",
    ]


class TestSecrets:
    def test_the_feed_token_is_in_no_repr(self) -> None:
        settings = load(VerifierSettings, {**NEEDED, "AUTHIX_FEED_TOKEN": SECRET})
        assert settings.feed_token == SECRET
        assert SECRET not in repr(settings)
        assert SECRET not in repr(Authix(settings=settings))

    def test_a_bad_feed_token_is_not_told(self) -> None:
        assert "s3cr3t" not in problems({**NEEDED, "AUTHIX_FEED_TOKEN": "s3cr3t"})[0]

    @pytest.mark.parametrize("name", ["AUTHIX_ISSUER", "AUTHIX_KEYS", "AUTHIX_FEED"])
    @pytest.mark.parametrize(
        "text",
        [
            "https://user:s3cr3t@a.example/x",
            "https://:s3cr3t@a.example/x",
            "https://s3cr3t@a.example/x",
            "https://a.example/x?token=s3cr3t",
            "https://a.example/x#s3cr3t",
            "kafka://user:s3cr3t@a.example:9092/topic",
            "user:s3cr3t@a.example",
        ],
    )
    def test_a_url_with_a_password_is_refused_without_telling_it(self, name: str, text: str) -> None:
        (problem,) = problems({**NEEDED, name: text})
        assert problem.startswith(f"{name} must ")
        assert "s3cr3t" not in problem
