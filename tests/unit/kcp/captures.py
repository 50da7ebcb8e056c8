"""The KCP packets in the conversations of stock nodes that were recorded."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easytier_host.crypto import make_cipher
from easytier_host.packet import PEER_HEADER_SIZE, Flag, PacketType, PeerHeader

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
CAPTURES = sorted(path.name for path in VECTORS.glob("underlay-*.jsonl"))
SECRET = "s3cret"
UDP_HEADER_SIZE = 8


@dataclass(frozen=True)
class CapturedPacket:
    """One packet of type 11 or 12, opened."""

    time: float
    from_peer: int
    to_peer: int
    packet_type: int
    payload: bytes


def kcp_packets(file: str) -> list[CapturedPacket]:
    """All of a capture, in order."""
    cipher = make_cipher("aes-gcm", SECRET, os.urandom)
    packets = []
    for line in (VECTORS / file).read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        if record["udp"] != "Data":
            continue
        frame = bytes.fromhex(record["hex"])[UDP_HEADER_SIZE:]
        header = PeerHeader.parse(frame)
        if header.packet_type in (PacketType.KCP_SRC, PacketType.KCP_DST):
            payload = frame[PEER_HEADER_SIZE:]
            if header.flags & Flag.ENCRYPTED:
                payload = cipher.open(payload)
            packets.append(CapturedPacket(record["t"], header.from_peer_id, header.to_peer_id, header.packet_type, payload))
    return packets
