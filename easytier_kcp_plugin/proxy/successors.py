"""Ends flows with peers that have restarted.  A node has a new id each time, so nobody answers for the old one any more.

Without this such a flow would hang for the minute that a silent session is given.  A peer that is merely out of reach may come
back, and nothing happens; only once another peer has the address that the flow goes to, or comes from, is it over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio

from easytier_hooks.services import HostServices
from easytier_hooks.types import IPAddress
from easytier_kcp_plugin.kcp.events import CloseReason, Role
from easytier_kcp_plugin.kcp.session import Session
from easytier_kcp_plugin.kcp.stream import EndpointDriver

PERIOD: Final = 2.0
"""Seconds between looks; routes need longer to tell."""


async def end_orphans(host: HostServices, driver: EndpointDriver) -> None:
    """Look for ever."""
    while True:
        await anyio.sleep(PERIOD)
        for session in orphans(host, driver.endpoint.sessions):
            driver.reset(session, CloseReason.PEER_REPLACED)


def orphans(host: HostServices, sessions: Iterable[Session]) -> list[Session]:
    """Those whose peer cannot be reached, while another has the address at its end."""
    gone: dict[int, bool] = {}
    found = []
    for session in sessions:
        peer_id = session.peer_id
        if peer_id not in gone:
            gone[peer_id] = host.next_hop_of(peer_id) is None
        address = _address_there(session) if gone[peer_id] else None
        holder = None if address is None else host.peer_for(address)
        if holder is not None and holder.peer_id != peer_id:
            found.append(session)
    return found


def _address_there(session: Session) -> IPAddress | None:
    there = session.conn_data.dst if session.role is Role.SOURCE else session.conn_data.src
    return None if there is None else there.ip
