"""Frames on a TCP stream, in whatever pieces it comes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.tunnel.tcp_framing import FrameParser, FramingError

frame_lists = st.lists(st.binary(min_size=16, max_size=60) | st.integers(16, 2000).map(bytes), max_size=12)


def stream_of(frames: Iterable[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)


def feed_all(pieces: Iterable[bytes]) -> tuple[list[bytes], str | None]:
    """The frames, and the error that ended the stream."""
    parser = FrameParser()
    frames: list[bytes] = []
    for piece in pieces:
        try:
            frames += parser.feed(piece)
        except FramingError as error:
            return frames + error.frames, str(error)
    return frames, None


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[index : index + 1] for index in range(len(stream))]


@given(frame_lists, st.lists(st.integers(0, 30_000), max_size=10))
def test_frames_do_not_depend_on_how_the_stream_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    stream = stream_of(frames)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert feed_all(stream[start:end] for start, end in pairwise(places)) == (frames, None)


@given(frame_lists, st.binary(max_size=200))
def test_any_bytes_give_the_same_frames_and_error_at_once_and_byte_by_byte(frames: list[bytes], garbage: bytes) -> None:
    stream = stream_of(frames) + garbage
    assert feed_all([stream]) == feed_all(bytewise(stream))


@pytest.mark.parametrize("length", [0, 15, 2001, 0xFFFF_FFFF])
def test_a_forbidden_length_ends_the_stream_after_the_frames_before_it(length: int) -> None:
    good = [bytes(16), bytes(2000)]
    with pytest.raises(FramingError, match=f"a frame of {length} bytes") as caught:
        FrameParser().feed(stream_of(good) + length.to_bytes(4, "little"))
    assert caught.value.frames == good


@pytest.mark.parametrize("length", [16, 2000])
def test_the_limits_themselves_are_allowed(length: int) -> None:
    assert FrameParser().feed(stream_of([bytes(length)])) == [bytes(length)]
