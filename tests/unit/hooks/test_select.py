"""Asking plugins for a transport: who wins, what does not count, and that nobody waits longer than the deadline."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from anyio import to_thread

from easytier_hooks import TCP, Candidate, PeerInfo, PluginCounters, PluginManager, Seen, Selection, TcpFlow, hookimpl
from easytier_hooks.testing import make_flow, make_peer

pytestmark = pytest.mark.anyio
WAIT = 5.0
CANDIDATES = (
    Candidate("quic", available=False, reason="the peer has no QUIC"),
    Candidate("kcp", available=True, reason="the peer accepts KCP"),
    Candidate(TCP, available=True, reason="always there"),
)
DEFAULT = Selection("kcp", "the peer accepts KCP", "default")
TOO_SLOW = Selection("kcp", "the peer accepts KCP; plugin p0 was too slow", "default")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Answering:
    """Gives the same answer to each question."""

    answer: object
    asked: list[tuple[TcpFlow, PeerInfo | None, Sequence[Candidate]]] = field(default_factory=list)

    @hookimpl
    def select_transport(self, flow: TcpFlow, peer: PeerInfo | None, candidates: Sequence[Candidate]) -> object:
        self.asked.append((flow, peer, candidates))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass(eq=False)
class Blocked:
    """Answers TCP when it is released."""

    release: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    @hookimpl
    def select_transport(self) -> str:
        self.asked += 1
        self.release.wait(WAIT)
        return TCP


def manager_with(
    *plugins: object, deadline: float = WAIT, clock: Clock | None = None, queue_calls: int = 1024
) -> PluginManager:
    manager = PluginManager(
        environ={}, installed=(), question_deadline=deadline, clock=clock or Clock(), queue_calls=queue_calls, stop_timeout=WAIT
    )
    for number, plugin in enumerate(plugins):
        manager.register(f"p{number}", plugin)
    return manager


async def ask(manager: PluginManager) -> Selection:
    return await manager.select(make_flow(), make_peer(), CANDIDATES)


async def test_without_plugins_the_first_available_candidate_is_taken_at_once() -> None:
    manager = manager_with()
    assert not manager.asks_for_transport
    assert await ask(manager) == DEFAULT
    async with manager.running():
        assert await ask(manager) == DEFAULT


async def test_without_any_available_candidate_it_is_plain_tcp() -> None:
    assert (await manager_with().select(make_flow(), None, CANDIDATES[:1])).transport == TCP


async def test_a_plugin_is_asked_with_the_flow_the_peer_and_all_candidates() -> None:
    plugin = Answering(Selection(TCP, "because", chosen_by="somebody else"))
    manager = manager_with(plugin)
    assert manager.asks_for_transport
    async with manager.running():
        assert await ask(manager) == Selection(TCP, "because", "p0")
    assert plugin.asked == [(make_flow(), make_peer(), CANDIDATES)]


async def test_the_first_answer_wins_and_the_plugin_loaded_last_is_asked_first() -> None:
    first, second, third = Answering(TCP), Answering("kcp"), Answering(None)
    manager = manager_with(first, second, third)
    async with manager.running():
        assert await ask(manager) == Selection("kcp", "the peer accepts KCP", "p1")
    assert [len(plugin.asked) for plugin in (first, second, third)] == [0, 1, 1]


async def test_tryfirst_and_trylast_change_the_order() -> None:
    order: list[str] = []

    class First:
        @hookimpl(tryfirst=True)
        def select_transport(self) -> None:
            order.append("first")

    class Middle:
        @hookimpl
        def select_transport(self) -> None:
            order.append("middle")

    class Last:
        @hookimpl(trylast=True)
        def select_transport(self) -> None:
            order.append("last")

    manager = manager_with(First(), Middle(), Last())
    async with manager.running():
        assert await ask(manager) == DEFAULT
    assert order == ["first", "middle", "last"]


NONSENSE = {
    "unknown": ("carrier-pigeon", "'carrier-pigeon', which is not among the candidates"),
    "unavailable": ("quic", "'quic', which is not available: the peer has no QUIC"),
    "unavailable selection": (Selection("quic", "I like it"), "'quic', which is not available"),
    "type": (42, "int, not a Selection, a name or None"),
    "field": (Selection(None, "x"), "a Selection whose fields are not strings"),  # type: ignore[arg-type]
    "reason": (Selection(TCP, None), "a Selection whose fields are not strings"),  # type: ignore[arg-type]
    "empty": ("", "'', which is not among the candidates"),
    "long": ("x" * 10_000, f"'{'x' * 40}', which is not among the candidates"),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_nonsense_is_logged_and_the_next_plugin_is_asked(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, problem = NONSENSE[kind]
    manager = manager_with(Answering(TCP), Answering(answer))
    async with manager.running():
        assert (await ask(manager)).chosen_by == "p0"
    assert manager.counters() == {"p0": PluginCounters(), "p1": PluginCounters(nonsense=1)}
    assert f"plugin p1: select_transport answered {problem}" in caplog.text


async def test_an_exception_counts_as_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    manager = manager_with(Answering(KeyError("ports")))
    async with manager.running():
        assert (await ask(manager)).reason == "the peer accepts KCP; plugin p0 failed, see the log"
    assert manager.counters()["p0"] == PluginCounters(raised=1)
    assert f"plugin p0: select_transport raised KeyError at {__file__}:" in caplog.text


async def test_a_coroutine_counts_as_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def ask_somebody() -> str:
        return TCP

    manager = manager_with(Answering(ask_somebody()))
    async with manager.running():
        assert (await ask(manager)).transport == "kcp"
    assert manager.counters()["p0"] == PluginCounters(nonsense=1)
    assert "plugin p0: select_transport is asynchronous" in caplog.text


async def test_what_plugins_answered_in_vain_is_said_beside_what_was_taken_instead() -> None:
    subnet = (Candidate("kcp", available=False, reason="subnet-to-subnet needs --use-smoltcp"), CANDIDATES[2])
    manager = manager_with(Answering("pigeon"), Answering(7), Answering(Selection("kcp", "always")))
    async with manager.running():
        selection = await manager.select(make_flow(), make_peer(), subnet)
    assert selection == Selection(
        TCP,
        "subnet-to-subnet needs --use-smoltcp; plugin p2 answered 'kcp'; "
        "plugin p1 answered with int; plugin p0 answered 'pigeon'",
        "default",
    )


async def test_where_the_first_candidate_cannot_be_plain_tcp_has_its_reason() -> None:
    manager = manager_with(Answering(None))
    async with manager.running():
        selection = await manager.select(make_flow(), make_peer(), (CANDIDATES[0], CANDIDATES[2]))
    assert selection == Selection(TCP, "the peer has no QUIC", "default")
    assert (await manager.select(make_flow(), None, CANDIDATES[2:])).reason == "always there"


async def test_a_reason_is_made_fit_for_a_table() -> None:
    manager = manager_with(Answering(Selection(TCP, "\x1b[31mred\n" + "x" * 1000)))
    async with manager.running():
        reason = (await ask(manager)).reason
    assert reason.startswith("?[31mred?xxx")
    assert len(reason) == 200


async def test_a_slow_plugin_passes_and_the_late_answer_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    slow = Blocked()
    manager = manager_with(slow, deadline=0.02)
    async with manager.running():
        assert await ask(manager) == TOO_SLOW
        slow.release.set()
    assert manager.counters()["p0"] == PluginCounters(missed=1)
    assert caplog.messages == ["plugin p0: select_transport was too slow, all plugins together have 20 ms"]


async def test_a_plugin_that_misses_five_times_in_a_row_rests_for_thirty_seconds(caplog: pytest.LogCaptureFixture) -> None:
    slow, clock = Blocked(), Clock()
    manager = manager_with(slow, deadline=0.01, clock=clock)
    async with manager.running():
        for _ in range(5):
            clock.now += 1
            assert await ask(manager) == TOO_SLOW
        too_slow = "plugin p0: select_transport was too slow, all plugins together have 10 ms"
        # Whatever was said a moment before.
        assert caplog.messages == [too_slow, f"{too_slow}: 5 times in a row, it is not asked for 30 s"]
        slow.release.set()
        clock.now += 29.5
        assert (await ask(manager)).reason == "the peer accepts KCP; plugin p0 rests, it was too slow"
        health = manager.health()["p0"]
        assert (health.faults, health.last_fault_ago, health.rests_for) == (PluginCounters(missed=5), 29.5, 0.5)
        assert health.last_fault.endswith("5 times in a row, it is not asked for 30 s")
        clock.now += 0.5
        assert manager.health()["p0"].rests_for == 0
        # The thread has to leave the first question; a generous deadline makes the last one independent of load.
        manager.question_deadline = WAIT
        assert await ask(manager) == Selection(TCP, "always there", "p0")
    assert manager.counters()["p0"] == PluginCounters(missed=5)
    assert slow.asked == 2, "questions that nobody waits for any more are not put"


async def test_an_answer_in_time_clears_the_misses() -> None:
    slow = Blocked()
    manager = manager_with(slow, deadline=0.01)
    async with manager.running():
        for _ in range(4):
            await ask(manager)
        slow.release.set()
        manager.question_deadline = WAIT
        assert (await ask(manager)).chosen_by == "p0"
        slow.release.clear()
        manager.question_deadline = 0.01
        assert await ask(manager) == TOO_SLOW
        slow.release.set()
        manager.question_deadline = WAIT
        assert (await ask(manager)).chosen_by == "p0", "the fifth miss was not the fifth in a row"


async def test_a_miss_is_that_of_the_plugin_that_took_most_of_the_time() -> None:
    class Dawdling:
        @hookimpl
        def select_transport(self) -> None:
            threading.Event().wait(0.07)

    starved = Blocked()
    manager = manager_with(starved, Dawdling(), deadline=0.1)
    async with manager.running():
        assert (await ask(manager)).reason == "the peer accepts KCP; plugin p1 was too slow"
        starved.release.set()
    assert manager.counters() == {"p0": PluginCounters(), "p1": PluginCounters(missed=1)}


async def test_an_answer_in_time_counts_though_the_loop_was_late() -> None:
    loop = asyncio.get_running_loop()

    class Stalling:
        @hookimpl
        def select_transport(self) -> str:
            loop.call_soon_threadsafe(time.sleep, 0.05)
            return TCP

    manager = manager_with(Stalling(), deadline=0.03)
    async with manager.running():
        assert (await ask(manager)).chosen_by == "p0"


async def test_the_deadline_holds_for_many_questions_at_once_and_with_a_full_queue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Blocked()
    manager = manager_with(slow, deadline=0.02, queue_calls=8)
    answers: list[Selection] = []

    async def one() -> None:
        answers.append(await ask(manager))

    with anyio.fail_after(WAIT):
        async with manager.running():
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(one)
            slow.release.set()
    assert answers == [TOO_SLOW] * 100
    assert len([line for line in caplog.messages if "not asked for 30 s" in line]) == 1


async def test_a_dropped_question_that_nobody_waits_for_is_not_counted_twice() -> None:
    slow = Blocked()
    manager = manager_with(slow, deadline=0.005, queue_calls=2)
    async with manager.running():
        for _ in range(5):
            assert await ask(manager) == TOO_SLOW
        slow.release.set()
    assert manager.counters()["p0"] == PluginCounters(missed=5)


async def test_an_asker_that_is_cancelled_leaves_nothing_to_do() -> None:
    class Busy(Blocked):
        entered = threading.Event()

        @hookimpl
        def on_tcp_flow(self) -> None:
            self.entered.set()
            self.release.wait(WAIT)

    busy = Busy()
    manager = manager_with(busy)
    async with manager.running():
        manager.notify_flow(make_flow(), Seen())
        assert await to_thread.run_sync(busy.entered.wait, WAIT)
        with anyio.move_on_after(0.01) as scope:
            await ask(manager)
        assert scope.cancelled_caught
        busy.release.set()
    assert busy.asked == 0
