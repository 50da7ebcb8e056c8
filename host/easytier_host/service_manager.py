"""What a service manager is told of this process, by the protocol of systemd (sd_notify(3)): a datagram for each state.

Called by `main` alone.  Without a manager, which is where `NOTIFY_SOCKET` is not set, nothing is sent.  A manager that does not
listen costs a node nothing: what it does not take is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import anyio

logger = logging.getLogger("easytier.main")

# Of the protocol, sd_notify(3) and sd_watchdog_enabled(3).
READY: Final = "READY=1"
RELOADING: Final = "RELOADING=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"

ALIVE_SHARE: Final = 0.5
"""Of the time after which a silent process is given up, as the protocol advises."""


class ServiceManager:
    """Where news go; made from the environment of the process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket = _address(environ.get("NOTIFY_SOCKET", ""))
        self._patience = _patience(environ) if self._socket else None

    def ready(self, status: str) -> None:
        """The nodes run, or run again after `reloading`; `status` is one line for people."""
        self._tell(READY, f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` says when it is over."""
        self._tell(RELOADING, f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The process ends by itself, on a signal or because its nodes have closed."""
        self._tell(STOPPING)

    async def keep_alive(self) -> None:
        """Say from the event loop that it turns, as often as the manager wants; returns at once if it does not."""
        while self._patience is not None:
            self._tell(ALIVE)
            await anyio.sleep(self._patience * ALIVE_SHARE)

    def _tell(self, *lines: str) -> None:
        if not self._socket:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto("\n".join(lines).encode(), self._socket)


def _address(text: str) -> str:
    """The socket's address, a leading `@` being the abstract name space; "" for none, and for kinds that we do not speak."""
    if text.startswith("@"):
        return f"\0{text[1:]}"
    if text and not text.startswith("/"):
        logger.warning("NOTIFY_SOCKET is neither a path nor an abstract name: the service manager is told nothing")
        return ""
    return text


def _patience(environ: Mapping[str, str]) -> float | None:
    """Seconds of silence that the manager bears; None if it does not watch this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdecimal() and int(text) else None
