"""The real program in a real terminal, that of tmux, with the real nodes of the demo."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from easytier_tui import demo
from tests.netns.topology import wait_for
from tests.tui.portals import known
from tests.unit.cli import replay
from tests.unit.cli.replay import listening

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
    pytest.mark.timeout(150),
]
WAIT = 40.0


class Terminal:
    """A program in a tmux server of its own."""

    def __init__(self, folder: Path, *arguments: str, size: tuple[int, int] = (80, 24), environment: str = "") -> None:
        self._socket = f"easytier-tui-test-{uuid.uuid4().hex[:12]}"
        program = f"{environment} {sys.executable} -m easytier_tui.main {' '.join(arguments)}"
        # The shell outlives the program, so that its last words can be read.
        script = f"cd {folder}; {program}; echo ended with status $?; exec cat"
        self.tmux("-f", os.devnull, "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), script)

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._socket, *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20, env=environment).stdout

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    @property
    def text(self) -> str:
        return self.tmux("capture-pane", "-p")

    def wait_for(self, text: str) -> str:
        """The screen once it shows `text`."""

        def shown() -> str:
            screen = self.text
            assert text in screen, screen
            return screen

        return wait_for(shown, f"{text!r} on the screen", WAIT)

    def resize(self, width: int, height: int) -> None:
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def end(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.end()


def test_start_filter_detail_quit(terminals: list[Terminal], tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "--demo")
    terminals.append(terminal)
    terminal.wait_for("10.144.0.1/24 · connected")
    for text in (" connected ", "Peers: 2, KCP to 1 of them", "no: it accepts no KCP", " closed "):
        terminal.wait_for(text)
    terminal.press("/")
    terminal.press("state:connected transport:kcp", "Enter")
    terminal.wait_for("state:connected transport:kcp")
    wait_for(lambda: " closed " not in terminal.text, "closed flows are hidden")
    terminal.press("b")
    terminal.wait_for("sort: Rate ▼")
    terminal.press("Enter")
    terminal.wait_for("by default: office takes KCP")
    terminal.wait_for("Rate ↓, 2 min")
    terminal.press("q")
    screen = terminal.wait_for("ended with status 0")
    assert "Traceback" not in screen


def test_the_daemon_dies_and_comes_back(terminals: list[Terminal], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with demo.running(port) as portal:
        terminal = Terminal(tmp_path, "-p", f"{portal[0]}:{portal[1]}", size=(120, 40))
        terminals.append(terminal)
        terminal.wait_for("home 10.144.0.1/24 · connected")
        terminal.wait_for("FIN both ways")
    terminal.wait_for("Retrying in")
    screen = terminal.wait_for(f"No node answers at {portal[0]}:{portal[1]} (connection refused)")
    assert "easytier-core -c" in screen
    assert "FIN both ways" in screen, "the last rows stay"
    with demo.running(port):
        terminal.press("r")
        terminal.wait_for("home 10.144.0.1/24 · connected")
        wait_for(lambda: "Retrying" not in terminal.text, "the banner is gone", WAIT)
        terminal.wait_for(" connected ")
        terminal.press("q")
        assert "Traceback" not in terminal.wait_for("ended with status 0")


def test_a_stock_node_beside_rubbish(terminals: list[Terminal], tmp_path: Path) -> None:
    def rubbish(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(os.urandom(1000))

    with listening(rubbish) as wrong, replay.portal(known("2.6.4")) as stock:
        terminal = Terminal(tmp_path, "-p", f"127.0.0.1:{wrong}", "-p", f"127.0.0.1:{stock}", size=(120, 40))
        terminals.append(terminal)
        screen = terminal.wait_for("Is it a node's portal?")
        assert f"no answer 127.0.0.1:{wrong}" in screen
        terminal.press("]")
        screen = terminal.wait_for("stock 2.6.4, polled every 1 s")
        assert "10.144.0.2:7000" in screen
        terminal.resize(40, 10)
        terminal.wait_for("80x24 shows more")
        terminal.press("Enter")
        terminal.wait_for("→ 10.144.0.2:7000")
        terminal.press("q")
        assert "Traceback" not in terminal.wait_for("ended with status 0")


@pytest.mark.parametrize("size", [(40, 10), (20, 5), (1, 1), (300, 100)])
def test_any_size_of_terminal(size: tuple[int, int], terminals: list[Terminal], tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "-p", "127.0.0.1:9")
    terminals.append(terminal)
    terminal.wait_for("Retrying in")
    terminal.resize(*size)
    if size == (40, 10):
        terminal.wait_for("80x24 shows more")
    terminal.press("?")
    terminal.resize(80, 24)
    terminal.wait_for("In the tables")
    terminal.press("Escape")
    terminal.wait_for("Retrying in")
    wait_for(lambda: "In the tables" not in terminal.text, "the help is gone", WAIT)
    terminal.press("q")
    assert "Traceback" not in terminal.wait_for("ended with status 0")


def test_without_colours(terminals: list[Terminal], tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "-p", "127.0.0.1:9", environment="NO_COLOR=1")
    terminals.append(terminal)
    terminal.wait_for("Retrying in")
    colours = terminal.tmux("capture-pane", "-p", "-e")
    for part in colours.split("\x1b[")[1:]:
        numbers = part.partition("m")[0].split(";")
        for index, number in enumerate(numbers):
            if number in ("38", "48") and numbers[index + 1 : index + 2] == ["2"]:
                red, green, blue = numbers[index + 2 : index + 5]
                assert red == green == blue, part
    terminal.press("q")
