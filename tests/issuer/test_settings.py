"""Settings: a wrong one ends the start with exit code 2 and one sentence that names it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from authix.errors import SettingsError
from authix.settings import load
from authix_issuer.cli import main
from authix_issuer.settings import IssuerSettings

NEEDED = {"AUTHIX_ISSUER": "https://auth.example.com", "AUTHIX_AUDIENCE": "services"}

Start = Callable[..., tuple[int, str]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """``start(environment, *flags)``: exit code and standard error of ``authix-issuer serve``."""

    def run(environment: dict[str, str], *flags: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AUTHIX_")]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            code = main(["serve", *flags])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return code, captured.err

    return run


WRONG = [
    ("AUTHIX_ISSUER", "auth.example.com"),
    ("AUTHIX_ISSUER", "ftp://auth.example.com"),
    ("AUTHIX_ISSUER", "https://auth.example.com/"),
    ("AUTHIX_ISSUER", "https://auth.example.com?x=1"),
    ("AUTHIX_ISSUER", "https://ann@auth.example.com"),
    ("AUTHIX_PORT", "http"),
    ("AUTHIX_PORT", "-1"),
    ("AUTHIX_PORT", "65536"),
    ("AUTHIX_PORT", "8000.0"),
    ("AUTHIX_PORT", "٨٠٠٠"),
    ("AUTHIX_WORKERS", "0"),
    ("AUTHIX_WORKERS", "2"),
    ("AUTHIX_METRICS_PORT", "8000"),
    ("AUTHIX_USERS_URL", "postgres://db"),
    ("AUTHIX_USERS_URL", "sqlite:///"),
    ("AUTHIX_SESSIONS_URL", "sessions.db"),
    ("AUTHIX_KAFKA", "kafka"),
    ("AUTHIX_SECRET", "short"),
    ("AUTHIX_SECRET", "x" * 31),
    ("AUTHIX_FEED_TOKEN", "x" * 31),
    ("AUTHIX_FEED_TOKEN", "é" * 40),
    ("AUTHIX_ALGORITHM", "HS256"),
    ("AUTHIX_ALGORITHM", "none"),
    ("AUTHIX_ALGORITHM", "es256"),
    ("AUTHIX_KEY_LIFE", "0"),
    ("AUTHIX_KEY_NOTICE", "2"),
    ("AUTHIX_SECRET_PREVIOUS", "short"),
    ("AUTHIX_HASH_PROFILE", "strong"),
    ("AUTHIX_HASH_PROFILE", "m=19456,t=1,p=1"),
    ("AUTHIX_HASH_PROFILE", "m=19455,t=2,p=1"),
    ("AUTHIX_HASH_PROFILE", "m=19456,t=2,p=0"),
    ("AUTHIX_HASH_PROFILE", "m=19456,t=2,p=17"),
    ("AUTHIX_HASH_PROFILE", "m=1048577,t=2,p=1"),
    ("AUTHIX_HASH_PROFILE", "m=19456,t=2"),
    ("AUTHIX_HASH_PROFILE", "t=2,m=19456,p=1"),
    ("AUTHIX_BLOCKED_WORDS", "acme,abc"),
    ("AUTHIX_BLOCKED_WORDS", "acme,"),
    ("AUTHIX_HASH_THREADS", "0"),
    ("AUTHIX_HASH_QUEUE", "0"),
    ("AUTHIX_PASSWORD_MIN_LENGTH", "7"),
    ("AUTHIX_PASSWORD_MIN_LENGTH", "65"),
    ("AUTHIX_ACCESS_TTL", "9"),
    ("AUTHIX_ACCESS_TTL", "3601"),
    ("AUTHIX_REFRESH_TTL", "59"),
    ("AUTHIX_REFRESH_GRACE", "-1"),
    ("AUTHIX_REFRESH_GRACE", "301"),
    ("AUTHIX_TRUSTED_PROXIES", "proxy.example.com"),
    ("AUTHIX_TRUSTED_PROXIES", "10.0.0.1/8"),
    ("AUTHIX_FORWARDED_BY", "x-real-ip"),
    ("AUTHIX_ORIGINS", "*"),
    ("AUTHIX_ORIGINS", "null"),
    ("AUTHIX_ORIGINS", "app.example.com"),
    ("AUTHIX_ORIGINS", "https://app.example.com/"),
    ("AUTHIX_ORIGINS", "https://app.example.com/login"),
    ("AUTHIX_ORIGINS", "https://äpp.example.com"),
    ("AUTHIX_ORIGINS", "https://app.example.com,"),
    ("AUTHIX_LIMIT_LOGINS", "60"),
    ("AUTHIX_LIMIT_LOGINS", "0/minute"),
    ("AUTHIX_LIMIT_LOGINS", "5/minute;1/second"),
    ("AUTHIX_LIMIT_LOGINS", "5/minute, 1/second"),
    ("AUTHIX_LIMIT_REGISTRATIONS", "many/hour"),
    ("AUTHIX_LOGIN_MAX_DELAY", "3601"),
    ("AUTHIX_COOKIE_PROFILE", "insecure"),
    ("AUTHIX_LOG", "xml"),
    ("AUTHIX_AUDIT", "stderr"),
    ("AUTHIX_AUDIT", "/nowhere/audit.log"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named_in_one_sentence(start: Start, name: str, value: str) -> None:
    code, told = start(NEEDED | {name: value})
    assert code == 2
    (line,) = told.splitlines()
    assert line.startswith((f"{name} ", f"{name}="))
    assert line.endswith(".")


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_setting_is_named_in_one_sentence(start: Start, missing: str) -> None:
    code, told = start({name: value for name, value in NEEDED.items() if name != missing})
    assert code == 2
    (line,) = told.splitlines()
    assert line.startswith(f"{missing} is missing: set it to ")


def test_every_problem_is_told_at_once(start: Start) -> None:
    code, told = start({"AUTHIX_PORT": "x", "AUTHIX_LOG": "y"})
    assert code == 2
    assert [line.partition(" ")[0] for line in told.splitlines()] == [
        "AUTHIX_ISSUER",
        "AUTHIX_AUDIENCE",
        "AUTHIX_PORT",
        "AUTHIX_LOG",
    ]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"AUTHIX_KEY_LIFE": "1", "AUTHIX_KEY_NOTICE": "31"}, "AUTHIX_KEY_NOTICE=31 with AUTHIX_KEY_LIFE=1 would have"),
        ({"AUTHIX_SECRET": "s" * 32, "AUTHIX_SECRET_PREVIOUS": "s" * 32}, "AUTHIX_SECRET_PREVIOUS is the same as"),
    ],
)
def test_settings_of_keys_that_do_not_fit_are_told(start: Start, environment: dict[str, str], told: str) -> None:
    code, line = start(NEEDED | environment)
    assert code == 2
    assert line.startswith(told)
    assert line.count("\n") == 1


@pytest.mark.parametrize(("notice", "max_age"), [(3, 1), (90, 30), (900, 300), (86_400, 300)])
def test_a_key_set_may_be_kept_for_a_third_of_the_notice(notice: int, max_age: int) -> None:
    assert load(IssuerSettings, environ=NEEDED | {"AUTHIX_KEY_NOTICE": str(notice)}).keys_max_age == max_age


@pytest.mark.parametrize("name", ["AUTHIX_SECRET", "AUTHIX_SECRET_PREVIOUS", "AUTHIX_FEED_TOKEN"])
def test_a_wrong_secret_is_not_repeated(start: Start, name: str) -> None:
    _, told = start(NEEDED | {name: "hunter2 with a space and more than thirty-two"})
    assert "hunter2" not in told


def test_a_password_in_the_issuers_url_is_told_and_not_repeated(start: Start) -> None:
    _, told = start(NEEDED | {"AUTHIX_ISSUER": "http://ann:hunter2@auth.example.com"})
    assert told.startswith("AUTHIX_ISSUER must be an http(s) URL")
    assert "without a password" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "auth.example.com"])
def test_beyond_this_machine_the_feed_needs_a_token(start: Start, host: str) -> None:
    code, told = start(NEEDED | {"AUTHIX_HOST": host})
    assert code == 2
    assert told.startswith("AUTHIX_FEED_TOKEN is missing")


def test_a_setting_may_stand_in_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("eighty\n")
    code, told = start(NEEDED | {"AUTHIX_PORT_FILE": str(tmp_path / "port")})
    assert (code, "AUTHIX_PORT must be a whole number" in told, "'eighty'" in told) == (2, True, True)
    code, told = start(NEEDED | {"AUTHIX_SECRET_FILE": str(tmp_path / "missing")})
    assert (code, told.startswith("AUTHIX_SECRET can't be read from AUTHIX_SECRET_FILE=")) == (2, True)
    code, told = start(NEEDED | {"AUTHIX_PORT_FILE": str(tmp_path / "port"), "AUTHIX_PORT": "8000"})
    assert (code, told.startswith("AUTHIX_PORT and AUTHIX_PORT_FILE are both set")) == (2, True)


def test_a_flag_wins_over_the_environment(start: Start) -> None:
    code, told = start(NEEDED | {"AUTHIX_PORT": "8000"}, "--port", "eighty")
    assert (code, "'eighty'" in told) == (2, True)


@pytest.mark.parametrize("flag", ["--secret", "--secret-previous", "--feed-token", "--nonsense"])
def test_secrets_have_no_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", flag, "x"])
    assert ended.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load(IssuerSettings, environ=NEEDED)
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert (settings.algorithm, settings.hash_profile, settings.cookie_profile) == ("ES256", "owasp", "secure")
    assert (settings.access_ttl, settings.refresh_ttl, settings.refresh_grace) == (300, 2_419_200, 10)
    assert settings.password_min_length == 15
    assert (settings.secret, settings.feed_token, settings.kafka) == ("", "", "")
    assert (settings.log, settings.audit) == ("console", "stdout")


def test_printed_settings_show_no_secret() -> None:
    secret, token = "s" * 40, "t" * 40
    settings = load(IssuerSettings, environ=NEEDED | {"AUTHIX_SECRET": secret, "AUTHIX_FEED_TOKEN": token})
    assert (settings.secret, settings.feed_token) == (secret, token)
    assert secret not in repr(settings)
    assert token not in repr(settings)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", "somewhere/users.db"),
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:////absolute/users.db", "/absolute/users.db"),
        ("sqlite:///:memory:", ":memory:"),
    ],
)
def test_the_url_of_a_store_names_its_file(url: str, path: str) -> None:
    environ = NEEDED | {"AUTHIX_DATA_DIR": "somewhere", "AUTHIX_USERS_URL": url}
    assert load(IssuerSettings, environ=environ).database_path("users") == path


def test_settings_are_refused_as_one_error() -> None:
    with pytest.raises(SettingsError):
        load(IssuerSettings, environ={})
