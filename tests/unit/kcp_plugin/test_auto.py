"""The plugin `auto`: what TCP could do, when the judge changes its mind, and what the hook answers."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from easytier_hooks import TCP, Candidate, PathFigures, PeerInfo
from easytier_hooks.testing import make_flow, make_peer
from easytier_kcp_plugin.auto import BELOW_MBITS, HOLD_SECONDS, KCP, LEAVE, MAX_PEERS, AutoPlugin, Judge, tcp_mbits

BOTH = (Candidate(KCP, True, "the peer accepts KCP"), Candidate(TCP, True, "always"))


def round_trip(loss: float) -> float:
    """Share of round trips that a loss each way spoils."""
    return 1 - (1 - loss) ** 2


@pytest.mark.parametrize(
    ("rtt", "loss", "measured"),
    [(0.05, 0.01, 1.5), (0.05, 0.05, 0.7), (0.1, 0.10, 0.2), (0.05, 0.01, 1.8), (0.05, 0.05, 0.8), (0.1, 0.10, 0.3)],
)
def test_the_model_of_tcp_agrees_with_measured_connections(rtt: float, loss: float, measured: float) -> None:
    """CUBIC over and beside the overlay, losses each way."""
    assert 0.5 <= tcp_mbits(rtt, round_trip(loss)) / measured <= 2.0


def test_the_model_at_its_ends() -> None:
    assert tcp_mbits(0.05, 0.0) == math.inf
    assert tcp_mbits(0.05, -0.1) == math.inf
    assert 0 < tcp_mbits(0.05, 1.0) < 0.01
    assert 0 < tcp_mbits(0.0, 0.5) < tcp_mbits(0.0, 0.01)


@pytest.mark.parametrize(
    ("rtt", "loss", "transport"),
    [
        (0.0003, 0.0, TCP),
        (0.2, 0.0, TCP),
        (0.0003, 0.01, TCP),
        (0.0003, 0.05, KCP),
        (0.05, 0.01, KCP),
        (0.2, 0.02, KCP),
    ],
)
def test_a_peer_that_is_new(rtt: float, loss: float, transport: str) -> None:
    assert Judge().judge(1, PathFigures(rtt, loss), 0.0)[0] == transport


def test_back_to_tcp_only_after_the_path_was_good_for_long() -> None:
    judge = Judge()
    answers = [judge.judge(1, PathFigures(0.05, 0.02), 0.0)[0]]
    answers += [judge.judge(1, PathFigures(0.05, 0.0), now)[0] for now in (1.0, HOLD_SECONDS / 2, HOLD_SECONDS)]
    assert answers == [KCP] * 4
    assert judge.judge(1, PathFigures(0.05, 0.0), 1.0 + HOLD_SECONDS)[0] == TCP


def test_what_is_neither_good_nor_bad_keeps_what_there_is() -> None:
    between = next(loss / 1e6 for loss in range(1, 10**6) if tcp_mbits(0.01, loss / 1e6) < LEAVE * BELOW_MBITS * 0.9)
    assert tcp_mbits(0.01, between) > BELOW_MBITS
    judge = Judge()
    assert judge.judge(1, PathFigures(0.01, between), 0.0)[0] == TCP
    judge.judge(1, PathFigures(0.01, 0.05), 1.0)
    assert {judge.judge(1, PathFigures(0.01, between), now)[0] for now in (2.0, 100.0, 1000.0)} == {KCP}
    # It also interrupts the time of being good.
    judge.judge(1, PathFigures(0.01, 0.0), 1001.0)
    judge.judge(1, PathFigures(0.01, between), 1030.0)
    assert judge.judge(1, PathFigures(0.01, 0.0), 1001.0 + HOLD_SECONDS)[0] == KCP


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_make_it_swing(seed: int) -> None:
    """An hour of pings, one a second, of which 0.5 % are lost; a flow every second, judged by the last hundred."""
    source = random.Random(seed)
    judge, outcomes, answers = Judge(), [0] * 100, []
    for second in range(3600):
        outcomes = [*outcomes[1:], int(source.random() < 0.005)]
        answers.append(judge.judge(1, PathFigures(0.05, sum(outcomes) / 100), float(second))[0])
    runs = [(transport, len(list(same))) for transport, same in itertools.groupby(answers)]
    assert min(length for transport, length in runs[:-1] if transport == KCP) >= HOLD_SECONDS + 100
    assert answers.count(KCP) > 1800


def test_what_it_remembers_is_bounded() -> None:
    judge = Judge()
    judge.judge(0, PathFigures(0.05, 0.1), 0.0)
    for peer_id in range(1, MAX_PEERS):
        judge.judge(peer_id, PathFigures(0.05, 0.0), 0.0)
    assert judge.judge(0, PathFigures(0.05, 0.0), 1.0)[0] == KCP
    judge.judge(MAX_PEERS, PathFigures(0.05, 0.0), 1.0)
    assert judge.judge(0, PathFigures(0.05, 0.0), 2.0)[0] == KCP
    for peer_id in range(1, MAX_PEERS + 1):
        judge.judge(peer_id, PathFigures(0.05, 0.0), 3.0)
    assert judge.judge(0, PathFigures(0.05, 0.0), 4.0)[0] == TCP


def peer_with(figures: PathFigures | None) -> PeerInfo:
    return replace(make_peer(), path=figures)


def test_the_answer_and_its_reason() -> None:
    plugin = AutoPlugin({}, clock=lambda: 0.0)
    lossy = plugin.select_transport(make_flow(), peer_with(PathFigures(0.05, 0.02)), BOTH)
    assert lossy is not None
    assert (lossy.transport, lossy.reason) == (KCP, "auto: 50 ms, 2.0% lost: TCP would do about 1.7 Mbit/s")
    clean = AutoPlugin({}).select_transport(make_flow(), peer_with(PathFigures(0.0004, 0.0)), BOTH)
    assert clean is not None
    assert (clean.transport, clean.reason) == (TCP, "auto: 0.4 ms, 0.0% lost: good enough for TCP")
    new = AutoPlugin({}).select_transport(make_flow(), peer_with(PathFigures(0.05, 0.0, 5)), BOTH)
    assert new is not None
    assert (new.transport, new.reason) == (TCP, "auto: 50 ms, 0 of 5 pings lost so far: good enough for TCP")


def test_no_opinion_without_peer_figures_or_transport() -> None:
    plugin = AutoPlugin({})
    assert plugin.select_transport(make_flow(), None, BOTH) is None
    assert plugin.select_transport(make_flow(), make_peer(), BOTH) is None
    assert plugin.select_transport(make_flow(), peer_with(None), BOTH) is None
    refused = (Candidate(KCP, False, "the peer refuses KCP"), BOTH[1])
    assert plugin.select_transport(make_flow(), peer_with(PathFigures(0.05, 0.02)), refused) is None


def test_options() -> None:
    eager = AutoPlugin({"below_mbits": 1000, "hold_seconds": 0.5})
    answer = eager.select_transport(make_flow(), peer_with(PathFigures(0.0003, 0.001)), BOTH)
    assert answer is not None
    assert answer.transport == KCP
    for options in (
        {"speed": 1},
        {"below_mbits": 0},
        {"below_mbits": "fast"},
        {"hold_seconds": True},
        {"below_mbits": math.inf},
    ):
        with pytest.raises(ValueError, match=f"{min(options)}'?[:;]"):
            AutoPlugin(options)
