"""Small things that several modules do to TCP sockets."""

from __future__ import annotations

import socket
import struct


def abort(connection: socket.socket) -> None:
    """Close a socket with RST instead of FIN, so that the other end sees no clean end; no effect on a closed one."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
