"""`$NAME`, `${NAME}` and `${NAME:-default}` in a configuration file.

Comments are left alone.  Inside a string in double quotes a value is escaped, so that it stays a part of that string whatever
it holds; elsewhere (`mtu = $MTU`) it is put in as it is, but must not hold a line break.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final

from easytier_host.config.toml_lines import TOKEN

_REFERENCE: Final = re.compile(
    r"\$(?:\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}\n]*))?\}|(?P<plain>[A-Za-z_][A-Za-z0-9_]*))"
)
_TOKEN_OR_REFERENCE: Final = re.compile(rf"(?P<reference>{_REFERENCE.pattern})|{TOKEN.pattern}", TOKEN.flags)


def expand(text: str, environ: Mapping[str, str], error: Callable[[int, str], None], warn: Callable[[int, str], None]) -> str:
    """`text` with its references replaced.

    `error` and `warn` are told line and fault: `${NAME}` without default must be set; a plain `$NAME` that is not set stays
    as it is written, since passwords may look so.  The number of lines never changes.
    """
    line_ends = [match.start() for match in re.finditer("\n", text)]

    def replace_in(token: re.Match[str]) -> str:
        kind = token.lastgroup
        if kind == "comment" or "$" not in token.group():
            return token.group()
        return _REFERENCE.sub(lambda reference: value_of(reference, kind, token.start()), token.group())

    def value_of(reference: re.Match[str], kind: str | None, start: int) -> str:
        name = reference["braced"] or reference["plain"]
        found = environ.get(name)
        if not found and reference["default"] is not None:
            return reference["default"]
        line = bisect_left(line_ends, start + reference.start()) + 1
        if found is None:
            if reference["braced"]:
                error(line, f"environment variable {name} is not set; ${{{name}:-...}} gives it a default")
            else:
                warn(line, f"environment variable {name} is not set; ${name} is taken as it is written")
            return reference.group()
        if kind == "basic":
            return json.dumps(found, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
        if "\n" in found or "\r" in found or (kind == "literal" and "'" in found):
            error(line, f"the value of environment variable {name} cannot stand here; use a string in double quotes")
            return reference.group()
        return found

    return _TOKEN_OR_REFERENCE.sub(replace_in, text)
