"""What a hook is told and answers, short enough for a line of the log. Used by `guard` where hooks are traced."""

import reprlib

from easytier_hooks.types import Candidate, PeerInfo, TcpFlow

_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = 200


def brief(value: object) -> str:
    """Flows, peers and candidates in a few words, anything else as `repr` has it, cut; never raises."""
    match value:
        case TcpFlow():
            return f"flow {value.id} {value.key} {value.direction}" + (f" over {value.transport}" if value.transport else "")
        case PeerInfo():
            return f"peer {value.hostname or value.peer_id}"
        case Candidate():
            return value.transport if value.available else f"no {value.transport}"
        case tuple() if value and all(isinstance(item, Candidate) for item in value):
            return f"candidates {', '.join(map(brief, value))}"
    return _repr.repr(value)
