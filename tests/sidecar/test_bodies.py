"""Bodies end where they end, however the bytes arrive. (What is malformed: see the table in test_smuggling.)"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from authix_sidecar.bodies import Body, ChunkedBody, LengthBody

CONTENTS = st.lists(st.binary(min_size=1, max_size=300), max_size=8)
CUTS = st.lists(st.integers(0, 4000), max_size=12)
TRAILERS = st.lists(st.sampled_from([b"X: y\r\n", b"Long: " + b"z" * 500 + b"\r\n", b"Empty:\r\n"]), max_size=4)


def read(body: Body, wire: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """The content and what lies behind it, when ``wire`` arrives cut at these places."""
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    content = b""
    for begin, end in pairwise(places):
        piece, behind = body.feed(wire[begin:end])
        content += piece
        if body.complete:
            return content, behind + wire[end:]
        assert behind == b""
    return content, b""


def chunked(contents: list[bytes], trailers: list[bytes]) -> bytes:
    chunks = b"".join(b"%X\r\n%b\r\n" % (len(content), content) for content in contents)
    return b"%b0\r\n%b\r\n" % (chunks, b"".join(trailers))


@given(CONTENTS, TRAILERS, CUTS, st.binary(max_size=20))
def test_a_chunked_body_is_its_chunks_and_ends_behind_its_trailers(
    contents: list[bytes], trailers: list[bytes], cuts: list[int], behind: bytes
) -> None:
    body = ChunkedBody()
    assert read(body, chunked(contents, trailers) + behind, cuts) == (b"".join(contents), behind)
    assert body.complete
    assert body.left == 0


@given(CONTENTS, TRAILERS, CUTS, st.data())
def test_a_chunked_body_without_its_end_is_not_complete(
    contents: list[bytes], trailers: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    whole = chunked(contents, trailers)
    body = ChunkedBody()
    content, _ = read(body, whole[: data.draw(st.integers(0, len(whole) - 1))], cuts)
    assert not body.complete
    assert b"".join(contents).startswith(content)


@given(st.binary(max_size=500), CUTS, st.binary(max_size=20))
def test_a_body_of_known_length_ends_there(content: bytes, cuts: list[int], behind: bytes) -> None:
    body = LengthBody(len(content))
    if content:
        assert read(body, content + behind, cuts) == (content, behind)
    assert body.complete
    assert body.feed(behind) == (b"", behind)
