"""What plugins are told, in which order, and what a slow or faulty one costs the node: nothing."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import pytest
from anyio import to_thread

from easytier_hooks import (
    TCP,
    Candidate,
    Closed,
    Connected,
    Connecting,
    FlowEvent,
    PeerCapabilities,
    PeerInfo,
    PluginCounters,
    PluginManager,
    Seen,
    Selection,
    TcpFlow,
    hookimpl,
)
from easytier_hooks.guard import Fault, Guard
from easytier_hooks.manager import MAX_PEERS
from easytier_hooks.testing import make_flow, make_peer

pytestmark = pytest.mark.anyio
WAIT = 5.0


def manager_with(
    *plugins: object,
    trace: bool = False,
    queue_calls: int = 1024,
    stop_timeout: float = WAIT,
    clock: Callable[[], float] = lambda: 0.0,
) -> PluginManager:
    manager = PluginManager(
        environ={"ET_TRACE_HOOKS": "1"} if trace else {},
        installed=(),
        queue_calls=queue_calls,
        stop_timeout=stop_timeout,
        clock=clock,
    )
    for number, plugin in enumerate(plugins):
        manager.register(f"p{number}", plugin)
    return manager


@dataclass(eq=False)
class Recorder:
    events: list[tuple[int, FlowEvent]] = field(default_factory=list)
    peers: list[tuple[int, PeerCapabilities]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    @hookimpl
    def on_tcp_flow(self, flow: TcpFlow, event: FlowEvent) -> None:
        self.events.append((flow.id, event))
        self.threads.add(threading.current_thread().name)

    @hookimpl
    def on_peer_capabilities(self, capabilities: PeerCapabilities, peer: PeerInfo) -> None:
        self.peers.append((peer.peer_id, capabilities))
        self.threads.add(threading.current_thread().name)


@dataclass(eq=False)
class Blocked:
    """Stays in its hook until it is released."""

    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    flows: list[int] = field(default_factory=list)

    @hookimpl
    def on_tcp_flow(self, flow: TcpFlow) -> None:
        self.flows.append(flow.id)
        self.entered.set()
        self.release.wait(WAIT)


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Raising:
    @hookimpl
    def on_tcp_flow(self, event: FlowEvent) -> None:
        if isinstance(event, Closed):
            raise SystemExit("enough")
        raise ZeroDivisionError


async def test_events_arrive_in_order_on_the_threads_of_each_plugin() -> None:
    one, two = Recorder(), Recorder()
    manager = manager_with(one, two)
    story: list[FlowEvent] = [Seen(), Connecting(), Connected(), Closed("done")]
    async with manager.running():
        for flow_id in range(50):
            for event in story:
                manager.notify_flow(make_flow(flow_id), event)
    assert one.events == two.events == [(flow_id, event) for flow_id in range(50) for event in story]
    assert (one.threads, two.threads) == ({"plugin p0"}, {"plugin p1"})


async def test_a_raising_plugin_is_counted_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    manager = manager_with(Raising(), recorder)
    async with manager.running():
        for _ in range(20):
            manager.notify_flow(make_flow(), Seen())
        manager.notify_flow(make_flow(), Closed("done"))
        manager.notify_flow(make_flow(), Seen())
    assert manager.counters() == {"p0": PluginCounters(raised=22), "p1": PluginCounters()}
    assert len(recorder.events) == 22
    assert [line.partition(" at ")[0] for line in caplog.messages] == [
        "plugin p0: on_tcp_flow raised ZeroDivisionError",
        "plugin p0: on_tcp_flow raised SystemExit",
    ]


async def test_a_fault_is_logged_again_after_a_while_with_the_number_of_those_before(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 10.0, 10.0])
    manager = manager_with(Raising(), clock=lambda: next(times))
    async with manager.running():
        for _ in range(4):
            manager.notify_flow(make_flow(), Seen())
    first, again = caplog.messages
    assert first.startswith(f"plugin p0: on_tcp_flow raised ZeroDivisionError at {__file__}:")
    assert again == f"{first} (and 2 more like it)"


def test_a_line_that_must_be_written_is_not_held_back(caplog: pytest.LogCaptureFixture) -> None:
    watched = Guard("p0", clock=lambda: 0.0)
    for always in (False, False, True, True):
        watched.report(Fault.MISSED, "late", always=always)
    watched.report(Fault.NONSENSE, "answered %d", 7)
    assert caplog.messages == ["plugin p0: late"] * 3 + ["plugin p0: answered 7"]
    assert watched.counters == PluginCounters(nonsense=1, missed=4)


async def test_a_full_queue_drops_the_oldest_calls_and_counts_them(caplog: pytest.LogCaptureFixture) -> None:
    slow, quick = Blocked(), Recorder()
    manager = manager_with(slow, quick, queue_calls=4)
    async with manager.running():
        manager.notify_flow(make_flow(0), Seen())
        assert await to_thread.run_sync(slow.entered.wait, WAIT)
        for flow_id in range(1, 11):
            manager.notify_flow(make_flow(flow_id), Seen())
        assert manager.counters()["p0"].dropped == 6
        slow.release.set()
    assert slow.flows == [0, 7, 8, 9, 10]
    assert [record.getMessage() for record in caplog.records if "p0" in record.getMessage()] == [
        "plugin p0: is too slow, a call of on_tcp_flow was dropped"
    ]


async def test_a_plugin_that_never_returns_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    slow = Blocked()
    manager = manager_with(slow, stop_timeout=0.02)
    with anyio.fail_after(WAIT):
        async with manager.running():
            manager.notify_flow(make_flow(0), Seen())
            manager.notify_flow(make_flow(1), Seen())
            assert await to_thread.run_sync(slow.entered.wait, WAIT)
    assert "plugin p0 did not finish within 0.02 s" in caplog.text
    left_behind = [thread for thread in threading.enumerate() if thread.name == "plugin p0"]
    assert [thread.daemon for thread in left_behind] == [True]
    with anyio.CancelScope(shield=True):
        slow.release.set()
        await to_thread.run_sync(left_behind[0].join, WAIT)
    assert slow.flows == [0]


async def test_the_end_is_orderly_when_the_node_is_cancelled() -> None:
    recorder = Recorder()
    manager = manager_with(recorder)
    with anyio.CancelScope() as scope:
        async with manager.running():
            manager.notify_flow(make_flow(), Seen())
            scope.cancel()
            await anyio.sleep_forever()
    assert recorder.events == [(1, Seen())]


async def test_nothing_is_told_unless_running_and_the_manager_can_run_again() -> None:
    recorder = Recorder()
    manager = manager_with(recorder)
    manager.notify_flow(make_flow(1), Seen())
    async with manager.running():
        manager.notify_flow(make_flow(2), Seen())
        with pytest.raises(RuntimeError, match="run already"):
            await manager.running().__aenter__()
    manager.notify_flow(make_flow(3), Seen())
    async with manager.running():
        manager.notify_flow(make_flow(4), Seen())
    assert [flow_id for flow_id, _ in recorder.events] == [2, 4]


async def test_a_plugin_that_starts_late_is_told_the_present_state_of_each_peer() -> None:
    recorder = Recorder()
    manager = manager_with(recorder, queue_calls=2)
    for peer_id in (1, 2, 3, 4):
        manager.notify_capabilities(make_peer(peer_id), PeerCapabilities())
    manager.notify_capabilities(make_peer(1), PeerCapabilities(kcp_input=True))
    manager.forget_peer(3)
    async with manager.running():
        manager.notify_capabilities(make_peer(4), PeerCapabilities(quic_input=True))
    assert recorder.peers == [
        (2, PeerCapabilities()),
        (4, PeerCapabilities()),
        (1, PeerCapabilities(kcp_input=True)),
        (4, PeerCapabilities(quic_input=True)),
    ]


async def test_capabilities_are_told_when_they_change_and_when_a_peer_comes_back() -> None:
    recorder = Recorder()
    manager = manager_with(recorder)
    async with manager.running():
        manager.notify_capabilities(make_peer(2), PeerCapabilities())
        manager.notify_capabilities(make_peer(2), PeerCapabilities())
        manager.notify_capabilities(make_peer(2), PeerCapabilities(kcp_input=True))
        manager.forget_peer(2)
        manager.notify_capabilities(make_peer(2), PeerCapabilities(kcp_input=True))
    assert [capabilities.kcp_input for _, capabilities in recorder.peers] == [False, True, True]


async def test_the_memory_of_peers_is_bounded() -> None:
    recorder = Recorder()
    manager = manager_with(recorder)
    for peer_id in range(MAX_PEERS + 10):
        manager.notify_capabilities(PeerInfo(peer_id), PeerCapabilities())
    async with manager.running():
        pass
    assert [peer_id for peer_id, _ in recorder.peers] == list(range(10, MAX_PEERS + 10))


async def test_a_hook_that_returns_a_coroutine_is_reported_and_its_coroutine_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        raise AssertionError("ran")

    class Asynchronous:
        @hookimpl
        def on_tcp_flow(self, flow: TcpFlow) -> object:
            return run()

    manager = manager_with(Asynchronous())
    async with manager.running():
        manager.notify_flow(make_flow(), Seen())
    assert manager.counters()["p0"] == PluginCounters(nonsense=1)
    assert "plugin p0: on_tcp_flow is asynchronous" in caplog.text


async def test_the_trace_switch_logs_each_call_with_answer_and_time(caplog: pytest.LogCaptureFixture) -> None:
    class Choosing:
        @hookimpl
        def on_tcp_flow(self, event: FlowEvent) -> None:
            clock.now += 0.0025

        @hookimpl
        def select_transport(self, flow: TcpFlow) -> object:
            if flow.id == 2:
                raise KeyError(flow)
            return Selection(TCP, "x" * 10_000)

    clock = FakeClock()
    caplog.set_level(logging.INFO)
    manager = manager_with(Choosing(), trace=True, clock=clock)
    flow, peer = make_flow(transport="kcp"), make_peer(2, "db")
    candidates = Candidate("kcp", available=False, reason=""), Candidate(TCP, available=True, reason="")
    async with manager.running():
        manager.notify_flow(flow, Connected())
        await manager.select(make_flow(), peer, candidates)
        await manager.select(make_flow(2), peer, candidates)
    shown = [line for line in caplog.messages if line.startswith("hook")]
    asked = "10.144.0.1:51838 -> 10.144.0.2:22 outbound; peer db; candidates no kcp, tcp: answered "
    assert shown[0] == (
        "hook on_tcp_flow of plugin p0, told flow 1 10.144.0.1:51838 -> 10.144.0.2:22 outbound over kcp; Connected(): "
        "answered None, took 2.5 ms"
    )
    assert shown[1].startswith(f"hook select_transport of plugin p0, told flow 1 {asked}Selection(transport='tcp', reason='xxx")
    assert len(shown[1]) < 500
    assert shown[2] == f"hook select_transport of plugin p0, told flow 2 {asked}nothing usable, took 0.0 ms"


async def test_where_nobody_watches_no_thread_waits() -> None:
    class Silent:
        @hookimpl
        def advertise_capabilities(self) -> list[object]:
            return []

    manager = manager_with(Silent())
    before = set(threading.enumerate())
    async with manager.running():
        assert set(threading.enumerate()) <= before
