"""The demo: nodes with a bad line between them, in a process of their own that ends with this one."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

COMMAND: Final = (sys.executable, "-m", "easytier_host.demo")
READY_TIMEOUT: Final = 40.0
END_TIMEOUT: Final = 10.0


class DemoError(Exception):
    """The demo did not start; the message says what it said."""


@contextmanager
def running(port: int = 0) -> Iterator[tuple[str, int]]:
    """Start the demo; gives the address of its portal, at `port` if that is not 0.  Raises `DemoError`."""
    command = (*COMMAND, str(port))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        try:
            yield _portal(process.stdout)
        finally:
            # The demo ends with its input; what it then says nobody reads.
            process.stdin.close()
            try:
                process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _portal(output: IO[str]) -> tuple[str, int]:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        # To the end, so that a demo with much to say does not block.
        for line in output:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True, name="demo output").start()
    said: list[str] = []
    while True:
        try:
            line = lines.get(timeout=READY_TIMEOUT)
        except queue.Empty:
            raise DemoError(f"the demo has not started within {READY_TIMEOUT:g} s") from None
        if line.startswith("portal "):
            host, _, port = line.split()[1].rpartition(":")
            return host, int(port)
        if not line:
            raise DemoError("the demo has ended: " + (" ".join(said[-3:]) or "it said nothing"))
        said.append(line.strip())
