"""The UDP tunnel header against bytes captured from stock, and the packing of frames."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from easytier_host.tunnel.udp_wire import (
    KIND_DATA,
    KIND_SACK,
    KIND_SYN,
    MAX_BATCH_BYTES,
    MAX_SEGMENTS,
    UDP_HEADER,
    UDP_HEADER_SIZE,
    Batch,
    batch_frames,
    build_control,
    data_layout,
    is_sack,
)

VECTORS = Path(__file__).parents[3] / "vectors" / "underlay-2.6.4-plaintext.jsonl"


def captured(kind: str) -> list[bytes]:
    """Datagrams of one kind from a conversation of two stock nodes."""
    lines = map(json.loads, VECTORS.read_text().splitlines())
    return [bytes.fromhex(line["hex"]) for line in lines if line["udp"] == kind]


def unpack(batch: Batch) -> list[tuple[int, int, bytes]]:
    """Connection id, kind and frame of each datagram, as a receiver sees them; lengths are checked."""
    datagrams = [batch.payload[start : start + batch.segment] for start in range(0, len(batch.payload), batch.segment)]
    result = []
    for datagram in datagrams:
        conn_id, kind, length = UDP_HEADER.unpack_from(datagram)
        assert length == len(datagram) - UDP_HEADER_SIZE
        result.append((conn_id, kind, datagram[UDP_HEADER_SIZE:]))
    return result


def test_a_stock_syn_is_rebuilt_byte_for_byte() -> None:
    (syn,) = captured("Syn")
    conn_id, kind, length = UDP_HEADER.unpack_from(syn)
    assert (kind, length) == (KIND_SYN, 8)
    assert build_control(conn_id, KIND_SYN, syn[8:]) == syn


def test_a_stock_sack_answers_its_syn_and_no_other() -> None:
    (syn,) = captured("Syn")
    (sack,) = captured("Sack")
    conn_id, _, _ = UDP_HEADER.unpack_from(syn)
    assert is_sack(sack, conn_id, syn[8:])
    assert not is_sack(sack, conn_id ^ 1, syn[8:])
    assert not is_sack(sack, conn_id, bytes(8))
    assert not is_sack(sack + b"x", conn_id, syn[8:])
    assert not is_sack(sack[:7], conn_id, syn[8:])
    assert not is_sack(syn, conn_id, syn[8:])
    assert build_control(conn_id, KIND_SACK, syn[8:]) == sack


def test_stock_data_is_rebuilt_but_for_the_garbage_in_the_padding() -> None:
    datagrams = captured("Data")
    assert any(datagram[5] for datagram in datagrams)
    for datagram in datagrams:
        conn_id, kind, length = UDP_HEADER.unpack_from(datagram)
        assert (kind, length) == (KIND_DATA, len(datagram) - 8)
        (batch,) = batch_frames(conn_id, [datagram[8:]])
        assert batch == (datagram[:5] + b"\0" + datagram[6:], len(datagram), 1)
        assert data_layout(len(datagram)).unpack(datagram) == (conn_id, kind, length, datagram[8:])


def test_a_run_of_equal_frames_is_closed_by_a_shorter_one() -> None:
    frames = [bytes(100), bytes(100), bytes(50), bytes(100), bytes(200)]
    assert [(batch.segment, batch.frames) for batch in batch_frames(1, frames)] == [(108, 3), (108, 1), (208, 1)]


def test_a_batch_stays_within_the_limits_of_the_kernel() -> None:
    assert [batch.frames for batch in batch_frames(1, [bytes(20)] * 130)] == [64, 64, 2]
    assert [batch.frames for batch in batch_frames(1, [bytes(2000)] * 40)] == [32, 8]


def test_frames_of_a_forbidden_size_are_left_out() -> None:
    frames = [bytes(15), bytes(16), bytes(2001), bytes(2000), bytes(10), bytes(70_000)]
    assert [frame for batch in batch_frames(1, frames) for _, _, frame in unpack(batch)] == [bytes(16), bytes(2000)]


@given(
    st.integers(0, 2**32 - 1), st.lists(st.tuples(st.sampled_from([16, 17, 60, 1300, 2000]), st.integers(1, 80)), max_size=12)
)
def test_what_is_packed_comes_out_in_order(conn_id: int, runs: list[tuple[int, int]]) -> None:
    total = sum(count for _, count in runs)
    lengths = [size for size, count in runs for _ in range(count)]
    frames = [index.to_bytes(4, "big").ljust(size, b".") for index, size in zip(range(total), lengths, strict=True)]
    batches = list(batch_frames(conn_id, frames))
    for batch in batches:
        assert len(unpack(batch)) == batch.frames <= MAX_SEGMENTS
        assert len(batch.payload) <= MAX_BATCH_BYTES
    assert [item for batch in batches for item in unpack(batch)] == [(conn_id, KIND_DATA, frame) for frame in frames]
