"""Which answers of plugins count, and which transport a flow takes without one. Pure functions; the manager calls them."""

from collections.abc import Sequence

from easytier_hooks.types import TCP, Candidate, Selection

MAX_REASON_CHARACTERS = 200


def default(candidates: Sequence[Candidate]) -> Selection:
    """The first candidate that is available, else plain TCP."""
    for candidate in candidates:
        if candidate.available:
            return Selection(candidate.transport, candidate.reason, "default")
    return Selection(TCP, "no other transport is available", "default")


def judged(answer: object, candidates: Sequence[Candidate], plugin: str) -> Selection:
    """The answer of `plugin` as a selection that can be acted on. Raises ValueError with what is wrong with it."""
    if isinstance(answer, str):
        answer = Selection(answer, f"chosen by plugin {plugin}")
    if not isinstance(answer, Selection):
        raise ValueError(f"{type(answer).__name__}, not a Selection, a name or None")
    name: object = answer.transport
    reason: object = answer.reason
    if not isinstance(name, str) or not isinstance(reason, str):
        raise ValueError("a Selection whose fields are not strings")
    for candidate in candidates:
        if candidate.transport == name:
            if not candidate.available:
                raise ValueError(f"{name!r}, which is not available: {candidate.reason}")
            # The reason goes into tables and logs: no line breaks, no terminal escapes.
            printable = "".join(c if c.isprintable() else "?" for c in reason[:MAX_REASON_CHARACTERS])
            return Selection(candidate.transport, printable, plugin)
    raise ValueError(f"{name[:40]!r}, which is not among the candidates")
