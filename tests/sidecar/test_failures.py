"""What one address may have computed in wrong signatures, and that nobody else pays for it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authix.tokens import base64url_decode, base64url_encode
from authix_sidecar.failures import ADDRESSES, Failures, block_of
from tests.programs import eventually

if TYPE_CHECKING:
    from tests.sidecar.conftest import Answer, Fleet

SECOND = 1_000_000_000


class Clock:
    """Stands still until it is set."""

    now = 5 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestCount:
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
    def test_an_address_may_fail_so_often_at_once_and_no_more(self, clock: Clock, limit: int) -> None:
        failures = Failures(limit, clock=clock)
        for _ in range(limit):
            assert not failures.any_over
            assert not failures.over(b"192.0.2.1")
            failures.add(b"192.0.2.1")
        assert failures.any_over
        assert failures.over(b"192.0.2.1")
        failures.add(b"192.0.2.2")
        assert failures.any_over
        assert failures.over(b"192.0.2.2") is (limit == 1)

    def test_a_second_brings_as_many_again_and_never_more(self, clock: Clock) -> None:
        failures = Failures(4, clock=clock)
        for seconds, allowed in ((0, 4), (0.25, 1), (0.5, 2), (1, 4), (3600, 4)):
            clock.now += int(seconds * SECOND)
            count = 0
            while not failures.over(b"192.0.2.1"):
                failures.add(b"192.0.2.1")
                count += 1
            assert count == allowed

    def test_when_the_last_one_over_may_fail_again_none_is_asked_for(self, clock: Clock) -> None:
        failures = Failures(2, clock=clock)
        for _ in range(2):
            failures.add(b"192.0.2.1")
        clock.now += SECOND // 2 - 1
        assert failures.any_over
        clock.now += 1
        assert not failures.any_over

    def test_of_many_addresses_the_last_to_fail_are_known(self, clock: Clock) -> None:
        failures = Failures(1, clock=clock)
        addresses = [b"10.0.%d.%d" % divmod(n, 256) for n in range(ADDRESSES + 1)]
        for address in addresses[:-1]:
            failures.add(address)
        failures.add(addresses[0])
        failures.add(addresses[-1])
        assert [failures.over(address) for address in (*addresses[:3], addresses[-1])] == [True, False, True, True]

    @pytest.mark.parametrize(
        ("one", "other"), [(b"2001:db8:0:1::1", b"2001:db8:0:1:ffff::9"), (b"::ffff:192.0.2.1", b"192.0.2.1")]
    )
    def test_an_ipv6_network_of_64_bits_and_an_ipv4_address_in_any_form_count_as_one(
        self, one: bytes, other: bytes
    ) -> None:
        assert block_of(one) == block_of(other)

    def test_all_else_are_others(self) -> None:
        addresses = [b"192.0.2.1", b"192.0.2.2", b"2001:db8:0:1::1", b"2001:db8:0:2::1", b"unknown"]
        addresses += [b"10.0.0.1", b"3130:2e30:2e30:2e31::1"]  # the text of one is the other's first 64 bits
        assert len(set(map(block_of, addresses))) == len(addresses)


def forged(token: str) -> str:
    """Another signature each time."""
    return f"{token.rpartition('.')[0]}.{base64url_encode(secrets.token_bytes(64))}"


def of_an_unknown_key(token: str) -> str:
    header, _, rest = token.partition(".")
    changed = json.loads(base64url_decode(header)) | {"kid": secrets.token_hex(8)}
    return f"{base64url_encode(json.dumps(changed).encode())}.{rest}"


A, B = "203.0.113.7", "203.0.113.8"
Asked = tuple[str, str]
"""An address and the token that it brings; empty: none."""


class Clients:
    """Clients of a sidecar, each of which says where it is."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.known = fleet.token

    def new_token(self) -> str:
        _, _, token = self.fleet.new_user()
        return token

    def ask(self, *asked: Asked, target: str = "/", port: int = 0) -> list[Answer]:
        """The answers to these requests, which go in one packet."""
        wire = self.fleet.dial(port)
        wire.send(b"".join(self._request(address, token, target) for address, token in asked))
        return [wire.answer() for _ in asked]

    def codes(self, *asked: Asked, target: str = "/", port: int = 0) -> list[str]:
        answers = self.ask(*asked, target=target, port=port)
        return ["passed" if answer.status == 200 else answer.code for answer in answers]

    def soon(self, *asked: tuple[Asked, str]) -> None:
        """Each has this code, on a machine quick enough for all of it to be within one moment.

        The first token is spoilt, in another way at each try.
        """
        expected = [code for _, code in asked]
        (address, token), *others = (request for request, _ in asked)
        last: list[str] = []

        def come() -> bool:
            last[:] = self.codes((address, forged(token)), *others)
            return last == expected

        eventually(come, lambda: f"{expected}, not {last}")

    def _request(self, address: str, token: str, target: str) -> bytes:
        lines = [f"GET {target} HTTP/1.1", "Host: orders.example", f"X-Forwarded-For: {address}"]
        lines += ["X-Original-Method: GET", "X-Original-URI: /"]
        lines += [f"Authorization: Bearer {token}"] if token else []
        return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture
def clients(start_fleet: Callable[..., Fleet], tmp_path: Path) -> Clients:
    """Of a sidecar that stands behind a balancer and allows one failure a second."""
    policy = tmp_path / "authix.toml"
    policy.write_text('[[route]]\npath = "/public"\npublic = true\n', encoding="utf-8")
    limits = {"AUTHIX_FAILURES_PER_SECOND": "1", "AUTHIX_FORWARDED_PEERS": "127.0.0.0/8"}
    return Clients(start_fleet(**limits, AUTHIX_POLICY=str(policy)))


class TestLimit:
    def test_it_refuses_one_address_what_would_be_computed_and_nothing_else(self, clients: Clients) -> None:
        fleet, known, new, bad = clients.fleet, clients.known, clients.new_token(), forged(clients.known)
        assert clients.codes((A, known), (B, known)) == ["passed", "passed"]

        # what is not computed, or was not wrong, is not counted
        assert clients.codes((B, bad), (A, bad), (A, bad)) == ["signature_invalid"] * 3
        uncounted = [(A, ""), (A, "junk"), (A, of_an_unknown_key(known)), (A, clients.new_token())]
        assert clients.codes(*uncounted) == ["token_missing", "token_malformed", "key_unknown", "passed"]

        over = "too_many_failures"
        clients.soon(
            ((A, known), "signature_invalid"),
            ((A, forged(known)), over),
            ((A, new), over),
            ((A, of_an_unknown_key(known)), over),
            ((A, bad), over),
            ((A, ""), "token_missing"),
            ((A, known), "passed"),
            ((B, known), "passed"),
        )
        told = fleet.call(fleet.get("/metrics"), fleet.sidecar.auth_port).body.decode()
        assert f'authix_sidecar_decisions_total{{code="{over}"}}' in told
        eventually(lambda: clients.codes((A, new)) == ["passed"], "the address may come with a new token again")

    def test_public_paths_and_new_tokens_of_others_go_on(self, clients: Clients) -> None:
        def refused() -> Answer:
            asked = [(A, forged(clients.known)) for _ in range(9)]
            return next(answer for answer in clients.ask(*asked) if answer.status != 401)

        answer = refused()
        assert (answer.status, answer.code) == (429, "too_many_failures")
        said = [answer.values(name) for name in ("Retry-After", "Content-Type", "WWW-Authenticate")]
        assert said == [["1"], ["application/problem+json"], []]
        assert clients.codes((B, clients.new_token())) == ["passed"]
        refused()
        assert clients.codes((A, ""), (A, forged(clients.known)), target="/public") == ["passed", "passed"]

    def test_verify_has_none_since_all_that_asks_there_is_one_proxy(self, clients: Clients) -> None:
        asked = [(A, forged(clients.known)) for _ in range(9)]
        port = clients.fleet.sidecar.auth_port
        assert clients.codes(*asked, target="/verify", port=port) == ["signature_invalid"] * 9

    def test_whoever_is_not_listed_is_one_client_whatever_address_it_says(
        self, start_fleet: Callable[..., Fleet]
    ) -> None:
        clients = Clients(start_fleet(AUTHIX_FAILURES_PER_SECOND="1"))
        clients.soon(((A, clients.known), "signature_invalid"), ((B, forged(clients.known)), "too_many_failures"))

    def test_none_is_0(self, start_fleet: Callable[..., Fleet]) -> None:
        clients = Clients(start_fleet(AUTHIX_FAILURES_PER_SECOND="0"))
        assert clients.codes(*[(A, forged(clients.known)) for _ in range(9)]) == ["signature_invalid"] * 9
