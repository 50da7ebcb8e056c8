"""Every input of the corpora, and some hundred mutations of them for each target.  `make fuzz` tries more."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from tests.fuzz.mutation import mutations
from tests.fuzz.targets import TARGETS, corpus

SECONDS = float(os.environ.get("ET_FUZZ_TARGET_SECONDS", "0.4"))
"""Of processor time for the mutations of one target."""
MOST = 3000
LONGEST = 2.0
"""Seconds of processor time for one input: a hundred times what any takes."""


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    target, inputs = TARGETS[name], corpus(name)
    assert inputs, "a target begins with something: tests/fuzz/seeds.py"
    began = time.process_time()
    for data in itertools.chain(inputs, itertools.islice(mutations(inputs, seed=1), MOST)):
        before = time.process_time()
        if before - began > SECONDS:
            break
        try:
            target(data)
        except Exception as error:
            error.add_note(f"input, to be added to tests/fuzz/corpus/{name}.hex:\n{data.hex()}")
            raise
        assert time.process_time() - before < LONGEST, f"slow: {data.hex()}"
