"""The portal's client against portals that answer in unusual ways."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zstandard

from easytier_host.packet import PacketType, build_frame
from easytier_host.pb import common_pb2, peer_rpc_pb2, portal_pb2
from easytier_host.rpc import portal_connection, portal_wire
from easytier_host.rpc.client import PortalClient, RefusedError

Answer = Callable[[common_pb2.RpcPacket], bytes]


@contextmanager
def portal(answer: Answer) -> Iterator[PortalClient]:
    """A client of a portal that answers one request with these bytes, then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                size = portal_wire.check_length(connection.recv(4))
                request = portal_wire.decode_frame(connection.recv(size), is_request=True)
                try:
                    connection.sendall(answer(request))
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        with PortalClient(port=listener.getsockname()[1]) as client:
            yield client
        thread.join(timeout=10)
        assert not thread.is_alive()


def response(hostname: str) -> bytes:
    peers = portal_pb2.ListPeerResponse(
        peer_infos=[portal_pb2.PeerInfo(conns=[portal_pb2.PeerConnInfo(network_name=hostname)])]
    )
    return peer_rpc_pb2.RpcResponse(response=peers.SerializeToString()).SerializeToString()


def frame(request: common_pb2.RpcPacket, body: bytes, **changes: object) -> bytes:
    """One frame of an answer, with its length."""
    fields: dict[str, object] = {"transaction_id": request.transaction_id, "from_peer": 1, "to_peer": 1, "total_pieces": 1}
    packet = common_pb2.RpcPacket(body=body, descriptor=request.descriptor, **(fields | changes))  # type: ignore[arg-type]
    built = build_frame(1, 1, PacketType.RPC_RESP, packet.SerializeToString())
    return struct.pack("<I", len(built)) + built


ZSTD = common_pb2.RpcCompressionInfo(algo=common_pb2.CompressionZstd)


def name_of(client: PortalClient) -> str:
    ((conn,),) = (peer.conns for peer in client.peers())
    return conn.network_name


def test_pieces_may_come_in_any_order_and_twice() -> None:
    def answer(request: common_pb2.RpcPacket) -> bytes:
        content = response("x" * 2500)
        parts = [content[start : start + 1000] for start in range(0, len(content), 1000)]
        return b"".join(frame(request, parts[index], total_pieces=3, piece_idx=index) for index in (2, 0, 0, 1))

    with portal(answer) as client:
        assert name_of(client) == "x" * 2500


def test_answers_to_others_are_skipped() -> None:
    def answer(request: common_pb2.RpcPacket) -> bytes:
        return frame(request, response("wrong"), transaction_id=5) + frame(request, response("right"), total_pieces=0)

    with portal(answer) as client:
        assert name_of(client) == "right"


def test_a_compressed_answer_is_understood_though_never_asked_for() -> None:
    with portal(lambda request: frame(request, zstandard.compress(response("x")), compression_info=ZSTD)) as client:
        assert name_of(client) == "x"


def test_a_bomb_is_refused() -> None:
    bomb = zstandard.compress(bytes(portal_connection.MAX_ANSWER_BYTES + 1))
    with portal(lambda request: frame(request, bomb, compression_info=ZSTD)) as client, pytest.raises(RefusedError):
        client.peers()


def test_an_endless_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_connection, "MAX_ANSWER_BYTES", 10_000)

    def answer(request: common_pb2.RpcPacket) -> bytes:
        return b"".join(frame(request, bytes(1000), total_pieces=30_000, piece_idx=index) for index in range(20))

    with portal(answer) as client, pytest.raises(RefusedError, match="larger"):
        client.peers()


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: frame(request, b"\xff"),
        lambda request: frame(request, b"x", compression_info=ZSTD),
        lambda request: frame(request, b"", total_pieces=2, piece_idx=2),
        lambda request: frame(request, b"", total_pieces=2) + frame(request, b"", total_pieces=3, piece_idx=1),
        lambda request: frame(request, b"", is_request=True),
        lambda request: frame(request, response("x"))[:-1],
        lambda request: struct.pack("<I", 300) + os.urandom(300),
        lambda request: os.urandom(4000),
        lambda request: b"",
    ],
)
def test_anything_else_is_one_error(answer: Answer) -> None:
    with portal(answer) as client, pytest.raises(RefusedError):
        client.peers()


def test_an_error_of_the_node_is_told_in_its_words() -> None:
    refusal = peer_rpc_pb2.RpcResponse()
    refusal.error.execute_error.error_message = "not today"
    with portal(lambda request: frame(request, refusal.SerializeToString())) as client, pytest.raises(RefusedError) as caught:
        client.peers()
    assert "not today" in str(caught.value)
