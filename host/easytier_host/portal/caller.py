"""Whose program is at the other end of a connection within this machine.

The kernel tells of each TCP socket which user owns it, in /proc/net/tcp and tcp6 (Documentation/networking/proc_net_tcp.rst).
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from easytier_hooks.services import Endpoint
from easytier_hooks.types import IPAddress

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_USER_COLUMN: Final = 7


def user_of(caller: Endpoint, door: Endpoint) -> int | None:
    """The user id of the program that has connected from `caller` to `door`; None if the system does not tell.

    Reads all sockets of the machine: not for the event loop's thread.
    """
    wanted = [[_as_written(ip, port) for ip, port in ends] for ends in ((caller, door), (_mapped(caller), _mapped(door)))]
    for table in TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[1:3] in wanted:
                return int(columns[_USER_COLUMN])
    return None


def _as_written(ip: IPAddress, port: int) -> str:
    """`0100007F:1F90`: the words of the address in the byte order of the machine."""
    words = [ip.packed[start : start + 4] for start in range(0, len(ip.packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


def _mapped(end: Endpoint) -> Endpoint:
    """An IPv4 end as a socket for both families has it."""
    ip, port = end
    return (IPv6Address(f"::ffff:{ip}") if isinstance(ip, IPv4Address) else ip), port
