"""The native module from Python: whatever is called with whatever bytes, only the documented errors come back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

native = pytest.importorskip("easytier_kcp_plugin._native", reason="the native module is not built: no cargo here")

PACKETS = st.one_of(
    st.binary(max_size=120),
    # What follows the headers of a TCP packet from 10.0.0.1 to 10.0.0.2, and its virtio header or none.
    st.builds(
        lambda header, length, rest: (
            header + bytes([0x45, 0, 0, length]) + bytes(4) + b"\x40\x06\0\0\x0a\0\0\1\x0a\0\0\2" + rest
        ),
        st.sampled_from([b"", bytes(10), b"\x01" + bytes(5) + b"\x14\0\x10\0"]),
        st.integers(0, 255),
        st.binary(min_size=20, max_size=100),
    ),
)
IDS = st.one_of(st.integers(0, 5), st.integers(1, 6).map(lambda serial: serial << 20), st.integers(0, 2**64 - 1))
ENDPOINTS = st.tuples(st.sampled_from([b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x7f\0\0\1", b"", bytes(16)]), st.integers(0, 65_535))
TIMES = st.floats(allow_nan=True, allow_infinity=True)
SIZES = st.one_of(st.none(), st.integers(0, 1 << 17))

CALLS = st.one_of(
    st.tuples(st.just("step"), st.lists(PACKETS, max_size=5), TIMES, st.integers(0, 100)),
    st.tuples(st.just("step"), st.lists(PACKETS, max_size=5), st.floats(0, 100), st.integers(0, 100)),
    st.tuples(st.just("accept"), IDS, st.floats(0, 100), SIZES, SIZES),
    st.tuples(st.just("accept_syn"), PACKETS, st.floats(0, 100), SIZES, SIZES),
    st.tuples(st.just("reject"), IDS, st.floats(0, 100)),
    st.tuples(st.just("decline"), IDS),
    st.tuples(st.just("connect"), ENDPOINTS, ENDPOINTS, SIZES, SIZES),
    st.tuples(st.just("send"), IDS, st.binary(max_size=5000)),
    st.tuples(st.just("receive"), IDS, st.integers(0, 1 << 40)),
    st.tuples(st.just("receive_into"), IDS, st.integers(0, 5000).map(bytearray)),
    st.tuples(st.just("finish"), IDS),
    st.tuples(st.just("abort"), IDS),
    st.tuples(st.just("info"), IDS),
    st.tuples(st.just("counters")),
)


@given(calls=st.lists(CALLS, max_size=60), vnet_header=st.booleans(), verify=st.booleans())
def test_any_calls_in_any_order(calls: list[tuple[Any, ...]], vnet_header: bool, verify: bool) -> None:
    stack = native.Stack(mtu=1380, seed=1, vnet_header=vnet_header, verify_checksums=verify, max_connections=4, max_pending=2)
    for name, *arguments in calls:
        with suppress(ValueError, KeyError, native.AddressInUseError, native.ClosedError, native.LimitError):
            getattr(stack, name)(*arguments)
    counters = stack.counters()
    assert counters["connections"] <= 4
    assert counters["pending"] <= 2


@given(frame=PACKETS, mtu=st.integers(0, 70_000))
def test_any_frame_is_finished_or_refused(frame: bytes, mtu: int) -> None:
    try:
        packet = native.complete_checksum(frame)
    except ValueError:
        pass
    else:
        assert len(packet) == len(frame) - 10
    try:
        packets = native.split_frame(frame, mtu)
    except ValueError:
        pass
    else:
        assert len(packets) == 1 or max(map(len, packets)) <= mtu
