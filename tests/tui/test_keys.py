"""Every key that the program documents, pressed: what is shown, written or asked then."""

from __future__ import annotations

import csv
import gc
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from msgspec.structs import replace
from textual import events
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from easytier_tui import bindings, words
from easytier_tui.app import DARK, LIGHT
from easytier_tui.records import FlowNote, Link, Update
from easytier_tui.screens.dialogs import AskPath, Confirm
from easytier_tui.screens.flow import FlowPage
from easytier_tui.screens.help import HelpScreen
from easytier_tui.screens.monitor import MonitorScreen
from easytier_tui.screens.peer import PeerPage
from easytier_tui.widgets.listing import Listing
from tests.tui import scene
from tests.tui.scene import ScriptFeed, until, until_shown

pytestmark = pytest.mark.anyio
MANY = replace(
    scene.FIRST,
    flows=tuple(
        replace(
            scene.SSH,
            key=f"1.{number}",
            flow_id=number,
            source=f"10.144.0.1:{40_000 + number}",
            started_at=scene.NOW - number,
            send_rate=float(number % 7 * 1000),
            retransmitted=number % 11,
        )
        for number in range(200)
    ),
)


class Stage:
    """The program with two daemons, and what the tests look at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.feed = ScriptFeed(scene.FIRST)
        self.other = ScriptFeed(
            replace(scene.FIRST, node=replace(scene.NODE, hostname="z", address="10.144.0.26/24")), address="127.0.0.1:15889"
        )
        self.program = scene.app(self.feed, self.other, folder=folder)

    @property
    def text(self) -> str:
        return scene.text_of(self.program)

    def listing(self, name: str = "flows") -> Listing:
        return self.program.screen.query_one(f"#{name}", Listing)

    def file(self, suffix: str) -> Path:
        """The one that was written."""
        (found,) = self.folder.glob(f"*{suffix}")
        return found


Scene: TypeAlias = Callable[[Stage, Pilot[Any]], Awaitable[None]]
TESTS: dict[str, Scene] = {}


def presses(*keys: str) -> Callable[[Scene], Scene]:
    """The scene is the test of these keys, as users know them."""

    def register(test: Scene) -> Scene:
        TESTS.update(dict.fromkeys(keys, test))
        return test

    return register


@presses("/")
async def filtering(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("slash", *"transport:tcp")
    await until_shown(pilot, "2 of 5")
    assert "10.1.2.7:5432" in stage.text
    assert "10.144.0.2:22 " not in stage.text
    await pilot.press(*" port:9999")
    await until_shown(pilot, '0 of 5 flows match "transport:tcp port:9999"')
    await pilot.press(*["backspace"] * 10, *" prot:1")
    await until_shown(pilot, "no field prot")
    assert 'did you mean "port:"?' in stage.text
    await pilot.press(*["backspace"] * 7, "enter")
    assert stage.listing().has_focus
    await until_shown(pilot, "2 of 5")


@presses("esc")
async def clearing(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("slash", *"tcp", "escape")
    await until_shown(pilot, "5 of 5")
    assert stage.listing().has_focus
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(stage.program.screen, FlowPage))
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(stage.program.screen, MonitorScreen))


@presses("s", "S")
async def sorting(stage: Stage, pilot: Pilot[Any]) -> None:
    seen = []
    for _ in range(10):
        await pilot.press("s")
        seen.append(stage.program.session.view.column.title)
    assert sorted(seen) == sorted({*seen}), "each column comes once"
    assert {"Source", "Destination", "Via", "State", "Rate ↑", "Rate ↓", "RTT", "Retr", "Age", "Why"} == set(seen)
    await pilot.press("S")
    assert stage.program.session.view.column.title == seen[-2]


@presses("o")
async def reversing(stage: Stage, pilot: Pilot[Any]) -> None:
    before = stage.listing().keys
    await pilot.press("o")
    await until_shown(pilot, "sort: Age ▲")
    # The ended ones stay below.
    assert before == ["1.3", "1.2", "1.1", "1.4", "1.5"]
    assert stage.listing().keys == ["1.1", "1.2", "1.3", "1.5", "1.4"]


@presses("n", "b", "w")
async def orders(stage: Stage, pilot: Pilot[Any]) -> None:
    for key, first, title in (("b", "1.1", "Rate"), ("w", "1.1", "Retr"), ("n", "1.3", "Age")):
        await pilot.press(key)
        await until_shown(pilot, f"sort: {title} ▼")
        assert stage.listing().keys[0] == first
        assert stage.listing().cursor == 0


@presses("p")
async def pausing(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("p")
    await until_shown(pilot, "PAUSED")
    stage.feed.tell(Update(scene.NOW + 1, flows=(replace(scene.SSH, send_rate=1.5e6),)))
    stage.feed.now += 30
    stage.feed.tell(Update(scene.NOW + 31, missed=3))
    await until(pilot, lambda: stage.program.session._model.missed == 3)
    stage.program.beat()
    assert "38.0 MB/s" in stage.text
    assert "missed" not in stage.text
    await pilot.press("space")
    await until_shown(pilot, "missed 3 events")
    assert "1.50 MB/s" not in stage.text or "PAUSED" not in stage.text


@presses("c")
async def hiding_the_ended(stage: Stage, pilot: Pilot[Any]) -> None:
    await until_shown(pilot, " closed ")
    await pilot.press("c")
    await until_shown(pilot, "closed hidden")
    assert " closed " not in stage.text.replace("closed hidden", "")
    assert "3 of 5" in stage.text


@presses("1", "2")
async def panels(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("2")
    await until(pilot, lambda: not stage.listing().display)
    assert stage.listing("peers").has_focus
    await until_shown(pilot, "it runs 2.1")
    await pilot.press("1")
    await until(pilot, lambda: stage.listing().display)
    assert stage.listing().has_focus


@presses("[", "]")
async def tabs(stage: Stage, pilot: Pilot[Any]) -> None:
    await until_shown(pilot, "[a]")
    await pilot.press("slash", *"tcp", "enter", "right_square_bracket")
    await until_shown(pilot, "10.144.0.26/24")
    assert "[z]" in stage.text
    assert "5 of 5" in stage.text, "each daemon has its own filter"
    await pilot.press("left_square_bracket")
    await until_shown(pilot, "2 of 5")
    assert pilot.app.screen.query_one("#filter", Input).value == "tcp"
    await pilot.press("left_square_bracket")
    await until_shown(pilot, "[z]")


@presses("r")
async def retrying(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("r")
    assert stage.feed.woken == 1


@presses("y")
async def copying(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("down", "y")
    await until(pilot, lambda: stage.program.clipboard)
    assert stage.program.clipboard.split("\t")[:2] == ["10.144.0.1:51840", "10.1.2.7:5432"]
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(stage.program.screen, FlowPage))
    await pilot.press("y")
    assert "c runs 2.1.2: no KCP" in stage.program.clipboard
    await pilot.press("escape", "2", "down", "enter")
    await until(pilot, lambda: isinstance(stage.program.screen, PeerPage))
    await pilot.press("y")
    assert "10.1.2.0/24" in stage.program.clipboard


@presses("e")
async def exporting(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("slash", *"transport:kcp", "enter", "e")
    await until(pilot, lambda: isinstance(stage.program.screen, AskPath))
    await pilot.press(*["backspace"] * 4, *".txt", "enter")
    await until_shown(pilot, "must end with .csv or .json")
    await pilot.press(*["backspace"] * 4, *".csv", "enter")
    await until(pilot, lambda: list(stage.folder.glob("*.csv")))
    rows = list(csv.DictReader(stage.file(".csv").read_text().splitlines()))
    assert [row["key"] for row in rows] == ["1.3", "1.1", "1.4"]
    assert (rows[1]["destination"], rows[1]["sent"], rows[1]["chosen_by"]) == ("10.144.0.2:22", "4810000000", "auto")
    await until(pilot, lambda: isinstance(stage.program.screen, MonitorScreen))
    await pilot.press("down", "enter")
    await until(pilot, lambda: isinstance(stage.program.screen, FlowPage))
    await pilot.press("e")
    await until(pilot, lambda: isinstance(stage.program.screen, AskPath))
    await pilot.press(*["backspace"] * 4, *".json", "enter")
    await until(pilot, lambda: list(stage.folder.glob("*.json")))
    flow = json.loads(stage.file(".json").read_text())
    assert flow["source"] == "10.144.0.1:51838"
    assert [event["text"] for event in flow["events"]] == ["seen", "connected"]


@presses("x")
async def closing(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("down", "x")
    await until(pilot, lambda: isinstance(stage.program.screen, Confirm))
    assert "Close the flow 10.144.0.1:51840 → 10.1.2.7:5432?" in stage.text
    await pilot.press("n")
    await until(pilot, lambda: isinstance(stage.program.screen, MonitorScreen))
    assert stage.feed.closed == []
    await pilot.press("x")
    await until(pilot, lambda: isinstance(stage.program.screen, Confirm))
    await pilot.press("y")
    await until(pilot, lambda: stage.feed.closed == [2])
    await until_shown(pilot, "closed by the user")
    stage.feed.acts = False
    await pilot.press("home", "x")
    await until(pilot, lambda: "cannot be told to close" in scene.notices(stage.program))
    assert isinstance(stage.program.screen, MonitorScreen)


@presses("i")
async def picturing(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("i")
    await until(pilot, lambda: list(stage.folder.glob("*.svg")))
    picture = stage.file(".svg").read_text()
    assert "10.1.2.7:5432" in picture
    assert "font-face" not in picture, "nothing is fetched from elsewhere"


@presses("R")
async def recording(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("R")
    await until(pilot, lambda: isinstance(stage.program.screen, AskPath))
    await pilot.press("enter")
    await until_shown(pilot, "recording")
    stage.feed.tell(Update(scene.NOW + 1, missed=7))
    await until_shown(pilot, "missed 7 events")
    await pilot.press("R")
    await until(pilot, lambda: "--replay" in scene.notices(stage.program))
    lines = [json.loads(line) for line in stage.file(".jsonl").read_text().splitlines()]
    assert lines[0]["format"] == "easytier-tui"
    assert [len(line.get("flows", ())) for line in lines[1:]] == [5, 0]
    assert lines[2]["missed"] == 7


@presses("t")
async def theming(stage: Stage, pilot: Pilot[Any]) -> None:
    assert stage.program.theme == DARK
    await pilot.press("t")
    assert stage.program.theme == LIGHT
    await pilot.press("t")
    assert stage.program.theme == DARK


@presses("?")
async def helping(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("question_mark")
    await until(pilot, lambda: isinstance(stage.program.screen, HelpScreen))
    await until_shown(pilot, "type a filter")
    await pilot.press("end")
    await until_shown(pilot, "A dash stands for")
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(stage.program.screen, MonitorScreen))
    await pilot.press("question_mark")
    await until_shown(pilot, "type a filter")


@presses("q")
async def quitting(stage: Stage, pilot: Pilot[Any]) -> None:
    await pilot.press("q")
    await until(pilot, lambda: not stage.program.is_running)
    assert stage.program.return_code == 0


@presses("enter")
async def opening(stage: Stage, pilot: Pilot[Any]) -> None:
    stage.feed.past = (FlowNote("1.1", scene.NOW - 130.99, "selected: kcp by auto"),)
    await pilot.press("end", "home", "down", "down", "enter")
    await until(pilot, lambda: isinstance(stage.program.screen, FlowPage))
    await until_shown(pilot, "selected: kcp by auto")
    assert "by plugin auto: loss 5.1 % is 1 % or more" in stage.text
    assert "direct udp, latency 52 ms, loss 5.1 %, udp://203.0.113.7:11010" in stage.text
    assert "kernel: the connection ends at this node" in stage.text
    assert "1024 segments to the peer, 912 in flight" in stage.text
    await pilot.press("p")
    await until_shown(pilot, "PAUSED")
    await pilot.press("p", "escape", "2", "enter")
    await until(pilot, lambda: isinstance(stage.program.screen, PeerPage))
    await until_shown(pilot, "accepts KCP")
    stage.program.screen.query_one(Listing).focus()
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(stage.program.screen, FlowPage))


@presses("↑", "↓", "page up", "page down", "home", "end")
async def moving(stage: Stage, pilot: Pilot[Any]) -> None:
    stage.feed.tell(MANY)
    await until_shown(pilot, "of 20")
    listing = stage.listing()
    for key, position in (("down", 1), ("down", 2), ("up", 1), ("j", 2), ("k", 1), ("pageup", 0), ("home", 0)):
        await pilot.press(key)
        assert listing.cursor == position, key
    await pilot.press("pagedown")
    assert 5 < listing.cursor < 40
    await pilot.press("end")
    assert listing.cursor == len(listing.keys) - 1
    await until(pilot, lambda: "▶" in stage.text)
    await pilot.press("G", "g")
    assert listing.cursor == 0
    await pilot.resize_terminal(80, 24)
    stage.program.open_flow(stage.program.session, "1.1")
    await until_shown(pilot, "Direction")
    page = stage.program.screen.query_one("#page", VerticalScroll)

    def has_scrolled(before: float, direction: int) -> bool:
        return (page.scroll_y - before) * direction > 0

    for key, moved in (("down", 1), ("up", -1), ("pagedown", 1), ("pageup", -1), ("end", 1), ("home", -1)):
        moves = partial(has_scrolled, page.scroll_y, moved)
        await pilot.press(key)
        await until(pilot, moves, f"{key} moves the page")


@pytest.mark.parametrize(
    "key", [key.shown for key in (*bindings.MAIN, *bindings.ROW, *bindings.ANYWHERE, *bindings.TABLE, *bindings.DETAIL)]
)
async def test_key(key: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(116, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        await TESTS[key](stage, pilot)
    assert stage.feed.ended.is_set(), "the feed ends with the program"


def test_footer_fits_80_columns() -> None:
    on_main = (*bindings.TABLE, *bindings.MAIN, bindings.EXPORT, *bindings.ANYWHERE)
    on_pages = (*bindings.DETAIL, *bindings.ROW, *bindings.ANYWHERE)
    for keys in (on_main, on_pages):
        assert sum(len(key.shown) + len(key.label) + 2 for key in keys if key.label) <= 80


async def test_the_mouse_sorts_chooses_and_changes_daemons(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "[a]")
        await pilot.click("#flows", offset=(5, 0))
        await until_shown(pilot, "sort: Source ▲")
        assert stage.listing().keys[0] == "1.3"
        await pilot.click("#flows", offset=(5, 2))
        assert stage.listing().cursor == 1
        await pilot.click("#flows", offset=(5, 2), times=2)
        await until(pilot, lambda: isinstance(stage.program.screen, FlowPage))
        await pilot.press("escape")
        await pilot.click("TabLabel:last-child")
        await until_shown(pilot, "[z]")
        await pilot.click("KeyLine", offset=("enter Detail / ".index("/"), 0))
        await until(pilot, lambda: isinstance(stage.program.focused, Input))
        await pilot.press(*"dst:10.1.0.0/16")
        await until_shown(pilot, "1 of 5")


async def test_screens_leave_no_widgets_behind(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    def widgets() -> int:
        gc.collect()
        return sum(isinstance(each, Widget) for each in gc.get_objects())

    async def look(key: str, shown: type[Screen[Any]]) -> None:
        await pilot.press(key)
        await until(pilot, lambda: isinstance(stage.program.screen, shown))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(stage.program.screen, MonitorScreen))

    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        await look("question_mark", HelpScreen)
        before = widgets()
        for _ in range(5):
            await look("question_mark", HelpScreen)
            await look("enter", FlowPage)
        await until(pilot, lambda: widgets() <= before, "as few widgets as before")


async def test_a_flow_that_has_ended_meanwhile_is_not_closed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        await pilot.press("down", "x")
        await until(pilot, lambda: isinstance(stage.program.screen, Confirm))
        stage.feed.tell(Update(scene.NOW, flows=(replace(scene.DATABASE, state="closed"),)))
        await until(pilot, lambda: stage.program.session.has_ended("1.2"))
        await pilot.press("y")
        await until(pilot, lambda: "has ended already, by itself" in scene.notices(stage.program))
        assert stage.feed.closed == []


async def test_keys_that_come_at_once_edit_in_their_order(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        await pilot.press("slash")
        field = pilot.app.screen.query_one("#filter", Input)
        for key in ("x", "t", "backspace", "c", "home", "delete", "t", "end", "p"):
            # As a terminal gives what was typed while the program was busy.
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: field.value == "tcp", "the filter")
        await until_shown(pilot, "2 of 5")


async def test_a_wrong_filter_says_what_is_shown_instead(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        await pilot.press("slash", *"port:abc")
        await until_shown(pilot, "not valid, shown: all · port:abc is not a port")
        assert len(stage.listing().keys) == 5
        await pilot.press(*["backspace"] * 8, *"peer:b foo:bar")
        await until_shown(pilot, "not valid, shown: peer:b · no field foo")
        assert len(stage.listing().keys) == 3, "not those of peer:b foo, which was valid on the way"
        await pilot.press(*["backspace"] * 8, *" zzz foo:bar")
        await until_shown(pilot, "The filter is not valid: no field foo")
        assert 'nothing matches "peer:b zzz"' in stage.text
        assert "0 of" not in stage.text


async def test_of_a_long_filter_the_beginning_is_shown_once_it_is_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(80, 24)) as pilot:
        await until_shown(pilot, "5 of 5")
        await pilot.press("slash", *"transport:kcp,tcp state:connected,closed,failed,half-closed peer:b", "enter")
        await until_shown(pilot, "/ transport:kcp,tcp")
        await pilot.press("slash", "x")
        await until(pilot, lambda: stage.program.session.view.filter_text.endswith("peer:bx"))


async def test_the_tab_that_is_shown_is_in_sight() -> None:
    feeds = [
        ScriptFeed(replace(scene.FIRST, node=replace(scene.NODE, hostname=f"a-node-with-a-long-name-{number}")))
        for number in range(4)
    ]
    program = scene.app(*feeds)
    async with program.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: all(session.model.node for session in program.sessions))
        for number in (1, 2, 3, 0):
            await pilot.press("right_square_bracket")
            await until_shown(pilot, f"[a-node-with-a-long-name-{number}]")


async def test_a_small_terminal_keeps_help_and_quit() -> None:
    gone = Link("gone", "No node answers at 127.0.0.1:15888 (connection refused).  " + "Start one.  " * 20, scene.NOW + 4)
    program = scene.app(ScriptFeed(Update(scene.NOW, gone)))
    async with program.run_test(size=(40, 10)) as pilot:
        await until_shown(pilot, "Retrying in 4 s")
        await until_shown(pilot, "? Help q Quit")
        assert "No node answers" in scene.text_of(program)


async def test_advice_is_wrapped() -> None:
    program = scene.app(ScriptFeed(replace(scene.FIRST, flows=(), notes=(), peers=(), connectors=())))
    async with program.run_test(size=(60, 24)) as pilot:
        await until_shown(pilot, "--peers")


async def test_the_graphs_of_an_ended_flow_show_its_last_values(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        stage.program.open_flow(stage.program.session, "1.1")
        await until_shown(pilot, "now 52 ms")
        stage.feed.now += 1
        stage.feed.tell(Update(stage.feed.now, flows=(replace(scene.SSH, state="closed", ended_at=stage.feed.now),)))
        await until_shown(pilot, "last 52 ms")
        assert "now 52 ms" not in stage.text


async def test_on_a_page_time_stands_still_while_the_node_does_not_answer(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        stage.program.open_flow(stage.program.session, "1.1")
        await until_shown(pilot, "connected for 2m11s")
        stage.feed.now += 3
        stage.feed.tell(Update(stage.feed.now))
        await until_shown(pilot, "connected for 2m14s")
        stage.feed.now += 60
        stage.feed.tell(Update(stage.feed.now, Link("gone", "No node answers", stage.feed.now + 1)))
        stopped = words.clock(scene.NOW + 3)[:8]
        await until_shown(pilot, f"10.144.0.1:51838 → 10.144.0.2:22   kcp · connected   no answer since {stopped}")
        assert "connected for 2m14s, when the node last answered" in stage.text
        assert "last 52 ms" in stage.text
        assert "now " not in stage.text
        stage.program.open_peer(stage.program.session, 2)
        await until_shown(pilot, f"b 10.144.0.2   no answer since {stopped}")
        await pilot.resize_terminal(40, 10)
        await until_shown(pilot, "no answer since")
        await pilot.resize_terminal(120, 40)
        await pilot.press("escape")
        stage.feed.tell(Update(stage.feed.now, scene.LIVE))
        await until_shown(pilot, "connected for 3m14s")
        assert "no answer" not in stage.text


async def test_the_window_of_a_flow_is_a_graph(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        stage.feed.now += 2
        stage.feed.tell(Update(stage.feed.now, flows=(replace(scene.SSH, window=2048, in_flight=17),)))
        stage.program.open_flow(stage.program.session, "1.1")
        await until_shown(pilot, "now 2048, top 2048")
        await until_shown(pilot, "now 17, top 912")
        stage.feed.now += 10
        stage.feed.tell(Update(stage.feed.now, flows=(replace(scene.SSH, window=512, in_flight=9),)))
        await until_shown(pilot, "now 512, top 2048")


async def test_what_plain_tcp_does_not_tell_is_said(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        stage.program.open_flow(stage.program.session, "1.2")
        await until_shown(pilot, "none: packets pass as they are")
        assert stage.text.count("not measured of plain TCP") == 3


async def test_a_page_wraps_long_lines_under_their_text(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(40, 10)) as pilot:
        await until_shown(pilot, "80x24 shows more")
        stage.program.open_flow(stage.program.session, "1.1")
        await until_shown(pilot, "Direction")
        lines = stage.text.splitlines()
        index = next(number for number, line in enumerate(lines) if line.startswith(" Direction  outbound: an"))
        assert lines[index + 1].startswith(" " * 12)
        assert lines[index + 1].strip(" ▁▂▃▄▅▆▇█")


async def test_the_flows_of_a_peer_begin_with_the_living(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        stage.program.open_peer(stage.program.session, 2)
        await until_shown(pilot, "accepts KCP")
        assert stage.listing("peer-flows").keys == ["1.3", "1.1", "1.4"]


async def test_the_palette_sorts(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with stage.program.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "5 of 5")
        await pilot.press("ctrl+p")
        await until_shown(pilot, "Search for commands")
        await pilot.press(*"sort by dest")
        await until_shown(pilot, "Sort by Destination")
        await pilot.press("down", "enter")
        await until_shown(pilot, "sort: Destination")


async def test_a_row_stays_under_the_cursor_while_others_come(tmp_path: Path) -> None:
    feed = ScriptFeed(MANY)
    program = scene.app(feed, folder=tmp_path)
    async with program.run_test(size=(120, 30)) as pilot:
        await until_shown(pilot, "200 of 200")
        await pilot.press(*["pagedown"] * 3)
        listing = program.screen.query_one("#flows", Listing)
        key, offset = listing.cursor_key, listing.cursor - listing.scroll_offset.y
        newer = replace(MANY.flows[0], key="1.900", source="10.144.0.1:1", started_at=scene.NOW + 5)
        feed.tell(Update(scene.NOW + 5, flows=(newer,)))
        await until_shown(pilot, "201 of 201")
        assert listing.cursor_key == key
        await until(pilot, lambda: listing.cursor - listing.scroll_offset.y == offset)


def test_all_tests_are_of_documented_keys() -> None:
    keys = (*bindings.MAIN, *bindings.ROW, *bindings.ANYWHERE, *bindings.TABLE, *bindings.DETAIL)
    assert set(TESTS) == {key.shown for key in keys}
