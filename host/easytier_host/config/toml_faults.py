"""What a fault of TOML's grammar means to whoever wrote the file: `tomllib` says where it stopped, this says what to mend."""

from __future__ import annotations

import re
import tomllib
from typing import Final

_PAIR: Final = re.compile(r"\s*(?P<key>[\w.-]+)\s*=\s*(?P<value>[^#]*?)\s*(#.*)?")
_HEADER: Final = re.compile(r"\s*(?P<header>\[[^#]*\])\s*(#.*)?")


def explain(fault: str, line: int, text: str) -> str:
    """Words for what `tomllib` says of a line (from 1) of `text`; its own where they cannot be bettered."""
    lines = text.split("\n")
    here = lines[line - 1] if line <= len(lines) else ""
    if fault.startswith(("Cannot overwrite", "Cannot declare", "Cannot mutate")):
        return _repeated(lines, line, here) or fault
    if fault == r"Illegal character '\n'":
        return "the closing quotation mark is missing"
    pair = _PAIR.fullmatch(here)
    if pair is None or _is_value(pair["value"]):
        return fault
    key, value = pair["key"], pair["value"]
    if not value:
        return f'there is nothing behind "{key} ="'
    if value.lower() in ("true", "false"):
        return f"{key} = {value.lower()} has no capital letters"
    if value[0] in "\"'[{":
        return fault
    return f'text stands in quotation marks: {key} = "..."'


def _repeated(lines: list[str], number: int, here: str) -> str:
    """For a key or a table that has been there before."""
    header, pair = _HEADER.fullmatch(here), _PAIR.fullmatch(here)
    if header is None and pair is None:
        return ""
    for before in range(number - 2, -1, -1):
        other_header, other_pair = _HEADER.fullmatch(lines[before]), _PAIR.fullmatch(lines[before])
        if header is not None:
            if other_header is not None and other_header["header"].strip("[]") == header["header"].strip("[]"):
                return f"{header['header']} is in line {before + 1} already"
        elif pair is not None and other_pair is not None and other_pair["key"] == pair["key"]:
            return f"{pair['key']} is in line {before + 1} already"
        elif other_header is not None:
            break
    return ""


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"x = {text}")
    except ValueError:
        return False
    return True
