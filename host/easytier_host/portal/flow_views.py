"""The flows of a node as the messages of its portal show them: stock's list, and our own with reasons, figures and history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from easytier_hooks.types import (
    Closed,
    Connected,
    Connecting,
    Counters,
    Failed,
    FlowEvent,
    HalfClosed,
    Seen,
    TransportSelected,
)
from easytier_host.flows import Flow
from easytier_host.pb import portal_own_pb2, portal_pb2
from easytier_host.portal.feed import Update
from easytier_host.portal.views import clean, socket_address

if TYPE_CHECKING:
    from easytier_host.instance import Node

# Wire: transports that stock knows by name, with their number.
TRANSPORTS: Final = {"tcp": portal_pb2.Tcp, "kcp": portal_pb2.Kcp, "quic": portal_pb2.Quic}


def proxy_entries(node: Node, transport: str, *, inbound: bool | None) -> Iterator[portal_pb2.TcpProxyEntry]:
    """The flows of one transport in stock's form; `inbound` None means both ways.

    Those that others opened are listed while they live, as by stock; all others for as long as they linger.
    """
    for flow in node.gate.table:
        is_inbound = flow.direction == "inbound"
        if flow.transport != transport or inbound not in (None, is_inbound):
            continue
        if inbound and flow.ended is not None:
            continue
        key = flow.key
        yield portal_pb2.TcpProxyEntry(
            src=socket_address(key.source_ip, key.source_port),
            dst=socket_address(key.destination_ip, key.destination_port),
            start_time=max(0, int(flow.started_at)),
            state=_proxy_state(flow),
            transport_type=TRANSPORTS[transport],
        )


def flow_infos(node: Node, flows: Iterable[Flow], now: float) -> Iterator[portal_own_pb2.FlowInfo]:
    """Flows as this node knows them; `now` is the clock of the flow table."""
    losses: dict[int, float | None] = {}
    for flow in flows:
        key, peer = flow.key, flow.peer
        peer_id = 0 if peer is None else peer.peer_id
        if peer_id not in losses:
            conn = node.outbound.connection_to(peer_id)
            losses[peer_id] = None if conn is None else conn.loss
        send_rate, receive_rate = flow.rates_at(now)
        measures = flow.measures
        yield portal_own_pb2.FlowInfo(
            id=flow.id,
            src=socket_address(key.source_ip, key.source_port),
            dst=socket_address(key.destination_ip, key.destination_port),
            direction=flow.direction,
            peer_id=peer_id,
            peer_hostname="" if peer is None else clean(peer.hostname),
            transport=flow.transport or "",
            reason=clean(flow.reason),
            state=_flow_state(flow),
            end_reason="" if flow.ended is None else clean(flow.ended.reason),
            start_time_ms=_milliseconds(flow.started_at),
            bytes_sent=flow.bytes_sent,
            bytes_received=flow.bytes_received,
            rtt_us=None if measures.rtt is None else max(0, round(measures.rtt * 1e6)),
            retransmitted=_count(measures.retransmitted),
            chosen_by=clean(flow.chosen_by),
            send_rate=max(0, round(send_rate)),
            receive_rate=max(0, round(receive_rate)),
            loss=losses[peer_id],
            end_time_ms=None if flow.ended is None else _milliseconds(flow.wall_time(flow.ended_at)),
            stack=clean(flow.stack),
            window=_count(measures.window),
            in_flight=_count(measures.in_flight),
        )


def updates(news: Iterable[Update]) -> Iterator[portal_own_pb2.FlowUpdate]:
    """Updates of a feed."""
    for update in news:
        name, detail = _event(update.event)
        yield portal_own_pb2.FlowUpdate(
            sequence=update.sequence,
            flow_id=update.flow_id,
            time_ms=_milliseconds(update.time),
            event=name,
            detail=clean(detail),
        )


def history(flow: Flow) -> Iterator[portal_own_pb2.FlowUpdate]:
    """What is remembered of one flow, oldest first."""
    return updates(Update(0, flow.id, flow.wall_time(at), event) for at, event in flow.history)


def _event(event: FlowEvent) -> tuple[str, str]:
    """The word for an event, and what there is to say about it."""
    match event:
        case Seen():
            return "seen", ""
        case TransportSelected(transport, reason, chosen_by):
            return "selected", f"{transport} by {chosen_by}: {reason}"
        case Connecting():
            return "connecting", ""
        case Connected():
            return "connected", ""
        case Counters(sent, received):
            return "counters", f"{sent} bytes sent, {received} received"
        case HalfClosed(side):
            return "half-closed", f"by the {side}"
        case Closed(reason):
            return "closed", reason
        case Failed(reason):
            return "failed", reason


def _proxy_state(flow: Flow) -> portal_pb2.TcpProxyEntryState:
    if flow.ended is not None:
        return portal_pb2.Closed
    if flow.held:
        return portal_pb2.SynReceived
    if not flow.connected:
        return portal_pb2.ConnectingDst
    # What others opened is connected until it has ended, as in stock.
    if flow.direction == "inbound" or flow.fin_source == flow.fin_destination:
        return portal_pb2.Connected
    return portal_pb2.ClosingSrc if flow.fin_source else portal_pb2.ClosingDst


def _flow_state(flow: Flow) -> str:
    if flow.ended is not None:
        return type(flow.ended).__name__.lower()
    if not flow.connected:
        return "seen" if flow.transport is None or flow.held else "connecting"
    return "half-closed" if flow.fin_source or flow.fin_destination else "connected"


def _count(number: int | None) -> int | None:
    """What a plugin's transport counts, within what the message can hold."""
    return None if number is None else max(0, min(0xFFFF_FFFF, number))


def _milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))
