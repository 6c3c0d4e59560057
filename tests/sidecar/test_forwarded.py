"""What proxies before the sidecar say about the client: believed from those that are listed, and from nobody else."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix_sidecar.forwarded import chain_of, client_address, peers
from authix_sidecar.requests import read_request
from authix_sidecar.rewrite import request_head
from tests.programs import SidecarProgram

if TYPE_CHECKING:
    from tests.sidecar.conftest import Fleet, Fleets

LISTED = peers(["10.0.0.0/24", "2001:db8::/64"])
FOR, PROTO, HOST = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"
PEER = "127.0.0.1"
OWN = {FOR: [PEER], PROTO: ["http"], HOST: ["orders.example"], "forwarded": []}
"""What the upstream sees where nobody is believed, or there is nothing to believe."""
ELEMENT = f'for={PEER};proto=http;host="orders.example"'


@pytest.fixture(scope="module")
def fronts(_fleets: Fleets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Fleet]]:
    """Behind a sidecar that lists this host, and one that lists others; started once for all tests here."""
    patient, folder = _fleets.patient, tmp_path_factory.mktemp("fronts")
    sidecars = [
        SidecarProgram(folder, patient.issuer.url, patient.upstream.url, AUTHIX_FORWARDED_PEERS=listed)
        for listed in ("::1/128, 127.0.0.0/8", "10.0.0.0/8")
    ]
    try:
        for sidecar in sidecars:
            sidecar.start()
        listed, unlisted = (
            dataclasses.replace(patient, sidecar=sidecar.ready(), wires=[], users=[]) for sidecar in sidecars
        )
        yield listed, unlisted
    finally:
        for sidecar in sidecars:
            sidecar.stop()


def seen(fleet: Fleet, lines: tuple[str, ...], *names: str) -> dict[str, list[str]]:
    """What the upstream sees of a request with these fields, by name."""
    fleet.upstream.forget()
    assert fleet.call(fleet.get("/", *lines)).status == 200
    fleet.hang_up()
    (request,) = fleet.upstream.requests
    return {name: request.values(name) for name in names or OWN}


CASES: list[tuple[tuple[str, ...], dict[str, str]]] = [
    ((), {}),
    (("X-Forwarded-For: 203.0.113.7",), {FOR: f"203.0.113.7, {PEER}"}),
    (
        ("X-Forwarded-For: 203.0.113.7", "x-forwarded-for: 10.0.0.3:81"),
        {FOR: f"203.0.113.7, 10.0.0.3:81, {PEER}"},
    ),
    (("X-Forwarded-For: unknown,_hidden, [2001:db8::1]:4",), {FOR: f"unknown, _hidden, [2001:db8::1]:4, {PEER}"}),
    (("X-Forwarded-For: 203.0.113.7,",), {}),
    (("X-Forwarded-For: 203.0.113.7; drop",), {}),
    (("X-Forwarded-For: 203.0.113.700",), {}),
    (("X-Forwarded-For: 203.0.113.7:99999",), {}),
    (("X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: <script>"), {}),
    (("X-Forwarded-For:",), {}),
    (("X_Forwarded_For: 203.0.113.7",), {}),
    (("Connection: x-forwarded-for", "X-Forwarded-For: 203.0.113.7"), {FOR: f"203.0.113.7, {PEER}"}),
    (
        ("X-Forwarded-Proto: HTTPS", "X-Forwarded-Host: shop.example:8443"),
        {PROTO: "https", HOST: "shop.example:8443"},
    ),
    (("X-Forwarded-Proto: https", "X-Forwarded-Proto: https"), {}),
    (("X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b"), {}),
    (("X-Forwarded-Proto: https, http",), {}),
    (("X_Forwarded_Proto: https", "X.Forwarded.Host: evil.example"), {}),
    (("X-Forwarded-Host: a.example, b.example",), {}),
    (("X-Forwarded-Host: a.example", "X-Forwarded-Host: a.example"), {}),
    (
        ('Forwarded: for=203.0.113.7;proto=https, for="[2001:db8::1]"',),
        {"forwarded": f'for=203.0.113.7;proto=https, for="[2001:db8::1]", {ELEMENT}'},
    ),
    (("Forwarded: for=203.0.113.7", "Forwarded: for=_b"), {"forwarded": f"for=203.0.113.7, for=_b, {ELEMENT}"}),
    (("Forwarded: for=203.0.113.7; drop",), {"forwarded": ELEMENT}),
    (('Forwarded: for="203.0.113.7',), {"forwarded": ELEMENT}),
]


@pytest.mark.parametrize(("lines", "changed"), CASES, ids=[" | ".join(lines) for lines, _ in CASES])
def test_what_proxies_say_is_believed_from_those_that_are_listed_and_from_nobody_else(
    fronts: tuple[Fleet, Fleet], fleet: Fleet, lines: tuple[str, ...], changed: dict[str, str]
) -> None:
    listed, unlisted = fronts
    assert seen(listed, lines) == OWN | {name: [value] for name, value in changed.items()}
    assert seen(unlisted, lines) == OWN
    assert seen(fleet, lines) == OWN


def test_other_words_of_a_proxy_are_taken_from_nobody(fronts: tuple[Fleet, Fleet]) -> None:
    names = ("X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Real-IP", "X-Original-URI")
    for front in fronts:
        found = seen(front, tuple(f"{name}: 1" for name in names), *names)
        assert not any(found.values())


def test_an_ipv6_proxy_is_named_in_quotes() -> None:
    request = read_request(b"GET / HTTP/1.1\r\nHost: orders.example\r\nForwarded: for=_x\r\n\r\n")
    sent = request_head(request, None, peer=b"2001:db8::5", scheme=b"http", upstream=b"u", is_listed=LISTED)
    assert b'\r\nForwarded: for=_x, for="[2001:db8::5]";proto=http;host="orders.example"\r\n' in sent


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("192.0.2.1", ["1.2.3.4"], "192.0.2.1"),
        ("10.0.0.9", [], "10.0.0.9"),
        ("10.0.0.9", ["1.2.3.4, 203.0.113.7, 10.0.0.3:80"], "203.0.113.7"),
        ("10.0.0.9", ["1.2.3.4, unknown"], "10.0.0.9"),
        ("10.0.0.9", ["1.2.3.4", "nonsense!"], "10.0.0.9"),
        ("10.0.0.9", ["[2001:DB8:0:1::1]:9"], "2001:db8:0:1::1"),
        ("::ffff:10.0.0.9", ["203.0.113.7"], "203.0.113.7"),
    ],
)
def test_the_client_is_the_rightmost_that_is_not_listed(peer: str, chain: list[str], client: str) -> None:
    assert client_address(peer.encode(), [part.encode() for part in chain], LISTED) == client.encode()


@given(st.lists(st.text("0123456789abf.:[]_, \t%-un", max_size=40).map(str.encode), max_size=3))
def test_whatever_is_sent_only_well_formed_members_go_on(values: list[bytes]) -> None:
    for member in chain_of(values):
        text = member.decode()
        if text.lower() != "unknown" and not text.startswith("_"):
            bare = text[1:].partition("]")[0] if text.startswith("[") else text
            ipaddress.ip_address(bare if bare.count(":") > 1 else bare.partition(":")[0])


@given(st.sampled_from([b"10.0.0.9", b"192.0.2.1", b"2001:db8::5"]), st.lists(st.binary(max_size=40), max_size=3))
def test_whatever_is_sent_the_client_is_an_address(peer: bytes, values: list[bytes]) -> None:
    ipaddress.ip_address(client_address(peer, values, LISTED).decode())
