"""The cases: a line, a load, and who takes part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.link import LinkOptions
from bench.loads import Bulk, Idle, Load, Small

KCP = ("ours-ours", "ours-stock", "stock-ours", "stock-stock")
ALL = (*KCP, "tcp-ours", "tcp-stock", "raw-cubic", "raw-bbr")
FIRST = "ours-ours"
"""Who takes part in the quick form."""


@dataclass(frozen=True, slots=True)
class Case:
    """`line` is None for a veth; `stack` is the TCP stack of the source node; `rivals`, names of `rivals.RIVALS`, are those
    that run unless others are asked for."""

    title: str
    line: LinkOptions | None
    load: Load
    rivals: Sequence[str] = ALL
    stack: str = "kernel"

    def quick(self) -> Case:
        """The case in about a second."""
        return replace(self, load=self.load.quick())


_BROAD = LinkOptions(rate_bits=100e6, delay=0.025, queue_bytes=625_000)
_LONG = LinkOptions(rate_bits=100e6, delay=0.05, loss=0.10, queue_bytes=1_250_000)
_UNLIMITED = LinkOptions(delay=0.025)
_LOSSY = replace(_BROAD, loss=0.05)

CASES: Mapping[str, Case] = {
    "line-0": Case("100 Mbit/s, 50 ms, no loss", _BROAD, Bulk()),
    "line-1": Case("100 Mbit/s, 50 ms, 1 % lost", replace(_BROAD, loss=0.01), Bulk()),
    "line-5": Case("100 Mbit/s, 50 ms, 5 % lost", _LOSSY, Bulk()),
    "line-10": Case("100 Mbit/s, 100 ms, 10 % lost", _LONG, Bulk()),
    "burst": Case("100 Mbit/s, 50 ms, 5 % lost in runs of 5", replace(_LOSSY, burst=5), Bulk()),
    "fast-0": Case("no limit of the rate, 50 ms, no loss", _UNLIMITED, Bulk()),
    "fast-5": Case("no limit of the rate, 50 ms, 5 % lost", replace(_UNLIMITED, loss=0.05), Bulk()),
    "clean": Case("veth, stack of the kernel", None, Bulk()),
    "clean-user": Case("veth, user-space stack", None, Bulk(), KCP, stack="smoltcp"),
    "small": Case("small flows one by one, 100 Mbit/s, 50 ms, 5 % lost", _LOSSY, Small(count=200)),
    "fair": Case("two bulk flows, 100 Mbit/s, 50 ms, 1 % lost", replace(_BROAD, loss=0.01), Bulk(flows=2), KCP),
    "parallel": Case("eight bulk flows, 100 Mbit/s, 50 ms, 1 % lost", replace(_BROAD, loss=0.01), Bulk(flows=8), KCP),
    "arrivals": Case(
        "200 new flows a second for a minute, 100 Mbit/s, 50 ms, 5 % lost",
        _LOSSY,
        Small(count=12_000, per_second=200),
        ("ours-ours", "ours-stock"),
    ),
    "idle": Case("10 000 silent flows, veth, user-space stack", None, Idle(), ("ours-ours",), stack="smoltcp"),
}
"""Name -> case.  Delays are those of a round trip, which the queue holds as well; losses are each way, before the queue."""
