"""How quick honest flows stay while a peer attacks: round trips at a flooded node, beside those of the same run in peace.

    python -m bench.attack [--rate FRAMES_PER_SECOND] [--seconds S] [--warm-up S] [NAME ...]

Four whole nodes in one process, as in tests/attack/scene.py: the attacker's own work takes time of the same processor, so the
figures are too bad rather than too good.  Each attack runs for some seconds after some of peace.  What it costs in its first
seconds, while it uses up what a neighbour may do at once, shows with `--warm-up 0`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from typing import Final

import anyio

from easytier_host.main import shorten_collections
from tests.attack import attacks
from tests.attack.scene import Scene, scene

BATCH_SECONDS: Final = 0.005


def percentile(values: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[int(share * (len(values) - 1))] * 1000 if values else float("nan")


async def measure(attacked: Scene, seconds: float) -> list[float]:
    """All round trips of some seconds."""
    attacked.forget()
    await anyio.sleep(seconds)
    return [each for flow in attacked.flows for each in flow.round_trips]


async def flood(attacked: Scene, frames: Sequence[bytes], rate: float) -> None:
    """Send these again and again, so many a second; to be cancelled."""
    endless = itertools.cycle(frames)
    due, sent = time.monotonic(), 0
    while True:
        await anyio.sleep(BATCH_SECONDS)
        wanted = int((time.monotonic() - due) * rate) - sent
        attacked.attacker.tunnel.send(list(itertools.islice(endless, min(wanted, 500))))
        sent += wanted


async def run(names: Sequence[str], rate: float, seconds: float, warm_up: float) -> None:
    """Print a table."""
    print(
        f"{'attack':20} {'quiet p50':>10} {'p99':>8} {'attacked p50':>13} {'p99':>8} {'p99 ratio':>10}   ms, {rate:g} frames/s"
    )
    for attack in attacks.ATTACKS:
        if names and attack.__name__ not in names:
            continue
        async with scene() as attacked:
            frames = attack(attacked)
            # As every node does that is a program of its own.
            shorten_collections()
            quiet = await measure(attacked, seconds)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flood, attacked, frames, rate)
                await anyio.sleep(warm_up)
                noisy = await measure(attacked, seconds)
                tasks.cancel_scope.cancel()
            figures = [percentile(each, share) for each in (quiet, noisy) for share in (0.5, 0.99)]
            ratio = figures[3] / figures[1]
            print(
                f"{attack.__name__:20} {figures[0]:10.2f} {figures[1]:8.2f} {figures[2]:13.2f} {figures[3]:8.2f} {ratio:10.1f}"
            )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="attacks, all if none is named")
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=4.0, help="seconds of the attack that are not measured")
    options = parser.parse_args()
    anyio.run(run, options.names, options.rate, options.seconds, options.warm_up)


if __name__ == "__main__":
    main()
