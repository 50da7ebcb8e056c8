"""Feeds against portals: stock's as it was captured, rubbish, silence, one that goes and comes back, the demo's real nodes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.rpc.client import CallTimeoutError, ConnectError, RefusedError, portal_own_pb2, portal_pb2
from easytier_tui import decode, demo, feed
from easytier_tui.feed import FeedError, PortalFeed
from easytier_tui.model import Model
from easytier_tui.records import Update
from tests.tui.portals import known
from tests.unit.cli import replay
from tests.unit.cli.replay import listening


@pytest.mark.parametrize("version", replay.VERSIONS)
def test_a_stock_node_is_polled(version: str) -> None:
    with replay.portal(known(version)) as port:
        source = PortalFeed("127.0.0.1", port)
        update = source.step()
        source.close()
    assert update.link is not None
    assert update.link.kind == "polled"
    assert update.link.text == f"stock {version}, polled every 1 s"
    assert update.node is not None
    assert (update.node.hostname, update.node.address, update.node.is_stock) == ("a", "10.144.0.1/24", True)
    assert update.peers is not None
    assert [(peer.hostname, peer.address, peer.version) for peer in update.peers] == [("b", "10.144.0.2", version)]
    assert [connected for _, connected in update.connectors or ()] == [True]
    assert update.is_whole
    assert {flow.destination.rpartition(":")[0] for flow in update.flows} == {"10.144.0.2"}
    assert all(flow.sent is None and flow.flow_id is None for flow in update.flows)
    assert {(flow.peer_id, flow.peer) for flow in update.flows} == {(update.peers[0].peer_id, "b")}
    assert not source.acts


@pytest.mark.parametrize(
    ("source", "destination", "peer"),
    [
        ("10.144.0.1", "10.144.0.2", (2, "b")),
        ("10.144.0.1", "10.1.2.7", (3, "c")),
        ("10.144.0.1", "10.1.9.7", (2, "b")),
        ("10.144.0.2", "10.144.0.1", (2, "b")),
        ("10.144.0.1", "192.0.2.1", (0, "")),
    ],
)
def test_a_stock_flow_belongs_to_who_has_its_other_end(source: str, destination: str, peer: tuple[int, str]) -> None:
    routes = [
        portal_pb2.Route(peer_id=2, hostname="b", proxy_cidrs=["10.1.0.0/16", "rubbish", "fd00::/8"]),
        portal_pb2.Route(peer_id=3, hostname="c", proxy_cidrs=["10.1.2.0/24"]),
    ]
    routes[0].ipv4_addr.address.addr = int(IPv4Address("10.144.0.2"))
    entry = portal_pb2.TcpProxyEntry()
    entry.src.ipv4.addr, entry.dst.ipv4.addr = int(IPv4Address(source)), int(IPv4Address(destination))
    flow = decode.stock_flow(entry, decode.Owners(routes))
    assert (flow.peer_id, flow.peer) == peer


def text_of(update: Update) -> str:
    assert update.link is not None
    assert update.link.kind == "gone"
    return update.link.text


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    source = PortalFeed("127.0.0.1", port)
    update = source.step()
    assert text_of(update).startswith(f"No node answers at 127.0.0.1:{port} (connection refused)")
    assert "easytier-core -c" in text_of(update)
    assert "easytier-tui -p" in text_of(update)
    assert update.link is not None
    assert update.link.retry_at == pytest.approx(update.at + feed.BACK_OFF[0])
    source.close()


@pytest.mark.parametrize(
    "rubbish", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10, b"\xff" * 64, bytes(64), b"", b"\x20\0\0\0" + b"\x08" * 32]
)
def test_a_portal_of_rubbish(rubbish: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(rubbish)

    with listening(answer) as port:
        source = PortalFeed("127.0.0.1", port)
        update = source.step()
        source.close()
    assert text_of(update).startswith(f"What listens at 127.0.0.1:{port} does not answer as a node does: ")
    assert text_of(update).count("portal?") == 1
    assert text_of(update).count("logs its address") == 1


def swallow(connection: socket.socket) -> None:
    """Read until the other end closes; never answer."""
    connection.settimeout(10)
    while connection.recv(100):
        pass


def test_a_portal_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CALL_TIMEOUT", 0.2)
    with listening(swallow) as port:
        source = PortalFeed("127.0.0.1", port)
        update = source.step()
        source.close()
    assert "does not answer" in text_of(update)


def test_it_comes_back_after_the_node_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BACK_OFF", (0.01, 30.0))
    answers, seen, model = known("2.6.4"), [], Model()

    def take(update: Update) -> None:
        model.apply(update)
        seen.append(model.link.kind)

    with replay.portal(answers) as port:
        source = PortalFeed("127.0.0.1", port)
        take(source.step())
        source._client.close()
    take(source.step())
    assert model.flows, "what was known last stays"
    take(source.step())
    began = time.monotonic()
    with replay.portal(answers) as other:
        # The node runs again; that it has the same port is not in our hand.
        monkeypatch.setattr(source._client, "_endpoint", ("127.0.0.1", other))
        source.wake()
        take(source.step())
        source.close()
    assert seen == ["polled", "gone", "gone", "polled"]
    assert time.monotonic() - began < 10, "30 s of rest are cut short by the user"


def test_closing_ends_a_step_under_way() -> None:
    waiting = threading.Event()

    def answer(connection: socket.socket) -> None:
        assert connection.recv(100), "the question"
        waiting.set()
        swallow(connection)

    with listening(answer) as port:
        source = PortalFeed("127.0.0.1", port)
        done: list[Update] = []
        thread = threading.Thread(target=lambda: done.append(source.step()))
        thread.start()
        assert waiting.wait(10)
        began = time.monotonic()
        source.close()
        thread.join(10)
    assert time.monotonic() - began < feed.CALL_TIMEOUT / 2
    assert len(done) == 1


def test_every_fault_has_advice() -> None:
    for error in (ConnectError("no node answers at x"), CallTimeoutError("x"), RefusedError("x: \x1b[2J")):
        text = feed.advice(error, "127.0.0.1:1")
        assert "easytier" in text
        assert text.isprintable()


MESSAGES: list[tuple[type[Message], Callable[[Message], object]]] = [
    (portal_own_pb2.FlowInfo, lambda message: decode.flow(message, 1)),  # type: ignore[arg-type]
    (portal_pb2.TcpProxyEntry, decode.stock_flow),  # type: ignore[list-item]
    (portal_own_pb2.FlowUpdate, lambda message: decode.note(message, 1)),  # type: ignore[arg-type]
    (portal_pb2.NodeInfo, lambda message: decode.node(message, "", None)),  # type: ignore[arg-type]
    (portal_pb2.Route, lambda message: decode.peers([message], [])),  # type: ignore[list-item]
    (portal_pb2.PeerInfo, lambda message: decode.peers([portal_pb2.Route()], [message])),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("kind", "read"), MESSAGES, ids=lambda value: getattr(value, "__name__", ""))
@given(data=st.data())
def test_any_message_becomes_harmless_records(
    kind: type[Message], read: Callable[[Message], object], data: st.DataObject
) -> None:
    fields: dict[str, object] = {}
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is None and not field.is_repeated:
            match field.type:
                case field.TYPE_STRING:
                    fields[field.name] = data.draw(st.text(max_size=5) | st.just("\x1b[2J\n"))
                case field.TYPE_FLOAT:
                    fields[field.name] = data.draw(st.floats(width=32))
                case field.TYPE_BOOL:
                    fields[field.name] = data.draw(st.booleans())
                case field.TYPE_UINT64 | field.TYPE_UINT32 | field.TYPE_INT32:
                    fields[field.name] = data.draw(st.integers(0, 2**31 - 1) | st.just(2**31 - 1))
    raw = kind(**fields).SerializeToString() + data.draw(st.binary(max_size=12))
    try:
        message = kind.FromString(raw)
    except DecodeError:
        return
    text = repr(read(message))
    assert "\\x1b" not in text
    assert "\\n" not in text


@pytest.mark.parametrize(
    ("hops", "told_ms", "pinged_us", "latency"),
    [(1, 0, 290, 0.00029), (1, 0, 0, None), (2, 63, None, 0.063), (2, 0, None, None)],
)
def test_a_latency_that_nobody_measured_is_unknown(
    hops: int, told_ms: int, pinged_us: int | None, latency: float | None
) -> None:
    route = portal_pb2.Route(peer_id=2, cost=hops, path_latency_latency_first=told_ms)
    infos = []
    if pinged_us is not None:
        conn = portal_pb2.PeerConnInfo(conn_id="c", stats=portal_pb2.PeerConnStats(latency_us=pinged_us))
        infos.append(portal_pb2.PeerInfo(peer_id=2, conns=[conn]))
    (peer,) = decode.peers([route], infos)
    assert peer.path_latency == latency
    assert [each.latency for each in peer.connections] == ([] if pinged_us is None else [latency])


@pytest.mark.parametrize(
    ("version", "kcp_input", "why"),
    [
        ("2.6.4-81487c36", True, ""),
        ("2.1.2", False, "it runs 2.1.2, KCP needs 2.2"),
        ("2.6.4", False, "it accepts no KCP"),
        ("", False, "it accepts no KCP"),
        ("x.y", False, "it accepts no KCP"),
    ],
)
def test_why_there_is_no_kcp_to_a_peer(version: str, kcp_input: bool, why: str) -> None:
    route = portal_pb2.Route(version=version, cost=1)
    route.feature_flag.kcp_input = kcp_input
    assert decode.why_no_kcp(route, None) == why


def test_who_does_not_relay_kcp_is_named() -> None:
    hop = portal_pb2.Route(hostname="b")
    hop.feature_flag.no_relay_kcp = True
    route = portal_pb2.Route(cost=2)
    route.feature_flag.kcp_input = True
    assert decode.why_no_kcp(route, hop) == "b on the way does not relay KCP"


@pytest.mark.timeout(90)
def test_the_demo_s_nodes_tell_what_happens() -> None:
    """Real nodes with real flows: a snapshot, news, the past of a flow, its end by our hand, the other instances."""
    with demo.running() as portal:
        source = PortalFeed(*portal)
        model = Model()
        model.apply(source.step())
        assert model.link.kind == "live"
        assert model.node is not None
        assert (model.node.hostname, model.node.instance) == ("home", "home")
        others = source.siblings()
        assert [other.step().node.hostname for other in others] == ["office", "cellar"]  # type: ignore[union-attr]
        assert source.siblings() == []

        def until(holds: Callable[[], object]) -> None:
            deadline = time.monotonic() + 30
            while not holds():
                assert time.monotonic() < deadline, [flow.record for flow in model.flows.values()]
                model.apply(source.step())
                model.tick(time.time())

        until(lambda: any(flow.record.state == "connected" and (flow.rate or 0) > 100_000 for flow in model.flows.values()))
        until(lambda: any(flow.record.state == "failed" for flow in model.flows.values()))
        until(lambda: any(flow.record.state == "closed" and flow.record.end_reason for flow in model.flows.values()))
        flow = next(flow for flow in model.flows.values() if flow.record.state == "connected")
        assert flow.record.transport == "kcp"
        assert flow.record.peer == "office"
        assert flow.record.flow_id is not None
        past = [note.text.partition(":")[0] for note in source.history(flow.record.flow_id)]
        assert past[:2] == ["seen", "selected"]
        assert source.acts
        source.close_flow(flow.record.flow_id)
        until(lambda: model.flows[flow.record.key].record.has_ended)
        with pytest.raises(FeedError):
            source.close_flow(2**40)
        for each in (source, *others):
            each.close()


def test_a_demo_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COMMAND", ("sh", "-c", "echo no such luck"))
    with pytest.raises(demo.DemoError, match="the demo has ended: no such luck"), demo.running():
        raise AssertionError("it must not get here")
