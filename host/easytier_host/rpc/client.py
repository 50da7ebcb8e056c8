"""Asks a running node by its portal: what `easytier-cli` and `easytier-tui` are built on.

Blocking and light: plain sockets, no event loop, so that a command starts at once; a program with a loop calls it in a thread.
One `PortalClient` is one connection and one call at a time.  It works with our node and with stock 2.2 to 2.6, which number
some methods differently (wire specification, CLI portal 10.3).
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from easytier_host.pb import common_pb2, error_pb2, peer_rpc_pb2, portal_own_pb2, portal_pb2
from easytier_host.portal.address import DEFAULT_HOST, DEFAULT_PORT
from easytier_host.rpc.framing import FramingError
from easytier_host.rpc.portal_wire import (
    LENGTH,
    PORTAL_PEER_ID,
    check_length,
    decode_frame,
    encode_call,
)

__all__ = [
    "CallTimeoutError",
    "ConnectError",
    "MethodMissingError",
    "PortalClient",
    "PortalError",
    "RefusedError",
    "ServiceMissingError",
    "common_pb2",
    "portal_own_pb2",
    "portal_pb2",
]

Response = TypeVar("Response", bound=Message)

# Ours.
CALL_TIMEOUT: Final = 5.0
"""Seconds for one call, as in stock's CLI."""
MAX_ANSWER_BYTES: Final = 16 << 20
"""Largest answer, before and after decompression; 4096 routes take about one megabyte."""
MAX_STRAY_FRAMES: Final = 1024
"""Frames of other calls that are skipped while waiting for an answer."""
PROXY_DOMAINS: Final = ("tcp", "kcp_src", "kcp_dst", "quic_src", "quic_dst")
"""In stock's order of asking, which is the order of its listing."""
OWN_SERVICE: Final = "PythonNodeRpc"


class PortalError(Exception):
    """A question to a node was not answered; the message says why."""


class ConnectError(PortalError):
    """Nobody listens at the address, or it cannot be reached."""


class CallTimeoutError(PortalError):
    """The node did not answer in time."""


class RefusedError(PortalError):
    """The node answered with an error, or ended the connection instead of answering."""


class ServiceMissingError(RefusedError):
    """The node does not have the service: it is older than what is asked, or no node of ours."""


class MethodMissingError(RefusedError):
    """The node has the service, not the method."""


class PortalClient:
    """A connection to the portal at `host`:`port`, opened by the first call.  `timeout` in seconds, for each call.

    All calls raise `ConnectError`, `CallTimeoutError`, `RefusedError` or one of its children.  After a connection broke, the
    next call opens a new one.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        timeout: float = CALL_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._endpoint = host, port
        self._timeout = timeout
        self._clock = clock
        self._socket: socket.socket | None = None
        self._transaction = secrets.randbits(62)
        self._peer_methods: tuple[int, int] | None = None
        """Numbers of ListRoute and ShowNodeInfo at this node, once known."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # Questions

    def instances(self) -> list[portal_pb2.NetworkInstanceMeta]:
        """The networks that the process runs; `ServiceMissingError` from nodes that run one and have no name for it."""
        listed = self.call("WebClientService", 5, portal_pb2.EmptyResponse(), portal_pb2.ListNetworkInstanceResponse)
        request = portal_pb2.ListNetworkInstanceMetaRequest(inst_ids=listed.inst_ids)
        return list(self.call("WebClientService", 8, request, portal_pb2.ListNetworkInstanceMetaResponse).metas)

    def node_info(self, instance: portal_pb2.InstanceIdentifier | None = None) -> portal_pb2.NodeInfo:
        """The node itself."""
        if self._peer_methods is not None:
            return self._show_node_info(self._peer_methods[1], instance)
        # Stock has moved the numbers in 2.6.2 without a sign: a version is in the right answer only.
        try:
            info = self._show_node_info(7, instance)
        except MethodMissingError:
            info = portal_pb2.NodeInfo()
        if info.version:
            self._peer_methods = 3, 7
            return info
        info = self._show_node_info(6, instance)
        self._peer_methods = 2, 6
        return info

    def peers(self, instance: portal_pb2.InstanceIdentifier | None = None) -> list[portal_pb2.PeerInfo]:
        """The neighbours with their connections."""
        return list(self.call("PeerManageRpc", 1, _request(instance), portal_pb2.ListPeerResponse).peer_infos)

    def routes(self, instance: portal_pb2.InstanceIdentifier | None = None) -> list[portal_pb2.Route]:
        """All other nodes of the network."""
        if self._peer_methods is None:
            self.node_info(instance)
        method = self._peer_methods[0] if self._peer_methods is not None else 3
        return list(self.call("PeerManageRpc", method, _request(instance), portal_pb2.ListRouteResponse).routes)

    def connectors(self, instance: portal_pb2.InstanceIdentifier | None = None) -> list[portal_pb2.Connector]:
        """The peers that the configuration names."""
        return list(self.call("ConnectorManageRpc", 1, _request(instance), portal_pb2.ListConnectorResponse).connectors)

    def proxy_entries(self, instance: portal_pb2.InstanceIdentifier | None = None) -> list[portal_pb2.TcpProxyEntry]:
        """The flows, in stock's form; a list that the node does not have counts as empty."""
        entries: list[portal_pb2.TcpProxyEntry] = []
        for domain in PROXY_DOMAINS:
            try:
                answer = self.call("TcpProxyRpc", 1, _request(instance), portal_pb2.ListTcpProxyEntryResponse, domain=domain)
            except RefusedError as error:
                # Without a connection the next list would hide why.
                if self._socket is None:
                    raise error from None
                continue
            entries += answer.entries
        return entries

    def stats(self, instance: portal_pb2.InstanceIdentifier | None = None) -> list[portal_pb2.MetricSnapshot]:
        """Counters."""
        return list(self.call("StatsRpc", 1, _request(instance), portal_pb2.GetStatsResponse).metrics)

    def prometheus(self, instance: portal_pb2.InstanceIdentifier | None = None) -> str:
        """Counters in the text format of Prometheus."""
        return self.call("StatsRpc", 2, _request(instance), portal_pb2.GetPrometheusStatsResponse).prometheus_text

    def flows(self, instance: portal_pb2.InstanceIdentifier | None = None) -> portal_own_pb2.ListFlowsResponse:
        """The flows with reasons and bytes; `ServiceMissingError` from stock."""
        return self.call(OWN_SERVICE, 1, _request(instance), portal_own_pb2.ListFlowsResponse)

    def plugins(self, instance: portal_pb2.InstanceIdentifier | None = None) -> list[portal_own_pb2.PluginInfo]:
        """The plugins of the node; `ServiceMissingError` from stock."""
        return list(self.call(OWN_SERVICE, 2, _request(instance), portal_own_pb2.ListPluginsResponse).plugins)

    def _show_node_info(self, method: int, instance: portal_pb2.InstanceIdentifier | None) -> portal_pb2.NodeInfo:
        return self.call("PeerManageRpc", method, _request(instance), portal_pb2.ShowNodeInfoResponse).node_info

    # One call

    def call(self, service: str, method: int, request: Message, response_type: type[Response], *, domain: str = "") -> Response:
        """Send one request and wait for its answer."""
        self._transaction = (self._transaction + 1) & 0x7FFF_FFFF_FFFF_FFFF
        packet = common_pb2.RpcPacket(
            transaction_id=self._transaction,
            descriptor=common_pb2.RpcDescriptor(
                domain_name=domain, proto_name=service, service_name=service, method_index=method
            ),
            is_request=True,
        )
        content = peer_rpc_pb2.RpcRequest(request=request.SerializeToString(), timeout_ms=max(1, int(self._timeout * 1000)))
        what = f"{service} of the node at {self.address}"
        deadline = self._clock() + self._timeout
        try:
            connection = self._connected(deadline)
            connection.sendall(encode_call(packet, content.SerializeToString()))
            answer = self._receive(connection, deadline)
        except TimeoutError:
            self.close()
            raise CallTimeoutError(f"{what}: no answer in {self._timeout:g} s") from None
        except (EOFError, OSError, FramingError) as error:
            self.close()
            text = getattr(error, "strerror", None) or str(error)
            raise RefusedError(f"{what}: {text}") from None
        except PortalError:
            self.close()
            raise
        return _decode(answer, response_type, what)

    def _connected(self, deadline: float) -> socket.socket:
        if self._socket is None:
            try:
                self._socket = socket.create_connection(self._endpoint, timeout=self._left(deadline))
            except TimeoutError:
                raise
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise ConnectError(f"no node answers at {self.address} ({reason})") from None
        self._socket.settimeout(self._left(deadline))
        return self._socket

    def _receive(self, connection: socket.socket, deadline: float) -> bytes:
        pieces: dict[int, bytes] = {}
        total, compressed, size = 0, False, 0
        for _ in range(MAX_STRAY_FRAMES + MAX_ANSWER_BYTES // 1000):
            frame = self._read(connection, check_length(self._read(connection, LENGTH.size, deadline)), deadline)
            packet = decode_frame(frame, is_request=False)
            if packet.transaction_id != self._transaction or packet.to_peer != PORTAL_PEER_ID:
                continue
            if total not in (0, packet.total_pieces) or packet.piece_idx >= packet.total_pieces:
                raise FramingError(f"piece {packet.piece_idx} of {packet.total_pieces} does not fit")
            total = packet.total_pieces
            if packet.piece_idx == 0:
                compressed = packet.compression_info.algo == common_pb2.CompressionZstd
            if packet.piece_idx not in pieces:
                pieces[packet.piece_idx] = packet.body
                size += len(packet.body)
            if size > MAX_ANSWER_BYTES:
                break
            if len(pieces) == total:
                content = b"".join(pieces[index] for index in range(total))
                return _decompress(content) if compressed else content
        raise FramingError(f"the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB, or none")

    def _read(self, connection: socket.socket, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            connection.settimeout(self._left(deadline))
            part = connection.recv(size - len(data))
            if not part:
                raise EOFError("it ended the connection; its rpc_portal_whitelist may not hold this machine's address")
            data += part
        return bytes(data)

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


def _request(instance: portal_pb2.InstanceIdentifier | None) -> portal_pb2.Request:
    return portal_pb2.Request(instance=instance)


def _decompress(content: bytes) -> bytes:
    # Only a node that compresses unasked makes us need it.
    import zstandard

    try:
        if zstandard.frame_content_size(content) > MAX_ANSWER_BYTES:
            raise FramingError("the answer is too large inside")
        return zstandard.ZstdDecompressor().decompress(content, max_output_size=MAX_ANSWER_BYTES)
    except zstandard.ZstdError as error:
        raise FramingError(f"the answer is no zstd frame: {error}") from None


def _decode(content: bytes, response_type: type[Response], what: str) -> Response:
    try:
        envelope = peer_rpc_pb2.RpcResponse.FromString(content)
        if envelope.HasField("error"):
            raise _as_exception(envelope.error, what)
        return response_type.FromString(envelope.response)
    except DecodeError:
        raise RefusedError(f"{what}: the answer does not decode") from None


def _as_exception(error: error_pb2.Error, what: str) -> RefusedError:
    match error.WhichOneof("error_kind"):
        case "invalid_service":
            return ServiceMissingError(f"{what}: the node does not have this service")
        case "invalid_method_index":
            return MethodMissingError(f"{what}: the node does not have this method")
        case "other_error" | "execute_error" | "malformat_rpc_packet" | "timeout" as kind:
            return RefusedError(f"{what}: {getattr(error, kind).error_message[:500]}")
        case kind:
            return RefusedError(f"{what}: {kind}")
