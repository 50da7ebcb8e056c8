"""The flow table: the order of events, every way a flow may begin and end, and its bounds."""

from __future__ import annotations

from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks.types import (
    Closed,
    Connected,
    Connecting,
    Counters,
    Direction,
    Failed,
    FlowEvent,
    FlowKey,
    HalfClosed,
    PeerInfo,
    Seen,
    TransportSelected,
)
from easytier_host.flows import (
    CONNECT_TIMEOUT,
    COUNTERS_INTERVAL,
    ENDED_LINGER,
    IDLE_TIMEOUT,
    Flow,
    FlowTable,
    decode_key,
    encode_key,
    reverse_key,
    segment_key,
)
from tests.unit.host.helpers import ACK, FIN, PSH, RST, SYN, tcp_segment, udp_packet

A, B = "10.144.0.1", "10.144.0.2"
A6, B6 = "fd00::1", "fd00::2"


class Wire:
    """Segments of one connection from A to B that pass a table."""

    def __init__(
        self, table: FlowTable | None = None, *, v6: bool = False, ports: tuple[int, int] = (40_000, 22), inbound: bool = False
    ) -> None:
        self.directions: tuple[Direction, Direction] = ("inbound", "outbound") if inbound else ("outbound", "inbound")
        self.table = table if table is not None else FlowTable()
        self.ends = (A6, B6) if v6 else (A, B)
        self.ports = ports
        self.now = 100.0

    def out(self, flags: int, data: bytes = b"", *, sequence: int = 1) -> Flow | None:
        packet = tcp_segment(*self.ends, ports=self.ports, flags=flags, data=data, sequence=sequence)
        return self.table.look(packet, 0, self.now, 5000.0, self.directions[0])

    def back(self, flags: int, data: bytes = b"", *, sequence: int = 1) -> Flow | None:
        packet = tcp_segment(*self.ends[::-1], ports=self.ports[::-1], flags=flags, data=data, sequence=sequence)
        return self.table.look(packet, 0, self.now, 5000.0, self.directions[1])

    def connect(self) -> Flow:
        flow = self.out(SYN)
        assert flow is not None
        self.back(SYN | ACK)
        self.out(ACK)
        return flow

    def events(self) -> list[FlowEvent]:
        """What happened since the last call."""
        events = [event for _, event in self.table.events]
        self.table.events = []
        return events

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events()]


@pytest.mark.parametrize("v6", [False, True])
def test_a_whole_life(v6: bool) -> None:
    wire = Wire(v6=v6)
    flow = wire.connect()
    wire.out(PSH | ACK, b"request")
    wire.back(PSH | ACK, b"a longer answer")
    wire.out(FIN | ACK)
    wire.back(FIN | ACK)
    assert wire.events() == [
        Seen(),
        Connected(),
        HalfClosed("source"),
        HalfClosed("destination"),
        Counters(7, 15),
        Closed("FIN both ways"),
    ]
    assert (str(flow.key.source_ip), flow.key.source_port, flow.key.destination_port) == (wire.ends[0], 40_000, 22)
    assert flow.started_at == 5000.0


def test_half_close_from_either_side_keeps_the_flow() -> None:
    for first, second, by in (("out", "back", "source"), ("back", "out", "destination")):
        wire = Wire()
        wire.connect()
        wire.events()
        getattr(wire, first)(FIN | ACK, b"last words")
        getattr(wire, second)(PSH | ACK, b"more")
        getattr(wire, first)(FIN | ACK)
        assert wire.events() == [HalfClosed(by)]  # type: ignore[arg-type]
        getattr(wire, second)(FIN | ACK)
        assert wire.names() == ["HalfClosed", "Counters", "Closed"]


def test_a_repeated_syn_is_the_same_flow() -> None:
    wire = Wire()
    assert wire.out(SYN) is not None
    assert wire.out(SYN) is None
    wire.back(SYN | ACK)
    assert wire.out(SYN) is None
    wire.back(SYN | ACK)
    assert wire.names() == ["Seen", "Connected"]
    assert len(wire.table) == 1


@pytest.mark.parametrize("flags", [ACK, SYN | ACK, FIN | ACK, RST, PSH | ACK, 0, SYN | FIN, SYN | RST])
def test_only_a_plain_syn_begins_a_flow(flags: int) -> None:
    wire = Wire()
    assert wire.out(flags) is None
    assert wire.events() == []
    assert len(wire.table) == 0


def test_a_refused_connection_fails() -> None:
    wire = Wire()
    wire.out(SYN)
    wire.back(RST | ACK)
    assert wire.events() == [Seen(), Failed("refused by the destination")]


@pytest.mark.parametrize(
    ("address", "reason"),
    [(B, "refused by the destination"), ("10.144.0.77", "refused by the destination, or out of the peer's reach")],
)
def test_a_router_refuses_for_hosts_that_it_does_not_find(address: str, reason: str) -> None:
    wire = Wire()
    flow = wire.out(SYN)
    assert flow is not None
    flow.peer = PeerInfo(2, ipv4=IPv4Address(address))
    wire.back(RST | ACK)
    assert wire.events()[-1] == Failed(reason)


@pytest.mark.parametrize(("side", "by"), [("out", "source"), ("back", "destination")])
def test_a_reset_ends_a_connection_at_once(side: str, by: str) -> None:
    wire = Wire()
    wire.connect()
    wire.out(PSH | ACK, b"x")
    getattr(wire, side)(RST)
    assert wire.events()[-2:] == [Counters(1, 0), Closed(f"reset by the {by}")]
    wire.out(RST)
    wire.back(FIN | ACK)
    assert wire.events() == []


def test_no_answer_to_a_peer_fails_after_the_time_of_linux() -> None:
    wire = Wire(inbound=True)
    wire.out(SYN)
    wire.table.tick(wire.now + CONNECT_TIMEOUT - 1)
    assert wire.names() == ["Seen"]
    wire.table.tick(wire.now + CONNECT_TIMEOUT)
    assert wire.events() == [Failed("no answer in 130 s")]


@pytest.mark.parametrize(
    "at",
    [(0, 1, 3, 7, 15, 31, 63), (0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67), (0, 3, 9, 21)],
    ids=["Linux", "Linux 6.5", "old Windows"],
)
@pytest.mark.parametrize("tries", [1, 2, 3, 20])
def test_an_application_that_gives_up_is_known_by_the_syn_that_does_not_come(at: tuple[int, ...], tries: int) -> None:
    wire = Wire()
    start = wire.now
    seconds = iter(range(1000))
    for syn in at[:tries]:
        for second in seconds:
            if second >= syn:
                break
            wire.table.tick(start + second)
        wire.now = start + syn
        wire.out(SYN)
    assert "Failed" not in wire.names()
    last = at[:tries][-1]
    wire.table.tick(start + min(3 * last + 4, last + CONNECT_TIMEOUT) - 0.1)
    assert wire.names() == []
    wire.table.tick(start + min(3 * last + 4, last + CONNECT_TIMEOUT))
    assert wire.events() == [Failed("no answer, the source has given up")]


def test_an_application_is_given_its_time_after_its_syn_was_held() -> None:
    """The KCP that did not work took 4 s, in which the SYNs at 1 and 3 s went another way."""
    wire = Wire()
    flow = wire.out(SYN)
    assert flow is not None
    wire.table.report(flow, Connecting(), wire.now + 4)
    for second in range(5, 11):
        wire.table.tick(wire.now + second)
    assert flow.ended is None


def test_a_held_flow_is_not_timed_out() -> None:
    wire = Wire()
    flow = wire.out(SYN)
    assert flow is not None
    flow.held = True
    wire.table.tick(wire.now + 10 * CONNECT_TIMEOUT)
    assert wire.names() == ["Seen"]


def test_a_flow_silent_for_a_day_is_no_longer_watched() -> None:
    wire = Wire()
    wire.connect()
    wire.table.tick(wire.now + IDLE_TIMEOUT)
    assert wire.names() == ["Seen", "Connected", "Closed"]
    wire.table.tick(wire.now + IDLE_TIMEOUT + ENDED_LINGER)
    assert len(wire.table) == 0


def test_late_segments_of_an_ended_flow_are_nothing_new() -> None:
    wire = Wire()
    wire.connect()
    wire.out(FIN | ACK)
    wire.back(FIN | ACK)
    wire.events()
    assert wire.out(ACK) is None
    assert wire.back(RST) is None
    wire.table.tick(wire.now + ENDED_LINGER - 0.1)
    assert len(wire.table) == 1
    wire.table.tick(wire.now + ENDED_LINGER)
    assert len(wire.table) == 0
    assert wire.out(ACK) is None
    assert wire.events() == []


def test_a_syn_that_is_repeated_after_the_end_begins_nothing() -> None:
    wire = Wire()
    wire.out(SYN)
    wire.back(RST)
    assert wire.out(SYN) is None
    assert wire.names() == ["Seen", "Failed"]


def test_ports_used_again_without_a_seen_end_are_a_new_flow() -> None:
    wire = Wire()
    first = wire.connect()
    second = wire.out(SYN, sequence=2)
    assert second is not None
    assert second.id != first.id
    assert wire.names() == ["Seen", "Connected", "Closed", "Seen"]


@pytest.mark.parametrize("again", ["out", "back"])
def test_ports_used_again_after_the_end_are_a_new_flow(again: str) -> None:
    wire = Wire()
    first = wire.connect()
    wire.out(RST)
    second: Flow | None = wire.out(SYN, sequence=2) if again == "out" else wire.back(SYN, sequence=2)
    assert second is not None
    assert second.id != first.id
    assert wire.names() == ["Seen", "Connected", "Closed", "Seen"]
    assert wire.table.get(first.id) is None
    assert wire.table.find(second.raw_key) is second
    assert str(second.key.source_ip) == (A if again == "out" else B)
    raw_key = second.raw_key
    wire.table.tick(wire.now + 2 * ENDED_LINGER)
    assert wire.table.find(raw_key) is second


def test_counters_come_at_intervals_while_something_moves() -> None:
    wire = Wire()
    wire.table.tick(wire.now)
    wire.connect()
    wire.events()
    seen = []
    for second in range(21):
        if second < 12:
            wire.out(PSH | ACK, b"12345")
        wire.table.tick(wire.now + second)
        seen += wire.events()
    sent = [event.bytes_sent for event in seen if isinstance(event, Counters)]
    assert sent == [30, 55, 60]
    assert COUNTERS_INTERVAL == 5.0


def test_a_header_that_claims_too_much_counts_no_bytes() -> None:
    wire = Wire()
    flow = wire.connect()
    packet = bytearray(tcp_segment(A, B, flags=ACK, data=b"12"))
    packet[32] = 0xF0
    wire.table.look(bytes(packet), 0, wire.now, 0.0, "outbound")
    assert flow.bytes_sent == 0


def test_peers_leave_a_quarter_of_the_table_to_flows_of_our_own() -> None:
    table = FlowTable(max_flows=4)
    for port in (1, 2, 3):
        Wire(table, ports=(port, 80), inbound=True).connect()
    assert Wire(table, ports=(4, 80), inbound=True).out(SYN) is None
    assert table.unwatched == 1
    assert Wire(table, ports=(5, 80)).out(SYN) is not None


def test_a_flood_of_syns_makes_room_for_itself() -> None:
    table = FlowTable(max_flows=4)
    honest = Wire(table, ports=(1, 80), inbound=True)
    flow = honest.connect()
    for port in range(2, 50):
        assert Wire(table, ports=(port, 80), inbound=True).out(SYN) is not None
    assert [each.key.source_port for each in table] == [1, 48, 49]
    assert flow.ended is None
    given_up = [event for _, event in table.events if isinstance(event, Failed)]
    assert len(given_up) == 46
    assert "full" in given_up[0].reason


def test_a_full_table_lets_the_longest_ended_flow_go() -> None:
    table = FlowTable(max_flows=3)
    wires = [Wire(table, ports=(port, 80)) for port in (1, 2, 3, 4, 5)]
    for wire in wires[:3]:
        wire.connect()
    assert wires[3].out(SYN) is None
    assert table.unwatched == 1
    wires[1].out(RST)
    wires[0].out(RST)
    assert wires[3].out(SYN) is not None
    assert [flow.key.source_port for flow in table] == [1, 3, 4]
    assert wires[4].out(SYN) is not None
    assert [flow.key.source_port for flow in table] == [3, 4, 5]
    assert wires[0].out(SYN) is None
    assert table.unwatched == 2
    assert len(table) == 3


def test_a_flow_that_a_transport_reports_is_not_judged_by_its_segments() -> None:
    wire = Wire()
    flow = wire.out(SYN)
    assert flow is not None
    flow.reported_by_transport = True
    wire.back(SYN | ACK)
    wire.out(PSH | ACK, b"bytes")
    wire.out(FIN | ACK)
    wire.back(FIN | ACK)
    wire.table.tick(wire.now + 1e6)
    assert wire.names() == ["Seen"]
    assert flow.bytes_sent == 0


def test_reports_of_a_transport_are_kept_until_the_end_and_no_longer() -> None:
    table = FlowTable()
    wire = Wire(table)
    key = decode_key(segment_key(tcp_segment(A, B), 0)[0])  # type: ignore[index]
    flow = table.open(key, "inbound", None, 100.0, 0.0)
    assert flow is not None
    reports: list[FlowEvent] = [
        TransportSelected("kcp", "why", "peer"),
        Connecting(),
        Connected(),
        Counters(5, 6),
        HalfClosed("source"),
        Closed("done"),
    ]
    assert [table.report(flow, event, 101.0) for event in reports] == [True] * 6
    assert not table.report(flow, Connected(), 102.0)
    assert not table.report(flow, Failed("twice"), 102.0)
    assert wire.events() == [Seen(), *reports]
    assert (flow.transport, flow.reason, flow.bytes_sent, flow.fin_source) == ("kcp", "why", 5, True)
    table.tick(101.0 + ENDED_LINGER)
    assert len(table) == 0


def test_a_flow_of_a_transport_does_not_hide_one_of_the_device() -> None:
    wire = Wire()
    shown = wire.connect()
    opened = wire.table.open(shown.key, "inbound", None, wire.now, 0.0)
    assert opened is not None
    assert wire.table.find(shown.raw_key) is shown
    wire.table.report(opened, Closed("done"), wire.now)
    wire.table.tick(wire.now + ENDED_LINGER)
    assert wire.table.find(shown.raw_key) is shown


def fragment(offset_and_flags: int) -> bytes:
    packet = bytearray(tcp_segment(A, B))
    packet[6:8] = offset_and_flags.to_bytes(2, "big")
    return bytes(packet)


def extended() -> bytes:
    packet = bytearray(tcp_segment(A6, B6))
    packet[6] = 44
    return bytes(packet)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(39),
        bytes(60),
        fragment(0x2000),
        fragment(0x2003),
        fragment(0x0001),
        fragment(0x4100),
        extended(),
        udp_packet(A, B, b"\x02" * 40),
        tcp_segment(A, B)[:39],
        tcp_segment(A6, B6)[:59],
        tcp_segment(A, B, options=5)[:59],
        b"\x44" + tcp_segment(A, B)[1:],
        b"\x4f" + tcp_segment(A, B)[1:],
    ],
)
def test_fragments_and_other_protocols_are_no_segments(packet: bytes) -> None:
    assert segment_key(packet, 0) is None


@pytest.mark.parametrize("options", [0, 1, 10])
def test_ip_options_are_stepped_over(options: int) -> None:
    found = segment_key(tcp_segment(A, B, options=options), 0)
    assert found == (segment_key(tcp_segment(A, B), 0)[0], 20 + 4 * options)  # type: ignore[index]


def test_do_not_fragment_is_not_a_fragment() -> None:
    assert segment_key(fragment(0x4000), 0) is not None
    assert segment_key(fragment(0), 0) is not None


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.booleans())
def test_keys_survive_a_round_trip(source: int, destination: int, v6: bool) -> None:
    ends = (A6, B6) if v6 else (A, B)
    found = segment_key(tcp_segment(*ends, ports=(source, destination)), 0)
    assert found is not None
    key = decode_key(found[0])
    assert (key.source_port, key.destination_port) == (source, destination)
    assert encode_key(key) == found[0]
    swapped = FlowKey(key.destination_ip, key.destination_port, key.source_ip, key.source_port)
    assert reverse_key(found[0]) == encode_key(swapped)
    assert reverse_key(reverse_key(found[0])) == found[0]


STEPS = st.tuples(
    st.sampled_from(["out", "back", "tick"]),
    st.sampled_from([SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, SYN | FIN, 0xFF]) | st.integers(0, 255),
    st.sampled_from([1, 2]),
    st.sampled_from([0.0, 1.0, 11.0, 131.0]),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_segments_come_seen_is_first_and_the_end_is_last_and_single(steps: list[tuple[str, int, int, float]]) -> None:
    table = FlowTable(max_flows=3)
    wires = {port: Wire(table, ports=(port, 80)) for port in (1, 2)}
    now = 100.0
    for what, flags, port, pause in steps:
        now += pause
        wires[port].now = now
        if what == "tick":
            table.tick(now)
        else:
            getattr(wires[port], what)(flags)
    lives: dict[int, list[FlowEvent]] = {}
    for flow, event in table.events:
        lives.setdefault(flow.id, []).append(event)
    for life in lives.values():
        assert isinstance(life[0], Seen)
        assert not any(isinstance(later, Seen) for _, later in pairwise(life))
        assert not any(isinstance(event, Closed | Failed) for event in life[:-1])
    assert len(table) <= 3
    assert len(table._by_segment) <= 6


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x45", b"\x46", b"\x60"]))
def test_any_bytes_are_survived(packet: bytes, start: bytes) -> None:
    table = FlowTable()
    for data in (start + packet, tcp_segment(A, B)[:20] + packet):
        table.look(data, 0, 0.0, 0.0, "inbound")
        segment_key(data)
