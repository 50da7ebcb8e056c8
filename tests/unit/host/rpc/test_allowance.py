"""How much time the calls of one neighbour get."""

from __future__ import annotations

from easytier_host.rpc.allowance import BURST, MAX_NEIGHBOURS, SHARE, Allowance
from tests.unit.host.helpers import OTHER, PEER


def test_a_burst_and_then_a_share() -> None:
    allowance, now = Allowance(), 100.0
    for _ in range(5):
        assert allowance.permits(PEER, now)
        allowance.spend(PEER, BURST / 5, now)
    assert not allowance.permits(PEER, now)
    assert allowance.permits(OTHER, now)
    served = 0
    for step in range(1000):
        at = now + step / 100
        if allowance.permits(PEER, at):
            allowance.spend(PEER, 0.01, at)
            served += 1
    assert served * 0.01 <= 10 * SHARE + 0.01


def test_one_long_answer_is_paid_for_afterwards() -> None:
    allowance = Allowance()
    allowance.spend(PEER, 1.5 * BURST, 0.0)
    assert not allowance.permits(PEER, 0.5 * BURST / SHARE - 0.1)
    assert allowance.permits(PEER, 0.5 * BURST / SHARE + 0.1)


def test_nobody_goes_unheard_for_long_whatever_an_answer_took() -> None:
    allowance = Allowance()
    allowance.spend(PEER, 60.0, 0.0)
    assert not allowance.permits(PEER, 24.0)
    assert allowance.permits(PEER, 26.0)


def test_the_table_is_bounded_and_forgets_those_first_who_owe_nothing() -> None:
    allowance = Allowance()
    allowance.spend(PEER, 10.0, 0.0)
    for neighbour in range(1, 3 * MAX_NEIGHBOURS):
        allowance.spend(neighbour, 0.000_01, neighbour / 1000)
    assert len(allowance._spent) <= MAX_NEIGHBOURS
    assert not allowance.permits(PEER, 1.0)
