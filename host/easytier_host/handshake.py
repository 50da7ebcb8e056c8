"""The peer handshake: one message each way, then the connection stands (control plane 3).  Sans-IO.

The side that opened the tunnel speaks first.  Both sides judge by the same two facts, the network's name and its digest::

    name       digest     acceptor                                 initiator
    equal      equal      answers with its digest, connected       connected
    equal      different  answers with a zero digest, closes       refused: wrong secret
    different  -          closes without a word                    the other is a public relay of our network
    own peer id           answers, closes                          refused: connected to itself
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from easytier_host.packet import PEER_HEADER_SIZE, PacketType, PeerHeader, build_frame
from easytier_host.pb import peer_rpc_pb2

# Wire constants: stock decides (control plane 3.1).
MAGIC: Final = 0xD1E1A5E1
VERSION: Final = 1
DIGEST_SIZE: Final = 32
ZERO_DIGEST: Final = bytes(DIGEST_SIZE)

# Ours: as long as stock waits for a first packet, in seconds.
HANDSHAKE_TIMEOUT: Final = 5.0
_SHOWN_NAME: Final = 64


class HandshakeError(Exception):
    """The other side's first message does not make it a peer; the message says why, for a log line."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are in a handshake.  The digest stands for the secret, so it is kept out of `repr`."""

    peer_id: int
    network_name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hello:
    """The other side's handshake message, decoded."""

    peer_id: int
    network_name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Joined:
    """The outcome: whom the tunnel leads to, and whether as a relay that serves our network from another one."""

    peer_id: int
    is_foreign_relay: bool


def encode_hello(identity: Identity, digest: bytes | None = None) -> bytes:
    """The handshake frame of `identity`; `digest` replaces the real one in a refusal."""
    message = peer_rpc_pb2.HandshakeRequest(
        magic=MAGIC,
        my_peer_id=identity.peer_id,
        version=VERSION,
        network_name=identity.network_name,
        network_secret_digest=identity.digest if digest is None else digest,
    )
    return build_frame(identity.peer_id, 0, PacketType.HANDSHAKE, message.SerializeToString())


def parse_hello(frame: bytes) -> Hello:
    """Decode a handshake frame; raises `HandshakeError` for anything else.

    Magic and version are not checked: no stock version does.
    """
    try:
        packet_type = PeerHeader.parse(frame).packet_type
    except ValueError as error:
        raise HandshakeError(str(error)) from None
    if packet_type == PacketType.NOISE_HANDSHAKE_1:
        raise HandshakeError(
            "the other side insists on secure mode (Noise), which this node does not speak; switch it off there"
        )
    if packet_type != PacketType.HANDSHAKE:
        raise HandshakeError(f"the first packet is of type {packet_type}, not a handshake")
    message = peer_rpc_pb2.HandshakeRequest()
    try:
        message.ParseFromString(frame[PEER_HEADER_SIZE:])
    except DecodeError:
        raise HandshakeError("the handshake does not decode") from None
    if len(message.network_secret_digest) != DIGEST_SIZE:
        raise HandshakeError(f"the handshake's digest has {len(message.network_secret_digest)} bytes instead of {DIGEST_SIZE}")
    if message.my_peer_id == 0:
        raise HandshakeError("the handshake claims peer id 0")
    return Hello(message.my_peer_id, message.network_name, message.network_secret_digest)


def judge_as_acceptor(me: Identity, frame: bytes) -> tuple[bytes | None, Joined | HandshakeError]:
    """What to answer to a first frame, if anything, and whether it made a peer.  The answer goes out before a close."""
    try:
        hello = parse_hello(frame)
    except HandshakeError as error:
        return None, error
    if hello.network_name != me.network_name:
        return None, HandshakeError(
            f'it belongs to network "{_shown(hello.network_name)}", this node to "{_shown(me.network_name)}"; '
            "this node relays for its own network only"
        )
    if hello.digest != me.digest:
        return encode_hello(me, ZERO_DIGEST), HandshakeError(_wrong_secret(me))
    if hello.peer_id == me.peer_id:
        return encode_hello(me), HandshakeError("it uses this node's own peer id: the node has connected to itself")
    return encode_hello(me), Joined(hello.peer_id, is_foreign_relay=False)


def judge_as_initiator(me: Identity, frame: bytes) -> Joined:
    """Judge the answer to our handshake; raises `HandshakeError` when it makes no peer."""
    hello = parse_hello(frame)
    if hello.peer_id == me.peer_id:
        raise HandshakeError("it uses this node's own peer id: the node has connected to itself")
    if hello.network_name != me.network_name:
        return Joined(hello.peer_id, is_foreign_relay=True)
    if hello.digest != me.digest:
        raise HandshakeError(_wrong_secret(me))
    return Joined(hello.peer_id, is_foreign_relay=False)


def _wrong_secret(me: Identity) -> str:
    return f'it is in network "{_shown(me.network_name)}" too, but with another secret: compare network_secret on both nodes'


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else name[:_SHOWN_NAME] + "..."
