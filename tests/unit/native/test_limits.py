"""Settings and arguments that are out of bounds, calls at the wrong time, and what must not be answered."""

from threading import Thread
from typing import Any

import pytest

from easytier_kcp_plugin._native import ClosedError, Stack
from tests.unit.native.segments import ACK, CLIENT, CLIENT6, SERVER, SERVER6, SYN, Tcp

SYN_PACKET = Tcp(CLIENT, SERVER, SYN).pack()


@pytest.mark.parametrize(
    "setting",
    [
        {"mtu": 575},
        {"mtu": 65_536},
        {"receive_buffer": 4095},
        {"send_buffer": (16 << 20) + 1},
        {"congestion": "bbr"},
        {"keepalive": -1.0},
        {"timeout": 60.0},
        {"timeout": 60.0, "keepalive": 60.0},
        {"time_wait": 10.1},
        {"max_connections": 0},
        {"max_connections": (1 << 20) + 1},
        {"tso_max": 65_535},
        {"tso_max": 65_536, "vnet_header": True},
        {"tso_max": 1000, "vnet_header": True},
        {"pending_ttl": float("nan")},
    ],
    ids=str,
)
def test_a_setting_out_of_bounds_raises(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Stack(**{"mtu": 1380, "seed": 1, **setting})


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(OverflowError):
        Stack(mtu=1380, seed=seed)


@pytest.mark.parametrize("size", [0, 4095, 1 << 40])
def test_the_size_of_a_buffer_is_bounded(size: int) -> None:
    target = Stack(mtu=1380, seed=1)
    with pytest.raises(ValueError, match="receive_buffer"):
        target.connect(CLIENT, SERVER, receive_buffer=size)
    with pytest.raises(ValueError, match="send_buffer"):
        target.accept_syn(SYN_PACKET, 0.0, send_buffer=size)


def test_a_connection_may_have_buffers_of_its_own() -> None:
    target = Stack(mtu=1380, seed=1)
    connection = target.connect(CLIENT, SERVER, receive_buffer=4096, send_buffer=8192)
    [syn] = target.step([], 0.0)[0]
    assert int.from_bytes(syn[34:36], "big") == 4096
    target.abort(connection)
    target.step([], 0.0)
    assert target.counters()["pooled_bytes"] == 0


@pytest.mark.parametrize("connection", [0, 1, 1 << 20, (1 << 64) - 1])
def test_an_id_that_was_never_given_is_a_closed_connection(connection: int) -> None:
    target = Stack(mtu=1380, seed=1)
    for call in (
        lambda: target.send(connection, b"x"),
        lambda: target.receive(connection, 1),
        lambda: target.receive_into(connection, bytearray(1)),
        lambda: target.info(connection),
    ):
        with pytest.raises(ClosedError):
            call()
    target.finish(connection)
    target.abort(connection)


UNCLAIMED = {
    "empty": b"",
    "short": SYN_PACKET[:19],
    "cut": SYN_PACKET[:39],
    "no IP": b"\x00" * 40,
    "UDP": Tcp(CLIENT, SERVER, SYN).pack(protocol=17),
    "first fragment": Tcp(CLIENT, SERVER, SYN).pack(fragment=0x2000),
    "later fragment": Tcp(CLIENT, SERVER, SYN).pack(fragment=0x0010),
    "IPv6 extension": Tcp(CLIENT6, SERVER6, SYN).pack(protocol=0),
    "ACK of nobody": Tcp(CLIENT, SERVER, ACK).pack(),
    "SYN ACK of nobody": Tcp(CLIENT, SERVER, SYN | ACK).pack(),
    "to broadcast": Tcp(CLIENT, (b"\xff" * 4, 80), SYN).pack(),
    "to multicast": Tcp(CLIENT, (b"\xe0\0\0\1", 80), SYN).pack(),
    "to loopback": Tcp(CLIENT, (b"\x7f\0\0\1", 80), SYN).pack(),
    "to nowhere": Tcp(CLIENT, (bytes(4), 80), SYN).pack(),
    "from broadcast": Tcp((b"\xff" * 4, 1), SERVER, SYN).pack(),
    "from multicast": Tcp((b"\xe0\0\0\1", 1), SERVER, SYN).pack(),
    "to multicast, IPv6": Tcp(CLIENT6, (b"\xff\2" + bytes(13) + b"\1", 80), SYN).pack(),
    "to loopback, IPv6": Tcp(CLIENT6, (bytes(15) + b"\1", 80), SYN).pack(),
    "from nowhere, IPv6": Tcp((bytes(16), 1), SERVER6, SYN).pack(),
    "port 0": Tcp(CLIENT, (SERVER[0], 0), SYN).pack(),
    "from port 0": Tcp((CLIENT[0], 0), SERVER, SYN).pack(),
    "header beyond the end": SYN_PACKET[:32] + b"\xf0" + SYN_PACKET[33:],
    "header too short": SYN_PACKET[:32] + b"\x40" + SYN_PACKET[33:],
}


@pytest.mark.parametrize("name", UNCLAIMED)
def test_what_is_not_ours_is_left_to_the_caller(name: str) -> None:
    target = Stack(mtu=1380, seed=1)
    assert target.step([UNCLAIMED[name]], 0.0) == ([], [], [0], None)
    assert target.counters()["unclaimed"] == 1


def test_unclaimed_packets_are_named_by_their_places() -> None:
    packets = [SYN_PACKET, b"", SYN_PACKET, Tcp(CLIENT, SERVER, ACK).pack(protocol=1)]
    assert Stack(mtu=1380, seed=1).step(packets, 0.0)[2] == [1, 3]


@pytest.mark.parametrize("position", [11, 14, 25, 36])
def test_corrupt_segments_are_dropped_and_counted(position: int) -> None:
    corrupt = bytearray(SYN_PACKET)
    corrupt[position] ^= 0x10
    target = Stack(mtu=1380, seed=1)
    assert target.step([bytes(corrupt)], 0.0)[:2] == ([], [])
    assert target.counters()["bad_checksum"] == 1
    trusting = Stack(mtu=1380, seed=1, verify_checksums=False)
    assert trusting.step([bytes(corrupt)], 0.0)[1]


@pytest.mark.parametrize("packets", [[1], ["text"], None, [SYN_PACKET, None]])
def test_what_is_no_packet_is_a_type_error(packets: Any) -> None:
    target = Stack(mtu=1380, seed=1)
    with pytest.raises(TypeError):
        target.step(packets, 0.0)
    assert target.counters()["received"] == 0


def test_a_call_during_the_step_of_another_thread_raises() -> None:
    corrupt = Tcp(CLIENT, SERVER, SYN, payload=bytes(1300)).pack()[:-1] + b"x"
    target = Stack(mtu=1380, seed=1)
    packets = [corrupt] * 20_000
    thread = Thread(target=lambda: [target.step(packets, 0.0) for _ in range(20)])
    thread.start()
    refused = 0
    while thread.is_alive():
        try:
            target.counters()
        except RuntimeError:
            refused += 1
    thread.join()
    assert refused > 0
    assert target.counters()["bad_checksum"] == 20 * 20_000
