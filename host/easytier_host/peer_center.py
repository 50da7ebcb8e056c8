"""The network's table of latencies: every node reports its own to the *center*, the peer with the smallest id, and reads them
all there (control plane 8.3).  Latency-first routing needs it; nothing else does.

A node may become the center at any time, so each serves both methods.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Final

import anyio
from google.protobuf.message import Message

from easytier_host.pb import peer_rpc_pb2
from easytier_host.rpc.peer import PeerRpc, RpcError, ServiceError

logger = logging.getLogger("easytier.peer_center")

SERVICE: Final = "PeerCenterRpc"
REPORT_PEERS: Final = 1
GET_GLOBAL_PEER_MAP: Final = 2

# Wire: stock's own figures, in seconds.
REPORT_LIFETIME: Final = 180.0
REPORT_INTERVAL: Final = 60.0
FETCH_INTERVAL: Final = 15.0
CHECK_INTERVAL: Final = 5.0

# Ours.
MAX_REPORTS: Final = 4096
MAX_PEERS_PER_REPORT: Final = 1024
MAX_ENTRIES: Final = 65_536
"""Latencies of all reports together: the answer to GetGlobalPeerMap has to stay a call of reasonable size."""


class PeerCenter:
    """Both sides of the service.  `latencies` maps (peer, neighbour) to milliseconds, as last heard."""

    def __init__(
        self,
        my_peer_id: int,
        rpc: PeerRpc,
        clock: Callable[[], float],
        center: Callable[[], int],
        own_latencies: Callable[[], Mapping[int, int]],
        on_change: Callable[[], None],
    ) -> None:
        self.latencies: dict[tuple[int, int], int] = {}
        self._my_peer_id = my_peer_id
        self._rpc = rpc
        self._clock = clock
        self._center = center
        self._own_latencies = own_latencies
        self._on_change = on_change
        self._reports: dict[int, tuple[float, peer_rpc_pb2.PeerInfoForGlobalMap]] = {}
        self._digest = 0
        self._answer: peer_rpc_pb2.GetGlobalPeerMapResponse | None = None
        """The whole map as it is served; None when a report has changed since."""
        rpc.offer(SERVICE, {REPORT_PEERS: self._serve_report, GET_GLOBAL_PEER_MAP: self._serve_map})

    async def run(self) -> None:
        """Report and fetch for ever."""
        reported: tuple[int, frozenset[int]] | None = None
        reported_at = fetched_at = float("-inf")
        while True:
            await anyio.sleep(CHECK_INTERVAL)
            center, now = self._center(), self._clock()
            neighbours = (center, frozenset(self._own_latencies()))
            try:
                if neighbours != reported or now - reported_at >= REPORT_INTERVAL:
                    await self._report(center, now)
                    reported, reported_at = neighbours, now
                if now - fetched_at >= FETCH_INTERVAL:
                    await self._fetch(center, now)
                    fetched_at = now
            except RpcError as error:
                logger.debug("peer center: %s", error)

    async def _report(self, center: int, now: float) -> None:
        report = peer_rpc_pb2.PeerInfoForGlobalMap()
        for peer_id, latency_ms in self._own_latencies().items():
            report.direct_peers[peer_id].latency_ms = max(1, latency_ms)
        if center == self._my_peer_id:
            self._reports[center] = (now, report)
            self._answer = None
            return
        request = peer_rpc_pb2.ReportPeersRequest(my_peer_id=self._my_peer_id, peer_infos=report)
        await self._rpc.call(center, SERVICE, REPORT_PEERS, request, peer_rpc_pb2.ReportPeersResponse)

    async def _fetch(self, center: int, now: float) -> None:
        if center == self._my_peer_id:
            self._expire(now)
            reports = {peer_id: report for peer_id, (_, report) in self._reports.items()}
        else:
            request = peer_rpc_pb2.GetGlobalPeerMapRequest(digest=self._digest)
            response = await self._rpc.call(
                center, SERVICE, GET_GLOBAL_PEER_MAP, request, peer_rpc_pb2.GetGlobalPeerMapResponse
            )
            if not response.HasField("digest"):
                return
            self._digest = response.digest
            reports = dict(list(response.global_peer_map.items())[:MAX_REPORTS])
        latencies = {
            (peer_id, neighbour): max(1, info.latency_ms)
            for peer_id, report in reports.items()
            for neighbour, info in list(report.direct_peers.items())[:MAX_PEERS_PER_REPORT]
        }
        if latencies != self.latencies:
            self.latencies = latencies
            self._on_change()

    def _serve_report(self, from_peer: int, content: bytes) -> Message:
        request = peer_rpc_pb2.ReportPeersRequest.FromString(content)
        if request.my_peer_id != from_peer:
            raise ServiceError("a peer reports for itself only")
        if len(request.peer_infos.direct_peers) > MAX_PEERS_PER_REPORT:
            raise ServiceError(f"more than {MAX_PEERS_PER_REPORT} neighbours")
        now = self._clock()
        self._expire(now)
        if from_peer not in self._reports and len(self._reports) >= MAX_REPORTS:
            raise ServiceError(f"the table is full with {MAX_REPORTS} reports")
        others = sum(len(report.direct_peers) for peer_id, (_, report) in self._reports.items() if peer_id != from_peer)
        if others + len(request.peer_infos.direct_peers) > MAX_ENTRIES:
            raise ServiceError(f"the table is full with {MAX_ENTRIES} latencies")
        self._reports[from_peer] = (now, request.peer_infos)
        self._answer = None
        return peer_rpc_pb2.ReportPeersResponse()

    def _serve_map(self, _from_peer: int, content: bytes) -> Message:
        request = peer_rpc_pb2.GetGlobalPeerMapRequest.FromString(content)
        self._expire(self._clock())
        if self._answer is None:
            self._answer = peer_rpc_pb2.GetGlobalPeerMapResponse()
            for peer_id, (_, report) in self._reports.items():
                self._answer.global_peer_map[peer_id].CopyFrom(report)
            text = self._answer.SerializeToString(deterministic=True)
            self._answer.digest = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") or 1
        return peer_rpc_pb2.GetGlobalPeerMapResponse() if self._answer.digest == request.digest else self._answer

    def _expire(self, now: float) -> None:
        for peer_id in [peer_id for peer_id, (at, _) in self._reports.items() if now - at >= REPORT_LIFETIME]:
            del self._reports[peer_id]
            self._answer = None
