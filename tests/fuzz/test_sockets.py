"""Garbage through the sockets of a whole node: it keeps answering, keeps its neighbour, and holds nothing of it."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest

from easytier_host.crypto import network_digest
from easytier_host.handshake import Identity, encode_hello
from easytier_host.instance import Node
from easytier_host.packet import MAX_FRAME_SIZE, PacketType, PeerHeader
from easytier_host.tunnel.udp_wire import KIND_DATA, KIND_SYN, UDP_HEADER, build_control
from tests.unit.host.helpers import FROM_FRAME, make_node, until

pytestmark = pytest.mark.anyio

SECRET_DIGEST = network_digest("lab", "s3cret")
STRANGER = 0x8765_4321


def port_of(node: Node, scheme: str) -> int:
    port = next(urlsplit(url).port for url in node.listeners if url.startswith(scheme))
    assert port is not None
    return port


def garbage(chance: random.Random, size: int) -> bytes:
    return chance.randbytes(chance.randrange(size))


def frame(chance: random.Random, *targets: int) -> bytes:
    """A peer header of a plausible kind before random bytes."""
    header = PeerHeader(
        chance.choice((STRANGER, 0, *targets)),
        chance.choice((0, 77, *targets)),
        chance.choice((*PacketType, 250)),
        chance.choice((0, 0, 1, 0x10, 0x11, 0xFF)),
        chance.choice((0, 1, 7, 8, 255)),
        chance.choice((0, 4, 1000, 0xFFFF_FFFF)),
    )
    return header.encode() + garbage(chance, chance.choice((4, 60, MAX_FRAME_SIZE - 16)))


async def still_answers(node: Node, friend: Node) -> None:
    """Node and its old neighbour ping each other, in either direction."""
    for source, target in ((friend, "10.144.0.1"), (node, "10.144.0.2")):
        await until(partial(source.peer_for, IPv4Address(target)))
        patience = 0.05
        with anyio.fail_after(20):
            while True:
                try:
                    await source.ping(IPv4Address(target), timeout=patience)
                    break
                except TimeoutError:
                    patience *= 2
    assert node.failure is None


@asynccontextmanager
async def node_and_friend(scheme: str) -> AsyncIterator[tuple[Node, Node]]:
    """A node, and a neighbour that has dialled it over this kind of tunnel."""
    async with make_node(1) as node, make_node(2, f"{scheme}://127.0.0.1:{port_of(node, scheme)}") as friend:
        await still_answers(node, friend)
        yield node, friend


async def pause(count: int) -> None:
    """A turn for the node now and then, as a real sender gives it."""
    if count % 20 == 0:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_datagrams_of_strangers(seed: int) -> None:
    chance = random.Random(seed)
    async with node_and_friend("udp") as (node, friend):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port_of(node, "udp")))
            for count in range(400):
                body = garbage(chance, 2100) if count % 2 else frame(chance, node.peer_id)
                conn_id = chance.choice((0, 1, 2, 0xFFFF_FFFF))
                length = chance.choice((len(body), len(body), 0, 8, 0xFFFF))
                header = struct.pack("<IBBH", conn_id, chance.randrange(10), chance.randrange(256), length)
                sock.send(chance.choice((header + body, body, header, body[:8], b"")))
                await pause(count)
        await still_answers(node, friend)
        assert len(node.peers()) == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_streams_of_strangers(seed: int) -> None:
    chance = random.Random(seed)
    async with node_and_friend("tcp") as (node, friend):
        for count in range(40):
            stream = await anyio.connect_tcp("127.0.0.1", port_of(node, "tcp"))
            async with stream:
                parts = [garbage(chance, 100)] if count % 3 == 0 else [frame(chance, node.peer_id) for _ in range(5)]
                if count % 3 == 2:
                    parts.insert(0, encode_hello(Identity(STRANGER, "lab", SECRET_DIGEST)))
                data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
                # The node may have hung up before all of it is written.
                try:
                    await stream.send(data[: chance.randrange(len(data) + 1)] if count % 2 else data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    continue
        await still_answers(node, friend)
        await until(lambda: [conn.peer_id for conn in node.peers()] == [friend.peer_id])
        await until(lambda: not node._admission._half_open)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_neighbour_that_knows_the_secret_and_sends_garbage(seed: int) -> None:
    chance = random.Random(seed)
    async with node_and_friend("udp") as (node, friend):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port_of(node, "udp")))
            sock.send(build_control(5, KIND_SYN, bytes(8)))

            def send(part: bytes) -> None:
                sock.send(UDP_HEADER.pack(5, KIND_DATA, len(part)) + part)

            send(encode_hello(Identity(STRANGER, "lab", SECRET_DIGEST)))
            await until(lambda: len(node.peers()) == 2)
            before = node.metrics.received_frames
            for count in range(600):
                send(frame(chance, node.peer_id, friend.peer_id))
                await pause(count)
            await until(lambda: node.metrics.received_frames > before + 300)
        await still_answers(node, friend)
        counters = node.metrics.as_dict()
        assert sum(counters[name] for name in FROM_FRAME) == counters["received_frames"]
