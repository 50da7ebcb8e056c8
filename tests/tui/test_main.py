"""The command: options, what it refuses, the page in a browser."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from easytier_tui.main import endpoint, main
from tests.netns.topology import wait_for
from tests.tui import scene
from tests.tui.test_files import record

MODULE = [sys.executable, "-m", "easytier_tui.main"]


def test_endpoints() -> None:
    assert endpoint("127.0.0.1:15888") == ("127.0.0.1", 15888)
    assert endpoint("[::1]:1") == ("::1", 1)
    for text in ("15888", "localhost:1", "::1:5", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x"):
        with pytest.raises(ValueError, match=r"IP|appear"):
            endpoint(text)


@pytest.mark.parametrize("arguments", [["-p", "nowhere"], ["--speed", "0"], ["--no-such-option"], ["-p", "127.0.0.1:1"] * 17])
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
    assert "line 1" in run.stdout
    assert "\x1b[?1049h" not in run.stdout


async def screen_in_browser(port: int) -> str:
    """What a browser is sent until the first flows are drawn."""
    written = ""
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession() as client,
        client.ws_connect(f"ws://127.0.0.1:{port}/ws?width=120&height=40") as page,
    ):
        async for message in page:
            if message.type is aiohttp.WSMsgType.BINARY:
                written += message.data.decode(errors="replace")
            if "10.1.2.7:5432" in written:
                break
    return written


@pytest.mark.timeout(90)
def test_it_is_served_on_loopback(tmp_path: Path) -> None:
    file = record(tmp_path / "r.jsonl", scene.FIRST)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [*MODULE, "--replay", str(file), "--serve", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:

            def page() -> str:
                assert server.poll() is None, server.stderr.read() if server.stderr is not None else ""
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                        return str(answer.read().decode())
                except OSError:
                    return ""

            wait_for(lambda: "easytier-tui" in page(), "the page is there", timeout=30)
            assert "10.1.2.7:5432" in asyncio.run(screen_in_browser(port))
        finally:
            server.terminate()
            server.communicate(timeout=20)


def test_without_the_extra_serving_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    assert main(["--serve"]) == 1
    assert "pip install 'easytier-kcp-plugin[serve]'" in capsys.readouterr().err


def test_help_needs_no_terminal_and_loads_no_screen() -> None:
    script = "import sys\nfrom easytier_tui.main import main\n"
    script += "try: main(['--help'])\nexcept SystemExit: print('textual' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True, env=os.environ)
    assert run.stdout.rstrip().endswith("False")
    assert "--replay" in run.stdout
