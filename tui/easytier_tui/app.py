"""The program as Textual runs it: follows the feeds, draws twice a second, does what keys ask for beyond a screen.

Each feed has one worker, which waits for its next `step` in a thread and hands what it brought to the session; widgets are
touched on the event loop alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.screen import Screen

from easytier_tui import bindings, columns, export
from easytier_tui.feed import Feed, FeedError, PortalFeed
from easytier_tui.recording import RecordingError
from easytier_tui.records import FlowRecord
from easytier_tui.screens.dialogs import AskPath, Confirm
from easytier_tui.screens.flow import FlowPage
from easytier_tui.screens.help import HelpScreen
from easytier_tui.screens.live import LiveScreen
from easytier_tui.screens.monitor import MonitorScreen
from easytier_tui.screens.peer import PeerPage
from easytier_tui.session import Session

BEAT: Final = 0.5
"""Seconds between two drawings."""
MAX_SESSIONS: Final = 32
DARK: Final = "textual-dark"
LIGHT: Final = "textual-light"


class MonitorApp(App[None]):
    """One session for each feed, and for each instance that turns up behind one.  Files go to `folder`."""

    CSS_PATH = "app.tcss"
    TITLE = "easytier-tui"
    # Made once: Textual remembers how widgets were drawn for some time after they are gone.
    SCREENS: ClassVar[dict[str, Callable[[], Screen[Any]]]] = {"help": HelpScreen}
    BINDINGS: ClassVar[list[BindingType]] = bindings.textual(bindings.ANYWHERE)

    def __init__(self, feeds: Sequence[Feed], *, folder: Path | None = None, wall: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.sessions = [Session(feed) for feed in feeds]
        self.session = self.sessions[0]
        self._folder = folder or Path()
        self._wall = wall

    def get_default_screen(self) -> Screen[None]:
        return MonitorScreen()

    def on_mount(self) -> None:
        self.theme = DARK
        for session in self.sessions:
            self._start(session)
        self.set_interval(BEAT, self.beat)

    def on_unmount(self) -> None:
        for session in self.sessions:
            session.close()

    # Following

    def _start(self, session: Session) -> None:
        self.run_worker(self._follow(session), name=session.feed.address, group="feeds")

    async def _follow(self, session: Session) -> None:
        feed = session.feed
        try:
            while True:
                update = await anyio.to_thread.run_sync(feed.step, abandon_on_cancel=True)
                is_news = update.link is not None and update.link.kind != session.model.link.kind
                session.apply(update)
                if isinstance(feed, PortalFeed):
                    self._add(feed.siblings())
                if is_news:
                    self.beat()
        finally:
            feed.close()

    def _add(self, feeds: Iterable[Feed]) -> None:
        for feed in feeds:
            if len(self.sessions) < MAX_SESSIONS:
                session = Session(feed)
                self.sessions.append(session)
                self._start(session)

    def beat(self) -> None:
        """Let time pass for the models and draw the screen."""
        for session in self.sessions:
            session.tick()
            if session.fault:
                self._complain(session.fault)
                session.fault = ""
        self.draw()

    def draw(self) -> None:
        """Draw the screen in sight, which a dialog may half cover."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, LiveScreen):
                screen.draw()
            if not screen.is_modal or isinstance(screen, HelpScreen):
                return

    def show_session(self, index: int) -> None:
        """Show another daemon; past the last comes the first."""
        self.session = self.sessions[index % len(self.sessions)]
        if isinstance(self.screen, MonitorScreen):
            self.screen.session_changed()

    # Pages

    def open_flow(self, session: Session, key: str) -> None:
        """The page of a flow."""
        page = FlowPage(session, key)
        self.push_screen(page)

    def open_peer(self, session: Session, peer_id: int) -> None:
        """The page of a peer."""
        self.push_screen(PeerPage(session, peer_id))

    def ask_history(self, session: Session, key: str) -> None:
        """Learn what happened to a flow before this program looked."""
        state = session.model.flows.get(key)
        if state is not None and state.record.flow_id is not None:
            self.run_worker(self._learn(session, state.record.flow_id), group="questions")

    async def _learn(self, session: Session, flow_id: int) -> None:
        try:
            notes = await anyio.to_thread.run_sync(session.feed.history, flow_id, abandon_on_cancel=True)
        except FeedError:
            # The page shows what happens from now on; that the node is away says the banner.
            return
        session.learn(list(notes))
        self.draw()

    # Keys

    def action_help(self) -> None:
        self.push_screen("help")

    def action_theme(self) -> None:
        self.theme = DARK if not self.current_theme.dark else LIGHT

    def action_copy(self) -> None:
        screen = self.screen
        text = screen.as_text() if isinstance(screen, MonitorScreen | FlowPage | PeerPage) else ""
        if text:
            self.copy_to_clipboard(text)
            self._say("Copied to the clipboard, if the terminal lets programs do that")

    def action_picture(self) -> None:
        name = self._file_name(".svg")
        if self.is_web:
            self.deliver_text(StringIO(picture(self.export_screenshot())), save_filename=name)
            return
        try:
            export.write(self._folder / name, picture(self.export_screenshot()))
        except export.ExportError as error:
            self._complain(str(error))
        else:
            self._say(f"Picture in {self._folder / name}")

    def action_export(self) -> None:
        screen = self.screen
        if isinstance(screen, MonitorScreen | FlowPage):
            self.run_worker(self._export(screen), group="dialogs")

    async def _export(self, screen: MonitorScreen | FlowPage) -> None:
        # A page in a browser gets the file as a download: it names no place on this machine, nor asks what is there.
        proposal = self._file_name(".csv")
        if self.is_web:
            question = AskPath("Download as (.csv or .json):", proposal, export.check_name)
        else:
            question = AskPath("Write to (.csv or .json):", str(self._folder / proposal), export.check_path)
        path = await self.push_screen_wait(question)
        if path is None:
            return
        try:
            text = screen.as_file(path.suffix.lower())
            if self.is_web:
                self.deliver_text(StringIO(text), save_filename=path.name)
                return
            export.write(path, text)
        except export.ExportError as error:
            self._complain(str(error))
        else:
            self._say(f"Written to {path}")

    def action_record(self) -> None:
        session = self.session
        if self.is_web:
            self._complain("A page in a browser cannot write files where the program runs: record in a terminal")
            return
        if session.recorder is None:
            self.run_worker(self._record(session), group="dialogs")
            return
        path = session.recorder.path
        session.stop_recording()
        self._say(f"Recorded to {path}; look at it with  easytier-tui --replay {path.name}")

    async def _record(self, session: Session) -> None:
        path = await self.push_screen_wait(AskPath("Record to:", str(self._folder / self._file_name(".jsonl")), _new_file))
        if path is None:
            return
        try:
            session.record(path)
        except RecordingError as error:
            self._complain(str(error))
        self.draw()

    def action_close_flow(self) -> None:
        screen = self.screen
        if not isinstance(screen, MonitorScreen | FlowPage):
            return
        session, state = screen.session, screen.session.model.flows.get(screen.key)
        if state is None:
            return
        if state.record.flow_id is None or not session.feed.acts:
            self._complain("This node cannot be told to close flows: only a running node of this project can")
        elif state.ended_at is not None:
            self._complain("This flow has ended already")
        else:
            self.run_worker(self._close_flow(session, state.record, state.record.flow_id))

    async def _close_flow(self, session: Session, flow: FlowRecord, flow_id: int) -> None:
        ends = f"{flow.source} → {flow.destination}"
        if not await self.push_screen_wait(Confirm(f"Close the flow {ends}?  Both ends see a reset connection.")):
            return
        try:
            if not session.has_ended(flow.key):
                await anyio.to_thread.run_sync(session.feed.close_flow, flow_id, abandon_on_cancel=True)
                self._say(f"Closed {ends}")
                return
        except FeedError as error:
            if not session.has_ended(flow.key):
                self._complain(str(error))
                return
        self._complain(f"{ends} has ended already, by itself")

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        if isinstance(screen, MonitorScreen):
            for name, column in columns.FLOW.items():
                yield SystemCommand(
                    f"Sort by {column.title}", "the order of the flows", lambda name=name: screen.action_order(name)
                )

    # Words

    def _say(self, text: str) -> None:
        self.notify(text, markup=False)

    def _complain(self, text: str) -> None:
        self.notify(text, severity="warning", markup=False, timeout=8)

    def _file_name(self, suffix: str) -> str:
        return time.strftime("easytier-tui-%Y%m%d-%H%M%S", time.localtime(self._wall())) + suffix


def picture(svg: str) -> str:
    """A screenshot that fetches no font from elsewhere: the reader's own monospaced one will do."""
    return re.sub(r"@font-face\s*{[^}]*}\s*", "", svg)


def _new_file(text: str) -> Path:
    path = Path(text.strip()).expanduser()
    if path.exists():
        raise ValueError(f"{path} exists already: choose another name")
    return path
