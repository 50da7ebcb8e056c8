"""TCP tunnels over real loopback connections: traffic, congestion, stalls, ends and a listener without file descriptors."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from easytier_host.tunnel import TunnelError, TunnelUrl, connect, listen, tcp
from easytier_host.tunnel.base import TunnelInfo
from easytier_host.tunnel.resolve import Endpoint
from easytier_host.tunnel.tcp import TcpTunnel
from easytier_host.tunnel.tcp_framing import FrameParser
from tests.unit.host.tunnel.helpers import Door, Observer, UnwillingSocket, numbered, running, until

pytestmark = pytest.mark.anyio

HOME = "127.0.0.1"
INFO = TunnelInfo("tcp", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2")


async def open_pair(tasks: TaskGroup, host: str = HOME) -> tuple[tcp.TcpListener, Observer, Observer]:
    """A listener, our end of a tunnel to it, and the other end."""
    door = Door()
    listener = await listen(TunnelUrl("tcp", host, 0), tasks, door)
    assert isinstance(listener, tcp.TcpListener)
    ours = Observer(await connect(TunnelUrl.parse(listener.url), tasks))
    await until(lambda: door.observers)
    return listener, ours, door.observers[0]


def joined_sockets(kind: type[socket.socket] = socket.socket) -> tuple[socket.socket, socket.socket]:
    """Two ends of one connection: a non-blocking one of class `kind` with small buffers, and a plain one."""
    with socket.create_server((HOME, 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        ours = kind(socket.AF_INET, socket.SOCK_STREAM)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        ours.connect(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


async def read_frames(sock: socket.socket, count: int) -> list[bytes]:
    parser = FrameParser()
    frames: list[bytes] = []
    while len(frames) < count:
        with anyio.fail_after(2):
            await anyio.wait_readable(sock)
        frames += parser.feed(sock.recv(1 << 16))
    return frames


class TestTraffic:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    async def test_frames_cross_both_ways_in_order_and_in_batches(self, host: str) -> None:
        async with running() as tasks:
            listener, ours, theirs = await open_pair(tasks, host)
            frames = [*numbered(150), bytes(16), *numbered(400, 60), bytes(2000)]
            ours.tunnel.send(frames)
            theirs.tunnel.send(frames)
            await until(lambda: len(ours.frames) == len(theirs.frames) == len(frames))
            assert ours.frames == theirs.frames == frames
            assert len(ours.batches) < 50
            assert ours.tunnel.info.remote_url == listener.url == theirs.tunnel.info.local_url
            assert ours.tunnel.info.local_url == theirs.tunnel.info.remote_url

    async def test_the_bytes_are_a_little_endian_length_and_the_frame(self) -> None:
        async with running() as tasks:
            sock, peer = joined_sockets()
            with peer:
                TcpTunnel(sock, tasks, INFO).send([b"0123456789abcdef!"])
                await anyio.wait_readable(peer)
                assert peer.recv(100) == b"\x11\0\0\0" + b"0123456789abcdef!"

    async def test_frames_of_a_forbidden_size_are_not_sent(self) -> None:
        async with running() as tasks:
            _, ours, theirs = await open_pair(tasks)
            ours.tunnel.send([bytes(15), bytes(16), bytes(2001), bytes(2000)])
            await until(lambda: len(theirs.frames) == 2)
            assert theirs.frames == [bytes(16), bytes(2000)]
            assert ours.tunnel.dropped_frames == 2

    async def test_both_ends_have_nodelay_and_no_keepalive(self) -> None:
        async with running() as tasks:
            _, ours, theirs = await open_pair(tasks)
            for tunnel in (ours.tunnel, theirs.tunnel):
                assert isinstance(tunnel, TcpTunnel)
                assert tunnel._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert not tunnel._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


class TestCongestion:
    async def test_a_slow_reader_congests_and_in_the_end_gets_everything_in_order(self) -> None:
        async with running() as tasks:
            sock, peer = joined_sockets()
            with peer:
                tunnel = TcpTunnel(sock, tasks, INFO)
                sent = 0
                while tunnel.send(numbered(20, first=sent)):
                    sent += 20
                sent += 20
                with anyio.move_on_after(0.02) as scope:
                    await tunnel.wait_writable()
                assert scope.cancelled_caught
                assert await read_frames(peer, sent) == numbered(sent)
                await tunnel.wait_writable()
                assert tunnel.dropped_frames == 0

    async def test_past_the_cap_whole_frames_are_dropped_and_counted(self) -> None:
        async with running() as tasks:
            sock, peer = joined_sockets()
            with peer:
                tunnel = TcpTunnel(sock, tasks, INFO)
                assert not tunnel.send(numbered(2000))
                kept = 2000 - tunnel.dropped_frames
                assert tcp.BACKLOG_BYTES - 2000 < kept * 1304 < tcp.BACKLOG_BYTES + (1 << 20)
                tunnel.send(numbered(10))
                assert tunnel.dropped_frames == 2000 - kept + 10
                assert await read_frames(peer, kept) == numbered(kept)

    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
    async def test_a_kernel_without_room_is_waited_for(self, number: int) -> None:
        class Full(UnwillingSocket):
            def send(self, data: Any, flags: int = 0) -> int:
                self._check()
                return super().send(data, flags)

        async with running() as tasks:
            sock, peer = joined_sockets(Full)
            assert isinstance(sock, Full)
            with peer:
                tunnel = TcpTunnel(sock, tasks, INFO)
                sock.error = OSError(number, "full")
                assert tunnel.send(numbered(3))
                sock.error = None
                assert await read_frames(peer, 3) == numbered(3)

    async def test_a_reader_that_takes_nothing_ends_the_tunnel(self) -> None:
        async with running() as tasks:
            sock, peer = joined_sockets()
            with peer:
                tunnel = TcpTunnel(sock, tasks, INFO, stall_timeout=0.05)
                observer = Observer(tunnel)
                tunnel.send(numbered(400))
                await tunnel.wait_writable()
                assert tunnel.closed
                assert observer.reasons == ["the other side took nothing for 0.05 s"]

    async def test_the_stall_limit_is_that_of_stock(self) -> None:
        assert tcp.STALL_SECONDS == 7

    async def test_progress_below_the_kernels_threshold_keeps_a_slow_tunnel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A socket counts as writable when a third of its buffer is free; on a slow path that takes longer than the limit."""
        asked: list[int] = []

        def falling(sock: socket.socket) -> int:
            asked.append(max(100 - len(asked), 80))
            return asked[-1]

        monkeypatch.setattr(tcp, "_unacknowledged", falling)
        async with running() as tasks:
            sock, peer = joined_sockets()
            with peer:
                tunnel = TcpTunnel(sock, tasks, INFO, stall_timeout=0.01)
                tunnel.send(numbered(400))
                await until(lambda: tunnel.closed)
                assert asked[-2:] == [80, 80]


class TestEnds:
    async def test_the_other_side_closes(self) -> None:
        async with running() as tasks:
            _, ours, theirs = await open_pair(tasks)
            ours.tunnel.send(numbered(5))
            ours.tunnel.close("enough")
            ours.tunnel.close()
            assert ours.reasons == ["enough"]
            await until(lambda: theirs.reasons)
            assert theirs.reasons == ["closed by the other side"]
            assert theirs.frames == numbered(5)
            assert theirs.tunnel.closed
            theirs.tunnel.send(numbered(3))
            await theirs.tunnel.wait_writable()
            assert theirs.tunnel.dropped_frames == 3

    async def test_the_other_side_resets(self) -> None:
        async with running() as tasks:
            sock, peer = joined_sockets()
            observer = Observer(TcpTunnel(sock, tasks, INFO))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            await until(lambda: observer.reasons)
            assert observer.reasons == ["reset by the other side"]

    async def test_an_error_met_in_send_ends_the_tunnel_but_not_inside_send(self) -> None:
        async with running() as tasks:
            sock, peer = joined_sockets()
            observer = Observer(TcpTunnel(sock, tasks, INFO))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            observer.tunnel.send(numbered(1))
            observer.tunnel.send(numbered(1))
            assert observer.reasons == []
            await until(lambda: observer.reasons)
            assert observer.reasons == ["reset by the other side"]

    @pytest.mark.parametrize("length", [0, 15, 2001, 2**32 - 1])
    async def test_a_forbidden_length_closes_without_waiting_for_the_body(self, length: int) -> None:
        async with running() as tasks:
            sock, peer = joined_sockets()
            observer = Observer(TcpTunnel(sock, tasks, INFO))
            with peer:
                peer.send(struct.pack("<I", 16) + bytes(16) + struct.pack("<I", length))
                await until(lambda: observer.reasons)
            assert observer.reasons == [f"a frame of {length} bytes came in, 16 to 2000 are allowed"]
            assert observer.frames == [bytes(16)]

    async def test_nothing_is_delivered_after_a_close_from_inside_a_batch(self) -> None:
        async with running() as tasks:
            _, ours, theirs = await open_pair(tasks)
            batches: list[list[bytes]] = []

            def close_on_first(frames: list[bytes]) -> None:
                batches.append(frames)
                theirs.tunnel.close()
                theirs.tunnel.send(numbered(1))

            theirs.tunnel.on_frames = close_on_first
            ours.tunnel.send(numbered(500))
            await until(lambda: ours.tunnel.closed)
            assert len(batches) == 1
            assert theirs.reasons == ["closed by this node"]

    async def test_cancelling_the_tasks_closes_both_ends(self) -> None:
        async with anyio.create_task_group() as tasks:
            listener, ours, theirs = await open_pair(tasks)
            tasks.cancel_scope.cancel()
        # Whoever is first is shut down; the other may see that.
        assert len(ours.reasons) == len(theirs.reasons) == 1
        assert "this node is shutting down" in ours.reasons + theirs.reasons
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOME, TunnelUrl.parse(listener.url).port))


class TestListener:
    async def test_closing_it_leaves_its_tunnels(self) -> None:
        async with running() as tasks:
            listener, ours, theirs = await open_pair(tasks)
            listener.close()
            listener.close()
            with pytest.raises(TunnelError, match="connection refused"):
                await connect(TunnelUrl.parse(listener.url), tasks)
            ours.tunnel.send(numbered(1))
            await until(lambda: theirs.frames)

    async def test_its_port_can_be_taken_again_at_once(self) -> None:
        async with running() as tasks:
            listener, ours, theirs = await open_pair(tasks)
            theirs.tunnel.close()
            await until(lambda: ours.tunnel.closed)
            listener.close()
            (await listen(TunnelUrl.parse(listener.url), tasks, Door())).close()

    async def test_a_refused_tunnel_is_closed(self) -> None:
        async with running() as tasks:
            listener = await listen(TunnelUrl("tcp", HOME, 0), tasks, Door(refuse=True))
            observer = Observer(await connect(TunnelUrl.parse(listener.url), tasks))
            await until(lambda: observer.reasons)

    async def test_a_taken_port_is_an_error_that_names_the_url(self) -> None:
        async with running() as tasks:
            listener = await listen(TunnelUrl("tcp", HOME, 0), tasks, Door())
            with pytest.raises(TunnelError, match=f"cannot listen on {listener.url}: address already in use"):
                await listen(TunnelUrl.parse(listener.url), tasks, Door())

    async def test_an_ipv6_listener_leaves_the_ipv4_port_alone(self) -> None:
        async with running() as tasks:
            listener = await listen(TunnelUrl("tcp", "::", 0), tasks, Door())
            await listen(TunnelUrl("tcp", "0.0.0.0", TunnelUrl.parse(listener.url).port), tasks, Door())

    async def test_without_file_descriptors_it_waits_and_does_not_flood_the_log(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Exhausted(socket.socket):
            attempts = 0

            def accept(self) -> tuple[socket.socket, Any]:
                self.attempts += 1
                # One place is free now and then.
                if self.attempts < 12 and self.attempts % 3:
                    raise OSError(errno.EMFILE, "Too many open files")
                if self.attempts < 12:
                    raise BlockingIOError
                return super().accept()

        monkeypatch.setattr(tcp, "ACCEPT_PAUSE_SECONDS", 0.001)
        async with running() as tasks:
            sock = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
            sock.bind((HOME, 0))
            sock.listen()
            sock.setblocking(False)
            door = Door()
            with caplog.at_level(logging.WARNING):
                listener = tcp.TcpListener(sock, tasks, door)
                await connect(TunnelUrl.parse(listener.url), tasks)
                await until(lambda: door.observers)
            (record,) = caplog.records
            assert record.getMessage() == f"{listener.url}: connections wait, accept failed: too many open files"


class TestConnector:
    async def test_a_refused_connection_names_the_url_and_the_reason(self) -> None:
        async with running() as tasks:
            with socket.create_server((HOME, 0)) as server:
                port = server.getsockname()[1]
            with pytest.raises(TunnelError, match=f"^tcp://127.0.0.1:{port}: connection refused$"):
                await connect(TunnelUrl("tcp", HOME, port), tasks)

    async def test_the_next_address_is_tried_after_one_that_is_silent(self) -> None:
        async with running() as tasks:
            # A full accept queue: further TCP SYNs get no answer.
            with socket.create_server((HOME, 0), backlog=0) as silent, socket.create_server((HOME, 0)) as good:
                filler = [socket.socket() for _ in range(3)]
                for sock in filler:
                    sock.setblocking(False)
                    sock.connect_ex(silent.getsockname())
                endpoints = [Endpoint(socket.AF_INET, server.getsockname()) for server in (silent, good)]
                tunnel = await tcp.connect(endpoints, tasks, timeout=0.4)
                assert TunnelUrl.parse(tunnel.info.remote_url).port == good.getsockname()[1]
                with pytest.raises(TunnelError, match=r"no answer within 0\.1 s"):
                    await tcp.connect(endpoints[:1], tasks, timeout=0.1)
                for sock in filler:
                    sock.close()
