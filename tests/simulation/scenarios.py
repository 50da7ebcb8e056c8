"""Random scenarios of whole endpoints: a seed is a network with its faults, its two ends, and what their applications do.

`Scenario(seed).play()` runs one in virtual time and asserts what test_kcp_scenarios.py promises.  Nothing depends on anything
but the seed, so that a scenario can be repeated alone.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any, Final

from easytier_kcp_plugin.kcp import arq, ikcp
from easytier_kcp_plugin.kcp.arq.path import ArqPath
from easytier_kcp_plugin.kcp.endpoint import Endpoint
from easytier_kcp_plugin.kcp.engine import Path, PathFactory
from easytier_kcp_plugin.kcp.events import Closed, CloseReason, Established, Incoming, PeerFinished
from easytier_kcp_plugin.kcp.segment_size import STOCK_MSS
from easytier_kcp_plugin.kcp.session import Session
from tests.simulation.storm import Below, Flow, Reader, Storm, Tight, Way
from tests.unit.kcp.network import ACCEPTOR, OPENER, request
from tests.unit.kcp.stock import Stock

LIMIT: Final = 900.0
"""Seconds after which every application has been told the end of its flow."""
LAST_CALL: Final = 120.0
"""Seconds after which applications that have kept a flow open end it."""
DRAIN: Final = 400.0
"""Seconds after which nothing may be left; the longest wait of a session is 60."""
PACKETS_A_SEGMENT: Final = 15
PACKETS_A_SECOND: Final = 20
FAULTS: Final = (
    "hole",
    "hole",
    "long hole",
    "weather",
    "weather",
    "narrow",
    "congestion",
    "freeze",
    "freeze",
    "long freeze",
    "restart",
    "vanish",
)
FIRST_PORT: Final = 50_000
_BLOCK: Final = random.Random(99).randbytes(65_521)
_FATAL: Final = frozenset(("restart", "vanish", "corrupt", "long hole", "long freeze"))
_HARD: Final = frozenset(("hole", "freeze", "loss 0.3", "loss 0.2", "burst", "congestion", "rate 20000", "narrow"))
"""Where ten seconds may be too few for an opening."""
_MILD: Final = frozenset(("reorder", "loss 0.01", "loss 0.05", "loss 0.1", "rate 200000", "rate 2000000"))
"""Where a model of stock serves every flow in the end."""


def content(stream: int, size: int) -> bytes:
    """No two streams begin alike, and no part of one looks like another part of it."""
    start = stream * 4099 % len(_BLOCK)
    return (_BLOCK[start:] + _BLOCK * (size // len(_BLOCK) + 1))[:size]


class Scenario:
    """All that happens, from the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.faults: set[str] = set()
        """For messages, and for what may be expected."""
        pairs = ("arq-arq",) * 8 + ("arq-kcp", "kcp-arq", "kcp-kcp", "arq-stock", "arq-stock", "stock-arq")
        self.pair = chance.choice(pairs)
        self._kinds = dict(zip((OPENER, ACCEPTOR), self.pair.split("-"), strict=True))
        self._has_stock = "stock" in self.pair
        self._window = chance.choice((32, 64, 128, 1024, 1024))
        there = self._weather()
        back = there if chance.random() < 0.5 else self._weather()
        self._ways = {OPENER: Way(chance, **there), ACCEPTOR: Way(chance, **back)}
        if chance.random() < 0.12 and not self._has_stock:
            self._corrupt()
        self._payload_bytes = chance.choice((0, 1420, 1420, 8900))
        self.storm = Storm(self._ways, chance.choice((0.001, 0.001, 0.001, 0.02)))
        self.storm.serve = self._serve
        self._readers: list[Reader] = []
        self._flows: dict[int, Flow] = {}
        self._retired: list[Endpoint] = []
        for peer_id in (OPENER, ACCEPTOR):
            self._make_end(peer_id)
        for number in range(1, 2 if self.pair == "stock-arq" else chance.choice((2, 2, 3, 4, 7))):
            self._plan_flow(number)
        for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
            self._plan_fault()

    # The network.

    def _weather(self) -> dict[str, Any]:
        chance = self.chance
        weather: dict[str, Any] = {"delay": chance.choice((0.0005, 0.005, 0.02, 0.02, 0.1, 0.3))}
        if chance.random() < 0.4:
            weather["jitter"] = weather["delay"] * chance.choice((0.2, 0.5, 1.0))
            self.faults.add("reorder")
        if chance.random() < 0.7:
            weather["loss"] = chance.choice((0.01, 0.05, 0.1, 0.2, 0.3))
            self.faults.add(f"loss {weather['loss']}")
            if chance.random() < 0.3:
                weather["burst"] = chance.choice((3.0, 10.0, 30.0))
                self.faults.add("burst")
        if chance.random() < 0.3:
            weather["duplicate"] = chance.choice((0.02, 0.3, 1.0))
            self.faults.add("duplicate")
        if chance.random() < 0.2:
            weather["late"] = chance.choice((0.005, 0.05))
            self.faults.add("late")
        if chance.random() < 0.3:
            weather["rate"] = chance.choice((20_000.0, 200_000.0, 2_000_000.0))
            # The engine `kcp`, as stock, sends all it may at once.
            weather["queue"] = chance.choice(
                (4_000.0, 30_000.0, 200_000.0) if self.pair == "arq-arq" else (50_000.0, 200_000.0)
            )
            self.faults.add(f"rate {weather['rate']:.0f}")
        return weather

    def _corrupt(self) -> None:
        self.faults.add("corrupt")
        for way in self._ways.values():
            way.corrupt = self.chance.choice((0.001, 0.01, 0.1))

    def _plan_fault(self) -> None:
        chance = self.chance
        # Most flows are over soon: most faults come early.
        begins = chance.choice((0.2, 2.0, 10.0, 60.0)) * chance.random()
        kind = chance.choice(FAULTS)
        who = chance.choice((OPENER, ACCEPTOR))
        if self._has_stock and kind in ("freeze", "long freeze", "restart", "vanish"):
            return
        self.faults.add(kind)
        match kind:
            case "hole" | "long hole":
                seconds = chance.choice((0.1, 1.0, 5.0, 20.0)) if kind == "hole" else chance.choice((50.0, 70.0, 200.0))
                both = chance.random() < 0.7
                for sender in (OPENER, ACCEPTOR) if both else (who,):
                    self.storm.at(begins, lambda sender=sender: self._dig(sender, seconds))  # type: ignore[misc]
            case "weather":
                self.storm.at(begins, lambda: self._change(who))
            case "narrow":
                largest = chance.choice((1300, 1420, 1500))
                self.storm.at(begins, lambda: setattr(self._ways[who], "largest", largest))
            case "congestion":
                other = ACCEPTOR if who == OPENER else OPENER
                self.storm.at(begins, lambda: self.storm.congested.update({who: (other,)}))
                self.storm.at(begins + chance.choice((0.05, 1.0, 8.0)), lambda: self.storm.congested.update({who: ()}))
            case "freeze" | "long freeze":
                seconds = chance.choice((0.3, 3.0, 20.0)) if kind == "freeze" else chance.choice((70.0, 250.0))
                self.storm.at(begins, lambda: self.storm.freeze(who))
                self.storm.at(begins + seconds, lambda: self.storm.thaw(who))
            case "restart":
                self.storm.at(begins, lambda: self._restart(who))
            case _:
                self.storm.at(begins, lambda: self._remove(who))

    def _dig(self, sender: int, seconds: float) -> None:
        way = self._ways[sender]
        way.hole_until = max(way.hole_until, self.storm.now + seconds)

    def _change(self, sender: int) -> None:
        """Another delay above all: steps up and down."""
        way = self._ways[sender]
        way.delay = self.chance.choice((0.0005, 0.02, 0.1, 0.5))
        way.jitter = way.delay * self.chance.choice((0.0, 0.0, 1.0))
        way.loss = self.chance.choice((0.0, way.loss, 0.1))

    # The ends.

    def _paths(self, kind: str) -> PathFactory:
        if kind == "kcp":
            return ikcp.paths()
        return arq.paths() if self._window == 1024 else lambda: Tight(self._window)

    def _make_end(self, peer_id: int) -> None:
        kind = self._kinds[peer_id]
        if kind == "stock":
            opens = peer_id == OPENER
            other = ACCEPTOR if opens else OPENER
            rate = self.chance.choice((math.inf, math.inf, 100_000.0))
            stock = Stock(peer_id, other, opener=opens, respond=self._stock_answer, read_bytes_per_second=rate)
            self.storm.ends[peer_id] = stock
            if opens:
                stock.hedge(request(FIRST_PORT + 1).encode(), self.storm.now)
            return
        holds = peer_id == ACCEPTOR and self.chance.random() < 0.5
        conv = self.chance.getrandbits(32)
        below = Below(self.storm, peer_id, self._payload_bytes)
        end = Endpoint(peer_id, self._paths(kind), first_conv=conv, holds=holds, underlay=below)
        self.storm.ends[peer_id] = end

    def _stock_answer(self, received: bytes) -> bytes | None:
        for flow in self._flows.values():
            asked, answer = flow.upload, flow.download
            if self.pair == "stock-arq":
                asked, answer = answer, asked
            if received == asked:
                return answer
        return None

    def _restart(self, peer_id: int) -> None:
        """Another process with the same peer id, which opens flows of its own."""
        if self._remove(peer_id):
            self._make_end(peer_id)
            for number in range(self.chance.randrange(3)):
                self._plan_flow(100 * len(self._retired) + number)

    def _remove(self, peer_id: int) -> bool:
        end = self.storm.remove(peer_id)
        if isinstance(end, Endpoint):
            self._retired.append(end)
        for reader in self._readers:
            reader.lost = reader.lost or reader.peer == peer_id
        return end is not None

    # What the applications do.

    def _plan_flow(self, number: int) -> None:
        chance = self.chance
        up, down = (int(chance.choice((0, 10, 3000, 40_000, 150_000)) * (0.2 + chance.random())) for _ in range(2))
        if chance.random() < 0.07:
            up, down = chance.choice(((700_000, down), (up, 700_000)))
        if self._has_stock:
            # The model finds the flow by its bytes.
            up, down = max(up, 10), max(down, 10)
        self._flows[number] = flow = Flow(number, content(number, up), content(1000 + number, down))
        if self._kinds[OPENER] != "stock":
            self.storm.at(0.0 if chance.random() < 0.5 else 10 * chance.random() ** 2, lambda: self._connect(flow))

    def _connect(self, flow: Flow) -> None:
        end = self.storm.ends.get(OPENER)
        if isinstance(end, Endpoint):
            session = end.connect(ACCEPTOR, request(FIRST_PORT + flow.number), self.storm.now)
            self._attach(session, flow, OPENER)

    def _serve(self, incoming: Incoming) -> Reader | None:
        source = incoming.conn_data.src
        end = self.storm.ends[ACCEPTOR]
        assert isinstance(end, Endpoint)
        # What the destination takes to be reached; of no effect where SYNs are not held.
        self.storm.at(self.chance.choice((0.0, 0.0, 0.05, 3.0)), lambda: end.confirm(incoming.session, self.storm.now))
        flow = None if source is None else self._flows.get(source.port - FIRST_PORT)
        if flow is None:
            assert "corrupt" in self.faults
            flow = Flow(0, b"", b"")
        return self._attach(incoming.session, flow, ACCEPTOR)

    def _attach(self, session: Session, flow: Flow, peer_id: int) -> Reader:
        chance, storm = self.chance, self.storm
        outgoing, expected = flow.upload, flow.download
        if peer_id == ACCEPTOR:
            outgoing, expected = expected, outgoing
        checks = "corrupt" not in self.faults
        reader = Reader(session, outgoing, peer=peer_id, flow=flow, expected=expected, checks=checks)
        self._readers.append(reader)
        storm.applications[session] = reader
        manner = chance.choice(("plain",) * 6 + ("answer", "slow", "asleep", "open", "reset", "close"))
        when = chance.choice((0.05, 1.0, 10.0, 50.0)) * chance.random()
        match manner:
            case "answer":
                # Of two that wait for each other neither would ever end.
                reader.answer_after_eof = peer_id == ACCEPTOR and not self._has_stock
            case "slow":
                reader.bytes_a_turn = reader.allowance = chance.choice((500, 5000, 50_000))
                storm.at(0.05, lambda: self._allow(reader))
            case "asleep":
                reader.asleep = True
                storm.at(when * 2, lambda: self._wake(reader))
            case "open":
                reader.then_finish = False
                storm.at(LAST_CALL, lambda: self._wake(reader))
            case "reset" | "close":
                storm.at(when, lambda: self._give_up(reader, manner))
            case _:
                pass
        if self.pair == "stock-arq":
            # Stock takes our end of stream for the end of both.
            reader.then_finish = False
            storm.at(LAST_CALL, lambda: self._wake(reader))
        storm.at(0.0, lambda: storm.poke(reader))
        return reader

    def _allow(self, reader: Reader) -> None:
        reader.allowance = reader.bytes_a_turn
        self.storm.poke(reader)
        if not reader.lost and (reader.reason is None or len(reader.incoming) < len(reader.expected)) and self.storm.now < 900:
            self.storm.at(0.05, lambda: self._allow(reader))

    def _wake(self, reader: Reader) -> None:
        reader.asleep, reader.then_finish = False, True
        reader.flow.cut = reader.flow.cut or self.pair == "stock-arq"
        self.storm.poke(reader)

    def _give_up(self, reader: Reader, manner: str) -> None:
        end = self.storm.ends.get(reader.peer)
        if reader.lost or reader.reason is not None or not isinstance(end, Endpoint):
            return
        self.faults.add(manner)
        reader.given_up = reader.flow.cut = True
        if manner == "reset":
            end.reset(reader.session, self.storm.now)
        else:
            end.close(reader.session, self.storm.now)
            reader.outgoing, reader.finished = reader.outgoing[: reader.written], True

    # What holds.

    def play(self) -> None:
        """Run it, with every promise checked.  Raises AssertionError that names the seed."""
        try:
            self._play()
        except AssertionError as error:
            raise AssertionError(f"{self}: {error}") from error

    def _play(self) -> None:
        storm = self.storm
        storm.run(LIMIT, self._all_told)
        # What is left in the network, and what applications have not read, comes as well.
        storm.run(DRAIN)
        assert self._all_told(), "a flow hangs"
        self._check_events()
        self._check_effort()
        for reader in self._readers:
            if not reader.lost:
                self._check_flow(reader)
        self._check_rest()

    def _all_told(self) -> bool:
        # By then every flow has been begun.
        return self.storm.now > 111.0 and all(reader.lost or reader.reason is not None for reader in self._readers)

    def _check_events(self) -> None:
        for events in self.storm.events.values():
            over: set[Session] = set()
            seen: Counter[tuple[type, Session]] = Counter()
            for event in events:
                assert event.session not in over, f"{event} after the end"
                seen[type(event), event.session] += 1
                if isinstance(event, Closed):
                    over.add(event.session)
            for (kind, session), count in seen.items():
                if kind in (Established, Incoming, PeerFinished, Closed):
                    assert count == 1, f"{kind.__name__} {count} times: {session}"

    def _check_flow(self, reader: Reader) -> None:
        if "corrupt" in self.faults:
            return
        if reader.reason is CloseReason.FINISHED and not reader.given_up:
            assert reader.eof, f"{reader.session} finished without an end of stream"
            assert reader.written == len(reader.outgoing)
        if self.pair == "arq-stock" and not (self.faults - _MILD or reader.flow.cut):
            # Whoever opens ends last, and stock's own ends are not looked at.
            assert reader.incoming == reader.expected, f"{reader.session}: {len(reader.incoming)} of {len(reader.expected)}"
        if not (self.faults & _FATAL or self._has_stock or reader.flow.cut):
            assert reader.reason in self._acceptable(reader), f"{reader.session}: {reader.reason}"

    def _acceptable(self, reader: Reader) -> set[CloseReason]:
        """How a flow may end where nothing fatal has happened."""
        if "kcp" in self.pair and self.faults & _HARD:
            # Each repetition of a segment waits half as long again: after some losses in a row for longer than STALL.
            return set(CloseReason)
        acceptable = {CloseReason.FINISHED}
        accepted = [other for other in self._readers if other.peer == ACCEPTOR and other.flow is reader.flow]
        served = any(other.incoming or other.reason is CloseReason.FINISHED for other in accepted)
        if reader.peer == OPENER and self.faults & _HARD and not reader.incoming and not served:
            acceptable |= {CloseReason.NO_ANSWER, CloseReason.DESTINATION_SILENT, CloseReason.RESET}
        if self.faults & {"hole", "freeze"} and reader.incoming == reader.expected:
            # The other end has lingered for its 15 s, and its end of stream was lost.
            acceptable.add(CloseReason.RESET)
        if "loss 0.3" in self.faults:
            # Of an idle flow seven PINGs in a row go unanswered now and then.
            acceptable |= {CloseReason.SILENT, CloseReason.RESET}
        if self.faults & {"late", "duplicate"}:
            # A PING that overtakes its SYN draws an RST, of which a second one may come.
            acceptable |= {CloseReason.REFUSED, CloseReason.RESET}
        if reader.peer == ACCEPTOR and (len(accepted) > 1 or self.faults & (_HARD | {"late"})):
            # One of several attempts, or a SYN that came late, of which the opener wants nothing.
            acceptable |= {CloseReason.NO_ANSWER, CloseReason.RESET, CloseReason.SUPERSEDED}
        return acceptable

    def _check_effort(self) -> None:
        """No storm: so many packets for each segment, for each second and for each flow, repetitions and acknowledgements."""
        segments = sum((len(flow.upload) + len(flow.download)) // STOCK_MSS + 2 for flow in self._flows.values())
        allowed = PACKETS_A_SEGMENT * segments * (1 + len(self._retired)) + PACKETS_A_SECOND * LAST_CALL
        assert self.storm.sent.total() <= allowed, f"{self.storm.sent.total()} packets for {segments} segments"

    def _check_rest(self) -> None:
        for end in self.storm.ends.values():
            if isinstance(end, Endpoint):
                assert end.sessions == [], "a session is left"
                assert end.held_entries == 0, "something is held"
                assert (end.sending.total, end.sending.peers) == (0, {}), "bytes count as kept for sending"
                for peer in end._peers.values():
                    self._check_path(peer.path)
        if not self._has_stock:
            assert self.storm.rest() == math.inf, "a timer is left"

    def _check_path(self, path: Path) -> None:
        """What conversations have taken of it they have given back: it would slow the next ones down."""
        if isinstance(path, ArqPath):
            assert path.model.inflight == 0, "bytes count as in flight"
            assert path.memory.reserved == path.memory.memory.reserved == 0, "memory of windows is reserved"
            assert not any((path._engines, path._ready, path._waiting, path._touched, path._timers)), "an engine is left"

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.pair}, {', '.join(sorted(self.faults)) or 'no faults'}"
