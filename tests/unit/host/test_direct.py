"""Direct connections: what we tell of ourselves, which addresses of others are worth dialling, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface, IPv4Network, IPv6Network, ip_address
from itertools import count, pairwise
from types import SimpleNamespace
from uuid import UUID

import pytest
from anyio.abc import TaskGroup
from hypothesis import given
from hypothesis import strategies as st

from easytier_host import direct
from easytier_host import tunnel as tunnels
from easytier_host.config.model import Config, Flags
from easytier_host.direct import GET_IP_LIST, MAX_CANDIDATES, SERVICE, DirectConnector, candidates
from easytier_host.handshake import HandshakeError
from easytier_host.metrics import Metrics
from easytier_host.packet import PacketType
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.peer_conn import PeerConn
from easytier_host.route_records import PeerRecord
from easytier_host.rpc.peer import PeerRpc
from easytier_host.tunnel import Tunnel, TunnelError, TunnelUrl
from tests.unit.host.helpers import ME, OTHER, PEER, FakeClock, FakeTunnel, fake_tunnel, make_conn
from tests.unit.host.tunnel.helpers import running, until


def v4(text: str) -> common_pb2.Ipv4Addr:
    return common_pb2.Ipv4Addr(addr=int(ip_address(text)))


def v6(text: str) -> common_pb2.Ipv6Addr:
    value = int(ip_address(text))
    parts = [value >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0)]
    return common_pb2.Ipv6Addr(part1=parts[0], part2=parts[1], part3=parts[2], part4=parts[3])


def ip_list(
    *listeners: str, ipv4: tuple[str, ...] = (), ipv6: tuple[str, ...] = (), public: str = ""
) -> peer_rpc_pb2.GetIpListResponse:
    return peer_rpc_pb2.GetIpListResponse(
        public_ipv4=v4(public) if public else None,
        interface_ipv4s=[v4(text) for text in ipv4],
        interface_ipv6s=[v6(text) for text in ipv6],
        listeners=[common_pb2.Url(url=url) for url in listeners],
    )


def urls(answer: peer_rpc_pb2.GetIpListResponse, *forbidden: IPv4Network | IPv6Network) -> list[str]:
    return [str(url) for url in candidates(answer, forbidden)]


def test_listeners_with_an_address_are_taken_udp_first() -> None:
    answer = ip_list("tcp://192.0.2.1:11010", "udp://192.0.2.1:11010", "udp://[2001:db8::1]:7")
    assert urls(answer) == ["udp://192.0.2.1:11010", "udp://[2001:db8::1]:7", "tcp://192.0.2.1:11010"]


def test_an_unspecified_listener_stands_for_every_interface() -> None:
    answer = ip_list(
        "udp://0.0.0.0:5", "tcp://[::]:6", ipv4=("192.0.2.1", "198.51.100.1"), ipv6=("2001:db8::1",), public="203.0.113.9"
    )
    assert set(urls(answer)) == {
        "udp://203.0.113.9:5",
        "udp://192.0.2.1:5",
        "udp://198.51.100.1:5",
        "tcp://[2001:db8::1]:6",
    }


@pytest.mark.parametrize(
    "url",
    [
        "",
        "udp://",
        "udp://192.0.2.1:0",
        "udp://192.0.2.1:99999",
        "ring://4b4e1e10-0000-0000-0000-000000000000",
        "wg://192.0.2.1:11011",
        "udp://example.com:11010",
        "udp://127.0.0.1:11010",
        "udp://[::1]:11010",
        "udp://224.0.0.1:11010",
        "udp://169.254.1.1:11010",
        "udp://[fe80::1]:11010",
        "not a url",
        "udp://[::1",
        "udp://10.144.0.7:11010",
        "udp://0.0.0.0:11010",
    ],
)
def test_what_is_no_use_is_left_out(url: str) -> None:
    assert urls(ip_list(url, ipv4=("10.144.0.9",)), IPv4Network("10.144.0.0/24"), IPv6Network("fd00::/64")) == []


def test_a_list_of_any_length_gives_sixteen_candidates() -> None:
    many = tuple(f"10.{number >> 8}.{number & 255}.1" for number in range(20_000))
    answer = ip_list(*(f"udp://0.0.0.0:{port}" for port in range(1000, 3000)), ipv4=many)
    assert len(candidates(answer, ())) == MAX_CANDIDATES


@given(st.lists(st.text(max_size=60), max_size=5), st.lists(st.integers(0, 0xFFFF_FFFF), max_size=5))
def test_any_list_is_survived(texts: list[str], numbers: list[int]) -> None:
    answer = peer_rpc_pb2.GetIpListResponse(
        interface_ipv4s=[common_pb2.Ipv4Addr(addr=number) for number in numbers],
        interface_ipv6s=[common_pb2.Ipv6Addr(part1=number) for number in numbers],
        listeners=[
            common_pb2.Url(url=text.encode(errors="replace").decode()) for text in [*texts, "udp://0.0.0.0:1", "tcp://[::]:2"]
        ],
    )
    for url in candidates(answer, ()):
        assert not ip_address(url.host).is_loopback
        assert url.port


def record(peer_id: int, **flags: bool) -> PeerRecord:
    return PeerRecord(
        peer_id, f"h{peer_id}", None, None, (), 6, "2.6.4", common_pb2.PeerFeatureFlag(**flags), UUID(int=peer_id), 1, 0.0
    )


class World:
    """A connector whose peers answer with `answer`, and whose dials end as `ends` says."""

    def __init__(self, tasks: TaskGroup, monkeypatch: pytest.MonkeyPatch, *, flags: Flags | None = None) -> None:
        self.clock = FakeClock()
        self.records: list[PeerRecord] = [record(PEER)]
        self.neighbours: frozenset[int] = frozenset()
        self.offered = True
        self.looks = 0
        self.asked: list[int] = []
        self.dialled: list[str] = []
        self.ends: dict[str, PeerConn | Exception] = {}
        self.answer = ip_list("udp://192.0.2.1:1", "tcp://192.0.2.1:1")
        config = Config(
            ipv4=IPv4Interface("10.144.0.1/24"), mapped_listeners=("tcp://203.0.113.5:443",), flags=flags or Flags()
        )
        self.rpc = PeerRpc(ME, "lab", self._carry, Metrics(), count(1).__next__)
        self.theirs = PeerRpc(PEER, "lab", self._carry_back, Metrics(), count(1).__next__)
        topology = SimpleNamespace(reachable_records=self._look)
        peers = SimpleNamespace(neighbours=lambda: self.neighbours)
        self.connector = DirectConnector(config, self.rpc, tasks, self, topology, peers, self.clock)  # type: ignore[arg-type]
        monkeypatch.setattr(tunnels, "connect", self._connect)
        monkeypatch.setattr(direct, "read_interface_addresses", frozenset)
        monkeypatch.setattr(direct, "CHECK_INTERVAL", 0.001)

    async def look_twice(self) -> None:
        """The second look from here began after this call."""
        enough = self.looks + 2
        await until(lambda: self.looks >= enough)

    def _look(self) -> list[PeerRecord]:
        self.looks += 1
        return self.records

    def _carry(self, target: int, kind: PacketType, payloads: list[bytes]) -> None:
        self.asked.append(target)
        if self.offered:
            self.theirs.offer(SERVICE, {GET_IP_LIST: lambda *_: self.answer})
        for payload in payloads:
            self.theirs.receive(ME, kind, payload, 0.0)

    def _carry_back(self, _target: int, kind: PacketType, payloads: list[bytes]) -> None:
        for payload in payloads:
            self.rpc.receive(PEER, kind, payload, 0.0)

    async def _connect(self, url: TunnelUrl, _tasks: TaskGroup, *, timeout: float) -> Tunnel:
        assert timeout <= 3
        self.dialled.append(str(url))
        end = self.ends.get(str(url), TunnelError("nobody"))
        if isinstance(end, TunnelError):
            raise end
        return end.tunnel if isinstance(end, PeerConn) else FakeTunnel()

    async def join(self, tunnel: Tunnel) -> PeerConn:
        end = self.ends[self.dialled[-1]]
        if isinstance(end, Exception):
            raise end
        assert end.tunnel is tunnel
        return end


@asynccontextmanager
async def world(monkeypatch: pytest.MonkeyPatch, flags: Flags | None = None) -> AsyncIterator[World]:
    async with running() as tasks:
        made = World(tasks, monkeypatch, flags=flags)
        tasks.start_soon(made.connector.run)
        yield made


@pytest.mark.anyio
async def test_a_peer_behind_others_is_dialled_until_one_address_is_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as tasks:
        made = World(tasks, monkeypatch)
        wrong, right = make_conn(OTHER), make_conn(PEER)
        made.answer = ip_list(
            "udp://192.0.2.1:1", "udp://192.0.2.2:1", "udp://192.0.2.3:1", "udp://192.0.2.4:1", "udp://192.0.2.5:1"
        )
        made.ends = {
            "udp://192.0.2.2:1": HandshakeError("no"),
            "udp://192.0.2.3:1": wrong,
            "udp://192.0.2.4:1": right,
        }
        tasks.start_soon(made.connector.run)
        await until(lambda: len(made.dialled) == 4)
        assert made.dialled[-1] == "udp://192.0.2.4:1"
        assert "another one" in (fake_tunnel(wrong).reason or "")
        assert not right.tunnel.closed


@pytest.mark.anyio
async def test_peers_that_do_not_answer_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty that nobody has heard of, and one behind them that is there."""
    async with running() as tasks:
        made = World(tasks, monkeypatch)
        made.records = [*(record(peer_id) for peer_id in range(1, 60)), record(PEER)]
        carry = made._carry
        made.rpc._send = lambda target, kind, payloads: carry(target, kind, payloads if target == PEER else [])
        right = make_conn(PEER)
        made.ends = {"udp://192.0.2.1:1": right}
        tasks.start_soon(made.connector.run)
        await until(lambda: made.dialled == ["udp://192.0.2.1:1"])
        assert not right.tunnel.closed


@pytest.mark.anyio
async def test_so_many_are_asked_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "MAX_UNDER_WAY", 3)
    async with running() as tasks:
        made = World(tasks, monkeypatch)
        made.records = [record(peer_id) for peer_id in range(1, 10)]
        made.rpc._send = lambda target, _kind, _payloads: made.asked.append(target)
        tasks.start_soon(made.connector.run)
        await until(lambda: len(made.asked) == 3)
        await made.look_twice()
        assert made.asked == [1, 2, 3]


@pytest.mark.anyio
async def test_attempts_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as made:
        times: list[float] = []
        for _ in range(4):
            count = len(times) + 1
            while len(made.asked) < count:
                made.clock.advance(1.0)
                await made.look_twice()
            times.append(made.clock.now)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] >= 10
    assert gaps == sorted(gaps)
    assert gaps[2] >= 40


@pytest.mark.anyio
@pytest.mark.parametrize("flag", ["is_public_server", "disable_p2p"])
async def test_peers_that_do_not_want_it_are_not_asked(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    async with running() as tasks:
        made = World(tasks, monkeypatch)
        made.records = [record(OTHER, **{flag: True}), record(PEER)]
        tasks.start_soon(made.connector.run)
        await until(lambda: made.asked)
        assert made.asked == [PEER]


@pytest.mark.anyio
async def test_a_peer_that_does_not_offer_the_service_is_left_alone_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as tasks:
        made = World(tasks, monkeypatch)
        made.offered = False
        tasks.start_soon(made.connector.run)
        await until(lambda: made.connector._next_try.get(PEER, (0, 0))[0] == made.clock.now + 3600)
        assert made.dialled == []


@pytest.mark.anyio
async def test_without_p2p_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as tasks:
        made = World(tasks, monkeypatch, flags=Flags(disable_p2p=True))
        looks: list[int] = []

        def look() -> frozenset[object]:
            looks.append(1)
            return frozenset()

        monkeypatch.setattr(direct, "REFRESH_INTERVAL", 0.0)
        monkeypatch.setattr(direct, "read_interface_addresses", look)
        tasks.start_soon(made.connector.run)
        await until(lambda: len(looks) >= 3)
        assert made.asked == []


@pytest.mark.anyio
async def test_our_own_list_has_only_urls_that_parse_and_no_overlay_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as tasks:
        made = World(tasks, monkeypatch)
        made.connector.listeners = ("udp://0.0.0.0:11010", "tcp://[::]:11010")
        made.connector.interface_addresses = frozenset(ip_address(text) for text in ("192.0.2.9", "10.144.0.1", "2001:db8::9"))
        answer = made.connector._serve(PEER, b"")
        assert isinstance(answer, peer_rpc_pb2.GetIpListResponse)
        assert [item.url for item in answer.listeners] == ["udp://0.0.0.0:11010", "tcp://[::]:11010", "tcp://203.0.113.5:443"]
        for item in answer.listeners:
            assert TunnelUrl.parse(item.url).port
        assert list(answer.interface_ipv4s) == [v4("192.0.2.9")]
        assert list(answer.interface_ipv6s) == [v6("2001:db8::9")]


@pytest.mark.anyio
async def test_addresses_that_cannot_be_read_leave_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As netlink does when an address changes while it lists them."""
    async with running() as tasks:
        made = World(tasks, monkeypatch, flags=Flags(disable_p2p=True))
        address = ip_address("192.0.2.9")
        reads: list[int] = []

        def read() -> frozenset[object]:
            reads.append(1)
            if len(reads) > 1:
                raise NetlinkDumpInterrupted
            return frozenset({address})

        class NetlinkDumpInterrupted(Exception):
            pass

        monkeypatch.setattr(direct, "REFRESH_INTERVAL", 0.0)
        monkeypatch.setattr(direct, "read_interface_addresses", read)
        tasks.start_soon(made.connector.run)
        await until(lambda: len(reads) >= 4)
        assert made.connector.interface_addresses == {address}
