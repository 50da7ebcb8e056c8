"""The journal of flow events: what a reader gets, wherever its cursor stands."""

from __future__ import annotations

from ipaddress import IPv4Address

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_hooks.types import Closed, Connected, Connecting, Counters, FlowEvent, FlowKey
from easytier_host.flows import Flow, FlowTable
from easytier_host.portal import feed as feed_module
from easytier_host.portal.feed import FlowFeed

pytestmark = pytest.mark.anyio


class Gate:
    """A flow table whose events are published at once."""

    def __init__(self) -> None:
        self.table = FlowTable()
        self.observers: list[object] = []
        self.feed = FlowFeed(self, 7, lambda: 100.0)  # type: ignore[arg-type]

    def open(self, port: int) -> Flow:
        """A new flow from this port."""
        key = FlowKey(IPv4Address("10.0.0.1"), port, IPv4Address("10.0.0.2"), 22)
        flow = self.table.open(key, "outbound", None, 0.0, 100.0)
        assert flow is not None
        self._publish()
        return flow

    def tell(self, flow: Flow, *events: FlowEvent) -> None:
        """Report events of a flow."""
        for event in events:
            self.table.report(flow, event, 0.0)
        self._publish()

    def _publish(self) -> None:
        for flow, event in self.table.events:
            self.feed.note(flow, event)
        self.table.events = []


def test_a_reader_begins_with_all_flows_and_goes_on_with_what_changes() -> None:
    gate = Gate()
    first, second = gate.open(1), gate.open(2)
    news = gate.feed.read(b"")
    assert (news.is_snapshot, news.flows, news.updates, news.missed) == (True, [first, second], [], 0)
    gate.tell(second, Connecting(), Connected())
    news = gate.feed.read(news.cursor)
    assert (news.is_snapshot, news.flows, news.missed) == (False, [second], 0)
    assert [(update.sequence, update.flow_id, update.time, update.event) for update in news.updates] == [
        (3, second.id, 100.0, Connecting()),
        (4, second.id, 100.0, Connected()),
    ]
    quiet = gate.feed.read(news.cursor)
    assert (quiet.flows, quiet.updates, quiet.cursor) == ([], [], news.cursor)


def test_counters_change_a_flow_and_are_no_update() -> None:
    gate = Gate()
    flow, _ = gate.open(1), gate.open(2)
    cursor = gate.feed.read(b"").cursor
    gate.tell(flow, Counters(5, 6))
    news = gate.feed.read(cursor)
    assert (news.is_snapshot, news.flows, news.updates) == (False, [flow], [])


def test_the_end_of_a_flow_is_told_though_the_table_has_forgotten_it() -> None:
    gate = Gate()
    flow = gate.open(1)
    cursor = gate.feed.read(b"").cursor
    gate.tell(flow, Closed("FIN both ways"))
    gate.table.tick(1000.0)
    assert gate.table.get(flow.id) is None
    news = gate.feed.read(cursor)
    assert (news.flows, news.updates[0].event) == ([flow], Closed("FIN both ways"))


def test_a_late_reader_is_told_how_much_it_missed_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_UPDATES", 3)
    gate = Gate()
    cursor = gate.feed.read(b"").cursor
    flows = [gate.open(port) for port in range(5)]
    news = gate.feed.read(cursor)
    assert (news.missed, news.is_snapshot, news.flows) == (2, True, flows)
    assert [update.sequence for update in news.updates] == [3, 4, 5]


def test_a_change_that_is_no_longer_known_costs_a_snapshot_and_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    flows = [gate.open(port) for port in range(3)]
    cursor = gate.feed.read(b"").cursor
    monkeypatch.setattr(feed_module, "MAX_CHANGED", 2)
    for flow in flows:
        gate.tell(flow, Counters(1, 1))
    news = gate.feed.read(cursor)
    assert (news.is_snapshot, news.missed, news.flows) == (True, 0, flows)


@given(st.binary(max_size=40))
def test_any_cursor_of_somebody_else_means_a_snapshot(cursor: bytes) -> None:
    gate = Gate()
    flow = gate.open(1)
    news = gate.feed.read(cursor)
    assert (news.is_snapshot, news.flows, news.missed) == (True, [flow], 0)


async def test_readers_wait_for_updates_each_for_itself() -> None:
    gate = Gate()
    flow = gate.open(1)
    cursor = gate.feed.read(b"").cursor
    woken: list[int] = []

    async def read(number: int) -> None:
        await gate.feed.wait(cursor)
        woken.append(number)

    with anyio.fail_after(5):
        await gate.feed.wait(b"")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, 1)
            tasks.start_soon(read, 2)
            await anyio.wait_all_tasks_blocked()
            gate.tell(flow, Counters(1, 1))
            await anyio.wait_all_tasks_blocked()
            assert woken == []
            gate.tell(flow, Connected())
    assert sorted(woken) == [1, 2]
