"""Work that can be left between its steps, as generators do: the core of it is sans-IO, and who drives it has the clock.

A step is short, some ten microseconds, so that what drives it (`turns`, `rpc.peer`) can stop close to any time that it wants.
What the work looks at may have changed when it goes on.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")
Steps: TypeAlias = Generator[None, None, Result]
"""Returns its result at the end; may raise at any step what the work raises."""


def finish(steps: Steps[Result]) -> Result:
    """All of it at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
