"""What does verifying a token cost? Against PyJWT, joserfc, authlib and the bare signature check of cryptography.

Goals: cold (a token never seen before, all checks on) at least 1.25x PyJWT's rate and 70 % of that of the bare check;
cached at most 1.5 µs and at least 50x PyJWT, expiry and logouts checked again; 8 KiB of junk at most 1 ms. All take
turns, on the same tokens, in CPU time; only two threads' rates are by the clock.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import joserfc.jwk
import joserfc.jwt
import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from authix import Authix, AuthixError, Verifier
from authix.events import Heartbeat, UserRevoked
from authix.keys import ALGORITHMS, AlgorithmName, KeySet, PublicKey, VerificationKey
from authix.tokens import base64url_decode, base64url_encode
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.keys import SigningKeys
from benchmarks.report import machine

with warnings.catch_warnings(record=True):  # it points at joserfc, which is measured too
    from authlib.jose import JsonWebKey, JsonWebToken  # type: ignore[import-untyped]  # it ships no types

ISSUER, AUDIENCE = "https://auth.example.com", "orders"
OTHERS_LOGGED_OUT = 10_000
Task = Callable[[], None]
JUNK_JSON = {
    "objects without end": b'{"a":' * 1150,
    "700 members": b"{" + b",".join(b'"%d":0' % n for n in range(700)) + b"}",
    "long numbers": b'{"a": ' + b"9" * 4300 + b',"b":' + b"9" * 1400 + b"}",
    "escapes": b'{"a":"' + b"\\u0000" * 950 + b'"}',
}


def mint(algorithm: AlgorithmName, number: int) -> tuple[VerificationKey, list[str]]:
    """A key and fresh tokens, as the issuer makes them."""
    private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    if algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = rsa.generate_private_key(65537, 2048)
    key = VerificationKey(private.public_key())
    signing = SimpleNamespace(private_key=private, algorithm=algorithm, id=key.key_id)
    tokens = AccessTokens(
        cast("SigningKeys", SimpleNamespace(signing=signing)), issuer=ISSUER, audience=AUDIENCE, life=300
    )
    at_us = time.time_ns() // 1000
    return key, [
        tokens.issue(subject=f"{n:032x}", session=f"{n:022x}", roles=["reader"], at_us=at_us) for n in range(number)
    ]


def new_verifier(key: VerificationKey, **settings: Any) -> Verifier:
    """``stale_after``: no heartbeats come, and the check is the same."""
    algorithms = frozenset({key.algorithm})
    verifier = Verifier(issuer=ISSUER, audience=AUDIENCE, algorithms=algorithms, stale_after=3600, **settings)
    verifier.use_keys(KeySet([key]))
    for n in range(OTHERS_LOGGED_OUT):
        verifier.apply(UserRevoked(sub=f"other-{n}", since_us=1, until=2**40), monotonic=0)
    verifier.apply(Heartbeat(at_us=1, complete_until_us=1), monotonic=time.monotonic())
    return verifier


def by_authix(verifier: Verifier, tokens: Sequence[str]) -> Task:
    verify, wall, monotonic = verifier.verify, time.time, time.monotonic

    def work() -> None:
        for token in tokens:
            verify(token, now=wall(), monotonic=monotonic())

    return work


def by_pyjwt(key: VerificationKey, tokens: Sequence[str]) -> Task:
    algorithms = [key.algorithm]

    def work() -> None:
        for token in tokens:
            jwt.decode(token, key.public_key, algorithms=algorithms, audience=AUDIENCE, issuer=ISSUER)

    return work


def by_joserfc(key: VerificationKey, tokens: Sequence[str]) -> Task:
    keys = joserfc.jwk.KeySet.import_key_set({"keys": [cast("Any", key.jwk())]})
    rules = joserfc.jwt.JWTClaimsRegistry(iss={"essential": True, "value": ISSUER}, aud={"value": AUDIENCE})
    algorithms = [key.algorithm]

    def work() -> None:
        for token in tokens:
            rules.validate(joserfc.jwt.decode(token, keys, algorithms=algorithms).claims)

    return work


def by_authlib(key: VerificationKey, tokens: Sequence[str]) -> Task:
    decoder, keys = JsonWebToken([key.algorithm]), JsonWebKey.import_key_set({"keys": [key.jwk()]})
    options = {"iss": {"essential": True, "value": ISSUER}, "aud": {"value": AUDIENCE}}

    def work() -> None:
        for token in tokens:
            decoder.decode(token, keys, claims_options=options).validate()

    return work


def by_cryptography(key: VerificationKey, tokens: Sequence[str]) -> Task:
    """The signature alone: taken out of the token, and in the form that the library wants, beforehand."""
    verify: Any = key.public_key.verify
    checks = [_arguments(key.public_key, token) for token in tokens]

    def work() -> None:
        for check in checks:
            verify(*check)

    return work


def _arguments(key: PublicKey, token: str) -> tuple[Any, ...]:
    signed, _, tail = token.rpartition(".")
    signature = base64url_decode(tail)
    if isinstance(key, ec.EllipticCurvePublicKey):
        der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        return der, signed.encode(), ec.ECDSA(hashes.SHA256())
    if isinstance(key, rsa.RSAPublicKey):
        return signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256()
    return signature, signed.encode()


def in_turns(makers: dict[str, Callable[[], Task]], rounds: int, number: int) -> dict[str, float]:
    """Microseconds of CPU time for each token, the median of all rounds."""
    spent: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            work = make()
            began = time.thread_time_ns()
            work()
            spent[name].append((time.thread_time_ns() - began) / 1000 / number)
    return {name: statistics.median(times) for name, times in spent.items()}


def goal(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> str:
    met = value >= at_least if at_least is not None else value <= (at_most or 0)
    bound = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    return f"{what} {value:.2f} (goal {bound}: {'met' if met else 'MISSED'})"


def cold(algorithm: AlgorithmName, number: int, rounds: int) -> float:
    """Prints a line and gives PyJWT's microseconds."""
    key, tokens = mint(algorithm, number)
    empty = new_verifier(key)

    def anew() -> Task:
        empty.leeway = empty.leeway  # setting a setting forgets every token
        return by_authix(empty, tokens)

    makers: dict[str, Callable[[], Task]] = {
        "cryptography": partial(by_cryptography, key, tokens),
        "authix": anew,
        "PyJWT": partial(by_pyjwt, key, tokens),
        "joserfc": partial(by_joserfc, key, tokens),
        "authlib": partial(by_authlib, key, tokens),
    }
    found = in_turns(makers, rounds, number)
    print(f"  cold {algorithm}   " + "   ".join(f"{name} {micros:6.1f} µs" for name, micros in found.items()))
    print("    " + goal("times PyJWT's rate:", found["PyJWT"] / found["authix"], at_least=1.25))
    print("    " + goal("share of the bare check's rate:", found["cryptography"] / found["authix"], at_least=0.7))
    return found["PyJWT"]


def cached(number: int, rounds: int, pyjwt: float) -> None:
    key, tokens = mint("ES256", number)
    auth = Authix(issuer=ISSUER, audience=AUDIENCE)
    auth.verifier = new_verifier(key)

    def by_service() -> None:
        verify = auth.verify
        for token in tokens:
            verify(token)

    judge = by_authix(auth.verifier, tokens)
    judge()
    found = in_turns({"Verifier.verify": lambda: judge, "Authix.verify": lambda: by_service}, rounds * 10, number)
    for what, micros in found.items():
        print(f"  cached ES256 by {what}, both clocks read for each   {micros:.2f} µs   PyJWT, as above {pyjwt:.1f} µs")
        print("    " + goal("µs:", micros, at_most=1.5))
        print("    " + goal("times PyJWT's rate:", pyjwt / micros, at_least=50))


def junk(rounds: int) -> None:
    key, (good,) = mint("ES256", 1)
    verifier = new_verifier(key)
    header = good.partition(".")[0]
    texts = {"letters": "A" * 8192, "dots": "." * 8192, "half pairs": "\ud800" * 8192}
    texts |= {what: f"{header}.{base64url_encode(data)}.AA" for what, data in JUNK_JSON.items()}

    def refuse(text: str) -> Task:
        def work() -> None:
            try:
                verifier.verify(text, now=time.time(), monotonic=time.monotonic())
            except AuthixError:
                return
            raise AssertionError("junk was accepted")

        return work

    found = in_turns({what: partial(refuse, text) for what, text in texts.items()}, rounds * 10, 1)
    print("  junk of 8 KiB   " + "   ".join(f"{what} {micros:.0f} µs" for what, micros in found.items()))
    print("    " + goal("ms at most:", max(found.values()) / 1000, at_most=1))


def threads(number: int, rounds: int) -> None:
    """Rates by the clock: on CPython with its lock the threads share one core but for the signature."""
    key, tokens = mint("ES256", number)
    for what, cache, repeat in (("cold", 0, 1), ("cached", 8192, 50)):
        work = by_authix(new_verifier(key, cache_entries=cache), list(tokens) * repeat)
        work()
        rates = {}
        for count in (1, 2):
            times = []
            for _ in range(rounds):
                runners = [threading.Thread(target=work) for _ in range(count)]
                began = time.perf_counter()
                for runner in runners:
                    runner.start()
                for runner in runners:
                    runner.join()
                times.append(time.perf_counter() - began)
            rates[count] = count * number * repeat / statistics.median(times)
        print(f"  {what} ES256 on threads   1: {rates[1]:,.0f}/s   2: {rates[2]:,.0f}/s ({rates[2] / rates[1]:.2f}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "EdDSA is deprecated via RFC 9864")  # joserfc would have it named Ed25519
    print(f"verify: {machine()}; medians of {options.rounds} rounds of {options.tokens} tokens")
    pyjwt = {algorithm: cold(algorithm, options.tokens, options.rounds) for algorithm in ALGORITHMS}
    cached(options.tokens, options.rounds, pyjwt["ES256"])
    junk(options.rounds)
    threads(options.tokens, options.rounds)


if __name__ == "__main__":
    main()
