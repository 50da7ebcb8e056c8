"""What an engine that was closed has left for the application to read; until that has happened it counts as its memory."""

from __future__ import annotations

from easytier_kcp_plugin.kcp.engine import Engine


class Leftover:
    """Of one session, which has one engine at a time."""

    __slots__ = ("_data", "_engine")

    def __init__(self) -> None:
        self._data = b""
        self._engine: Engine | None = None

    def __bool__(self) -> bool:
        return bool(self._data)

    def close(self, engine: Engine, *, wanted: bool) -> None:
        """Close `engine`, and keep what can still be read of it if somebody wants it."""
        rest = engine.close()
        self._engine = engine
        if wanted:
            self._data += rest
        self._release_if_read()

    def read(self, limit: int) -> bytes:
        """Up to `limit` bytes."""
        data, self._data = self._data[:limit], self._data[limit:]
        self._release_if_read()
        return data

    def drop(self) -> None:
        """Nobody will read it."""
        self._data = b""
        self._release_if_read()

    def _release_if_read(self) -> None:
        if self._engine is not None and not self._data:
            self._engine.release()
            self._engine = None
