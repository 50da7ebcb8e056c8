"""Flows whose frames go to a TCP stack instead of onward, on one side of the node.

A claim has exactly one source and destination, so a flow that a stack ends has one, and the answers of a local listener
another. Looked up once per frame, and not at all while nobody claims anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from easytier_hooks.services import FrameHandler
from easytier_hooks.types import FlowKey
from easytier_host.flows import ACK, SYN, FlowTable, encode_key, segment_key

logger = logging.getLogger("easytier.flows")


class Claims:
    """The claims of one side; `table` knows which TCP SYN began each flow."""

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self._handlers: dict[bytes, FrameHandler] = {}

    def add(self, key: FlowKey, handler: FrameHandler) -> Callable[[], None]:
        """See `Link.claim`."""
        raw_key = encode_key(key)
        if raw_key in self._handlers:
            raise ValueError(f"{key} is claimed already")
        self._handlers[raw_key] = handler

        def end() -> None:
            if self._handlers.get(raw_key) is handler:
                del self._handlers[raw_key]

        return end

    def drop(self, raw_key: bytes) -> None:
        """End the claim on a key, if there is one."""
        self._handlers.pop(raw_key, None)

    def take(self, frames: list[bytes]) -> list[bytes]:
        """Give claimed device frames to their handlers, each flow's in one batch; returns the others."""
        handlers = self._handlers
        if not handlers:
            return frames
        passed: list[bytes] = []
        claimed: dict[bytes, list[bytes]] = {}
        for frame in frames:
            found = segment_key(frame)
            if found is None or found[0] not in handlers:
                passed.append(frame)
                continue
            raw_key, tcp = found
            batch = claimed.setdefault(raw_key, [])
            if not self._begins_anew(frame, raw_key, tcp):
                batch.append(frame)
                continue
            del claimed[raw_key]
            self._end(raw_key, batch, frame)
            passed.append(frame)
        for raw_key, batch in claimed.items():
            handler = handlers.get(raw_key)
            if handler is not None:
                _call(handler, batch)
        return passed

    def _begins_anew(self, frame: bytes, raw_key: bytes, tcp: int) -> bool:
        """Whether a claimed frame is the TCP SYN of a new flow, between the ends of one that its source has done with."""
        if frame[tcp + 13] & (SYN | ACK) != SYN:
            return False
        flow = self._table.find(raw_key)
        # A flow that ended is forgotten before its claim may be.
        return flow is None or flow.first_sequence != frame[tcp + 4 : tcp + 8]

    def _end(self, raw_key: bytes, batch: list[bytes], syn: bytes) -> None:
        """The last that a handler gets: what came before `syn`, and that as the news of the flow's end, if it knew of none."""
        handler = self._handlers.pop(raw_key)
        flow = self._table.find(raw_key)
        if flow is not None and flow.ended is None:
            batch.append(syn)
        if batch:
            _call(handler, batch)


def _call(handler: FrameHandler, frames: list[bytes]) -> None:
    try:
        handler(frames)
    except Exception:
        logger.exception("the handler of a claimed flow failed; %d frames are lost", len(frames))
