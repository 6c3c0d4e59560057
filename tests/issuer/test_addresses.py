"""The client's address: whom the issuer believes about it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix_issuer.addresses import FORWARDED, UNKNOWN, X_FORWARDED_FOR, ClientAddresses, Kept, kept, network_of

PROXIES = ("10.0.0.0/8", "192.0.2.7/32", "2001:db8:1::/48")
NEAR, OTHER, STRANGER = "10.1.2.3", "192.0.2.7", "203.0.113.9"


@pytest.fixture
def behind() -> ClientAddresses:
    return ClientAddresses(PROXIES, X_FORWARDED_FOR)


def test_by_default_nobody_is_believed() -> None:
    alone = ClientAddresses((), X_FORWARDED_FOR)
    assert alone.find("127.0.0.1", ["203.0.113.9"]) == "127.0.0.1"


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        (STRANGER, ["198.51.100.1"], STRANGER),
        (NEAR, [], NEAR),
        (NEAR, ["198.51.100.1"], "198.51.100.1"),
        (NEAR, ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        (NEAR, ["6.6.6.6, 198.51.100.1, 192.0.2.7"], "198.51.100.1"),
        (NEAR, ["6.6.6.6", "198.51.100.1", OTHER], "198.51.100.1"),
        (NEAR, ["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        (NEAR, ["198.51.100.1:4711"], "198.51.100.1"),
        (NEAR, ["[2001:DB8::1]:4711"], "2001:db8::1"),
        (NEAR, ["2001:db8:0::1"], "2001:db8::1"),
        (NEAR, ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:1::5", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:2::5", ["198.51.100.1"], "2001:db8:2::5"),
    ],
)
def test_each_listed_hop_vouches_for_the_entry_before_it(
    behind: ClientAddresses, peer: str, said: list[str], client: str
) -> None:
    assert behind.find(peer, said) == client


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "unknown",
        "_hidden",
        "nonsense",
        "1.2.3",
        "1.2.3.4:",
        "1.2.3.4:x",
        "fe80::1%eth0",
        "[::1",
        "010.1.1.1",
        "é",
        "\udcff",
        "1" * 100_000,
    ],
)
def test_what_is_no_address_leaves_the_last_hop_that_could_be_trusted(behind: ClientAddresses, entry: str) -> None:
    assert behind.find(NEAR, [f"6.6.6.6, {entry}"]) == NEAR
    assert behind.find(NEAR, [f"6.6.6.6, {entry}, {OTHER}"]) == OTHER


@pytest.mark.parametrize(
    ("said", "client"),
    [
        (["for=198.51.100.1"], "198.51.100.1"),
        (["for=6.6.6.6, for=198.51.100.1;proto=https;by=10.0.0.1"], "198.51.100.1"),
        (["for=6.6.6.6", 'proto=https; For="198.51.100.1:80"'], "198.51.100.1"),
        (['for="[2001:db8::1]:4711", for=192.0.2.7'], "2001:db8::1"),
        (["for=198.51.100.1;for=6.6.6.6"], NEAR),
        (["for=6.6.6.6, proto=https"], NEAR),
        (["for=unknown"], NEAR),
        (["for=_x"], NEAR),
        (['for="6.6.6.6, for=198.51.100.1'], "198.51.100.1"),
        (['x="6.6.6.6, for=198.51.100.1"'], NEAR),
        (["198.51.100.1"], NEAR),
    ],
)
def test_the_standard_field_is_walked_in_the_same_way(said: list[str], client: str) -> None:
    assert ClientAddresses(PROXIES, FORWARDED).find(NEAR, said) == client


def test_a_peer_without_an_address_is_unknown(behind: ClientAddresses) -> None:
    assert behind.find("", ["198.51.100.1"]) == UNKNOWN


addresses = st.one_of(st.ip_addresses().map(str), st.sampled_from([NEAR, OTHER, "2001:db8:1::9"]))
entries = st.one_of(addresses, st.text(max_size=20), st.from_regex(r'for="?[0-9a-f.:\[\]]+"?', fullmatch=True))
lines = st.lists(st.lists(entries, max_size=4).map(", ".join), max_size=3)


@given(peer=st.one_of(addresses, st.text(max_size=10)), said=lines, field=st.sampled_from([FORWARDED, X_FORWARDED_FOR]))
def test_an_unlisted_peer_is_never_believed_and_nothing_is_ever_raised(peer: str, said: list[str], field: str) -> None:
    found = ClientAddresses(PROXIES, field).find(peer, said)
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return
    assert ipaddress.ip_address(found).version in {4, 6}
    if not any(address in ipaddress.ip_network(network) for network in PROXIES) and "ffff" not in peer:
        assert ipaddress.ip_address(found) == address


@given(written=lines, client=st.ip_addresses(), hops=st.lists(st.sampled_from([NEAR, OTHER]), max_size=2))
def test_whatever_a_client_writes_itself_changes_nothing(
    written: list[str], client: ipaddress.IPv4Address | ipaddress.IPv6Address, hops: list[str]
) -> None:
    behind = ClientAddresses(PROXIES, X_FORWARDED_FOR)
    added = ", ".join([str(client), *hops])
    if any(client in ipaddress.ip_network(network) for network in PROXIES):
        return
    assert behind.find(NEAR, [*written, added]) == behind.find(NEAR, [added])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        (UNKNOWN, "192.0.2.1", False),
    ],
)
def test_an_ipv6_client_is_all_of_its_network(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a parameter
    assert (network_of(one) == network_of(other)) is same


@pytest.mark.parametrize(
    ("address", "how", "shown"),
    [
        ("203.0.113.9", Kept.FULL, "203.0.113.9"),
        ("203.0.113.9", Kept.NETWORK, "203.0.113.0/24"),
        ("203.0.113.9", Kept.NONE, ""),
        ("2001:db8:1:2::7", Kept.FULL, "2001:db8:1:2::7"),
        ("2001:db8:1:2::7", Kept.NETWORK, "2001:db8:1::/48"),
        (UNKNOWN, Kept.FULL, ""),
        ("<script>", Kept.NETWORK, ""),
    ],
)
def test_a_session_keeps_as_much_of_an_address_as_it_may(address: str, how: Kept, shown: str) -> None:
    assert kept(address, how) == shown
