"""An ARQ engine for lossy and shaped links: paced, with a model of the path, on the bytes of ikcp.  Sans-IO.

How the parts hang together, from the face down; docs/arq.md has the reasons::

    path.py        all conversations with a peer: rounds, pacing, timers      rate.py      how fast, and when to look for more
    engine.py      one conversation: datagrams, windows, WASK and WINS        dips.py      slow-downs that show the empty path
    sender.py      segments, what is sent next                                estimate.py  RTT, recent maxima, loss
    detection.py   what is lost                                               redundancy.py  copies
    receiver.py    order, ACKs                                                edge.py      the window of a stock sender
    memory.py      windows between two ends of our kind
"""

from __future__ import annotations

from easytier_kcp_plugin.kcp.arq.memory import WindowMemory
from easytier_kcp_plugin.kcp.arq.path import ArqPath
from easytier_kcp_plugin.kcp.engine import PathFactory
from easytier_kcp_plugin.kcp.segment_size import STOCK_MSS

__all__ = ["paths"]


def paths(mss: int = STOCK_MSS) -> PathFactory:
    """Makes the paths of one node, with these engines.

    `mss` (bytes of payload in a segment) is what they begin with; stock's fits every path.
    """
    memory = WindowMemory()
    return lambda: ArqPath(memory, mss)
