"""UDP tunnels that end: goodbyes, which make nobody close anything here, since anybody can send one."""

from __future__ import annotations

import pytest
from anyio.abc import TaskGroup

from easytier_host.tunnel import TunnelUrl
from easytier_host.tunnel.base import Listener, Tunnel
from easytier_host.tunnel.udp_options import segment_option
from easytier_host.tunnel.udp_socket import GOODBYES_PER_SECOND, UdpTunnel
from easytier_host.tunnel.udp_wire import KIND_SACK, KIND_SYN, build_control
from tests.unit.host.tunnel.helpers import Door, Observer, running, until
from tests.unit.host.tunnel.test_udp import MAGIC, data, open_listener, open_pair, plain_socket, receive

pytestmark = pytest.mark.anyio


async def open_used_pair(tasks: TaskGroup) -> tuple[Listener, Tunnel, Observer, Observer]:
    """A listener, a tunnel to it, and observers of our end and of the other one; each has had a frame."""
    listener, tunnel, theirs = await open_pair(tasks)
    ours = Observer(tunnel)
    tunnel.send([bytes(16)])
    await until(lambda: theirs.frames)
    theirs.tunnel.send([bytes(16)])
    await until(lambda: ours.frames)
    return listener, tunnel, ours, theirs


async def test_who_is_unknown_is_told_so_and_no_goodbye_is_answered() -> None:
    async with running() as tasks:
        listener, address = await open_listener(tasks, Door())
        with plain_socket() as sock:
            sock.sendto(data(7, b""), address)
            sock.sendto(data(7, bytes(16)), address)
            assert (await receive(sock))[0] == data(7, b"")
            sock.sendto(build_control(1, KIND_SYN, MAGIC), address)
            assert (await receive(sock))[0] == build_control(1, KIND_SACK, MAGIC)
        assert listener.counters.unknown == 1


@pytest.mark.parametrize("joined", [False, True])
async def test_strangers_get_64_a_second(joined: bool) -> None:
    async with running() as tasks:
        listener, address = await open_listener(tasks, Door())
        with plain_socket() as sock:
            if joined:
                # As the kernel hands them over: one read for many.
                for _ in range(2):
                    sock.sendmsg([data(9, bytes(16)) * 50], [segment_option(24)], 0, address)
            else:
                for _ in range(100):
                    sock.sendto(data(9, bytes(16)), address)
            await until(lambda: listener.counters.unknown == 100)
            answers = [await receive(sock) for _ in range(GOODBYES_PER_SECOND)]
            assert {datagram for datagram, _ in answers} == {data(9, b"")}
            with pytest.raises(BlockingIOError):
                sock.recv(100)


async def test_a_goodbye_of_the_other_side_is_a_reason_to_doubt_and_nothing_more() -> None:
    async with running() as tasks:
        _, tunnel, theirs = await open_pair(tasks)
        doubts: list[str] = []
        tunnel.on_doubt = lambda: doubts.append("ours")
        theirs.tunnel.on_doubt = lambda: doubts.append("theirs")
        assert isinstance(tunnel, UdpTunnel)
        assert isinstance(theirs.tunnel, UdpTunnel)
        goodbye = data(tunnel.key[1], b"")
        with plain_socket() as sock:
            # The connector goes by the number alone, the listener by the address too.
            sock.sendto(goodbye, theirs.tunnel.address)
            sock.sendto(goodbye, ("127.0.0.1", TunnelUrl.parse(theirs.tunnel.info.local_url).port))
            await until(lambda: doubts == ["ours"])
        tunnel.send([bytes(16)])
        await until(lambda: theirs.frames)
        assert doubts == ["ours"]
        assert not tunnel.closed
        assert not theirs.tunnel.closed


@pytest.mark.parametrize("leaving", ["listener", "its tunnel", "connector"])
async def test_who_closes_says_goodbye(leaving: str) -> None:
    async with running() as tasks:
        listener, tunnel, _, theirs = await open_used_pair(tasks)
        doubts: list[str] = []
        tunnel.on_doubt = lambda: doubts.append("connector's")
        theirs.tunnel.on_doubt = lambda: doubts.append("listener's")
        {"listener": listener.close, "its tunnel": theirs.tunnel.close, "connector": tunnel.close}[leaving]()
        await until(lambda: doubts)
        assert doubts == ["listener's" if leaving == "connector" else "connector's"]


async def test_a_stranger_who_never_sent_a_frame_is_left_in_peace() -> None:
    async with running() as tasks:
        door = Door()
        _, address = await open_listener(tasks, door)
        with plain_socket() as sock:
            sock.sendto(build_control(1, KIND_SYN, MAGIC), address)
            await receive(sock)
            door.observers[0].tunnel.close()
            # What comes next is the answer to a new SYN.
            sock.sendto(build_control(2, KIND_SYN, MAGIC), address)
            assert (await receive(sock))[0] == build_control(2, KIND_SACK, MAGIC)


async def test_who_parts_says_so_each_time_and_answers_nothing_more() -> None:
    async with running() as tasks:
        _, tunnel, ours, theirs = await open_used_pair(tasks)
        doubts: list[str] = []
        theirs.tunnel.on_doubt = lambda: doubts.append("theirs")
        for number in (1, 2):
            assert tunnel.part()
            await until(lambda number=number: len(doubts) == number)  # type: ignore[misc]
        # An answer to a Ping would say that this side stays.
        theirs.tunnel.send([bytes(16)])
        tunnel.send([bytes(16)])
        tunnel.close()
        await until(lambda: len(doubts) == 3)
        assert (len(ours.frames), len(theirs.frames)) == (1, 1)
        assert ours.reasons
        assert not tunnel.part()
