"""The way out and the way in: what is sealed, relayed, handed on and dropped, and that every frame is counted once."""

from __future__ import annotations

import secrets
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.batch import IN_PYTHON, Batch
from easytier_host.compress import Compressor
from easytier_host.crypto import Cipher, make_cipher
from easytier_host.datapath import Inbound, Outbound
from easytier_host.lookup import Lookup
from easytier_host.metrics import Metrics
from easytier_host.next_hop import Path
from easytier_host.packet import Flag, PacketType, PeerHeader, build_frame
from easytier_host.pb import common_pb2
from easytier_host.peer_conn import LIVE_TIME, PeerConn
from easytier_host.peers import PeerMap
from easytier_host.route_records import PeerRecord
from tests.unit.host.helpers import (
    BATCHES,
    FAR,
    FROM_FRAME,
    ME,
    OTHER,
    PEER,
    SECRET,
    FakeClock,
    device_frame,
    fake_tunnel,
    make_conn,
    split_frame,
    tcp_segment,
    udp_packet,
)

PACKET = tcp_segment("10.144.0.2", "10.144.0.1", data=b"payload")


def cipher(algorithm: str = "aes-gcm", secret: str = SECRET, batch: Batch = IN_PYTHON) -> Cipher:
    return make_cipher(algorithm, secret, secrets.token_bytes, batch.aead)


class Host:
    """Both loops of a node with the neighbours PEER and OTHER; FAR is behind OTHER."""

    def __init__(
        self,
        *,
        encrypted: bool = True,
        compress: bool = False,
        latency_first: bool = False,
        batch: Batch = IN_PYTHON,
        **inbound: Any,
    ) -> None:
        self.versions: dict[int, str] = {}
        self.metrics = Metrics()
        self.peers = PeerMap(lambda _conn: None, lambda _peer, _reason: None, self.metrics)
        self.conns = {peer_id: make_conn(peer_id) for peer_id in (PEER, OTHER)}
        for conn in self.conns.values():
            self.peers.add(conn)
        self.cipher = cipher(batch=batch) if encrypted else None
        self.delivered: list[bytes] = []
        self.rpc: list[tuple[int, int, bytes]] = []
        self.outbound = Outbound(
            ME,
            self.peers,
            self.metrics,
            self.cipher,
            Compressor() if compress else None,
            mtu=1360,
            latency_first=latency_first,
            split=batch.split,
        )
        self.outbound.next_hops = {FAR: OTHER}
        self.inbound = Inbound(
            ME,
            self.peers,
            self.metrics,
            self.cipher,
            FakeClock(),
            deliver=self._deliver,
            rpc=lambda source, kind, payload, _now, _neighbour: self.rpc.append((source, kind, payload)),
            version_of=self.versions.get,
            **({"disable_relay_data": False} | inbound),
        )
        self.inbound.next_hops_by_hops = {FAR: OTHER}
        self.inbound.next_hops_by_latency = {FAR: PEER}

    def _deliver(self, packets: list[bytes]) -> None:
        self.metrics.delivered_packets += len(packets)
        self.delivered += packets

    def receive(self, *frames: bytes, source: int = PEER) -> None:
        self.inbound.receive(self.conns[source], list(frames))
        self.check()

    def check(self) -> None:
        """The invariant of `Metrics`."""
        counted = sum(getattr(self.metrics, name) for name in FROM_FRAME)
        assert counted == self.metrics.received_frames

    def sent(self, peer_id: int) -> list[bytes]:
        return fake_tunnel(self.conns[peer_id]).take()

    def sealed(
        self, payload: bytes, kind: int = PacketType.DATA, *, target: int = ME, source: int = PEER, flags: int = 0
    ) -> bytes:
        """A frame as a peer with our key sends it."""
        body = cipher().seal(payload)
        return PeerHeader(source, target, kind, Flag.ENCRYPTED | flags, 1, len(payload)).encode() + body


def record(peer_id: int, **fields: Any) -> PeerRecord:
    values: dict[str, Any] = {
        "peer_id": peer_id,
        "hostname": "",
        "ipv4": None,
        "ipv6": None,
        "proxy_cidrs": (),
        "udp_nat_type": 6,
        "easytier_version": "",
        "feature_flag": common_pb2.PeerFeatureFlag(),
        "inst_id": UUID(int=peer_id),
        "version": 1,
        "last_seen": 0.0,
    }
    return PeerRecord(**(values | fields))


def lookup() -> Lookup:
    records = [
        record(PEER, ipv4=IPv4Interface("10.144.0.2/24"), ipv6=IPv6Interface("fd00::2/64")),
        record(OTHER, ipv4=IPv4Interface("10.144.0.3/24"), proxy_cidrs=(IPv4Network("192.168.7.0/24"),)),
    ]
    paths = {PEER: Path(PEER, 1, 5), OTHER: Path(OTHER, 1, 5)}
    return Lookup(records, paths, IPv4Interface("10.144.0.1/24"))


# The way out


@pytest.mark.parametrize("algorithm", ["aes-gcm", "aes-256-gcm", "chacha20", "xor"])
def test_device_packets_leave_sealed(algorithm: str) -> None:
    host = Host()
    host.outbound._cipher = cipher(algorithm)
    host.outbound.lookup = lookup()
    packet = tcp_segment()
    assert host.outbound.send_device_frames([device_frame(packet)]) is None
    (frame,) = host.sent(PEER)
    header, body = split_frame(frame)
    assert header == PeerHeader(ME, PEER, PacketType.DATA, Flag.ENCRYPTED, 1, len(packet))
    assert cipher(algorithm).open(body) == packet
    assert host.metrics.sent_frames == 1


def test_without_encryption_the_flag_is_clear() -> None:
    host = Host(encrypted=False)
    host.outbound.lookup = lookup()
    host.outbound.send_device_frames([device_frame(tcp_segment())])
    assert host.sent(PEER) == [build_frame(ME, PEER, PacketType.DATA, tcp_segment())]


def test_latency_first_is_asked_for_on_data_only() -> None:
    host = Host(latency_first=True)
    host.outbound.lookup = lookup()
    host.outbound.send_device_frames([device_frame(tcp_segment())])
    host.outbound.send_rpc(PEER, PacketType.RPC_REQ, [b"x"])
    assert [PeerHeader.parse(frame).flags for frame in host.sent(PEER)] == [0x03, 0x01]


def test_packets_go_where_their_addresses_are() -> None:
    host = Host()
    host.outbound.lookup = lookup()
    frames = [
        device_frame(tcp_segment(destination="10.144.0.2")),
        device_frame(tcp_segment(destination="192.168.7.9")),
        device_frame(tcp_segment("fd00::1", "fd00::2")),
        device_frame(tcp_segment(destination="10.144.0.77")),
        device_frame(tcp_segment(destination="10.144.0.1")),
    ]
    host.outbound.send_device_frames(frames)
    assert (len(host.sent(PEER)), len(host.sent(OTHER))) == (2, 1)
    assert host.metrics.dropped_no_route == 2


def test_broadcast_goes_to_every_peer_beside_what_is_theirs_alone() -> None:
    host = Host(encrypted=False)
    host.outbound.lookup = lookup()
    single, fan = tcp_segment(destination="10.144.0.2"), udp_packet("10.144.0.1", "10.144.0.255", b"hi")
    host.outbound.send_device_frames([device_frame(fan), device_frame(single), device_frame(fan)])
    assert [split_frame(frame)[1] for frame in host.sent(PEER)] == [fan, single, fan]
    assert [split_frame(frame)[1] for frame in host.sent(OTHER)] == [fan, fan]


@pytest.mark.parametrize(
    "frame", [b"", bytes(10), bytes(11), bytes(10) + b"\x45", bytes(10) + b"\x60" * 20, b"\x01" + bytes(60)]
)
def test_what_is_no_packet_is_counted_and_not_sent(frame: bytes) -> None:
    host = Host()
    host.outbound.lookup = lookup()
    host.outbound.send_device_frames([frame])
    assert host.sent(PEER) == host.sent(OTHER) == []
    assert host.metrics.dropped_device + host.metrics.dropped_no_route == 1


@given(st.lists(st.binary(max_size=120), max_size=4))
def test_any_device_frames_are_survived(frames: list[bytes]) -> None:
    host = Host()
    host.outbound.lookup = lookup()
    host.outbound.send_device_frames(frames)
    host.outbound.send_device_frames([bytes(10) + b"\x45" + frame for frame in frames])


def test_before_the_first_routes_everything_is_dropped_and_counted() -> None:
    host = Host()
    host.outbound.send_device_frames([device_frame(tcp_segment())])
    assert host.metrics.dropped_no_route == 1


def test_answers_carry_further_flags() -> None:
    host = Host()
    host.outbound.lookup = lookup()
    host.outbound.send_device_frames([device_frame(tcp_segment())], Flag.NO_PROXY)
    assert PeerHeader.parse(host.sent(PEER)[0]).flags == Flag.NO_PROXY | Flag.ENCRYPTED


def test_a_peer_behind_another_is_sent_to_its_next_hop() -> None:
    host = Host()
    host.outbound.send(FAR, PacketType.KCP_SRC, [b"segment"])
    (frame,) = host.sent(OTHER)
    assert PeerHeader.parse(frame).to_peer_id == FAR
    host.outbound.send(99, PacketType.KCP_SRC, [b"a", b"b"])
    host.outbound.send_rpc(99, PacketType.RPC_REQ, [b"a"])
    assert host.metrics.dropped_no_route == 3


def test_compressible_payloads_are_compressed_and_then_sealed() -> None:
    host = Host(compress=True)
    host.outbound.send(PEER, PacketType.DATA, [b"a" * 600, b"short", b"a" * 600])
    first, second, third = host.sent(PEER)
    assert [PeerHeader.parse(frame).flags for frame in (first, second, third)] == [0x11, 0x01, 0x11]
    header, body = split_frame(first)
    assert header.length == 600
    assert Compressor().decompress(cipher().open(body), 600) == b"a" * 600


def test_a_congested_tunnel_is_named_and_its_drops_are_counted() -> None:
    host = Host()
    host.outbound.lookup = lookup()
    fake_tunnel(host.conns[PEER]).slow = True
    both = [device_frame(tcp_segment(destination=f"10.144.0.{number}")) for number in (2, 3)]
    assert host.outbound.send_device_frames(both) is host.conns[PEER].tunnel
    assert host.metrics.dropped_congestion == 0
    fake_tunnel(host.conns[PEER]).full = True
    host.outbound.send_device_frames(both)
    assert host.metrics.dropped_congestion == 1


@pytest.mark.parametrize(
    ("encrypted", "relay", "public", "flags", "counter"),
    [
        (True, False, False, Flag.ENCRYPTED, 2),
        (True, True, False, 0, 1),
        (True, False, True, 0, 1),
        (False, False, False, 0, 2),
        (False, True, False, 0, 1),
    ],
)
def test_rpc_is_in_clear_to_relays_of_other_networks(
    encrypted: bool, relay: bool, public: bool, flags: int, counter: int
) -> None:
    host = Host(encrypted=encrypted)
    host.conns[PEER].is_foreign_relay = relay
    host.outbound.public_servers = frozenset({PEER} if public else ())
    host.outbound.send_rpc(PEER, PacketType.RPC_REQ, [b"request"])
    header, body = split_frame(host.sent(PEER)[0])
    assert header == PeerHeader(ME, PEER, PacketType.RPC_REQ, flags, counter, 7)
    assert (cipher().open(body) if flags else body) == b"request"


# The way in


@pytest.mark.parametrize("kind", [PacketType.DATA, PacketType.RPC_REQ, PacketType.KCP_SRC])
def test_nobody_else_brings_frames_of_a_neighbour_that_is_heard(kind: PacketType) -> None:
    host = Host()
    taken: list[int] = []
    host.inbound.handlers[PacketType.KCP_SRC] = lambda source, _payloads: taken.append(source)
    host.receive(host.sealed(PACKET, kind, source=OTHER), source=PEER)
    assert (host.delivered, host.rpc, taken, host.metrics.dropped_forged) == ([], [], [], 1)
    # One that is no neighbour comes by any way; so does one whose own connection has been silent, which it may have lost.
    host.receive(host.sealed(PACKET, kind, source=FAR), source=PEER)
    host.peers.tick(1000.0 + LIVE_TIME)
    host.receive(host.sealed(PACKET, kind, source=OTHER), source=PEER)
    assert len(host.delivered) + len(host.rpc) + len(taken) == 2
    assert host.metrics.dropped_forged == 1


def test_frames_of_a_neighbour_for_others_pass_whoever_brings_them() -> None:
    """By latency, the way to a third node may well lead through two of our neighbours, and us between them."""
    host = Host()
    host.receive(build_frame(OTHER, FAR, PacketType.DATA, b"sealed", flags=Flag.LATENCY_FIRST), source=PEER)
    assert (host.metrics.relayed_frames, host.metrics.dropped_forged) == (1, 0)


def test_data_for_us_is_opened_and_delivered_in_order() -> None:
    host = Host()
    packets = [tcp_segment("10.144.0.2", "10.144.0.1", data=bytes([number])) for number in range(5)]
    host.receive(*(host.sealed(packet) for packet in packets))
    assert host.delivered == packets
    assert host.conns[PEER].received_frames == 5


def test_clear_data_is_taken_of_those_alone_that_do_not_seal_all() -> None:
    host = Host()
    host.versions |= {PEER: "2.4.5-abcdef", FAR: "2.5.0"}
    taken: list[tuple[int, list[bytes]]] = []
    host.inbound.handlers[PacketType.KCP_SRC] = lambda source, payloads: taken.append((source, payloads))
    for source, bringer in ((PEER, PEER), (FAR, PEER), (OTHER, OTHER)):
        # Nothing is known of OTHER.
        frames = (build_frame(source, ME, kind, PACKET) for kind in (PacketType.DATA, PacketType.KCP_SRC))
        host.receive(*frames, source=bringer)
    assert (host.delivered, taken) == ([PACKET], [(PEER, [PACKET])])
    assert host.metrics.dropped_clear == 4


def test_clear_frames_are_normal_where_encryption_is_off() -> None:
    host = Host(encrypted=False)
    host.receive(build_frame(PEER, ME, PacketType.DATA, PACKET), build_frame(PEER, ME, PacketType.RPC_REQ, b"rpc"))
    assert (host.delivered, host.rpc) == ([PACKET], [(PEER, 8, b"rpc")])


@pytest.mark.parametrize("kind", [PacketType.DATA, PacketType.RPC_REQ, PacketType.KCP_SRC])
def test_a_frame_that_claims_to_be_our_own_is_not_believed(kind: PacketType) -> None:
    host = Host()
    host.inbound.handlers[PacketType.KCP_SRC] = lambda _source, _payloads: pytest.fail("believed")
    host.receive(host.sealed(PACKET, kind, source=ME))
    assert (host.delivered, host.rpc, host.metrics.dropped_forged) == ([], [], 1)


def test_sealed_data_is_dropped_where_encryption_is_off() -> None:
    host = Host(encrypted=False)
    host.receive(host.sealed(PACKET), host.sealed(b"rpc", PacketType.RPC_REQ))
    assert host.delivered == []
    assert host.rpc == []
    assert host.metrics.dropped_unsealed == 2


def test_frames_sealed_with_another_key_or_damaged_are_dropped() -> None:
    host = Host()
    good = host.sealed(PACKET)
    wrong = PeerHeader(PEER, ME, PacketType.DATA, Flag.ENCRYPTED, 1, 5).encode() + cipher(secret="other").seal(b"\x45xxxx")
    host.receive(wrong, good[:-1], good[:20] + b"\0\0" + good[22:], good[:30], good)
    assert host.delivered == [PACKET]
    assert host.metrics.dropped_unsealed == 4


def test_compressed_data_is_unfolded_or_dropped() -> None:
    host = Host()
    host.versions[PEER] = "2.2.4"
    plain = udp_packet("10.144.0.2", "10.144.0.1", b"a" * 600)
    packed = Compressor().compress(plain)
    assert packed is not None
    clear = PeerHeader(PEER, ME, PacketType.DATA, Flag.COMPRESSED, 1, len(plain)).encode() + packed
    sealed = PeerHeader(PEER, ME, PacketType.DATA, Flag.COMPRESSED | Flag.ENCRYPTED, 1, len(plain)).encode() + cipher().seal(
        packed
    )
    lying = PeerHeader(PEER, ME, PacketType.DATA, Flag.COMPRESSED, 1, len(plain) - 1).encode() + packed
    host.receive(clear, sealed, lying)
    assert host.delivered == [plain, plain]
    assert host.metrics.dropped_unsealed == 1


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x55" * 40, b"\xff" * 100])
def test_data_without_an_ip_packet_is_malformed(payload: bytes) -> None:
    host = Host()
    host.versions[PEER] = "2.2.4"
    host.receive(build_frame(PEER, ME, PacketType.DATA, payload), host.sealed(payload))
    assert host.delivered == []
    assert host.metrics.dropped_malformed == 2


def test_not_send_to_tun_is_honoured() -> None:
    host = Host()
    host.receive(host.sealed(PACKET, flags=Flag.NOT_SEND_TO_TUN))
    assert host.delivered == []
    assert host.metrics.dropped_unhandled == 1


def test_what_may_be_proxied_goes_to_the_subnet_router_and_what_it_leaves_to_the_device() -> None:
    host = Host()
    packets = [tcp_segment("10.144.0.2", "10.144.0.1", data=bytes([number])) for number in range(4)]
    taken: list[tuple[bytes, int, int]] = []

    def take(arrivals: list[tuple[bytes, int, int]]) -> list[bytes]:
        taken.extend(arrivals)
        host.metrics.delivered_packets += 1
        return [packet for packet, _, _ in arrivals[1:]]

    host.inbound.subnet = take
    host.receive(
        host.sealed(packets[0], flags=Flag.NO_PROXY),
        host.sealed(packets[1]),
        host.sealed(packets[2], flags=Flag.EXIT_NODE, source=FAR),
        host.sealed(packets[3], flags=Flag.NO_PROXY | Flag.NOT_SEND_TO_TUN),
    )
    encrypted = int(Flag.ENCRYPTED)
    assert taken == [(packets[1], PEER, encrypted), (packets[2], FAR, encrypted | Flag.EXIT_NODE)]
    assert host.delivered == [packets[0], packets[2]]
    assert host.metrics.dropped_unhandled == 1


def test_rpc_in_clear_is_none_of_a_neighbours_but_of_a_relay_of_other_networks() -> None:
    host = Host()
    host.receive(build_frame(PEER, ME, PacketType.RPC_REQ, b"forged"))
    assert (host.rpc, host.metrics.dropped_clear) == ([], 1)
    host.conns[OTHER] = make_conn(OTHER, is_foreign_relay=True)
    host.receive(build_frame(OTHER, ME, PacketType.RPC_REQ, b"relay"), source=OTHER)
    assert host.rpc == [(OTHER, 8, b"relay")]


def test_rpc_is_opened_and_handed_on() -> None:
    host = Host()
    host.receive(host.sealed(b"sealed", PacketType.RPC_REQ), build_frame(FAR, ME, PacketType.RPC_RESP, b"clear"))
    assert host.rpc == [(PEER, 8, b"sealed"), (FAR, 9, b"clear")]
    assert host.metrics.control_frames == 2


def test_plugins_get_their_types_by_batch_and_sender() -> None:
    host = Host()
    calls: list[tuple[int, list[bytes]]] = []
    host.inbound.handlers[PacketType.KCP_SRC] = lambda source, payloads: calls.append((source, payloads))
    host.receive(
        host.sealed(b"1", PacketType.KCP_SRC),
        host.sealed(b"2", PacketType.KCP_SRC, source=FAR),
        host.sealed(b"3", PacketType.KCP_SRC),
        host.sealed(b"4", PacketType.KCP_DST),
    )
    assert calls == [(PEER, [b"1", b"3"]), (FAR, [b"2"])]
    assert (host.metrics.plugin_frames, host.metrics.dropped_unhandled) == (3, 1)


@pytest.mark.parametrize("kind", [0, 2, 3, 6, 7, 10, 13, 14, 18, 20, 21, 22, 255])
def test_types_nobody_takes_are_dropped(kind: int) -> None:
    host = Host()
    host.receive(build_frame(PEER, ME, kind, b"payload"))
    assert host.metrics.dropped_unhandled == 1
    assert host.sent(PEER) == host.sent(OTHER) == host.delivered == []


def test_a_ping_is_answered_on_its_connection_whoever_it_names() -> None:
    host = Host()
    ping = build_frame(PEER, 12345, PacketType.PING, b"\1\2\3\4")
    host.receive(ping, ping[:-1])
    assert host.sent(PEER) == [ping[:8] + b"\x05" + ping[9:]]
    assert host.metrics.control_frames == 2
    assert host.conns[PEER].sent_frames == 1


def test_a_pong_settles_a_ping_of_ours() -> None:
    host = Host()
    ping = host.conns[PEER].tick(1000.0)
    assert ping is not None
    host.receive(ping[:8] + b"\x05" + ping[9:])
    assert host.conns[PEER].latency == 0.0


# Relaying


def relayed(counter: int = 1, flags: int = 0x01, kind: int = PacketType.DATA, target: int = FAR) -> bytes:
    return PeerHeader(PEER, target, kind, flags, counter, 50).encode()[:11] + b"\xaa" + bytes(4) + b"sealed for somebody else"


def test_a_frame_of_others_goes_on_unchanged_but_for_its_counter() -> None:
    host = Host()
    frame = relayed()
    host.receive(frame)
    assert host.sent(OTHER) == [frame[:10] + b"\x02" + frame[11:]]
    assert host.metrics.relayed_frames == 1


def test_a_neighbour_is_its_own_next_hop() -> None:
    host = Host()
    host.inbound.next_hops_by_hops = {OTHER: PEER}
    host.receive(relayed(target=OTHER))
    assert len(host.sent(OTHER)) == 1


@pytest.mark.parametrize(("counter", "passed"), [(0, True), (1, True), (7, True), (8, False), (255, False)])
def test_a_frame_that_has_travelled_too_far_is_dropped(counter: int, passed: bool) -> None:
    host = Host()
    host.receive(relayed(counter))
    sent = host.sent(OTHER)
    assert [PeerHeader.parse(frame).forward_counter for frame in sent] == ([counter + 1] if passed else [])
    assert host.metrics.dropped_relay == (0 if passed else 1)


@pytest.mark.parametrize(
    ("counter", "flags", "neighbour", "sent_flags"),
    [(1, 0xFF, PEER, 0xFF), (2, 0x03, PEER, 0x03), (3, 0xFF, OTHER, 0xFD), (3, 0x03, OTHER, 0x01), (1, 0xFD, OTHER, 0xFD)],
)
def test_latency_first_chooses_the_table_and_is_cleared_after_two_hops(
    counter: int, flags: int, neighbour: int, sent_flags: int
) -> None:
    host = Host()
    host.receive(relayed(counter, flags))
    (frame,) = host.sent(neighbour)
    assert PeerHeader.parse(frame).flags == sent_flags


def test_frames_for_nobody_are_dropped() -> None:
    host = Host()
    host.receive(relayed(target=0xDEAD), relayed(target=0), relayed(kind=PacketType.HANDSHAKE))
    assert host.sent(PEER) == host.sent(OTHER) == []
    assert (host.metrics.dropped_relay, host.metrics.dropped_unhandled) == (1, 2)


@pytest.mark.parametrize(
    ("kind", "passed"),
    [(1, False), (8, True), (9, True), (11, False), (12, False), (16, False), (17, False), (18, False), (20, True)],
)
def test_without_relaying_of_data_only_control_passes(kind: int, passed: bool) -> None:
    host = Host(disable_relay_data=True)
    host.receive(relayed(kind=kind))
    assert len(host.sent(OTHER)) == passed
    assert host.metrics.dropped_relay == (not passed)


def test_type_ten_is_never_passed_on() -> None:
    """A malformed one ends a stock daemon (control plane 12.3)."""
    host = Host()
    host.receive(relayed(kind=PacketType.FOREIGN_NETWORK), relayed(kind=PacketType.FOREIGN_NETWORK, target=OTHER))
    assert host.sent(PEER) == host.sent(OTHER) == []
    assert host.metrics.dropped_malformed == 2


def test_a_next_hop_that_has_gone_is_a_drop() -> None:
    host = Host()
    host.peers.remove(host.conns[OTHER], "gone")
    host.receive(relayed())
    assert host.metrics.dropped_relay == 1


# Whatever comes


def headers() -> st.SearchStrategy[bytes]:
    peer = st.sampled_from([0, ME, PEER, OTHER, FAR, 99])
    return st.builds(
        lambda source, target, kind, flags, counter, length: PeerHeader(source, target, kind, flags, counter, length).encode(),
        peer,
        peer,
        st.integers(0, 24) | st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, 10) | st.integers(0, 255),
        st.integers(0, 3000) | st.integers(0, 0xFFFF_FFFF),
    )


BODIES = st.binary(max_size=100) | st.binary(min_size=1900, max_size=1984) | st.just(PACKET) | st.just(cipher().seal(PACKET))


@BATCHES
@pytest.mark.parametrize("encrypted", [True, False])
@given(st.lists(st.builds(bytes.__add__, headers(), BODIES) | st.binary(min_size=16, max_size=2000), max_size=8))
def test_any_frames_are_survived_and_counted_once(encrypted: bool, batch: Batch, frames: list[bytes]) -> None:
    host = Host(encrypted=encrypted, batch=batch)
    host.inbound.handlers[PacketType.KCP_SRC] = lambda _source, _payloads: None
    host.receive(*frames)
    assert host.metrics.received_bytes == sum(map(len, frames))
    for neighbour in (PEER, OTHER):
        for frame in host.sent(neighbour):
            header = PeerHeader.parse(frame)
            assert header.packet_type != PacketType.FOREIGN_NETWORK
            assert header.packet_type != PacketType.PONG or len(frame) >= 20


def test_a_connection_is_counted_apart_from_the_node() -> None:
    host = Host()
    host.receive(host.sealed(PACKET), source=PEER)
    host.receive(host.sealed(PACKET), host.sealed(PACKET), source=OTHER)
    conns: list[PeerConn] = [host.conns[PEER], host.conns[OTHER]]
    assert [conn.received_frames for conn in conns] == [1, 2]
    assert sum(conn.received_bytes for conn in conns) == host.metrics.received_bytes


def test_a_repeated_hello_is_answered_again_within_bounds() -> None:
    host = Host()
    hello = build_frame(PEER, 0, PacketType.HANDSHAKE, b"hello")
    host.receive(hello)
    assert host.sent(PEER) == []
    assert host.metrics.dropped_unhandled == 1
    host.conns[PEER]._answer = b"answer" * 4
    host.receive(*[hello] * 150)
    assert host.sent(PEER) == [b"answer" * 4] * 100
    assert host.metrics.dropped_unhandled == 51


def test_a_next_hop_that_goes_while_its_frames_are_sorted_costs_them_only() -> None:
    host = Host()
    host.inbound.handlers[PacketType.KCP_SRC] = lambda _source, _payloads: host.peers.remove(host.conns[OTHER], "test")
    assert host.cipher is not None
    taken = build_frame(PEER, ME, PacketType.KCP_SRC, host.cipher.seal(b"payload"), flags=Flag.ENCRYPTED)
    host.receive(relayed(), taken)
    assert (host.metrics.plugin_frames, host.metrics.relayed_frames, host.metrics.dropped_relay) == (1, 0, 1)
