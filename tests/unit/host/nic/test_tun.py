"""`open_tun` where no device can be made, and `TunNic` over sockets.  Real devices are in `tests/netns/test_nic.py`."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_interface
from types import ModuleType, SimpleNamespace

import pytest

from easytier_host.nic import NicError
from easytier_host.nic.offload import PLAIN_VNET_HEADER
from easytier_host.nic.tun import TunNic, open_tun
from tests.unit.host.nic.packets import Segment

pytestmark = pytest.mark.anyio


def failing_pytun(error: OSError) -> ModuleType:
    def refuse(**_: object) -> None:
        raise error

    module = ModuleType("pytun")
    module.__dict__["TunTapDevice"] = refuse
    return module


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EPERM, "CAP_NET_ADMIN, or use --no-tun"),
        (errno.EACCES, "run as root"),
        (errno.ENOENT, "/dev/net/tun is missing: .* --no-tun"),
        (errno.ENODEV, "kernel module tun"),
        (errno.EBUSY, "named et0 exists already: choose another dev_name"),
        (errno.EINVAL, "'et0' is not a valid name"),
        (errno.ENOMEM, "cannot make network device et0: .*ENOMEM|Cannot allocate memory"),
    ],
)
async def test_a_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch, code: int, advice: str) -> None:
    monkeypatch.setitem(sys.modules, "pytun", failing_pytun(OSError(code, os.strerror(code))))
    with pytest.raises(NicError, match=advice):
        await open_tun("et0", 1360, [])


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytun", None)
    with pytest.raises(NicError, match=r"python-pytun; install it, or use --no-tun"):
        await open_tun("et0", 1360, [])


async def test_the_other_package_of_that_name_is_not_mistaken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytun", ModuleType("pytun"))
    with pytest.raises(NicError, match="python-pytun"):
        await open_tun("et0", 1360, [])


async def test_the_device_is_closed_when_it_cannot_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    closed: list[str] = []
    device = SimpleNamespace(name="no-such-device", fileno=lambda: reader, close=lambda: closed.append("closed"))
    module = ModuleType("pytun")
    module.__dict__["TunTapDevice"] = lambda **_: device
    monkeypatch.setitem(sys.modules, "pytun", module)
    try:
        with pytest.raises(NicError, match=r"no-such-device is gone|pyroute2|routing tables"):
            await open_tun("", 1360, [])
    finally:
        os.close(reader)
        os.close(writer)
    assert closed == ["closed"]


@pytest.fixture
def pair() -> Iterator[tuple[TunNic, socket.socket]]:
    """A device over a socket, and the kernel's side of it: each datagram is a device frame."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    kernel.setblocking(False)
    with kernel:
        nic = TunNic(ours, "et0", 1360, 1, [ip_interface("10.9.0.1/24")])
        yield nic, kernel
        nic.close()


async def test_a_batch_is_bounded_and_the_rest_comes_next(pair: tuple[TunNic, socket.socket]) -> None:
    nic, kernel = pair
    assert nic.read_batch() == []
    sent = [bytes([number]) * 20 for number in range(5)]
    for frame in sent:
        kernel.send(frame)
    await nic.wait_readable()
    assert nic.read_batch() == sent
    assert nic.read_batch() == []


async def test_segments_to_our_address_leave_as_one_frame(pair: tuple[TunNic, socket.socket]) -> None:
    nic, kernel = pair
    packets = [piece.encode() for piece in Segment(bytes(3000)).pieces(1000)]
    nic.write_frames(nic.join(packets))
    assert len(kernel.recv(70_000)) == 10 + 40 + 3000
    with pytest.raises(BlockingIOError):
        kernel.recv(70_000)
    assert nic.dropped_packets == 0


async def test_a_kernel_that_refuses_joined_packets_gets_them_one_by_one(
    pair: tuple[TunNic, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    nic, kernel = pair
    write = os.write

    def refuse_joined(fd: int, frame: bytes) -> int:
        if not frame.startswith(PLAIN_VNET_HEADER):
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(fd, frame)

    monkeypatch.setattr(os, "write", refuse_joined)
    packets = [piece.encode() for piece in Segment(bytes(3000)).pieces(1000)]
    nic.write_frames(nic.join(packets))
    nic.write_frames(nic.join(packets))
    assert [kernel.recv(70_000) for _ in range(6)] == [PLAIN_VNET_HEADER + packet for packet in packets] * 2
    assert nic.dropped_packets == 0


async def test_what_a_full_device_does_not_take_is_counted(pair: tuple[TunNic, socket.socket]) -> None:
    nic, kernel = pair
    packets = [Segment(bytes(1000), sequence=number).encode() for number in range(2000)]
    nic.write_frames(nic.join(packets))
    delivered = 0
    while True:
        try:
            kernel.recv(70_000)
        except BlockingIOError:
            break
        delivered += 1
    assert 0 < delivered < 2000
    assert nic.dropped_packets == 2000 - delivered


async def test_each_packet_of_a_frame_that_is_not_taken_is_counted(pair: tuple[TunNic, socket.socket]) -> None:
    nic, kernel = pair
    kernel.close()
    nic.write_frames([*nic.join([piece.encode() for piece in Segment(bytes(3300)).pieces(1000)]), b"", bytes(9), bytes(12)])
    assert nic.dropped_packets == 4 + 3
