"""Pieces of RPC calls: cutting, joining in any order, and the caps that a hostile peer meets."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.pb import common_pb2
from easytier_host.rpc.framing import (
    MAX_CALL_BYTES,
    MAX_NEIGHBOUR_BYTES,
    MAX_NEIGHBOUR_CALLS,
    MAX_PEER_CALLS,
    MAX_PIECES,
    MAX_REFUSED,
    MAX_TOTAL_BYTES,
    MAX_TOTAL_CALLS,
    PIECE_SIZE,
    REASSEMBLY_TIMEOUT,
    FramingError,
    Reassembler,
    split_call,
)
from tests.unit.host.helpers import FAR, OTHER

DESCRIPTOR = common_pb2.RpcDescriptor(domain_name="lab", proto_name="S", service_name="S", method_index=1)


def template(peer: int = 2, transaction: int = 7, *, is_request: bool = True) -> common_pb2.RpcPacket:
    return common_pb2.RpcPacket(
        from_peer=peer, to_peer=1, transaction_id=transaction, descriptor=DESCRIPTOR, is_request=is_request
    )


def pieces(content: bytes, peer: int = 2, transaction: int = 7, *, is_request: bool = True) -> list[common_pb2.RpcPacket]:
    encoded = split_call(template(peer, transaction, is_request=is_request), content)
    return [common_pb2.RpcPacket.FromString(piece) for piece in encoded]


def piece(index: int, total: int, body: bytes = b"", peer: int = 2, transaction: int = 7) -> common_pb2.RpcPacket:
    packet = template(peer, transaction)
    packet.piece_idx, packet.total_pieces, packet.body = index, total, body
    return packet


def fill(reassembler: Reassembler, body: bytes, *, peer: int = 2, first: int = 0) -> int:
    """Add the pieces of one call until one is refused; how many were taken."""
    for index in range(first, MAX_PIECES):
        try:
            reassembler.add(piece(index, MAX_PIECES, body, peer=peer), 0.0)
        except FramingError:
            return index - first
    return MAX_PIECES - first


@given(st.binary(max_size=5000))
def test_every_piece_is_one_that_stock_takes(content: bytes) -> None:
    """A request with `total_pieces` 0 or without a descriptor would end a stock daemon (control plane 12.3)."""
    cut = pieces(content)
    assert [packet.piece_idx for packet in cut] == list(range(len(cut)))
    assert len(cut) == max(1, -(-len(content) // PIECE_SIZE))
    for index, packet in enumerate(cut):
        assert packet.total_pieces == len(cut) >= 1
        assert packet.descriptor == DESCRIPTOR
        assert packet.HasField("compression_info") == (index == 0)
        assert packet.ByteSize() <= 1248
    info = cut[0].compression_info
    assert (info.algo, info.accepted_algo) == (common_pb2.CompressionNone, common_pb2.CompressionNone)
    assert b"".join(packet.body for packet in cut) == content


@given(st.binary(max_size=20_000), st.randoms(use_true_random=False))
def test_pieces_join_in_any_order_with_duplicates(content: bytes, chance: random.Random) -> None:
    cut = pieces(content)
    arriving = [*cut, *cut[: len(cut) // 2]] if len(cut) > 1 else cut
    chance.shuffle(arriving)
    reassembler = Reassembler()
    complete = [result for packet in arriving if (result := reassembler.add(packet, 0.0)) is not None]
    first, joined = complete[0]
    assert joined == content
    assert first.piece_idx == 0
    assert first.compression_info.algo == common_pb2.CompressionNone


def test_reversed_pieces_join() -> None:
    content = bytes(range(256)) * 40
    reassembler = Reassembler()
    *early, last = reversed(pieces(content))
    assert [reassembler.add(packet, 0.0) for packet in early] == [None] * len(early)
    result = reassembler.add(last, 0.0)
    assert result is not None
    assert result[1] == content
    assert reassembler.unfinished == 0


def test_calls_of_different_peers_transactions_and_directions_do_not_mix() -> None:
    reassembler = Reassembler()
    calls = [
        pieces(bytes([number]) * 2000, peer=peer, transaction=transaction, is_request=is_request)
        for number, (peer, transaction, is_request) in enumerate([(2, 7, True), (3, 7, True), (2, 8, True), (2, 7, False)])
    ]
    for call in calls:
        assert reassembler.add(call[0], 0.0) is None
    for number, call in enumerate(calls):
        result = reassembler.add(call[1], 0.0)
        assert result is not None
        assert result[1] == bytes([number]) * 2000


@pytest.mark.parametrize(("index", "total"), [(0, 0), (1, 1), (5, 5), (0, MAX_PIECES + 1), (0xFFFF_FFFF, 0xFFFF_FFFF)])
def test_piece_numbers_that_cannot_be_are_refused(index: int, total: int) -> None:
    with pytest.raises(FramingError):
        Reassembler().add(piece(index, total), 0.0)


@pytest.mark.parametrize("total", [1, 3])
def test_a_first_piece_needs_a_descriptor(total: int) -> None:
    packet = piece(0, total)
    packet.ClearField("descriptor")
    with pytest.raises(FramingError, match="descriptor"):
        Reassembler().add(packet, 0.0)


@pytest.mark.parametrize("algorithm", [common_pb2.CompressionInvalid, common_pb2.CompressionZstd])
def test_a_compressed_call_is_refused_since_none_was_asked_for(algorithm: int) -> None:
    packet = piece(0, 1)
    packet.compression_info.algo = algorithm  # type: ignore[assignment]
    with pytest.raises(FramingError, match="compressed"):
        Reassembler().add(packet, 0.0)


def test_a_call_may_not_change_its_number_of_pieces() -> None:
    reassembler = Reassembler()
    reassembler.add(piece(0, 3), 0.0)
    with pytest.raises(FramingError, match="has become"):
        reassembler.add(piece(1, 4), 0.0)


def test_an_unfinished_call_is_forgotten_after_ten_seconds() -> None:
    reassembler = Reassembler()
    first, second = pieces(bytes(2000))
    reassembler.add(first, 100.0)
    assert reassembler.expire(100.0 + REASSEMBLY_TIMEOUT - 0.1) == 0
    assert reassembler.expire(100.0 + REASSEMBLY_TIMEOUT) == 1
    assert reassembler.add(second, 111.0) is None
    assert reassembler.unfinished == 1


def test_old_calls_make_room_for_a_new_one() -> None:
    reassembler = Reassembler()
    for transaction in range(MAX_PEER_CALLS):
        reassembler.add(piece(0, 2, transaction=transaction), 0.0)
    with pytest.raises(FramingError, match="unfinished"):
        reassembler.add(piece(0, 2, transaction=100), 1.0)
    assert reassembler.add(piece(0, 2, transaction=100, peer=3), 1.0) is None
    assert reassembler.add(piece(0, 2, transaction=100), REASSEMBLY_TIMEOUT) is None


def test_one_call_is_held_to_a_mebibyte() -> None:
    reassembler = Reassembler()
    body = bytes(1800)
    taken = fill(reassembler, body)
    assert 500 * 1800 < taken * 1800 <= MAX_CALL_BYTES
    # What it held is free again.
    assert reassembler.unfinished == 0
    assert reassembler._total_bytes == 0
    assert reassembler._bytes == reassembler._calls == {}


def test_all_peers_together_are_held_to_eight_mebibytes() -> None:
    reassembler = Reassembler()
    refused = 0
    for peer in range(2, 14):
        for index in range(450):
            try:
                reassembler.add(piece(index, MAX_PIECES, bytes(1900), peer=peer), 0.0)
            except FramingError:
                refused += 1
            assert reassembler._total_bytes <= MAX_TOTAL_BYTES
    assert refused


def test_empty_pieces_of_invented_senders_are_bounded_too() -> None:
    """Any node that has the key can write any sender, and an empty piece costs no content."""
    reassembler = Reassembler()
    refused = 0
    for peer in range(1, 3 * MAX_TOTAL_CALLS):
        try:
            reassembler.add(piece(0, MAX_PIECES, peer=peer), 0.0)
        except FramingError:
            refused += 1
    assert reassembler.unfinished == MAX_TOTAL_CALLS
    assert refused
    assert fill(reassembler, b"", peer=1, first=1) < MAX_PIECES - 1


def test_a_full_table_of_calls_empties_itself() -> None:
    reassembler = Reassembler()
    for peer in range(1, MAX_TOTAL_CALLS + 1):
        reassembler.add(piece(0, 2, peer=peer), 0.0)
    result = [reassembler.add(packet, REASSEMBLY_TIMEOUT) for packet in pieces(bytes(1500), transaction=8)]
    assert result[-1] is not None
    assert reassembler._total_bytes == 0


def test_nobody_spoils_the_calls_of_a_sender_whose_packets_take_another_way() -> None:
    """OTHER writes the name of peer 2 on its pieces, of the same call and of as many others as it can."""
    reassembler = Reassembler()
    first, second, third = pieces(bytes(2500))
    assert reassembler.add(first, 0.0, 2) is None
    assert reassembler.add(piece(1, 3, b"forged"), 0.0, OTHER) is None
    for transaction in range(1000, 1000 + MAX_PEER_CALLS - 1):
        reassembler.add(piece(0, 2, transaction=transaction), 0.0, OTHER)
    with pytest.raises(FramingError, match="unfinished"):
        reassembler.add(piece(0, 2, transaction=5000), 0.0, OTHER)
    assert reassembler.add(second, 0.0, 2) is None
    done = reassembler.add(third, 0.0, 2)
    assert done is not None
    assert done[1] == bytes(2500)


def test_what_one_neighbour_brings_is_bounded_whatever_names_it_writes() -> None:
    reassembler = Reassembler()

    def taken(packets: Iterable[common_pb2.RpcPacket], neighbour: int) -> int:
        """How many, until one is refused."""
        for number, packet in enumerate(packets):
            try:
                reassembler.add(packet, 0.0, neighbour)
            except FramingError:
                return number
        raise AssertionError("all were taken")

    assert taken((piece(0, 2, peer=peer) for peer in range(1, MAX_TOTAL_CALLS)), OTHER) == MAX_NEIGHBOUR_CALLS
    assert reassembler.add(piece(0, 2, peer=7), 0.0, 7) is None
    large = (piece(index, MAX_PIECES, bytes(1900), peer=peer) for peer in range(20_000, 20_050) for index in range(1, 400))
    assert taken(large, FAR) * 1900 < MAX_NEIGHBOUR_BYTES


def test_a_call_of_which_a_piece_is_refused_is_refused_as_a_whole() -> None:
    """What is left of it takes no room, and nor does what comes of it later; the next call is heard."""
    reassembler = Reassembler()
    first, second, third = pieces(bytes(3000))
    reassembler.add(first, 0.0)
    with pytest.raises(FramingError):
        reassembler.add(piece(1, 4), 0.0)
    for late in (second, third):
        with pytest.raises(FramingError, match="others may have been refused"):
            reassembler.add(late, 0.0)
    assert reassembler.unfinished == reassembler._total_bytes == 0
    result = [reassembler.add(packet, 1.0) for packet in pieces(bytes(3000), transaction=8)]
    assert result[-1] is not None


@pytest.mark.parametrize("index", [0, 1, 2])
def test_packets_that_go_unread_end_the_calls_of_their_neighbour_and_no_others(index: int) -> None:
    """`index` is the piece that is not read."""
    reassembler = Reassembler()
    theirs, others = pieces(bytes(3000)), pieces(bytes(3000), peer=3)
    assert reassembler.add(others[0], 0.0, 3) is None
    for number, packet in enumerate(theirs):
        if number == index:
            assert reassembler.refuse(OTHER, 0.0) == bool(index)
        elif number > index:
            with pytest.raises(FramingError, match="others may have been refused"):
                reassembler.add(packet, 0.0, OTHER)
        else:
            reassembler.add(packet, 0.0, OTHER)
    assert reassembler.unfinished == 1
    assert [reassembler.add(packet, 0.0, 3) is None for packet in others[1:]] == [True, False]
    again = [reassembler.add(packet, 0.1, OTHER) for packet in pieces(bytes(3000), transaction=9)]
    assert again[-1] is not None


def test_pieces_may_come_in_any_order_again_ten_seconds_after_a_refusal() -> None:
    reassembler = Reassembler()
    reassembler.refuse(2, 0.0)
    *early, last = reversed(pieces(bytes(3000)))
    with pytest.raises(FramingError):
        reassembler.add(early[0], REASSEMBLY_TIMEOUT - 0.1)
    # That refusal was of no new call.
    assert [reassembler.add(packet, REASSEMBLY_TIMEOUT) for packet in early] == [None, None]
    assert reassembler.add(last, REASSEMBLY_TIMEOUT) is not None


def test_neighbours_of_which_something_was_refused_are_forgotten_the_oldest_first() -> None:
    reassembler = Reassembler()
    for neighbour in range(1, MAX_REFUSED + 2):
        reassembler.refuse(neighbour, 0.0)
    assert len(reassembler._refused) == MAX_REFUSED
    assert reassembler.add(piece(1, 2, peer=1), 0.0) is None
    with pytest.raises(FramingError):
        reassembler.add(piece(1, 2, peer=2), 0.0)
