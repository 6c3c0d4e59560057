"""What proxies before the sidecar say about the client: believed from those that are listed, and from nobody else."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix_sidecar.forwarded import chain_of, client_address, peers
from authix_sidecar.requests import read_request
from authix_sidecar.rewrite import request_head

if TYPE_CHECKING:
    from tests.sidecar.conftest import Fleet

PEER = b"10.0.0.9"
LISTED = peers(["10.0.0.0/24", "2001:db8::/64"])
FOR, PROTO, HOST = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"


def seen(*lines: str, peer: bytes = PEER, by: Callable[[bytes], bool] | None = LISTED) -> dict[str, list[str]]:
    """What the upstream sees of a request with these fields."""
    head = "\r\n".join(["GET / HTTP/1.1", "Host: orders.example", *lines, "", ""]).encode("latin-1")
    sent = request_head(read_request(head), None, peer=peer, scheme=b"http", upstream=b"u", is_listed=by)
    values: dict[str, list[str]] = {}
    for line in sent.decode("latin-1").split("\r\n")[1:-2]:
        name, _, value = line.partition(": ")
        values.setdefault(name.lower(), []).append(value)
    return values


@pytest.mark.parametrize(
    ("lines", "chain"),
    [
        ((), "10.0.0.9"),
        (("X-Forwarded-For: 203.0.113.7",), "203.0.113.7, 10.0.0.9"),
        (("X-Forwarded-For: 203.0.113.7", "x-forwarded-for: 10.0.0.3:81"), "203.0.113.7, 10.0.0.3:81, 10.0.0.9"),
        (("X-Forwarded-For: unknown,_hidden, [2001:db8::1]:4",), "unknown, _hidden, [2001:db8::1]:4, 10.0.0.9"),
        (("X-Forwarded-For: 203.0.113.7,",), "10.0.0.9"),
        (("X-Forwarded-For: 203.0.113.7; drop",), "10.0.0.9"),
        (("X-Forwarded-For: 203.0.113.700",), "10.0.0.9"),
        (("X-Forwarded-For: 203.0.113.7:99999",), "10.0.0.9"),
        (("X_Forwarded_For: 203.0.113.7",), "10.0.0.9"),
        (("Connection: x-forwarded-for", "X-Forwarded-For: 203.0.113.7"), "203.0.113.7, 10.0.0.9"),
    ],
)
def test_a_listed_proxys_chain_goes_on_with_that_proxy_at_its_end(lines: tuple[str, ...], chain: str) -> None:
    assert seen(*lines)[FOR] == [chain]


@pytest.mark.parametrize(
    ("lines", "proto", "host"),
    [
        (("X-Forwarded-Proto: HTTPS", "X-Forwarded-Host: shop.example:8443"), "https", "shop.example:8443"),
        (("X-Forwarded-Proto: https", "X-Forwarded-Proto: https"), "http", "orders.example"),
        (("X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b"), "http", "orders.example"),
        (("X-Forwarded-Host: a.example, b.example",), "http", "orders.example"),
        ((), "http", "orders.example"),
    ],
)
def test_a_listed_proxys_one_scheme_and_host_go_on(lines: tuple[str, ...], proto: str, host: str) -> None:
    fields = seen(*lines)
    assert (fields[PROTO], fields[HOST]) == ([proto], [host])


@pytest.mark.parametrize(
    ("sent", "before"),
    [
        ('for=203.0.113.7;proto=https, for="[2001:db8::1]"', 'for=203.0.113.7;proto=https, for="[2001:db8::1]", '),
        ("for=203.0.113.7; drop", ""),
        ('for="203.0.113.7', ""),
    ],
)
def test_a_listed_proxys_forwarded_goes_on_with_our_element(sent: str, before: str) -> None:
    assert seen(f"Forwarded: {sent}")["forwarded"] == [f'{before}for=10.0.0.9;proto=http;host="orders.example"']


def test_an_ipv6_proxy_is_named_in_quotes() -> None:
    fields = seen("Forwarded: for=_x", peer=b"2001:db8::5")
    assert fields["forwarded"] == ['for=_x, for="[2001:db8::5]";proto=http;host="orders.example"']


@pytest.mark.parametrize("by", [None, LISTED])
def test_nobody_else_is_believed(by: Callable[[bytes], bool] | None) -> None:
    lines = ("X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "Forwarded: for=1.2.3.4")
    fields = seen(*lines, peer=b"192.0.2.1", by=by)
    assert (fields[FOR], fields[PROTO], fields[HOST]) == (["192.0.2.1"], ["http"], ["orders.example"])
    assert "forwarded" not in fields


@pytest.mark.parametrize("name", ["X-Forwarded-Port", "X-Forwarded-Prefix", "X-Real-IP", "X-Original-URI"])
def test_other_words_of_a_proxy_are_taken_from_nobody(name: str) -> None:
    assert name.lower() not in seen(f"{name}: 1")


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


def test_a_running_sidecar_believes_whom_it_is_told_to(start_fleet: Callable[..., Fleet], fleet: Fleet) -> None:
    sent = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https")
    for which, expected in (
        (start_fleet(AUTHIX_FORWARDED_PEERS="127.0.0.0/8"), ("203.0.113.7, 127.0.0.1", "https")),
        (fleet, ("127.0.0.1", "http")),
    ):
        assert which.call(which.get("/", *sent)).status == 200
        (request,) = which.upstream.requests
        assert (request.values(FOR), request.values(PROTO)) == ([expected[0]], [expected[1]])
