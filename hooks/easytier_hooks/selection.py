"""Which answers of plugins count, and which transport a flow takes without one. Pure functions; the manager calls them."""

from collections.abc import Sequence

from easytier_hooks.types import TCP, Candidate, Selection

MAX_REASON_CHARACTERS = 200


def default(candidates: Sequence[Candidate], passed_over: Sequence[str] = ()) -> Selection:
    """The first candidate that is available, else plain TCP; `passed_over` tells of plugins that were asked in vain.

    Plain TCP has the reason of the first candidate, which would have been taken before it.
    """
    found = next((candidate for candidate in candidates if candidate.available), None)
    if found is None:
        found = Candidate(TCP, available=True, reason="no other transport is available")
    elif found.transport == TCP:
        found = Candidate(TCP, available=True, reason=candidates[0].reason)
    return Selection(found.transport, "; ".join([found.reason, *passed_over]), "default")


def named(answer: object) -> str:
    """What a plugin answered, in a word."""
    name: object = answer.transport if isinstance(answer, Selection) else answer
    return repr(name[:40]) if isinstance(name, str) else f"with {type(answer).__name__}"


def judged(answer: object, candidates: Sequence[Candidate], plugin: str) -> Selection:
    """The answer of `plugin` as a selection that can be acted on. Raises ValueError with what is wrong with it.

    A bare name has the candidate's own reason.
    """
    if isinstance(answer, str):
        answer = Selection(answer, next((each.reason for each in candidates if each.transport == answer), ""))
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
