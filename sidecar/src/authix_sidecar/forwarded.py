"""What a proxy before us says about the client: ``X-Forwarded-*`` and ``Forwarded`` (RFC 7239).

Rule: only a peer listed in ``AUTHIX_FORWARDED_PEERS`` is believed, and only what is well-formed. A list goes on with
the peer at its end, so the upstream always sees who added what; a list that is malformed begins anew with the peer.
``X-Forwarded-Proto`` and ``X-Forwarded-Host`` go on when there is exactly one value, else they tell of the connection.
``Forwarded`` goes on where the peer sent one. A ``Connection`` field takes none of this away: what it lists is meant
for us, and a client must not be able to take back what the peer adds.

The real client is the rightmost address of the chain that is not a listed peer's: what stands left of it, that client
could have written itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from authix_sidecar.fields import noted
from authix_sidecar.requests import RequestHead, is_host

IsListed = Callable[[bytes], bool]
"""Says whether the peer at an address is listed."""

_NAMES = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
_SCHEMES = frozenset({b"http", b"https"})
_NAMELESS = re.compile(rb"unknown|_[A-Za-z0-9._-]+", re.IGNORECASE)
_WITH_PORT = re.compile(rb"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rb'%b=(?:%b|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*")' % (_TOKEN, _TOKEN)
_ELEMENT = rb"%b(?:;%b)*" % (_PAIR, _PAIR)
_FORWARDED = re.compile(rb"%b(?:[ \t]*,[ \t]*%b)*" % (_ELEMENT, _ELEMENT))


def peers(networks: Iterable[str]) -> IsListed:
    """Says whether an address lies in one of ``networks``."""
    listed = [ipaddress.ip_network(network) for network in networks]

    @lru_cache(maxsize=1024)
    def is_listed(peer: bytes) -> bool:
        try:
            address = _ip(peer)
        except ValueError:
            return False
        return any(address in network for network in listed)

    return is_listed


def lines(request: RequestHead, *, peer: bytes, scheme: bytes, host: bytes) -> bytes:
    """The fields for the upstream of a ``request`` that came from a listed ``peer``."""
    said = noted(request.fields, _NAMES)
    chain = chain_of(said.get(b"x-forwarded-for", ()))
    proto = [value.lower() for value in said.get(b"x-forwarded-proto", ())]
    named = said.get(b"x-forwarded-host", [])
    written = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n" % (
        b", ".join((*chain, peer)),
        proto[0] if len(proto) == 1 and proto[0] in _SCHEMES else scheme,
        named[0] if len(named) == 1 and is_host(named[0]) else host,
    )
    if b"forwarded" in said:
        received = b", ".join(said[b"forwarded"])
        before = received + b", " if _FORWARDED.fullmatch(received) else b""
        by = b'"[%b]"' % peer if b":" in peer else peer
        written += b'Forwarded: %bfor=%b;proto=%b;host="%b"\r\n' % (before, by, scheme, host)
    return written


def chain_of(forwarded_for: Sequence[bytes]) -> list[bytes]:
    """The members of all these ``X-Forwarded-For`` values; none at all where one of them is malformed."""
    if not forwarded_for:
        return []
    chain = [member.strip(b" \t") for member in b",".join(forwarded_for).split(b",")]
    return chain if all(_NAMELESS.fullmatch(member) or _address(member) for member in chain) else []


def client_address(peer: bytes, forwarded_for: Sequence[bytes], is_listed: IsListed) -> bytes:
    """The address of the real client behind ``peer``, which sent these ``X-Forwarded-For`` values.

    Without port and in one spelling. Where the chain hides it (``unknown``) or ends, that of the last listed peer.
    """
    found = peer
    for member in reversed(chain_of(forwarded_for)):
        if not is_listed(found):
            break
        address = _address(member)
        if address is None:
            break
        found = address
    return found


@lru_cache(maxsize=1024)
def _address(member: bytes) -> bytes | None:
    """The address that ``member`` names, in one spelling and without its port; None where it names none."""
    match = _WITH_PORT.fullmatch(member)
    text, port = (match[1] or match[2], match[3]) if match else (member, None)
    try:
        return str(_ip(text)).encode("ascii") if port is None or int(port) <= 65535 else None
    except ValueError:
        return None


def _ip(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if b"%" in text:
        raise ValueError("a zone means something on its own machine only")
    address = ipaddress.ip_address(text.decode("ascii"))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
