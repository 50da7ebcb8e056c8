"""`python -m bench.link LEFT RIGHT`: a bad line between two network namespaces for as long as the command runs.

For people; programs use `bench.link.LossyLink`.  Needs root.  Namespaces that are not there are made, and removed at the end.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from bench.link import DEVICE_NAME, LinkOptions, LossyLink

QUEUE_SECONDS: Final = 0.05
"""What the queue holds if neither it nor a longer round trip is given."""
SMALLEST_QUEUE: Final = 30_000
UNLIMITED_QUEUE: Final = 625_000
BACKGROUND_SECONDS: Final = 0.5
"""Between two looks at whether the terminal may be read."""
_CONTROL: Final = "/proc/sys/net/ipv4/tcp_congestion_control"

_EPILOG: Final = """\
Each namespace gets a device link0, LEFT with 10.99.0.1 and RIGHT with 10.99.0.2; any program can run over it:

    python -m bench.link left right --rate 50 --rtt 50 --loss 2
    ip netns exec left ping 10.99.0.2                             in another terminal

While it runs in the foreground a line with other options changes the link, as "--loss 100" does, which cuts it.  What such a
line does not name stays.  Exit status: 0 ended by Ctrl-C or SIGTERM, 1 the link could not be made, 2 wrong usage.
"""


class _Ended(Exception):
    """By a signal."""


class _WrongLine(ValueError):
    """A line that changes nothing; the message says why."""


class _LineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _WrongLine(message)


def main(argv: Sequence[str]) -> int:
    """Run until interrupted; returns the exit status, or raises SystemExit for wrong usage and --help."""
    options = _parser(argparse.ArgumentParser, ends=True).parse_args(argv)
    if os.geteuid() != 0:
        print("bench.link: makes network devices: run it as root", file=sys.stderr)
        return 1
    try:
        link_options = to_link(vars(options))
    except ValueError as error:
        print(f"bench.link: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    try:
        with ExitStack() as stack:
            for name in (options.left, options.right):
                stack.enter_context(_namespace(name))
            link = stack.enter_context(LossyLink(options.left, options.right, link_options, tuple(options.addresses)))
            print(
                f"{options.left} {options.addresses[0]} === {DEVICE_NAME} === {options.addresses[1]} {options.right}",
                flush=True,
            )
            print(f"{described(link_options)}; Ctrl-C ends it", flush=True)
            for line in bbr_notes({name: _congestion_control(name) for name in (options.left, options.right)}):
                print(line, flush=True)
            try:
                _obey(link, vars(options))
            except _Ended:
                print()
                for way, counted in zip(("->", "<-"), link.statistics(), strict=True):
                    told = ", ".join(f"{counted[key]} {key}" for key in ("delivered", "lost", "overflowed"))
                    print(f"{options.left} {way} {options.right}: {told} (packets)")
    except _Ended:
        pass
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"bench.link: {error}", file=sys.stderr)
        return 1
    return 0


def to_link(options: dict[str, Any]) -> LinkOptions:
    """What the command line says, in the units of the emulator.  Raises ValueError for an impossible link."""
    rate, rtt = options["rate"] * 1e6, options["rtt"] / 1000
    queue = UNLIMITED_QUEUE
    if options["queue"] is not None:
        queue = round(options["queue"] * 1000)
    elif rate:
        queue = max(SMALLEST_QUEUE, round(rate / 8 * max(rtt, QUEUE_SECONDS)))
    return LinkOptions(
        rate_bits=rate,
        delay=rtt / 2,
        jitter=options["jitter"] / 1000,
        loss=options["loss"] / 100,
        queue_bytes=queue,
        seed=options["seed"],
        burst=options["burst"],
        late=options["late"] / 100,
        late_by=options["late_by"] / 1000,
    )


def described(options: LinkOptions) -> str:
    """One line for people."""
    rate = (
        f"{options.rate_bits / 1e6:g} Mbit/s, a queue of {options.queue_bytes / 1000:g} KB" if options.rate_bits else "no limit"
    )
    words = [rate, f"{options.delay * 2000:g} ms there and back", f"{options.loss:.2%} lost each way"]
    if options.burst:
        words.append(f"in runs of {options.burst:g}")
    if options.jitter:
        words.append(f"{options.jitter * 1000:g} ms of jitter")
    if options.late:
        words.append(f"{options.late:.2%} are {options.late_by * 1000:g} ms late")
    return ", ".join(words)


def bbr_notes(controls: Mapping[str, str]) -> list[str]:
    """What to know before TCP on such a line is compared with anything; `controls` by namespace."""
    return [
        f"{name}: TCP that is sent here uses {control}, which losses hardly slow down; as most machines have it:  "
        f"ip netns exec {name} sysctl -w net.ipv4.tcp_congestion_control=cubic"
        for name, control in controls.items()
        if control.startswith("bbr")
    ]


def _congestion_control(namespace: str) -> str:
    """The one that the TCP of a namespace begins with; "" where it cannot be read."""
    shown = subprocess.run(["ip", "netns", "exec", namespace, "cat", _CONTROL], capture_output=True, text=True, check=False)
    return shown.stdout.strip()


def _parser(kind: type[argparse.ArgumentParser], *, ends: bool) -> argparse.ArgumentParser:
    """That of the command, with its `ends`, or that of a line which changes the link and has no defaults."""
    parser = kind(
        "python -m bench.link",
        description="A line with a rate, a delay and losses between two network namespaces, until Ctrl-C.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=ends,
        argument_default=None if ends else argparse.SUPPRESS,
    )

    def add(name: str, default: float | None, metavar: str, text: str, convert: Callable[[str], float] = float) -> None:
        given = {"default": default} if ends else {}
        parser.add_argument(name, type=convert, metavar=metavar, help=text, **given)  # type: ignore[arg-type]

    if ends:
        parser.add_argument("left", metavar="LEFT", help="a network namespace; made if it is not there")
        parser.add_argument("right", metavar="RIGHT", help="the other one")
        parser.add_argument(
            "--addresses",
            nargs=2,
            metavar="CIDR",
            default=("10.99.0.1/24", "10.99.0.2/24"),
            help="of the two ends (10.99.0.1/24 10.99.0.2/24)",
        )
        add("--seed", 1, "N", "which packets are lost (1)", int)
    add("--rate", 0.0, "MBIT", "Mbit/s each way (no limit)")
    add("--rtt", 0.0, "MS", "milliseconds there and back (0)")
    add("--jitter", 0.0, "MS", "up to so much more each way, in order (0)")
    add("--loss", 0.0, "PERCENT", "of the packets, each way (0)")
    add("--burst", 0.0, "N", "losses come in runs of N on average (independent)")
    add("--queue", None, "KB", "before the limit, drop tail (what the rate moves in a round trip, or in 50 ms)")
    add("--late", 0.0, "PERCENT", "packets that are held back, so that others overtake them (0)")
    add("--late-by", 0.0, "MS", "for how long (0)")
    return parser


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    """There while this lasts; one that was there before stays."""
    if Path("/run/netns", name).exists():
        yield
        return
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def _obey(link: LossyLink, options: dict[str, Any]) -> NoReturn:
    """Change the link as lines of standard input say, until a signal."""
    parser = _parser(_LineParser, ends=False)
    for line in lines():
        try:
            changed = options | vars(parser.parse_args(shlex.split(line)))
            wanted = to_link(changed)
        except ValueError as error:
            print(f"bench.link: {error}", file=sys.stderr, flush=True)
            continue
        options = changed
        link.change(**asdict(wanted))
        print(described(wanted), flush=True)
    while True:
        signal.pause()


def lines() -> Iterator[str]:
    """Those of standard input; of a terminal none while the command runs in its background, where reading would stop it."""
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    while sys.stdin is not None:
        try:
            line = sys.stdin.readline()
        except OSError:
            time.sleep(BACKGROUND_SECONDS)
            continue
        if not line:
            return
        yield line


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # A second one is not to cut the clearing up short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Ended
