"""What the kernel says of its interfaces, addresses and routes by itself: a netlink socket that hears groups of rtnetlink.

What is said is not decoded here: the one reader wants to know that there is news, the other what it is about.  Numbers: Linux,
include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import logging
import socket
from typing import Final

# Fixed by Linux.
LINKS: Final = 0x1
ADDRESSES: Final = 0x10 | 0x100
ROUTES: Final = 0x40 | 0x400
"""IPv4 and IPv6."""

# Ours.
_DATAGRAMS: Final = 1024
"""Read in one go; what is left is news again."""

logger = logging.getLogger("easytier.underlay")


def open_news(groups: int) -> socket.socket | None:
    """A socket that does not block and is readable when there is news; None, logged, where the system gives none."""
    try:
        news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except (AttributeError, OSError) as error:
        logger.debug("no news of interfaces: %s", error)
        return None
    news.setblocking(False)
    try:
        news.bind((0, groups))
    except OSError as error:
        # Sandboxes allow the socket, and no groups.
        logger.debug("no news of interfaces: %s", error)
        news.close()
        return None
    return news


def read_news(news: socket.socket) -> tuple[list[bytes], bool]:
    """Datagrams of netlink messages that have come, and whether they are all that was said."""
    datagrams, complete = [], True
    for _ in range(_DATAGRAMS):
        try:
            datagrams.append(news.recv(65_536))
        except BlockingIOError:
            break
        except OSError:
            # ENOBUFS: there was more than the socket could keep.
            complete = False
    return datagrams, complete
