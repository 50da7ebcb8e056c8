"""The counters themselves; that every frame is counted once is tested with the data path and with whole nodes."""

from __future__ import annotations

import dataclasses

from easytier_host import metrics
from easytier_host.metrics import Metrics


def test_all_counters_start_at_zero_and_are_listed() -> None:
    counters = Metrics()
    assert set(counters.as_dict().values()) == {0}
    assert counters.as_dict().keys() == {field.name for field in dataclasses.fields(Metrics)}
    counters.relayed_frames += 3
    assert counters.as_dict()["relayed_frames"] == 3


def test_the_invariant_names_fields_that_exist() -> None:
    named = {word.strip("`.,") for word in (metrics.__doc__ or "").split() if word.startswith("`") and "*" not in word}
    assert "received_frames" in named
    assert named <= Metrics().as_dict().keys()
