"""ICMP echo requests of a node without a device: asked for by programs, answered through the overlay.  `instance` has one."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

import anyio

from easytier_host import echo

# Ours.
FIRST_WAIT: Final = 0.5
"""Seconds before a request is repeated; then twice as long each time, so that a slow answer is waited for as well.  A peer that
has just appeared may not know the way back yet."""


class Pings:
    """Requests under way; each has an identifier of its own."""

    def __init__(self, send: Callable[[bytes], object], clock: Callable[[], float]) -> None:
        """`send` takes an IPv4 packet for the overlay."""
        self._send = send
        self._clock = clock
        self._waiting: dict[tuple[IPv4Address, int, int], anyio.Event] = {}

    async def ask(self, source: IPv4Address, target: IPv4Address, size: int, timeout: float) -> float:
        """Ask until there is an answer; returns the round trip of that request in seconds.  Raises TimeoutError."""
        identifier, sequence, wait = secrets.randbits(16), 0, FIRST_WAIT
        with anyio.fail_after(timeout):
            while True:
                sequence += 1
                began = self._clock()
                if await self._ask_once(source, (target, identifier, sequence), size, wait):
                    return self._clock() - began
                wait *= 2

    def take(self, packet: bytes) -> bool:
        """Whether `packet` is an echo reply, though perhaps a late one."""
        key = echo.parse_reply(packet)
        if key in self._waiting:
            self._waiting[key].set()
        return key is not None

    async def _ask_once(self, source: IPv4Address, key: tuple[IPv4Address, int, int], size: int, wait: float) -> bool:
        answered = self._waiting[key] = anyio.Event()
        try:
            self._send(echo.echo_request(source, *key, bytes(size)))
            with anyio.move_on_after(wait):
                await answered.wait()
            return answered.is_set()
        finally:
            del self._waiting[key]
