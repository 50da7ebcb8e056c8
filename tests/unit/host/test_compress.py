"""Compressed payloads: the tail, exact lengths, and frames that claim or hold far more than an IP packet."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.compress import ALGORITHM_ZSTD, MAX_PLAIN_SIZE, CompressError, Compressor

TAIL = bytes([ALGORITHM_ZSTD])


def packed(plain: bytes, *, declare: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=declare).compress(plain) + TAIL


@given(st.binary(max_size=2000), st.integers(1, 30))
def test_what_was_compressed_comes_out_again(payload: bytes, times: int) -> None:
    compressor = Compressor()
    plain = (payload * times)[:MAX_PLAIN_SIZE]
    result = compressor.compress(plain)
    if result is not None:
        assert len(result) <= len(plain)
        assert result[-1:] == TAIL
        assert compressor.decompress(result, len(plain)) == plain


def test_a_payload_that_would_grow_stays_as_it_is() -> None:
    assert Compressor().compress(bytes(range(200))) is None
    assert Compressor().compress(b"") is None


@pytest.mark.parametrize("declare", [True, False])
@pytest.mark.parametrize("length", [0, 999, 1001, 65_536])
def test_the_length_must_be_that_of_the_header(declare: bool, length: int) -> None:
    compressor = Compressor()
    assert compressor.decompress(packed(bytes(1000), declare=declare), 1000) == bytes(1000)
    with pytest.raises(CompressError):
        compressor.decompress(packed(bytes(1000), declare=declare), length)


@pytest.mark.parametrize("declare", [True, False])
@pytest.mark.parametrize("claimed", [1360, MAX_PLAIN_SIZE, MAX_PLAIN_SIZE + 1, 100_000_000, 0xFFFF_FFFF])
def test_a_bomb_does_not_unfold(declare: bool, claimed: int) -> None:
    bomb = packed(bytes(100_000_000), declare=declare)
    with pytest.raises(CompressError):
        Compressor().decompress(bomb, claimed)


def test_a_frame_that_declares_gigabytes_is_refused_by_its_header() -> None:
    # Magic, a header with an eight-byte content size of 2^40, and one empty last block.
    frame = bytes.fromhex("28b52ffd e0") + (1 << 40).to_bytes(8, "little") + bytes.fromhex("010000")
    for claimed in (100, MAX_PLAIN_SIZE):
        with pytest.raises(CompressError):
            Compressor().decompress(frame + TAIL, claimed)


@pytest.mark.parametrize("tail", [b"", b"\x00", b"\x02"])
def test_another_algorithm_is_refused(tail: bytes) -> None:
    with pytest.raises(CompressError):
        Compressor().decompress(packed(bytes(100))[:-1] + tail, 100)


@given(st.binary(max_size=300), st.integers(0, 0xFFFF_FFFF))
def test_any_bytes_are_a_payload_or_a_compress_error(garbage: bytes, length: int) -> None:
    for data in (garbage, garbage + TAIL, b"\x28\xb5\x2f\xfd" + garbage + TAIL):
        try:
            plain = Compressor().decompress(data, length)
        except CompressError:
            continue
        assert len(plain) == length <= MAX_PLAIN_SIZE


def test_a_failed_frame_does_not_spoil_the_next() -> None:
    compressor = Compressor()
    with pytest.raises(CompressError):
        compressor.decompress(packed(bytes(1000))[:-4] + TAIL, 1000)
    assert compressor.decompress(packed(b"good" * 100), 400) == b"good" * 100
