"""Captured conversations between stock's easytier-cli and easytier-core, and a portal that repeats the core's part.

Network `lab`: a = 10.144.0.1 was asked, b = 10.144.0.2 is its neighbour.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import zstandard

from easytier_host.packet import PEER_HEADER_SIZE
from easytier_host.pb import common_pb2, peer_rpc_pb2
from easytier_host.rpc import portal_wire

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
VERSIONS = ("2.2.4", "2.6.4")
Method = tuple[str, str, int]
"""(domain, service, method)"""
Answers = list[bytes]
"""To one call after the other; the connection ends instead of one more."""


@dataclass(frozen=True)
class Line:
    """One frame with its length, and the packet inside."""

    sender: str
    wire: bytes
    packet: common_pb2.RpcPacket

    @property
    def method(self) -> Method:
        descriptor = self.packet.descriptor
        return descriptor.domain_name, descriptor.service_name, descriptor.method_index

    @property
    def content(self) -> bytes:
        """The body, decompressed."""
        if self.packet.compression_info.algo == common_pb2.CompressionZstd:
            return zstandard.ZstdDecompressor().decompress(self.packet.body, max_output_size=1 << 20)
        return self.packet.body


def conversations(version: str) -> list[list[Line]]:
    """The connections of a capture, in order; each is one run of stock's CLI."""
    found = []
    for text in (VECTORS / f"portal-{version}.jsonl").read_text().splitlines():
        lines = []
        for exchange in json.loads(text)["exchange"]:
            wire = bytes.fromhex(exchange["hex"])
            (size,) = struct.unpack_from("<I", wire)
            assert len(wire) == 4 + size
            packet = common_pb2.RpcPacket.FromString(wire[4 + PEER_HEADER_SIZE :])
            assert packet.total_pieces == 1
            lines.append(Line(exchange["sender"], wire, packet))
        found.append(lines)
    return found


def answers(conversation: list[Line]) -> dict[Method, bytes]:
    """The RpcResponse to each method that was called."""
    return {line.method: line.content for line in conversation if line.sender == "core"}


def printed(version: str) -> dict[str, str]:
    """What stock's CLI printed, by its command line."""
    found = {}
    for block in (VECTORS / f"cli-{version}.txt").read_text().split("$ easytier-cli ")[1:]:
        command, _, output = block.partition("\n")
        found[command.strip()] = output.rstrip("\n")
    return found


@contextmanager
def portal(known: Mapping[Method, bytes] | Mapping[Method, bytes | Answers]) -> Iterator[int]:
    """A portal that answers these methods, and others with stock's errors; gives its port."""
    left = {method: iter(found) if isinstance(found, list) else repeat(found) for method, found in known.items()}
    with listening(partial(_converse, known=left)) as port:
        yield port


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A program that does something with each connection; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)
            assert not thread.is_alive()


def _converse(connection: socket.socket, known: Mapping[Method, Iterator[bytes]]) -> None:
    connection.settimeout(10)
    while (frame := _read_frame(connection)) is not None:
        try:
            connection.sendall(_answer(portal_wire.decode_frame(frame, is_request=True), known))
        except StopIteration:
            break


def _read_frame(connection: socket.socket) -> bytes | None:
    prefix = _read(connection, 4)
    return None if prefix is None else _read(connection, portal_wire.check_length(prefix))


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return None
        data += part
    return data


def _answer(request: common_pb2.RpcPacket, known: Mapping[Method, Iterator[bytes]]) -> bytes:
    asked = request.descriptor
    found = known.get((asked.domain_name, asked.service_name, asked.method_index))
    if found is not None:
        content = next(found)
    else:
        response = peer_rpc_pb2.RpcResponse()
        if any(service == asked.service_name and domain == asked.domain_name for domain, service, _ in known):
            response.error.invalid_method_index.method_index = asked.method_index
        else:
            response.error.invalid_service.service_name = asked.service_name
        content = response.SerializeToString()
    packet = common_pb2.RpcPacket(transaction_id=request.transaction_id, descriptor=asked)
    return portal_wire.encode_call(packet, content)
