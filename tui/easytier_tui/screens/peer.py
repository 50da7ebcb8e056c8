"""All about one peer: capabilities, ways to it, connections, flows."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from easytier_tui import bindings, columns, rows, words
from easytier_tui.records import PeerRecord
from easytier_tui.screens.page import Fact, Page, facts
from easytier_tui.session import Session
from easytier_tui.view import FlowView
from easytier_tui.widgets.keyline import KeyLine
from easytier_tui.widgets.listing import Listing


class PeerPage(Page):
    """Of the peer with this id; its flows below."""

    def __init__(self, session: Session, peer_id: int) -> None:
        super().__init__(session)
        self.peer_id = peer_id
        self._view = FlowView()

    def compose(self) -> ComposeResult:
        yield Static(id="page-title", markup=False)
        with VerticalScroll(id="page"):
            yield Static(id="facts")
        yield Listing(id="peer-flows")
        yield KeyLine((*bindings.TABLE, *bindings.DETAIL, *bindings.ANYWHERE))

    def paint(self) -> None:
        model = self.session.model
        peer = model.peers.get(self.peer_id)
        if peer is None:
            self.entitle("This peer is not in the network at the moment.  esc: back")
        else:
            self.entitle(f"{peer.record.hostname or self.peer_id} {peer.record.address}")
            self.query_one("#facts", Static).update(facts(peer_facts(peer.record)))
        listing = self.query_one("#peer-flows", Listing)
        keys = [key for key in self._view.rows(model, self.session.now) if model.flows[key].record.peer_id == self.peer_id]
        chosen = rows.flow_columns(self.session, listing.room)
        listing.show(keys, chosen, rows.flow_row(self.session, chosen), empty=["No flow to this peer."])

    def on_listing_chosen(self, event: Listing.Chosen) -> None:
        self.monitor.open_flow(self.session, event.key)

    def as_text(self) -> str:
        """What the page says, for the clipboard."""
        peer = self.session.model.peers.get(self.peer_id)
        return "" if peer is None else "\n".join(f"{name}\t{what}" for name, what in peer_facts(peer.record))


def peer_facts(record: PeerRecord) -> list[Fact]:
    """Name and text of what is known."""
    found = [
        ("Peer", f"{record.hostname} {record.address or 'without an address'}, id {record.peer_id}"),
        ("Version", record.version or "unknown"),
        ("KCP to it", f"no: {record.kcp}" if record.kcp else "yes"),
        ("Can", ", ".join(record.capabilities) or "nothing beyond plain TCP"),
        ("Path", f"{columns.path(record)}; the quickest way begins with {record.next_hop_by_latency}"),
        ("Offers", ", ".join(record.networks) or "no networks"),
    ]
    for index, each in enumerate(record.connections):
        line = f"{each.tunnel} {each.remote}: latency {words.duration(each.latency)}, loss {words.share(each.loss)}"
        line += f", ↑ {words.size(each.sent)} ↓ {words.size(each.received)}" + ("" if each.is_used else ", not used")
        found.append(("" if index else "Tunnels", line))
    if not record.connections:
        found.append(("Tunnels", "none: it is reached through others"))
    return found
