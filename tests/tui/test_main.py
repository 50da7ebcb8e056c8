"""The command: options, what it refuses, the page in a browser."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest

from easytier_tui.main import endpoint, main
from tests.tui import scene
from tests.tui.test_files import record

MODULE = [sys.executable, "-m", "easytier_tui.main"]


def test_endpoints() -> None:
    assert endpoint("127.0.0.1:15888") == ("127.0.0.1", 15888)
    assert endpoint("[::1]:1") == ("::1", 1)
    assert endpoint("8001") == ("127.0.0.1", 8001)
    for text in ("", "localhost:1", "::1:5", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x"):
        with pytest.raises(ValueError, match="IP"):
            endpoint(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "nowhere"],
        ["-p", "10.0.0.999:15888"],
        ["--speed", "0"],
        ["--speed", "fast"],
        ["--no-such-option"],
        ["-p", "127.0.0.1:1"] * 17,
        ["--speed", "2"],
        ["--demo", "--replay", "r.jsonl"],
        ["--demo", "-p", "127.0.0.1:1"],
        ["-p", "127.0.0.1:1", "--replay", "r.jsonl"],
        ["--serve", "--record", "r.jsonl"],
        ["--serve", "0.0.0.0:8000"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: easytier-tui" in capsys.readouterr().err


def test_without_a_terminal_it_says_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert "easytier-cli proxy --wide" in capsys.readouterr().err


def test_what_is_no_recording_is_said_before_the_screen_changes(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text("rubbish")
    run = subprocess.run(
        ["script", "-qec", f"{sys.executable} -m easytier_tui.main --replay {file}", "/dev/null"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 1
    assert "is no recording" in run.stdout
    assert "\x1b[?1049h" not in run.stdout


async def screen_in_browser(port: int, text: str, *steps: tuple[str, str]) -> str:
    """What a browser is sent until `text` is drawn; each step presses keys once a text is there."""
    written, ahead = "", list(steps)
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession() as client,
        client.ws_connect(f"ws://127.0.0.1:{port}/ws?width=120&height=40", origin=f"http://127.0.0.1:{port}") as page,
    ):
        async for message in page:
            if message.type is aiohttp.WSMsgType.BINARY:
                written += message.data.decode(errors="replace")
            if ahead and ahead[0][0] in written:
                await page.send_json(["stdin", ahead.pop(0)[1]])
            if text in written:
                break
    return written


async def answers(port: int, path: str, requests: Sequence[Mapping[str, str]]) -> list[int]:
    """The status of a GET with each of these sets of headers."""
    statuses = []
    async with asyncio.timeout(30), aiohttp.ClientSession() as client:
        for headers in requests:
            async with client.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer:
                statuses.append(answer.status)
    return statuses


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def served(tmp_path: Path, free_port: int) -> Iterator[int]:
    """The port at which a recording is shown."""
    file = record(tmp_path / "r.jsonl", scene.FIRST)
    with subprocess.Popen(
        [*MODULE, "--replay", str(file), "--serve", f"127.0.0.1:{free_port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as server:
        try:
            assert server.stdout is not None
            assert f"open http://127.0.0.1:{free_port} in a browser" in server.stdout.readline()
            yield free_port
        finally:
            server.terminate()
            server.communicate(timeout=20)


@pytest.mark.timeout(90)
def test_it_is_served_on_loopback(served: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{served}/", timeout=5) as page:
        assert "easytier-tui" in page.read().decode()
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert "10.1.2.7:5432" in asyncio.run(screen_in_browser(served, "10.1.2.7:5432"))


@pytest.mark.timeout(90)
def test_other_sites_cannot_drive_what_is_served(served: int) -> None:
    own = {"Origin": f"http://127.0.0.1:{served}"}
    foreign = [
        {"Origin": "http://evil.example"},
        {"Origin": f"http://evil.example:{served}"},
        {"Origin": f"https://127.0.0.1:{served}"},
        {"Origin": f"http://127.0.0.1:{served + 1}"},
        {"Origin": "null"},
        {"Host": f"evil.example:{served}"},
        {"Host": f"evil.example:{served}", "Origin": f"http://evil.example:{served}"},
        {"Host": "127.0.0.1"},
    ]
    for path in ("/", "/ws", "/static/js/textual.js", "/download/x"):
        assert asyncio.run(answers(served, path, foreign)) == [403] * len(foreign), path
    assert asyncio.run(answers(served, "/ws", [{}])) == [403], "a websocket without an origin is of no page"
    assert asyncio.run(answers(served, "/", [{}, own, {"Host": f"localhost:{served}"}])) == [200] * 3


@pytest.mark.timeout(90)
def test_a_page_in_a_browser_writes_no_files(served: int, tmp_path: Path) -> None:
    asyncio.run(screen_in_browser(served, "record in a terminal", ("10.1.2.7:5432", "R")))
    steps = (("10.1.2.7:5432", "e"), ("enter writes the file", "/x.csv\r"))
    asyncio.run(screen_in_browser(served, "browser chooses the folder", *steps))
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run([*MODULE, "--serve", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == f"easytier-tui: cannot serve at 127.0.0.1:{port}: Address already in use\n"


def test_without_the_extra_serving_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    assert main(["--serve"]) == 1
    assert "pip install 'easytier-kcp-plugin[serve]'" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"easytier-tui {version('easytier-kcp-plugin')}\n"


def test_help_needs_no_terminal_and_loads_no_screen() -> None:
    script = "import sys\nfrom easytier_tui.main import main\n"
    script += "try: main(['--help'])\nexcept SystemExit: print('textual' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True, env=os.environ)
    assert run.stdout.rstrip().endswith("False")
    assert "--replay" in run.stdout
