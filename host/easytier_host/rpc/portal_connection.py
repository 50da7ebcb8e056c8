"""One connection to a portal, and one call at a time over it: the lower half of `rpc/client.py`, its only user.

Blocking and light: a plain socket, no event loop, so that a command starts at once.  Wire format: `rpc/portal_wire.py`.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from google.protobuf.message import Message

from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.portal.address import DEFAULT_HOST, DEFAULT_PORT
from easytier_host.rpc.answer import AnswerFault, FaultKind, Response, open_answer
from easytier_host.rpc.framing import FramingError
from easytier_host.rpc.portal_wire import (
    LENGTH,
    PORTAL_PEER_ID,
    check_length,
    decode_frame,
    encode_call,
)

# Ours.
CALL_TIMEOUT: Final = 5.0
"""Seconds for one call, as in stock's CLI."""
MAX_ANSWER_BYTES: Final = 16 << 20
"""Largest answer, before and after decompression; 4096 routes take about one megabyte."""
NOT_LET_IN: Final = "; its rpc_portal_whitelist may not hold this machine's address, or too many programs are connected"
MAX_STRAY_FRAMES: Final = 1024
"""Frames of other calls that are skipped while waiting for an answer."""


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


_EXCEPTIONS: Final = {
    FaultKind.NO_SERVICE: ServiceMissingError,
    FaultKind.NO_METHOD: MethodMissingError,
    FaultKind.OTHER: RefusedError,
}


class PortalConnection:
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
        self._is_fresh = True
        """Nothing was answered over this connection yet."""
        self._transaction = secrets.randbits(62)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the next call goes over an open connection."""
        return self._socket is not None

    def close(self) -> None:
        """End the connection; idempotent.  A call that waits in another thread raises `RefusedError`."""
        connection, self._socket = self._socket, None
        self._is_fresh = True
        if connection is not None:
            # Wakes a thread that reads from it.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def call(
        self,
        service: str,
        method: int,
        request: Message,
        response_type: type[Response],
        *,
        domain: str = "",
        wait: float = 0.0,
    ) -> Response:
        """Send one request and wait for its answer, `wait` seconds longer than for others where the node is asked to wait."""
        timeout = self._timeout + wait
        self._transaction = (self._transaction + 1) & 0x7FFF_FFFF_FFFF_FFFF
        packet = common_pb2.RpcPacket(
            transaction_id=self._transaction,
            descriptor=common_pb2.RpcDescriptor(
                domain_name=domain, proto_name=service, service_name=service, method_index=method
            ),
            is_request=True,
        )
        content = peer_rpc_pb2.RpcRequest(request=request.SerializeToString(), timeout_ms=max(1, int(timeout * 1000)))
        what = f"the node at {self.address}"
        deadline = self._clock() + timeout
        try:
            connection = self._connected(deadline)
            connection.sendall(encode_call(packet, content.SerializeToString()))
            answer = self._receive(connection, deadline)
        except TimeoutError:
            self.close()
            raise CallTimeoutError(f"{what}: no answer in {timeout:g} s") from None
        except FramingError as error:
            self.close()
            raise RefusedError(f"{what}: {error}; is it a node's portal?  easytier-core logs its address") from None
        except (EOFError, OSError) as error:
            hint = NOT_LET_IN if self._is_fresh else ""
            self.close()
            text = getattr(error, "strerror", None) or str(error)
            raise RefusedError(f"{what}: {text}{hint}") from None
        except PortalError:
            self.close()
            raise
        try:
            return open_answer(answer, response_type)
        except AnswerFault as fault:
            raise _EXCEPTIONS[fault.kind](f"{what}: {fault}") from None

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
                raise EOFError("it ended the connection")
            self._is_fresh = False
            data += part
        return bytes(data)

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


def _decompress(content: bytes) -> bytes:
    # Only a node that compresses unasked makes us need it.
    import zstandard

    try:
        if zstandard.frame_content_size(content) > MAX_ANSWER_BYTES:
            raise FramingError("the answer is too large inside")
        return zstandard.ZstdDecompressor().decompress(content, max_output_size=MAX_ANSWER_BYTES)
    except zstandard.ZstdError as error:
        raise FramingError(f"the answer is no zstd frame: {error}") from None
