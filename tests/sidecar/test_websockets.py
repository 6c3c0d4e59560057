"""Where a WebSocket frame ends, however the bytes are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from authix_sidecar.websockets import FrameEnds, close_frame

SIZES = st.one_of(st.integers(0, 200), st.sampled_from([125, 126, 65535, 65536, 70000]))
FRAMES = st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=5)


def wire(size: int, *, masked: bool) -> bytes:
    return Frame(Opcode.BINARY, bytes(size)).serialize(mask=masked, extensions=[])


@given(FRAMES, st.data())
def test_it_is_between_frames_exactly_where_one_has_ended(frames: list[tuple[int, bool]], data: st.DataObject) -> None:
    whole = [wire(size, masked=masked) for size, masked in frames]
    stream, ends = b"".join(whole), {0}
    for frame in whole:
        ends.add(max(ends) + len(frame))
    cuts = sorted(data.draw(st.sets(st.one_of(st.integers(0, len(stream)), st.sampled_from(sorted(ends))), max_size=8)))
    follower, at = FrameEnds(), 0
    for cut in [*cuts, len(stream)]:
        follower.feed(stream[at:cut])
        at = cut
        assert follower.between == (at in ends)


@given(FRAMES)
def test_byte_by_byte(frames: list[tuple[int, bool]]) -> None:
    follower, at, ends = FrameEnds(), 0, set()
    whole = [wire(min(size, 300), masked=masked) for size, masked in frames]
    for frame in whole:
        at += len(frame)
        ends.add(at)
    for n, byte in enumerate(b"".join(whole), 1):
        follower.feed(bytes((byte,)))
        assert follower.between == (n in ends)


def test_the_farewell_is_a_close_frame() -> None:
    assert close_frame("token_expired") == Frame(Opcode.CLOSE, b"\x11\x31token_expired").serialize(
        mask=False, extensions=[]
    )
