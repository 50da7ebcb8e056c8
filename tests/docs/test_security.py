"""docs/security.md tells the caps that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from easytier_host import (
    admission,
    compress,
    direct,
    flows,
    guard,
    handshake,
    log,
    peer_center,
    peer_conn,
    peers,
    route,
    route_records,
)
from easytier_host.rpc import allowance, framing
from easytier_host.subnet import fragments, tcp, udp
from easytier_host.tunnel import udp_socket
from easytier_kcp_plugin.kcp import half_open, limits, sending, strangers
from easytier_kcp_plugin.kcp import handshake as kcp_handshake
from easytier_kcp_plugin.kcp.arq import memory

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
KIB, MIB = 1 << 10, 1 << 20
LIMITS = limits.Limits()


def spaced(number: float) -> str:
    """As the page writes numbers."""
    return f"{number:,.0f}".replace(",", " ") if number >= 10_000 else f"{number:g}"


def row(subject: str) -> str:
    """The line of the table of caps about it."""
    (found,) = re.findall(rf"^\| {re.escape(subject)}.*$", PAGE, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize(
    ("subject", "numbers"),
    [
        ("tunnels without", (admission.MAX_HALF_OPEN_PER_ADDRESS, admission.MAX_HALF_OPEN, handshake.HANDSHAKE_TIMEOUT)),
        ("UDP tunnels", (udp_socket.MAX_TUNNELS_PER_HOST, udp_socket.MAX_TUNNELS)),
        ("connections |", (peers.MAX_CONNECTIONS_PER_PEER, peers.MAX_CONNECTIONS_PER_ADDRESS, peers.MAX_CONNECTIONS)),
        ("Pongs", (peer_conn.MAX_PONGS_PER_SECOND,)),
        ("bytes that a compressed", (compress.MAX_PLAIN_SIZE / KIB,)),
        (
            "unfinished RPC",
            (framing.MAX_PEER_CALLS, framing.MAX_NEIGHBOUR_CALLS, framing.MAX_NEIGHBOUR_BYTES / MIB, framing.MAX_TOTAL_CALLS),
        ),
        ("time for RPC", (allowance.SHARE * 100, allowance.BURST, allowance.BYTE_COST * 1e6)),
        ("route records", (route.MAX_RECORDS, route.MAX_RECORD_SIZE / KIB)),
        ("connections between", (route_records.MAX_NEIGHBOURS, route.MAX_LINKS)),
        ("latencies", (peer_center.MAX_PEERS_PER_REPORT, peer_center.MAX_REPORTS, peer_center.MAX_ENTRIES)),
        ("peers asked", (direct.MAX_UNDER_WAY, direct.MAX_CANDIDATES)),
        ("TCP flows", (flows.MAX_FLOWS * flows.INBOUND_SHARE, flows.MAX_FLOWS)),
        ("plain TCP", (tcp.MAX_HELD_PER_PEER, tcp.SYN_RATE, tcp.SYN_BURST, tcp.MAX_HELD)),
        ("UDP sources", (udp.MAX_SOURCES, udp.MAX_SOURCES_PER_PEER)),
        ("fragments", (fragments.MAX_BYTES_PER_PEER / MIB, fragments.MAX_BYTES / MIB)),
        (
            "half-open KCP",
            (LIMITS.half_open_per_peer, LIMITS.half_open, kcp_handshake.HALF_OPEN_LIFE, half_open.GIVES_WAY_AFTER),
        ),
        ("KCP sessions", (LIMITS.sessions_per_peer, LIMITS.sessions)),
        ("bytes to be sent", (sending.PEER_BYTES / MIB, sending.NODE_BYTES / MIB, sending.FLOW_BYTES / KIB)),
        (
            "bytes received",
            (
                *(sessions for sessions, _ in limits.WINDOWS),
                round(memory.MEMORY_SEGMENTS * 1382 / 1e6),
                round(memory.UNREAD_SEGMENTS * 1382 / 1e6),
                memory.SMALLEST_LIMIT,
            ),
        ),
        ("resets to strangers", (strangers.RST_RATE,)),
        ("log lines", (log.LINES_PER_SECOND, log.LINES_AT_ONCE)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_caps_are_those_of_the_code(subject: str, numbers: tuple[float, ...]) -> None:
    text = row(subject)
    missing = [number for number in map(spaced, numbers) if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]\d)", text)]
    assert not missing, text


def test_questions_by_udp() -> None:
    assert f"let in for {guard.ANSWER_TIME:g} s; {guard.MAX_QUESTIONS} such questions are remembered" in PAGE
