"""UDP tunnels over real loopback sockets: opening, sorting, limits, garbage, and sends that the kernel will not take."""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest
from anyio.abc import TaskGroup

from easytier_host.tunnel import Listener, Tunnel, TunnelError, TunnelUrl, connect, listen, udp, udp_socket
from easytier_host.tunnel.resolve import Endpoint
from easytier_host.tunnel.udp_options import segment_option, set_fragments
from easytier_host.tunnel.udp_socket import UdpSocket, UdpTunnel
from easytier_host.tunnel.udp_wire import KIND_DATA, KIND_SACK, KIND_SYN, UDP_HEADER, build_control
from tests.unit.host.tunnel.helpers import Door, Observer, UnwillingSocket, numbered, running, until

pytestmark = pytest.mark.anyio

MAGIC = b"8 bytes."
HOME = "127.0.0.1"


@contextmanager
def plain_socket(host: str = HOME) -> Iterator[socket.socket]:
    """A neighbour made by hand."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.setblocking(False)
        yield sock


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    with anyio.fail_after(2):
        await anyio.wait_readable(sock)
    datagram, address = sock.recvfrom(4096)
    return datagram, address


def data(conn_id: int, frame: bytes, kind: int = KIND_DATA) -> bytes:
    return UDP_HEADER.pack(conn_id, kind, len(frame)) + frame


async def open_by_hand(sock: socket.socket, address: tuple[str, int], *conn_ids: int) -> None:
    """Have a listener accept these connections."""
    for conn_id in conn_ids:
        sock.sendto(build_control(conn_id, KIND_SYN, MAGIC), address)
        await receive(sock)


def url_of(sock: socket.socket) -> TunnelUrl:
    return TunnelUrl.from_address("udp", sock.getsockname())


async def open_listener(tasks: TaskGroup, door: Door, **limits: int) -> tuple[udp.UdpListener, tuple[str, int]]:
    listener = await listen(TunnelUrl("udp", HOME, 0), tasks, door, **limits)
    assert isinstance(listener, udp.UdpListener)
    return listener, (HOME, TunnelUrl.parse(listener.url).port)


async def open_pair(tasks: TaskGroup, host: str = HOME) -> tuple[Listener, Tunnel, Observer]:
    """A listener, a tunnel to it, and an observer of its other end."""
    door = Door()
    listener = await listen(TunnelUrl("udp", host, 0), tasks, door)
    tunnel = await connect(TunnelUrl.parse(listener.url), tasks)
    (observer,) = door.observers
    return listener, tunnel, observer


def open_unwilling(tasks: TaskGroup, target: tuple[str, int]) -> tuple[UnwillingSocket, UdpSocket, UdpTunnel]:
    """A tunnel of ours without handshake, on a socket that can be told to fail."""
    sock = UnwillingSocket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((HOME, 0))
    ours = UdpSocket(sock, tasks)
    return sock, ours, ours.add_tunnel(7, target)


class TestTraffic:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    async def test_frames_cross_both_ways_in_order_and_in_batches(self, host: str) -> None:
        async with running() as tasks:
            listener, tunnel, theirs = await open_pair(tasks, host)
            ours = Observer(tunnel)
            frames = [*numbered(150), bytes(16), *numbered(70, 60), bytes(2000)]
            assert tunnel.send(frames)
            assert theirs.tunnel.send(frames)
            await until(lambda: len(ours.frames) == len(theirs.frames) == len(frames))
            assert ours.frames == theirs.frames == frames
            assert len(theirs.batches) < 10
            assert tunnel.info.remote_url == listener.url == theirs.tunnel.info.local_url
            assert theirs.tunnel.info.remote_url.partition(":")[0] == "udp"
            assert tunnel.dropped_frames == 0

    async def test_frames_of_a_forbidden_size_are_not_sent(self) -> None:
        async with running() as tasks:
            _, tunnel, theirs = await open_pair(tasks)
            tunnel.send([bytes(15), bytes(16), bytes(2001), bytes(2000)])
            await until(lambda: len(theirs.frames) == 2)
            assert tunnel.dropped_frames == 2

    async def test_two_tunnels_on_one_listener_get_their_own_frames(self) -> None:
        async with running() as tasks:
            door = Door()
            listener, _ = await open_listener(tasks, door)
            tunnels = [await connect(TunnelUrl.parse(listener.url), tasks) for _ in range(2)]
            for number, tunnel in enumerate(tunnels):
                tunnel.send(numbered(20, first=100 * number))
            await until(lambda: all(len(observer.frames) == 20 for observer in door.observers))
            assert [observer.frames for observer in door.observers] == [numbered(20), numbered(20, first=100)]

    async def test_datagrams_of_two_connections_in_one_read_are_told_apart(self) -> None:
        async with running() as tasks:
            door = Door()
            listener, address = await open_listener(tasks, door)
            with plain_socket() as sock:
                await open_by_hand(sock, address, 1, 2)
                frame = numbered(1, 100)[0]
                mixed = [data(1, frame), data(2, frame), data(3, frame), data(2, frame), data(1, frame, 5), data(1, frame)]
                mixed.append(struct.pack("<IBBH", 1, KIND_DATA, 99, 99) + frame)
                sock.sendmsg([b"".join(mixed), data(2, frame[:50])], [segment_option(108)], 0, address)
                await until(lambda: listener.counters.received == 10)
            assert [observer.frames for observer in door.observers] == [[frame, frame], [frame, frame, frame[:50]]]
            counters = listener.counters
            assert (counters.unknown, counters.ignored, counters.malformed) == (1, 1, 1)

    async def test_padding_of_any_value_is_accepted(self) -> None:
        async with running() as tasks:
            door = Door()
            _, address = await open_listener(tasks, door)
            with plain_socket() as sock:
                sock.sendto(struct.pack("<IBBH", 1, KIND_SYN, 0xEE, 8) + MAGIC, address)
                await receive(sock)
                sock.sendto(struct.pack("<IBBH", 1, KIND_DATA, 0xEE, 20) + bytes(20), address)
                await until(lambda: door.observers[0].frames)

    async def test_nothing_is_delivered_after_a_close_from_inside_a_batch(self) -> None:
        async with running() as tasks:
            door = Door()
            listener, address = await open_listener(tasks, door)
            with plain_socket() as sock:
                await open_by_hand(sock, address, 1, 2)
                first, second = door.observers
                first.tunnel.on_frames = lambda frames: listener.close()
                # In one send, so that both are in one batch.
                sock.sendmsg([data(1, bytes(20)), data(2, bytes(20))], [segment_option(28)], 0, address)
                await until(lambda: second.reasons)
            assert second.batches == []


class TestPacketSize:
    @pytest.mark.parametrize(("host", "headers"), [(HOME, 36), ("::1", 56)])
    async def test_a_whole_frame_fills_a_packet_of_1500_bytes(self, host: str, headers: int) -> None:
        async with running() as tasks:
            _, tunnel, observer = await open_pair(tasks, host)
            assert tunnel.whole_frame_size() == 1500 - headers
            assert observer.tunnel.whole_frame_size() == 1500 - headers

    @pytest.mark.parametrize(("mtu", "size"), [(1400, 1364), (9000, 1464), (0, 0)])
    async def test_what_the_system_knows_of_the_way_counts(self, monkeypatch: pytest.MonkeyPatch, mtu: int, size: int) -> None:
        monkeypatch.setattr(udp_socket, "path_mtu", lambda family, address: mtu)
        async with running() as tasks:
            _, tunnel, _ = await open_pair(tasks)
            assert tunnel.whole_frame_size() == size

    @pytest.mark.parametrize("host", [HOME, "::1"])
    async def test_for_a_minute_packets_may_be_cut_and_nobody_is_told_a_size(
        self, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        asked: list[bool] = []

        def note(_sock: socket.socket, *, allowed: bool) -> bool:
            asked.append(allowed)
            return False

        monkeypatch.setattr(udp_socket, "set_fragments", note)
        async with running() as tasks:
            _, tunnel, _ = await open_pair(tasks, host)
            tunnel.allow_fragments()
            assert (tunnel.whole_frame_size(), asked) == (0, [True])
            monkeypatch.setattr(udp_socket, "FRAGMENTS_SECONDS", 0.0)
            tunnel.allow_fragments()
            assert tunnel.whole_frame_size() > 0
            assert asked == [True, True, False]

    @pytest.mark.parametrize(
        ("family", "level", "option", "values"),
        [(socket.AF_INET, socket.IPPROTO_IP, 10, (0, 1)), (socket.AF_INET6, socket.IPPROTO_IPV6, 24, (1280, 0))],
        ids=["ipv4", "ipv6"],
    )
    async def test_the_system_takes_the_options(
        self, family: socket.AddressFamily, level: int, option: int, values: tuple[int, int]
    ) -> None:
        set_options: list[tuple[int, int, int]] = []

        class Noting(socket.socket):
            def setsockopt(self, *arguments: object) -> None:
                super().setsockopt(*arguments)  # type: ignore[call-overload]
                set_options.append(arguments)  # type: ignore[arg-type]

        with Noting(family, socket.SOCK_DGRAM) as sock:
            for allowed in (True, False):
                set_fragments(sock, allowed=allowed)
        assert [each for each in set_options if each[1] == option] == [(level, option, value) for value in values]

    async def test_a_closed_tunnel_carries_nothing(self) -> None:
        async with running() as tasks:
            _, tunnel, _ = await open_pair(tasks)
            tunnel.close()
            tunnel.allow_fragments()
            assert tunnel.whole_frame_size() == 0


class TestConnector:
    @pytest.fixture(autouse=True)
    def quick_attempts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(udp, "ATTEMPT_SECONDS", 0.05)

    async def test_each_attempt_has_its_own_port_id_and_magic(self) -> None:
        async with running() as tasks:
            with plain_socket() as silent:
                with pytest.raises(TunnelError, match=r"udp://127.0.0.1:\d+: no answer within 0.2 s"):
                    await connect(url_of(silent), tasks, timeout=0.2)
                syns: list[tuple[bytes, tuple[str, int]]] = []
                while len(syns) < 3:
                    syns.append(await receive(silent))
        assert len({address for _, address in syns}) == 3
        assert len({datagram[:4] for datagram, _ in syns}) == 3
        assert len({datagram[8:] for datagram, _ in syns}) == 3
        assert all(datagram[4] == KIND_SYN and len(datagram) == 16 for datagram, _ in syns)

    async def test_a_lost_syn_is_made_good_by_the_next_attempt(self) -> None:
        async with running() as tasks:
            with plain_socket() as peer:

                async def answer_the_second() -> None:
                    await receive(peer)
                    syn, address = await receive(peer)
                    peer.sendto(build_control(UDP_HEADER.unpack_from(syn)[0], KIND_SACK, syn[8:]), address)

                tasks.start_soon(answer_the_second)
                tunnel = await connect(url_of(peer), tasks)
                assert not tunnel.closed

    async def test_an_answer_later_than_the_next_attempt_still_counts(self) -> None:
        async with running() as tasks:
            with plain_socket() as peer:
                ports = []

                async def answer_the_first_late() -> None:
                    syn, address = await receive(peer)
                    await receive(peer)
                    ports.append(address[1])
                    peer.sendto(build_control(UDP_HEADER.unpack_from(syn)[0], KIND_SACK, syn[8:]), address)

                tasks.start_soon(answer_the_first_late)
                tunnel = await connect(url_of(peer), tasks)
                assert TunnelUrl.parse(tunnel.info.local_url).port == ports[0]

    async def test_only_the_right_answer_counts_but_from_any_address(self) -> None:
        async with running() as tasks:
            with plain_socket() as peer, plain_socket() as elsewhere:
                received = []

                async def answer() -> None:
                    syn, address = await receive(peer)
                    conn_id = UDP_HEADER.unpack_from(syn)[0]
                    for wrong in (
                        build_control(conn_id ^ 1, KIND_SACK, syn[8:]),
                        build_control(conn_id, KIND_SACK, bytes(8)),
                        build_control(conn_id, 5, syn[8:]),
                        b"",
                        bytes(2000),
                    ):
                        peer.sendto(wrong, address)
                    elsewhere.sendto(build_control(conn_id, KIND_SACK, syn[8:]), address)
                    # Before the tunnel is in its caller's hands: it must wait for it.
                    elsewhere.sendto(data(conn_id, bytes(16)), address)
                    peer.sendto(data(conn_id ^ 1, bytes(17)), address)
                    peer.sendto(data(conn_id, bytes(18)), address)
                    received.append(await receive(peer))

                tasks.start_soon(answer)
                tunnel = await connect(url_of(peer), tasks)
                observer = Observer(tunnel)
                await until(lambda: len(observer.frames) == 2)
                assert observer.frames == [bytes(16), bytes(18)]
                tunnel.send([bytes(30)])
                await until(lambda: received)
                assert received[0][0][8:] == bytes(30)

    async def test_it_pauses_after_the_answer_for_the_race_of_stock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []

        async def note(seconds: float) -> None:
            pauses.append(seconds)

        async with running() as tasks:
            listener, _ = await open_listener(tasks, Door())
            with monkeypatch.context() as patch:
                patch.setattr(anyio, "sleep", note)
                await connect(TunnelUrl.parse(listener.url), tasks)
        assert pauses == [0.02]

    async def test_an_address_that_cannot_be_reached_fails_at_once(self) -> None:
        async with running() as tasks:
            with anyio.fail_after(1), pytest.raises(TunnelError, match="permission denied"):
                await connect(TunnelUrl("udp", "255.255.255.255", 1), tasks, timeout=60)

    async def test_the_next_address_of_a_name_is_tried_after_a_bad_one(self) -> None:
        async with running() as tasks:
            _, address = await open_listener(tasks, Door())
            endpoints = [Endpoint(socket.AF_INET, ("255.255.255.255", 1)), Endpoint(socket.AF_INET, address)]
            tunnel = await udp.connect(endpoints, tasks, timeout=3)
            assert tunnel.address == address

    async def test_closing_the_tunnel_closes_its_socket(self) -> None:
        async with running() as tasks:
            _, tunnel, _ = await open_pair(tasks)
            observer = Observer(tunnel)
            local = TunnelUrl.parse(tunnel.info.local_url)
            tunnel.close("enough")
            tunnel.close()
            assert observer.reasons == ["enough"]
            udp.bind(socket.AF_INET, ("", local.port)).close()
            tunnel.send([bytes(16)] * 3)
            await tunnel.wait_writable()
            assert tunnel.dropped_frames == 3

    async def test_cancelling_an_attempt_leaves_no_socket(self) -> None:
        async with running() as tasks:
            with plain_socket() as silent:
                async with anyio.create_task_group() as attempt:
                    attempt.start_soon(connect, url_of(silent), tasks)
                    _, (_, port) = await receive(silent)
                    attempt.cancel_scope.cancel()
                udp.bind(socket.AF_INET, ("", port)).close()


class TestListener:
    async def test_a_repeated_syn_is_answered_again_and_opens_nothing(self) -> None:
        async with running() as tasks:
            door = Door()
            _, address = await open_listener(tasks, door)
            with plain_socket() as sock:
                for _ in range(3):
                    sock.sendto(build_control(9, KIND_SYN, MAGIC), address)
                    assert await receive(sock) == (build_control(9, KIND_SACK, MAGIC), address)
            assert len(door.observers) == 1

    async def test_a_new_id_from_the_same_address_is_a_second_tunnel(self) -> None:
        async with running() as tasks:
            door = Door()
            listener, address = await open_listener(tasks, door)
            with plain_socket() as sock:
                await open_by_hand(sock, address, 1, 2)
                sock.sendto(data(1, bytes(16)), address)
                sock.sendto(data(2, bytes(17)), address)
                await until(lambda: all(observer.frames for observer in door.observers))
            assert [observer.frames for observer in door.observers] == [[bytes(16)], [bytes(17)]]
            assert listener.tunnel_count == 2

    async def test_data_from_another_address_than_its_own_is_dropped(self) -> None:
        async with running() as tasks:
            door = Door()
            listener, address = await open_listener(tasks, door)
            with plain_socket() as sock, plain_socket() as thief:
                await open_by_hand(sock, address, 1)
                thief.sendto(data(1, bytes(16)), address)
                await until(lambda: listener.counters.unknown)
            assert door.observers[0].frames == []

    @pytest.mark.parametrize(
        ("datagram", "counter"),
        [
            (b"", "malformed"),
            (bytes(7), "malformed"),
            (UDP_HEADER.pack(1, KIND_DATA, 20) + bytes(19), "malformed"),
            (UDP_HEADER.pack(1, KIND_DATA, 20) + bytes(21), "malformed"),
            (data(1, bytes(15)), "bad_size"),
            (data(1, bytes(2001)), "bad_size"),
            (data(2, b""), "bad_size"),
            (data(1, bytes(16), 0), "ignored"),
            (data(1, bytes(16), 255), "ignored"),
            (data(1, b"", 4), "ignored"),
            (data(1, bytes(32), 5), "ignored"),
            (build_control(1, KIND_SACK, MAGIC), "ignored"),
            (build_control(3, KIND_SYN, MAGIC + b"x"), "ignored"),
            (build_control(3, KIND_SYN, b""), "ignored"),
            (bytes.fromhex("000100002112a442deadbeef0000000000000000"), "malformed"),
        ],
    )
    async def test_a_bad_datagram_is_counted_and_the_tunnel_stays(self, datagram: bytes, counter: str) -> None:
        async with running() as tasks:
            door = Door()
            listener, address = await open_listener(tasks, door)
            with plain_socket() as sock:
                await open_by_hand(sock, address, 1)
                sock.sendto(datagram, address)
                await until(lambda: getattr(listener.counters, counter) == 1)
                sock.sendto(data(1, bytes(16)), address)
                (observer,) = door.observers
                await until(lambda: observer.frames)
                with pytest.raises(BlockingIOError):
                    sock.recv(100)
            assert observer.frames == [bytes(16)]

    async def test_a_refused_tunnel_gets_no_answer(self) -> None:
        async with running() as tasks:
            door = Door(refuse=True)
            listener, address = await open_listener(tasks, door)
            with plain_socket() as sock:
                sock.sendto(build_control(1, KIND_SYN, MAGIC), address)
                await until(lambda: listener.counters.refused == 1)
                with pytest.raises(BlockingIOError):
                    sock.recv(100)
                assert listener.tunnel_count == 0
                door.refuse = False
                await open_by_hand(sock, address, 1)

    @pytest.mark.parametrize("limits", [{"max_tunnels": 3}, {"max_tunnels_per_host": 3}])
    async def test_syns_above_a_limit_are_not_answered_until_a_tunnel_ends(self, limits: dict[str, int]) -> None:
        async with running() as tasks:
            door = Door()
            listener, address = await open_listener(tasks, door, **limits)
            with plain_socket() as sock:
                for conn_id in range(10):
                    sock.sendto(build_control(conn_id, KIND_SYN, MAGIC), address)
                await until(lambda: listener.counters.refused == 7)
                assert listener.tunnel_count == len(door.observers) == 3
                door.observers[0].tunnel.close()
                sock.sendto(build_control(99, KIND_SYN, MAGIC), address)
                await until(lambda: listener.tunnel_count == 3)
            assert len(door.observers) == 4

    async def test_the_limit_of_one_host_leaves_room_for_others(self) -> None:
        async with running() as tasks:
            listener, address = await open_listener(tasks, Door(), max_tunnels_per_host=1)
            for host in ("127.0.0.2", "127.0.0.3"):
                with plain_socket(host) as sock:
                    sock.sendto(build_control(1, KIND_SYN, MAGIC), address)
                    await receive(sock)
            assert listener.tunnel_count == 2

    async def test_an_answer_is_never_longer_than_the_question(self) -> None:
        async with running() as tasks:
            _, address = await open_listener(tasks, Door())
            syn = build_control(1, KIND_SYN, MAGIC)
            with plain_socket() as sock:
                sock.sendto(syn, address)
                answer, _ = await receive(sock)
            assert len(answer) <= len(syn)

    async def test_a_flood_of_garbage_does_not_disturb_a_tunnel(self) -> None:
        rng = random.Random(1)
        async with running() as tasks:
            door = Door()
            listener, address = await open_listener(tasks, door)
            tunnel = await connect(TunnelUrl.parse(listener.url), tasks)
            (observer,) = door.observers
            with plain_socket() as sock:
                for number in range(50):
                    for _ in range(200):
                        garbage = rng.randbytes(rng.randrange(60))
                        if rng.random() < 0.5:
                            garbage = data(rng.randrange(4), garbage, rng.choice([0, 2, 3, 4, 5, 6, 7, 200]))
                        sock.sendto(garbage, address)
                    tunnel.send(numbered(10, first=10 * number))
                    await until(lambda expected=10 * number + 10: len(observer.frames) == expected)  # type: ignore[misc]
            assert observer.frames == numbered(500)
            assert listener.tunnel_count == 1
            counters = listener.counters
            assert counters.received == 10_501
            assert counters.malformed + counters.bad_size + counters.unknown + counters.ignored == 10_000

    async def test_closing_it_ends_its_tunnels_once(self) -> None:
        async with running() as tasks:
            listener, _, theirs = await open_pair(tasks)
            listener.close()
            listener.close()
            assert theirs.tunnel.closed
            assert theirs.reasons == ["the listener was closed"]
            theirs.tunnel.close()
            assert theirs.reasons == ["the listener was closed"]
            udp.bind(socket.AF_INET, (HOME, TunnelUrl.parse(listener.url).port)).close()

    async def test_closing_one_tunnel_leaves_the_others(self) -> None:
        async with running() as tasks:
            door = Door()
            listener, _ = await open_listener(tasks, door)
            tunnels = [await connect(TunnelUrl.parse(listener.url), tasks) for _ in range(2)]
            door.observers[0].tunnel.close()
            for tunnel in tunnels:
                tunnel.send([bytes(16)])
            await until(lambda: door.observers[1].frames and listener.counters.unknown == 1)
            assert door.observers[0].frames == []

    async def test_cancelling_its_tasks_closes_everything(self) -> None:
        async with running() as outer:
            door = Door()
            async with anyio.create_task_group() as tasks:
                listener, address = await open_listener(tasks, door)
                tunnel = await connect(TunnelUrl.parse(listener.url), outer)
                tasks.cancel_scope.cancel()
            assert door.observers[0].reasons == ["this node is shutting down"]
            assert not tunnel.closed
            udp.bind(socket.AF_INET, address).close()

    async def test_an_ipv6_listener_leaves_the_ipv4_port_alone(self) -> None:
        async with running() as tasks:
            listener = await listen(TunnelUrl("udp", "::", 0), tasks, Door())
            port = TunnelUrl.parse(listener.url).port
            await listen(TunnelUrl("udp", "0.0.0.0", port), tasks, Door())

    async def test_a_taken_port_is_an_error_that_names_the_url(self) -> None:
        async with running() as tasks:
            listener, _ = await open_listener(tasks, Door())
            with pytest.raises(TunnelError, match=f"cannot listen on {listener.url}: address already in use"):
                await listen(TunnelUrl.parse(listener.url), tasks, Door())


class TestUnwillingKernel:
    async def test_without_checksum_offload_datagrams_go_one_by_one_from_then_on(self) -> None:
        async with running() as tasks:
            with plain_socket() as peer:
                sock, ours, tunnel = open_unwilling(tasks, peer.getsockname())
                sock.error, sock.only_segmented = OSError(errno.EIO, "no checksum offload"), True
                assert ours.gso
                tunnel.send(numbered(20))
                assert not ours.gso
                tunnel.send(numbered(20, first=20))
                assert [(await receive(peer))[0] for _ in range(40)] == [data(7, frame) for frame in numbered(40)]
                assert ours.counters.sent == 40

    @pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL])
    async def test_a_segment_above_the_path_mtu_is_no_reason_to_give_up_segmenting(self, number: int) -> None:
        async with running() as tasks:
            with plain_socket() as peer:
                sock, ours, tunnel = open_unwilling(tasks, peer.getsockname())
                sock.error, sock.only_segmented = OSError(number, "too long"), True
                tunnel.send(numbered(20))
                assert [(await receive(peer))[0] for _ in range(20)] == [data(7, frame) for frame in numbered(20)]
                assert ours.gso
                assert tunnel.dropped_frames == 0

    async def test_without_offload_the_same_frames_cross(self) -> None:
        async with running() as tasks:
            door = Door()
            ours = UdpSocket(udp.bind(socket.AF_INET, (HOME, 0)), tasks, door, offload=False)
            tunnel = await connect(ours.url, tasks)
            tunnel.send(numbered(300))
            (observer,) = door.observers
            await until(lambda: len(observer.frames) == 300)
            assert observer.frames == numbered(300)
            assert not ours.gro

    @pytest.mark.parametrize("number", [errno.EPERM, errno.ENETUNREACH, errno.ECONNREFUSED])
    async def test_a_refusal_of_the_network_is_counted_and_not_raised(self, number: int) -> None:
        async with running() as tasks:
            sock, ours, tunnel = open_unwilling(tasks, (HOME, 9))
            sock.error = OSError(number, "refused")
            assert tunnel.send([*numbered(20), bytes(1400)])
            assert ours.counters.send_errors == 21
            assert not tunnel.closed

    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
    async def test_what_the_kernel_does_not_take_waits_and_goes_out_in_order(self, number: int) -> None:
        async with running() as tasks:
            with plain_socket() as peer:
                sock, ours, tunnel = open_unwilling(tasks, peer.getsockname())
                sock.error = BlockingIOError(number, "full") if number == errno.EAGAIN else OSError(number, "full")
                sock.allowed = 1
                assert not tunnel.send(numbered(80, 200))
                assert ours.counters.sent == 64
                assert not tunnel.send(numbered(20, 200, first=80))
                with anyio.move_on_after(0.02) as scope:
                    await tunnel.wait_writable()
                assert scope.cancelled_caught
                sock.error = None
                await tunnel.wait_writable()
                assert not ours.congested
                assert tunnel.send(numbered(1, 200, first=100))
                assert [(await receive(peer))[0] for _ in range(101)] == [data(7, frame) for frame in numbered(101, 200)]
                assert tunnel.dropped_frames == 0

    async def test_a_batch_broken_off_in_the_middle_goes_on_where_it_stopped(self) -> None:
        async with running() as tasks:
            with plain_socket() as peer:
                sock, ours, tunnel = open_unwilling(tasks, peer.getsockname())
                ours.gso = False
                sock.error, sock.allowed = BlockingIOError(errno.EAGAIN, "full"), 7
                assert not tunnel.send(numbered(30))
                sock.allowed = 5
                await until(lambda: ours.counters.sent == 12)
                sock.error = None
                await tunnel.wait_writable()
                assert [(await receive(peer))[0] for _ in range(30)] == [data(7, frame) for frame in numbered(30)]

    async def test_past_the_cap_new_frames_are_dropped_and_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(udp_socket, "BACKLOG_BYTES", 100_000)
        async with running() as tasks:
            with plain_socket() as peer:
                sock, ours, tunnel = open_unwilling(tasks, peer.getsockname())
                sock.error = BlockingIOError(errno.EAGAIN, "full")
                for number in range(10):
                    tunnel.send(numbered(20, first=20 * number))
                # 20 datagrams are 26 160 bytes: three batches fit.
                assert tunnel.dropped_frames == ours.counters.backlog_dropped == 140
                sock.error = None
                await tunnel.wait_writable()
                assert [(await receive(peer))[0] for _ in range(60)] == [data(7, frame) for frame in numbered(60)]

    async def test_closing_lets_go_of_a_waiting_sender(self) -> None:
        async with running() as tasks:
            sock, _, tunnel = open_unwilling(tasks, (HOME, 9))
            sock.error = BlockingIOError(errno.EAGAIN, "full")
            tunnel.send(numbered(5))

            async def close_soon() -> None:
                tunnel.close()

            tasks.start_soon(close_soon)
            await tunnel.wait_writable()
            assert tunnel.closed

    async def test_a_failing_read_is_counted_and_survived(self) -> None:
        class Deaf(socket.socket):
            failures = 3

            def recvmsg_into(self, *arguments: object) -> object:  # type: ignore[override]
                if self.failures:
                    self.failures -= 1
                    raise OSError(errno.ENETDOWN, "network is down")
                return super().recvmsg_into(*arguments)  # type: ignore[arg-type]

        async with running() as tasks:
            door = Door()
            sock = Deaf(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind((HOME, 0))
            ours = UdpSocket(sock, tasks, door)
            await connect(ours.url, tasks)
            assert ours.counters.receive_errors == 3


async def test_one_wake_up_does_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tasks have their turn in the middle of a flood."""
    monkeypatch.setattr(udp_socket, "DRAIN_READS", 4)
    async with running() as tasks:
        door = Door()
        ours = UdpSocket(udp.bind(socket.AF_INET, (HOME, 0)), tasks, door, offload=False)
        tunnel = await connect(ours.url, tasks)
        tunnel.send(numbered(40))
        (observer,) = door.observers
        await until(lambda: len(observer.frames) == 40)
        assert max(map(len, observer.batches)) <= 4
