"""What the flow table remembers of a flow for monitors: its history, and how fast it goes."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from easytier_hooks.types import Closed, Connected, Counters, FlowKey, HalfClosed, Measures, Seen, TransportSelected
from easytier_host.flows import COUNTERS_INTERVAL, MAX_HISTORY, Flow, FlowTable

KEY = FlowKey(IPv4Address("10.0.0.1"), 40_000, IPv4Address("10.0.0.2"), 22)


def opened(now: float = 1000.0) -> tuple[FlowTable, Flow]:
    """A flow that began at `now` by the table's clock and at 5000 by the wall's."""
    table = FlowTable()
    flow = table.open(KEY, "outbound", None, now, 5000.0)
    assert flow is not None
    return table, flow


def test_the_history_has_what_happened_and_when() -> None:
    table, flow = opened()
    table.report(flow, TransportSelected("kcp", "why", "me"), 1000.5)
    table.report(flow, Counters(1, 2), 1001.0)
    table.report(flow, Closed("done"), 1002.0)
    assert list(flow.history) == [
        (1000.0, Seen()),
        (1000.5, TransportSelected("kcp", "why", "me")),
        (1002.0, Closed("done")),
    ]
    assert flow.chosen_by == "me"
    assert [flow.wall_time(at) for at, _ in flow.history] == [5000.0, 5000.5, 5002.0]


def test_the_history_is_bounded() -> None:
    table, flow = opened()
    for number in range(10 * MAX_HISTORY):
        table.report(flow, HalfClosed("source"), 1000.0 + number)
    assert len(flow.history) == MAX_HISTORY
    assert flow.history[-1] == (1000.0 + 10 * MAX_HISTORY - 1, HalfClosed("source"))


def test_a_rate_is_between_two_counters() -> None:
    table, flow = opened()
    table.report(flow, Connected(), 1000.0)
    assert flow.rates_at(1000.0) == (0.0, 0.0)
    table.report(flow, Counters(1000, 100), 1001.0)
    table.report(flow, Counters(3000, 100, 0.05, 7, 1024, 12), 1002.0)
    assert flow.rates_at(1002.0) == pytest.approx((2000.0, 0.0))
    assert (flow.bytes_sent, flow.measures) == (3000, Measures(0.05, 7, 1024, 12))


def test_counters_in_quick_succession_do_not_make_a_rate() -> None:
    table, flow = opened()
    table.report(flow, Counters(1000, 0), 1001.0)
    table.report(flow, Counters(2000, 0), 1001.001)
    assert flow.rates_at(1001.0) == pytest.approx((1000.0, 0.0))
    assert flow.bytes_sent == 2000
    table.report(flow, Counters(3000, 0), 1002.0)
    assert flow.rates_at(1002.0) == pytest.approx((2000.0, 0.0))


def test_a_silent_or_ended_flow_has_no_rate() -> None:
    table, flow = opened()
    table.report(flow, Counters(1000, 0), 1001.0)
    assert flow.rates_at(1001.0 + 2 * COUNTERS_INTERVAL + 0.1) == (0.0, 0.0)
    table.report(flow, Closed("done"), 1001.5)
    assert flow.rates_at(1001.5) == (0.0, 0.0)
