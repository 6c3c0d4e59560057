"""Walk the whole way over HTTP against a running Authix, and say of each step how long it took.

Rule: each step says what must come back; the first that differs ends the walk with exit code 1.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

import httpx

PASSWORD = "correct horse battery staple"
REFUSED_WITHIN = 5.0


class Walk:
    def __init__(self, issuer: str, sidecar: str, service: str) -> None:
        self.http = httpx.Client(trust_env=False, timeout=10)
        self.issuer, self.sidecar, self.service = issuer, sidecar, service
        self.hello, self.direct = f"{sidecar}/hello", f"{service}/direct"

    def run(self) -> None:
        email = f"demo-{secrets.token_hex(6)}@example.com"
        credentials = {"email": email, "password": PASSWORD}

        self.step("register", 201, "POST", f"{self.issuer}/register", json=credentials)
        self.step("register again", 409, "POST", f"{self.issuer}/register", json=credentials, code="email_taken")
        self.step("without a token, sidecar", 401, "GET", self.hello, code="token_missing")
        self.step("without a token, decorator", 401, "GET", self.direct, code="token_missing")
        token = self.tokens(self.step("log in", 200, "POST", f"{self.issuer}/login", json=credentials))
        self.step("call through the sidecar", 200, "GET", self.hello, token=token)
        self.step("call the decorated endpoint", 200, "GET", self.direct, token=token)
        refreshed = self.tokens(self.step("refresh", 200, "POST", f"{self.issuer}/access_token"))
        self.step("call with the new token", 200, "GET", self.hello, token=refreshed)

        copied = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        self.step("log out", 204, "POST", f"{self.issuer}/logout")
        self.refusals({"sidecar": self.hello, "decorator": self.direct}, token)
        for name, url in (("sidecar", self.hello), ("decorator", self.direct)):
            self.step(f"old token, {name}", 401, "GET", url, token=token, code="token_revoked")
            self.step(f"refreshed token, {name}", 401, "GET", url, token=refreshed, code="token_revoked")
        thief = {"Cookie": copied}
        self.step(
            "refresh by a copied cookie",
            401,
            "POST",
            f"{self.issuer}/access_token",
            headers=thief,
            code="refresh_token_invalid",
        )

        again = self.tokens(self.step("log in again at once", 200, "POST", f"{self.issuer}/login", json=credentials))
        self.step("call through the sidecar", 200, "GET", self.hello, token=again)
        self.step("call the decorated endpoint", 200, "GET", self.direct, token=again)
        self.step("log out again", 204, "POST", f"{self.issuer}/logout")

    def step(
        self,
        what: str,
        status: int,
        method: str,
        url: str,
        *,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        json: Mapping[str, str] | None = None,
        code: str = "",
    ) -> httpx.Response:
        sent = {"Authorization": f"Bearer {token}"} if token else dict(headers or {})
        began = time.perf_counter()
        answer = self.http.request(method, url, headers=sent, json=json)
        spent = (time.perf_counter() - began) * 1000
        got_code = answer.json().get("code", "") if "problem+json" in answer.headers.get("content-type", "") else ""
        ok = answer.status_code == status and got_code == code
        path = f"{method} {url}"
        print(f"{'ok  ' if ok else 'FAIL'} {what:30} {path:48} {answer.status_code} {got_code:22} {spent:8.1f} ms")
        if not ok:
            fail(f"{what}: expected {status} {code}, got {answer.status_code} {answer.text}")
        return answer

    def refusals(self, urls: Mapping[str, str], token: str) -> None:
        """How long after the logout's answer each verifier first refuses the token."""
        answered = time.perf_counter()
        waiting, headers = dict(urls), {"Authorization": f"Bearer {token}"}
        while waiting:
            for name, url in tuple(waiting.items()):
                asked = time.perf_counter()
                if self.http.get(url, headers=headers).status_code == httpx.codes.UNAUTHORIZED:
                    print(f"ok   {'first refusal, ' + name:30} {(asked - answered) * 1000:80.1f} ms after the logout")
                    del waiting[name]
                elif asked - answered > REFUSED_WITHIN:
                    fail(f"{name} still accepts the token {REFUSED_WITHIN:.0f} s after the logout")

    @staticmethod
    def tokens(answer: httpx.Response) -> str:
        token: str = answer.json()["access_token"]
        if answer.headers["authorization"] != f"Bearer {token}":
            fail("the Authorization header does not carry the access token")
        return token


def fail(reason: str) -> NoReturn:
    sys.exit(f"The walk differs from what it must be. {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The walk: register, log in, verify, log out, be refused.")
    parser.add_argument("--base-port", type=int, default=8000, help="as given to run.py")
    port = parser.parse_args().base_port
    began = time.perf_counter()
    try:
        Walk(*(f"http://127.0.0.1:{port + n}" for n in (0, 1, 3))).run()
    except httpx.TransportError as error:
        fail(f"{error} ({type(error).__name__}): is `make run` running?")
    print(f"All as it must be, in {time.perf_counter() - began:.2f} s.")


if __name__ == "__main__":
    main()
