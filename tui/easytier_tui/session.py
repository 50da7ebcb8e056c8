"""One daemon as the screens see it: its feed, what is known, what is selected, whether it is paused or recorded.

Runs without a terminal.  All of it but `Feed.step` happens on one thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from easytier_tui.feed import Feed
from easytier_tui.model import Model
from easytier_tui.recording import Recorder, RecordingError
from easytier_tui.records import FlowNote, Update
from easytier_tui.view import FlowView

TICK_EVERY: Final = 1.0


class Session:
    """A tab of the program."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.view = FlowView()
        self.recorder: Recorder | None = None
        self.fault = ""
        """Why a recording has ended; for the user, once."""
        self._model = Model()
        self._frozen: tuple[Model, float] | None = None
        self._ticked_at = float("-inf")
        self._heard_at: float | None = None

    # News

    def apply(self, update: Update) -> None:
        """Take what the feed has told."""
        self._model.apply(update)
        if not self._model.is_gone:
            self._heard_at = update.at
        if self.recorder is not None:
            try:
                self.recorder.write(update)
            except RecordingError as error:
                self.fault = str(error)
                self.stop_recording()

    def learn(self, notes: list[FlowNote]) -> None:
        """Take the past of a flow, which was asked for."""
        self._model.apply(Update(self.feed.clock(), notes=tuple(notes)))

    def tick(self) -> None:
        """To be called more often than once a second."""
        now = self.feed.clock()
        # What nobody tells of does not go on.
        if not self._model.is_gone and not 0 <= now - self._ticked_at < TICK_EVERY:
            self._ticked_at = now
            self._model.tick(now)

    # What is shown

    @property
    def model(self) -> Model:
        """What is shown; of the past while paused."""
        return self._model if self._frozen is None else self._frozen[0]

    @property
    def now(self) -> float:
        """The moment that is shown."""
        return self._newest if self._frozen is None else self._frozen[1]

    @property
    def _newest(self) -> float:
        """Now; while the node does not answer, when it did last: ages and rates of later are not known."""
        return self._heard_at if self._model.is_gone and self._heard_at is not None else self.feed.clock()

    def has_ended(self, key: str) -> bool:
        """Whether the flow has, by the newest news, paused or not; what is forgotten has."""
        state = self._model.flows.get(key)
        return state is None or state.ended_at is not None

    @property
    def name(self) -> str:
        """Of the node, else where it should be."""
        node = self._model.node
        return self.feed.address if node is None else node.instance or node.hostname or self.feed.address

    @property
    def paused(self) -> bool:
        return self._frozen is not None

    def pause(self, paused: bool) -> None:
        """Hold what is shown, or let it go on; what comes meanwhile is not lost."""
        self._frozen = (self._model.frozen(), self._newest) if paused else None
        self.view.reorder()

    # Recording

    def record(self, path: Path) -> None:
        """Write all that comes to a new file, after all that is known.  Raises `RecordingError`."""
        recorder = Recorder(path, self.feed.address)
        recorder.write(self._model.as_update(self.feed.clock()))
        self.recorder = recorder

    def stop_recording(self) -> None:
        """End the file; idempotent."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            try:
                recorder.close()
            except RecordingError as error:
                self.fault = str(error)

    def close(self) -> None:
        """End it all."""
        self.stop_recording()
        self.feed.close()
