"""Hundreds of random scenarios, each from its seed: two endpoints, now and then a model of stock as one of them, and all that a
network and its users do to them.

Loss, bursts, reordering, duplicates, packets that come much later, bits that flip, steps of the delay, holes, bottlenecks, ways
that cease to carry large packets, ends that may not send for a while or have small windows, restarts with the same peer id and
peers that vanish; applications that read slowly, sleep, answer after the end, stay open, close or reset.

Promised in each of them:

- what an application has read is at any time a prefix of what the other one has written;
- an end of stream comes only after all of it, and once;
- each flow ends, for either side once, and with a reason; where nothing fatal has happened it is that all was well;
- no event follows the end;
- in the end no session is left, no entry of any table, no timer, no byte that counts as in flight, no reserved memory.

Where bits flip (KCP has no checksum: this takes a network without encryption) bytes may be wrong, and the rest holds.

`ET_SCENARIOS=5000` plays more of them, `ET_SCENARIO_FIRST=1234` begins elsewhere; a failure names its seed.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.scenarios import Scenario

FIRST = int(os.environ.get("ET_SCENARIO_FIRST", "0"))
COUNT = int(os.environ.get("ET_SCENARIOS", "300"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_scenario(seed: int) -> None:
    Scenario(seed).play()
