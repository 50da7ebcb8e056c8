"""Which half-open session gives way when there are too many."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from easytier_kcp_plugin.kcp.half_open import GIVES_WAY_AFTER, HalfOpen

A, B, C = 1, 2, 3


def filled(of_peer: int, in_all: int, *openings: tuple[str, int, float]) -> HalfOpen[str]:
    """Openings are (name, peer, when it began)."""
    table = HalfOpen[str](of_peer, in_all)
    for name, peer, began in openings:
        assert table.has_room(peer)
        table.add(name, peer, began)
    return table


def test_where_a_peer_has_too_many_its_own_oldest_gives_way_once_it_is_old() -> None:
    table = filled(2, 9, ("b0", B, 0.0), ("a0", A, 1.0), ("a1", A, 2.0))
    assert table.has_room(B)
    assert not table.has_room(A)
    assert table.gives_way(A, 0.9 + GIVES_WAY_AFTER) is None
    assert table.gives_way(A, 1.0 + GIVES_WAY_AFTER) == "a0"
    table.remove("a0", A)
    assert table.has_room(A)


def test_where_there_are_too_many_in_all_one_of_the_peer_with_most_gives_way() -> None:
    table = filled(9, 4, ("b0", B, 0.0), ("a0", A, 1.0), ("a1", A, 2.0), ("c0", C, 3.0))
    assert not table.has_room(C)
    assert table.gives_way(C, 0.5 + GIVES_WAY_AFTER) is None, "b0 is older, but B has only this one"
    assert table.gives_way(C, 1.0 + GIVES_WAY_AFTER) == "a0"


@pytest.mark.parametrize(("of_a", "gives"), [(2, None), (3, "a0")])
def test_who_has_little_need_not_wait_for_who_has_much(of_a: int, gives: str | None) -> None:
    """C has none, and would have one."""
    table = filled(9, of_a + 1, ("b0", B, 0.0), *((f"a{number}", A, 0.0) for number in range(of_a)))
    assert table.gives_way(C, 0.0) == gives
    assert table.gives_way(A, 0.0) is None


def test_those_that_have_had_their_time_come_oldest_first() -> None:
    table = filled(9, 9, ("a0", A, 0.0), ("b0", B, 1.0), ("a1", A, 2.0))
    assert table.oldest_since == 0.0
    assert table.older_than(10.0, 9.9) == []
    assert table.older_than(10.0, 11.0) == ["a0", "b0"]
    table.remove("a0", A)
    assert table.oldest_since == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_it_is_always_the_peer_with_most(seed: int) -> None:
    source, table = random.Random(seed), HalfOpen[int](100, 12)
    peers: dict[int, int] = {}
    for number in range(2000):
        peer = source.randrange(5)
        if table.has_room(peer):
            table.add(number, peer, float(number))
            peers[number] = peer
        else:
            victim = table.gives_way(peer, number + GIVES_WAY_AFTER)
            assert victim is not None
            counts = Counter(peers.values())
            assert counts[peers[victim]] == max(counts.values())
            assert victim == min(each for each in peers if peers[each] == peers[victim])
            table.remove(victim, peers.pop(victim))
        for ended in [each for each in peers if source.random() < 0.05]:
            table.remove(ended, peers.pop(ended))
            table.remove(ended, peer)
        assert len(table) == len(peers) <= 12
    for each in list(peers):
        table.remove(each, peers.pop(each))
    assert (len(table), table._peers, table._by_count, table._most) == (0, {}, {}, 0)
