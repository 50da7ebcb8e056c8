"""The destination side: streams that peers open over KCP are handed to the host, which dials what they ask for."""

from __future__ import annotations

from easytier_hooks.services import HostServices
from easytier_kcp_plugin.kcp.stream import EndpointDriver, KcpStream
from easytier_kcp_plugin.proxy.connection import KcpConnection
from easytier_kcp_plugin.proxy.rules import KCP


class KcpDestination:
    """Serves the streams of all peers; `serve` fits `EndpointDriver`."""

    def __init__(self, host: HostServices) -> None:
        self._host = host
        self.driver: EndpointDriver

    async def serve(self, stream: KcpStream) -> None:
        """Have the host carry the stream to the destination that it asks for, until its end."""
        asked = stream.session.conn_data
        if asked.dst is None:
            stream.reset()
            return
        # Senders of 2.2.0 and 2.2.1 do not tell who asks.
        source = None if asked.src is None else (asked.src.ip, asked.src.port)
        connection = KcpConnection(self.driver, stream, opened_here=False)
        await self._host.serve(connection, stream.session.peer_id, KCP, source, (asked.dst.ip, asked.dst.port))
