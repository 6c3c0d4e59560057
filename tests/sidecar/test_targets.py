"""Paths: one spelling each."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix_sidecar.errors import PathNotCanonical, TargetRefused
from authix_sidecar.targets import path_of

GOOD = (
    *("/", "/a", "/a/", "/a/b/c", "/a.b", "/a..b", "/...", "/.well-known/x", "/..a", "/a.", "/~user/_x-y", "/a+b=c,d"),
    *("/a:b@c!$&'()*", "/caf%C3%A9", "/caf%c3%a9", "/a%20b", "/50%25", "/a%2Bb", "/a%3Fb", "/a%23b", "/%E2%82%AC"),
    *("/a?x=1", "/a?", "/a?//..//%2e%zz;\\|^", "/?a=/../b", "/a?b?c", "/a%5Bb%5D"),
)
BAD = (
    *("/.", "/..", "/./a", "/../a", "/a/.", "/a/..", "/a/./b", "/a/../b", "//", "//a", "/a//", "/a//b", "///"),
    *("/%2e", "/%2E%2e/a", "/a/%2e%2e", "/.%2e/a", "/%2e./a", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a\\b", "/\\a"),
    *("/a%00", "/%00", "/a%0ab", "/a%0d%0ab", "/a%09b", "/a%1f", "/a%7f", "/a;b", "/a;/b", "/..;/a", "/a%3bb", "/;"),
    *(
        "/%61",
        "/%41b",
        "/%7e",
        "/%5f",
        "/%2d",
        "/%30",
        "/%",
        "/%a",
        "/a%",
        "/%zz",
        "/%g1",
        "/% 1",
        "/%u002e",
        "/%%32%65",
    ),
    *(
        "/%252e",
        "/%252f",
        "/a%25%32%66",
        "/%2525",
        "/a|b",
        "/a^b",
        "/a`b",
        "/a{b}",
        "/a[b]",
        '/a"b',
        "/a<b>",
        "/a%c0%ae",
    ),
    *("/%c0%af", "/%e0%80%ae", "/%ff", "/%c3", "/%ed%a0%80", "/%f5%80%80%80", "/a#", "/a?b#c", "/\x7f", "/a b"),
    *("", "a", "*", "?a", "http://a/", "a:80", ".", "../a", "\\a"),
)


@pytest.mark.parametrize("target", GOOD)
def test_a_canonical_target_gives_its_raw_path(target: str) -> None:
    assert path_of(target.encode()) == target.encode().partition(b"?")[0]


@pytest.mark.parametrize("target", BAD)
def test_another_spelling_is_refused(target: str) -> None:
    with pytest.raises((PathNotCanonical, TargetRefused)):
        path_of(target.encode("latin-1"))


PIECES = st.sampled_from(
    [
        *("/", ".", "..", "a", "admin", "%2e", "%2E", "%2f", "%5c", "%25", "%252e", "%00", ";", "\\", "%61", "%c3%a9"),
        *("%c0", "%ae", "~", "%7e", "+", "%20", "%", "?", "#", "//", "%3b", "%u002f", "é", "\x85"),
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_what_is_accepted_means_the_same_to_every_reader(rest: str) -> None:
    target = f"/{rest}".encode()
    try:
        path = path_of(target).decode("ascii")
    except (PathNotCanonical, TargetRefused):
        return
    decoded = unquote(path, errors="strict")
    assert target.startswith(path.encode())
    assert unquote(decoded) == decoded
    assert posixpath.normpath(decoded) == (decoded.rstrip("/") or "/")
    assert decoded.count("/") == path.count("/")
    assert not set(decoded) & set("\\;\x00\r\n")


@given(st.binary(max_size=30))
def test_any_bytes_are_judged_or_refused(rest: bytes) -> None:
    try:
        path = path_of(b"/" + rest)
    except (PathNotCanonical, TargetRefused):
        return
    assert path.isascii()
