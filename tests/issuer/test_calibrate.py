"""``authix-issuer hash calibrate``, and the settings that it proposes."""

from __future__ import annotations

import platform
import re
import time

import argon2
import pytest

from authix.settings import load
from authix_issuer.argon2_build import Build, build_of, installed
from authix_issuer.cli import main
from authix_issuer.hashing import PROFILES, hash_parameters, is_enough
from authix_issuer.settings import IssuerSettings

ROW = re.compile(r"^([\w-]+) +m=(\d+),t=(\d+),p=(\d+) +(\d+\.\d) +(\d+\.\d)$", re.MULTILINE)
NEEDED = {"AUTHIX_ISSUER": "https://auth.example.com", "AUTHIX_AUDIENCE": "services"}


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for a moment only."""
    monkeypatch.setattr("authix_issuer.calibrate._SECONDS", 0.05)


def calibrated(capsys: pytest.CaptureFixture[str], target: str) -> tuple[str, argon2.Parameters]:
    """What is printed, and the parameters of the setting in its last line."""
    assert main(["hash", "calibrate", "--target", target]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    name, _, value = captured.out.splitlines()[-1].partition("=")
    settings = load(IssuerSettings, environ=NEEDED | {name: value})
    assert (name, settings.hash_profile) == ("AUTHIX_HASH_PROFILE", value)
    return captured.out, hash_parameters(value)


def seconds_of(parameters: argon2.Parameters) -> float:
    hasher = argon2.PasswordHasher.from_parameters(parameters)
    began = time.perf_counter()
    hasher.hash(b"password")
    return time.perf_counter() - began


def test_every_profile_is_measured_and_a_strong_one_proposed_that_fits_the_target(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told, proposed = calibrated(capsys, "400ms")
    rows = {name: (int(memory), int(passes), int(lanes)) for name, memory, passes, lanes, *_ in ROW.findall(told)}
    assert rows == {name: (each.memory_cost, each.time_cost, each.parallelism) for name, each in PROFILES.items()}
    costs = {name: (float(wait), float(rate)) for name, *_, wait, rate in ROW.findall(told)}
    assert costs["cheapest"][1] > costs["original"][1] > costs["rfc9106-low-memory"][1] > 0
    fastest = min(seconds_of(proposed) for _ in range(2))
    assert 0.1 < fastest < 1.6, "the proposal is far from the target"


def test_nothing_weak_is_proposed_for_a_target_that_nothing_strong_meets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authix_issuer.calibrate.hash_secret_raw", lambda *_: time.sleep(0.02))
    told, proposed = calibrated(capsys, "10ms")
    assert "Nothing that is strong enough takes only 10 ms on this machine" in told
    assert is_enough(proposed)


@pytest.mark.parametrize("target", ["9ms", "5001ms", "6s", "250", "s", "-1s", "1e3ms", "٢ms", "nanms"])
def test_a_target_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], target: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["hash", "calibrate", f"--target={target}"])
    assert ended.value.code == 2
    assert "must be a time from 10ms to 5s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "build"),
    [
        ("660ff4c1", Build.SSE2),  # pmuludq xmm0, xmm1
        ("66450ff4c1", Build.SSE2),  # pmuludq xmm8, xmm9
        ("c5f1f4c2", Build.SSE2),  # vpmuludq xmm0, xmm1, xmm2
        ("c5f5f4c2", Build.AVX2),  # vpmuludq ymm0, ymm1, ymm2
        ("c44135f4c2", Build.AVX2),  # vpmuludq ymm8, ymm9, ymm10
        ("62f1f548f4c2", Build.AVX512),  # vpmuludq zmm0, zmm1, zmm2
        ("62a1f540f4c2", Build.AVX512),  # vpmuludq zmm16, zmm17, zmm18
        ("62f1f528f4c2", Build.UNKNOWN),  # vpmuludq ymm0, ymm1, ymm2, in AVX-512's spelling
        ("c5f5d4c2", Build.UNKNOWN),  # vpaddq ymm0, ymm1, ymm2
        ("f4f4f4f4", Build.UNKNOWN),
        ("", Build.UNKNOWN),
    ],
)
def test_a_build_is_told_by_its_multiplications(code: str, build: Build) -> None:
    assert build_of(bytes(64) + bytes.fromhex(code) + bytes(64)) is build


def test_a_few_bytes_that_look_like_another_build_do_not_matter() -> None:
    assert build_of(bytes.fromhex("660ff4c1") * 32 + bytes.fromhex("c5f5f4c2")) is Build.SSE2
    assert build_of(bytes.fromhex("660ff4c1") + bytes.fromhex("c5f5f4c2") * 32) is Build.AVX2


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="x86-64 has instructions to tell apart")
def test_the_installed_build_is_told() -> None:
    assert installed() is not Build.UNKNOWN


@pytest.mark.parametrize(
    ("build", "processor", "told", "advice"),
    [
        (
            Build.SSE2,
            Build.AVX512,
            "SSE2",
            "This processor has 512-bit instructions (AVX-512): a build for it",
        ),
        (
            Build.SSE2,
            Build.AVX2,
            "SSE2",
            "This processor has 256-bit instructions (AVX2): a build for it",
        ),
        (Build.SSE2, Build.UNKNOWN, "SSE2", "If this processor has AVX2"),
        (Build.SSE2, Build.SSE2, "SSE2", ""),
        (Build.AVX2, Build.AVX512, "AVX2", "a build for it hashes 1.3 times as fast"),
        (Build.AVX2, Build.AVX2, "AVX2", ""),
        (Build.AVX2, Build.UNKNOWN, "AVX2", ""),
        (Build.AVX512, Build.AVX512, "AVX-512", ""),
        (Build.UNKNOWN, Build.AVX512, "does not tell", ""),
    ],
)
def test_a_slow_build_is_told_with_the_way_to_a_fast_one_where_that_would_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    build: Build,
    processor: Build,
    told: str,
    advice: str,
) -> None:
    monkeypatch.setattr("authix_issuer.argon2_build.installed", lambda: build)
    monkeypatch.setattr("authix_issuer.argon2_build.fastest", lambda: processor)
    printed, _ = calibrated(capsys, "10ms")
    assert told in printed.splitlines()[0]
    assert advice in printed
    assert ('CFLAGS="-O3 -march=native" pip install ' in printed) is bool(advice)
