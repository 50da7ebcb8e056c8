"""The command `easytier-tui`: which daemons to look at, or which recording, and in which terminal."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from easytier_cli.arguments import DEFAULT_PORTAL, ShowVersion, checked, ip, number, portal

if TYPE_CHECKING:
    from easytier_tui.feed import Feed

PROGRAM_NAME: Final = "easytier-tui"
DEFAULT_SERVE: Final = ("127.0.0.1", 8000)
OK: Final = 0
FAILED: Final = 1
MAX_DAEMONS: Final = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the user quits.  1 if it cannot start; raises SystemExit for wrong usage and --help."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if wrong := _contradiction(options):
        parser.error(wrong)
    if options.serve is not None:
        return _serve(options)
    if not sys.stdout.isatty() and not _is_served():
        return _fail("this is a program for a terminal; for one answer use  easytier-cli proxy --wide")
    return _run(options)


def _contradiction(options: Namespace) -> str:
    """Why these options do not go together; "" if they do."""
    if len(options.rpc_portal) > MAX_DAEMONS:
        return f"at most {MAX_DAEMONS} portals"
    sources = {"--demo": options.demo, "--rpc-portal": options.rpc_portal, "--replay": options.replay is not None}
    given = [name for name, is_given in sources.items() if is_given]
    if len(given) > 1:
        return f"{' and '.join(given)}: what to show can be said in one way only"
    if options.speed is not None and options.replay is None:
        return "--speed is for --replay"
    if options.serve is not None:
        if options.record is not None:
            return "--record cannot be combined with --serve: each page is a program of its own"
        if ip_address(options.serve[0]).is_unspecified:
            return "--serve needs the one address that browsers shall open"
    return ""


def _run(options: Namespace) -> int:
    # Late, so that --help and wrong usage are answered at once.
    from easytier_tui.app import MonitorApp
    from easytier_tui.demo import DemoError, running
    from easytier_tui.feed import PortalFeed
    from easytier_tui.recording import RecordingError, ReplayFeed

    feeds: list[Feed]
    with ExitStack() as stack:
        try:
            if options.demo:
                print("Starting three nodes with a bad line between them ...", file=sys.stderr, flush=True)
                feeds = [PortalFeed(*stack.enter_context(running()))]
            elif options.replay is not None:
                feeds = [ReplayFeed(options.replay, options.speed or 1.0)]
            else:
                feeds = [PortalFeed(*each) for each in options.rpc_portal or [DEFAULT_PORTAL]]
            app = MonitorApp(feeds)
            if options.record is not None:
                app.sessions[0].record(options.record)
        except (DemoError, RecordingError) as error:
            return _fail(str(error))
        # What is there by now stays: the garbage collector would go through it again and again, while keys wait.
        gc.freeze()
        app.run()
        return app.return_code or OK


def _serve(options: Namespace) -> int:
    try:
        from easytier_tui.serving import GuardedServer
    except ImportError:
        return _fail("--serve needs the package textual-serve:  pip install 'easytier-kcp-plugin[serve]'")
    command = [sys.executable, "-m", "easytier_tui.main"]
    for host, port in options.rpc_portal:
        command += ["-p", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    if options.demo:
        command.append("--demo")
    if options.replay is not None:
        command += ["--replay", str(options.replay), "--speed", str(options.speed or 1.0)]
    host, port = options.serve
    try:
        GuardedServer(shlex.join(command), host, port, PROGRAM_NAME).run(
            lambda url: print(f"{PROGRAM_NAME}: open {url} in a browser; ctrl+c ends it", flush=True)
        )
    except OSError as error:
        return _fail(f"cannot serve at {host}:{port}: {os.strerror(error.errno) if error.errno else error}")
    return OK


def _is_served() -> bool:
    return os.environ.get("TEXTUAL_DRIVER", "") != ""


def _fail(text: str) -> int:
    print(f"{PROGRAM_NAME}: {text}", file=sys.stderr)
    return FAILED


def make_parser() -> ArgumentParser:
    """The options of the command."""
    parser = ArgumentParser(
        PROGRAM_NAME, description="Watch what EasyTier nodes carry, by which transport, and why.", allow_abbrev=False
    )
    add = parser.add_argument
    add("-V", "--version", action=ShowVersion, nargs=0, help="show the version, and end")
    add(
        *("-p", "--rpc-portal"),
        type=checked(portal),
        action="append",
        default=[],
        metavar="IP:PORT",
        help="where a node answers; PORT: on this machine (127.0.0.1:15888); may be given several times",
    )
    add("--demo", action="store_true", help="three nodes of its own, with a bad line between them; no root needed")
    add("--record", type=Path, metavar="FILE", help="write all that the first node tells to a new file")
    add("--replay", type=Path, metavar="FILE", help="show such a file instead of a node")
    add("--speed", type=checked(number(0.1, 1000)), metavar="N", help="replay N times as fast (1)")
    add(
        "--serve",
        type=checked(endpoint),
        nargs="?",
        const=DEFAULT_SERVE,
        metavar="IP:PORT",
        help="show it in a browser, at this address (127.0.0.1:8000)",
    )
    return parser


def endpoint(text: str) -> tuple[str, int]:
    """`IP:PORT`, `[IPV6]:PORT`, or `PORT` of this machine.  Raises ValueError."""
    host, port = portal(text)
    return str(ip(host)), port


if __name__ == "__main__":
    sys.exit(main())
