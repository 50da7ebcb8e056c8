"""What each screen looks like, at the sizes people have and in light colours, kept as text in `snapshots/`.

`ET_SNAPSHOTS=write` writes them anew; look at the difference before keeping it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import textual
from msgspec.structs import replace
from rich.style import Style
from textual.color import Color
from textual.pilot import Pilot

from easytier_tui.app import LIGHT, MonitorApp
from easytier_tui.records import Link, Update
from easytier_tui.screens.flow import FlowPage
from easytier_tui.screens.help import HelpScreen
from easytier_tui.screens.peer import PeerPage
from tests.tui import scene
from tests.tui.scene import ScriptFeed

pytestmark = pytest.mark.anyio
SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (120, 40)]


async def flows(pilot: Pilot[Any]) -> None:
    await scene.until_shown(pilot, "5 of 5")


async def flow(pilot: Pilot[Any]) -> None:
    await pilot.press("end", "home", "down", "down", "enter")
    await scene.until(pilot, lambda: isinstance(pilot.app.screen, FlowPage))
    await scene.until_shown(pilot, "RTT, 2 min")


async def peer(pilot: Pilot[Any]) -> None:
    await pilot.press("2", "down", "enter")
    await scene.until(pilot, lambda: isinstance(pilot.app.screen, PeerPage))
    await scene.until_shown(pilot, "10.1.2.7:5432")


async def help_page(pilot: Pilot[Any]) -> None:
    await pilot.press("question_mark")
    await scene.until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
    await scene.until_shown(pilot, "In the tables")


GONE = Link("gone", "No node answers at 127.0.0.1:15888 (connection refused)", scene.NOW + 4)
EMPTY = replace(scene.FIRST, flows=(), notes=())
ALONE = replace(EMPTY, peers=(), connectors=(("udp://203.0.113.7:11010", False),))
STOCK_FLOWS = tuple(
    replace(each, flow_id=None, reason="", chosen_by="", sent=None, received=None, send_rate=None, receive_rate=None, rtt=None)
    for each in scene.FLOWS[:2]
)
STOCK = replace(
    scene.FIRST, node=scene.STOCK, link=Link("polled", "stock 2.6.4, polled every 1 s"), flows=STOCK_FLOWS, notes=()
)

SCENES: dict[str, tuple[tuple[Update, ...], str, Callable[[Pilot[Any]], Awaitable[None]] | None]] = {
    "flows": ((scene.FIRST,), "5 of 5", flows),
    "flow": ((scene.FIRST,), "5 of 5", flow),
    "peer": ((scene.FIRST,), "5 of 5", peer),
    "help": ((scene.FIRST,), "5 of 5", help_page),
    "nobody": ((Update(scene.NOW, GONE),), "Retrying in 4 s", None),
    "away": ((scene.FIRST, Update(scene.NOW, GONE)), "Retrying in 4 s", None),
    "no-flows": ((EMPTY,), "No TCP flow yet", None),
    "no-peers": ((ALONE,), "No other node", None),
    "stock": ((STOCK,), "2 of 2", None),
}


async def show(name: str, pilot: Pilot[Any]) -> None:
    _, shown, act = SCENES[name]
    await scene.until_shown(pilot, shown)
    if act is not None:
        await act(pilot)
    await settle(pilot)


async def settle(pilot: Pilot[Any]) -> None:
    """Let everything be drawn."""
    program = pilot.app
    assert isinstance(program, MonitorApp)
    await pilot.pause()
    program.beat()
    await pilot.pause()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCENES)
async def test_screen(name: str, size: tuple[int, int]) -> None:
    program = scene.app(ScriptFeed(*SCENES[name][0]))
    async with program.run_test(size=size) as pilot:
        await show(name, pilot)
        found = scene.text_of(program) + "\n"
    compare(found, f"{name}-{size[0]}x{size[1]}")


@pytest.mark.skipif(not textual.__version__.startswith("8.2."), reason="the colours kept are those of Textual 8.2")
@pytest.mark.parametrize("name", SCENES)
async def test_screen_in_light_colours(name: str) -> None:
    program = scene.app(ScriptFeed(*SCENES[name][0]))
    async with program.run_test(size=(120, 40)) as pilot:
        await show(name, pilot)
        program.theme = LIGHT
        await settle(pilot)
        found = "".join(f"{line}\n" for line in coloured(program))
    compare(found, f"{name}-light")


def compare(found: str, snapshot: str) -> None:
    """With what was kept."""
    file = SNAPSHOTS / f"{snapshot}.txt"
    if os.environ.get("ET_SNAPSHOTS") == "write":
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")


def coloured(program: MonitorApp) -> Iterator[str]:
    """Each text on the screen with its colours: `line  colour on ground  text`; blank ground is left out."""
    for number, strip in enumerate(program.screen._compositor.render_strips(), 1):
        for (color, ground), segments in itertools.groupby(strip, lambda segment: _colors(segment.style)):
            text = "".join(segment.text for segment in segments).rstrip()
            if text:
                yield f"{number:>2}  {color} on {ground}  {text}"


def _colors(style: Style | None) -> tuple[str, str]:
    if style is None:
        return "-", "-"
    color, ground = ("-" if each is None else Color.from_rich_color(each).hex for each in (style.color, style.bgcolor))
    return color, ground


@pytest.mark.parametrize("theme", ["textual-dark", LIGHT])
@pytest.mark.parametrize("name", ["flows", "flow", "peer", "away"])
async def test_all_is_readable_in_both_themes(name: str, theme: str) -> None:
    program = scene.app(ScriptFeed(*SCENES[name][0]))
    async with program.run_test(size=(120, 40)) as pilot:
        await show(name, pilot)
        before = scene.text_of(program)
        program.theme = theme
        await settle(pilot)
        assert scene.text_of(program) == before
        for strip in program.screen._compositor.render_strips():
            for segment in strip:
                style = segment.style
                if segment.text.strip(" │─╭╮╰╯▏▌▊▎") and style is not None and style.color and style.bgcolor:
                    text, ground = Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
                    assert _contrast(text, ground) > 3, (segment.text, style)
        assert (Color.parse(program.theme_variables["background"]).brightness > 0.5) == (theme == LIGHT)


def _contrast(one: Color, other: Color) -> float:
    """As WCAG 2 defines it: 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in color.normalized]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
