"""The fuzz targets, by name, and their corpora.

A target is a function of bytes.  It returns if all is well and raises if not; an input that makes it raise, or that takes long,
is a finding.  A corpus is a text file with one input a line, in hexadecimal: conversations of stock nodes to begin with
(`seeds.py`), inputs that reach far, and every one that has found something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from tests.fuzz import layouts, machines

Target: TypeAlias = Callable[[bytes], None]

CORPORA: Final = Path(__file__).parent / "corpus"

TARGETS: Final[Mapping[str, Target]] = {
    "kcp-header": layouts.session_header,
    "kcp-conn-data": layouts.connection_data,
    "kcp-segments": layouts.segments,
    "kcp-arq": machines.arq_engine,
    "kcp-ikcp": machines.kcp_engine,
    "kcp-sessions": machines.sessions,
    "peer-header": layouts.peer_header,
    "handshake": layouts.handshake,
    "tcp-frames": layouts.tcp_frames,
    "udp-datagrams": layouts.udp_datagrams,
    "tunnel-url": layouts.tunnel_url,
    "direct-addresses": layouts.announced_addresses,
    "compressed": layouts.compressed,
    "sealed": layouts.sealed,
    "overlay-frames": machines.overlay_frames,
    "rpc": machines.rpc,
    "portal-frame": layouts.portal_frame,
    "route-record": layouts.route_record,
    "route-bitmap": layouts.route_bitmap,
    "routes": machines.routes,
    "peer-center": machines.peer_center,
    "ip-packets": layouts.ip_packets,
    "ip-fragments": machines.fragments,
    "device-frames": layouts.device_frames,
    "flow-table": machines.flow_table,
    "tcp-stack": machines.tcp_stack,
    "metrics-request": layouts.metrics_request,
    "socks": layouts.socks,
    "configuration": layouts.configuration,
    "addresses": layouts.addresses,
    "recording": layouts.recording,
}


def corpus(name: str) -> list[bytes]:
    """The inputs that are kept for a target."""
    path = CORPORA / f"{name}.hex"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []
