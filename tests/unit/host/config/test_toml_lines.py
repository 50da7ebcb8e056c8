"""The line of every key, checked against documents whose lines are counted by hand or made by rule."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.config.toml_lines import Path, find_lines

DOCUMENT = '''\
# a = "not a key"
name = "a"   # [table]
quoted."with.dot" = 1
list = [
    "x = 1",  # ]
    "y",
    { deep = 1, deeper.still = [1, 2] },
]
text = """
[fake]
key = 1
\\""" key = 2
"""
raw = \'\'\'
[[peer]]
\'\'\'

[table]
inner = 3.14
when = 1979-05-27 07:32:00
'single # quoted' = 1

[table.sub.subsub]
x = 1

[[peer]]
uri = "a = b"

[[peer]]
# uri = 0
uri = "b"
[peer.options]
y = { z = [
  1] }
[[peer.item]]
w = 1
[[peer.item]]
w = 2
'''

EXPECTED: dict[Path, int] = {
    ("name",): 2,
    ("quoted", "with.dot"): 3,
    ("list",): 4,
    ("list", 0): 5,
    ("list", 1): 6,
    ("list", 2, "deep"): 7,
    ("list", 2, "deeper", "still"): 7,
    ("text",): 9,
    ("raw",): 14,
    ("table",): 18,
    ("table", "inner"): 19,
    ("table", "when"): 20,
    ("table", "single # quoted"): 21,
    ("table", "sub", "subsub"): 23,
    ("table", "sub", "subsub", "x"): 24,
    ("peer", 0): 26,
    ("peer", 0, "uri"): 27,
    ("peer", 1): 29,
    ("peer", 1, "uri"): 31,
    ("peer", 1, "options"): 32,
    ("peer", 1, "options", "y", "z"): 33,
    ("peer", 1, "options", "y", "z", 0): 34,
    ("peer", 1, "item", 0, "w"): 36,
    ("peer", 1, "item", 1, "w"): 38,
}


def paths_of(value: Any, path: Path = ()) -> set[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {path} if path else set()
    for key, item in items:
        found |= paths_of(item, (*path, key))
    return found


@pytest.mark.parametrize(("path", "line"), EXPECTED.items())
def test_a_key_stands_on_its_line(path: Path, line: int) -> None:
    assert find_lines(DOCUMENT)[path] == line


def test_it_finds_the_keys_that_tomllib_finds_and_no_others() -> None:
    assert set(find_lines(DOCUMENT)) == paths_of(tomllib.loads(DOCUMENT))


KEYS = st.sampled_from(["a", "b-c", '"d.e"', "'f ]'", '"g\\"h"', "1"])
SCALARS = st.sampled_from(
    ["1", "-2.5e3", "true", '"x = [1] # no"', "'{ y = 2 }'", '"""\n[z]\n"""', "1979-05-27T07:32:00Z", '"\\\\"']
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ", # ]\n".join(items) + "\n]"),
        # Line breaks inside an inline table are not TOML 1.0, those of a string or array within it are.
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda items: "{ " + ", ".join(f"{k} = {v}" for k, v in items.items()) + " }"
        ),
    ),
    max_leaves=6,
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=4).map(
    lambda items: "".join(f"{key} = {value}\n" for key, value in items.items())
)


@given(TABLES, st.lists(st.tuples(st.sampled_from(["p", "q"]), TABLES), max_size=4))
def test_any_document_gives_exactly_its_keys(top: str, items: list[tuple[str, str]]) -> None:
    text = top + "".join(f"# [no]\n[[{name}]]\n{body}" for name, body in items)
    assert set(find_lines(text)) == paths_of(tomllib.loads(text))


@given(st.lists(st.tuples(KEYS, st.integers(0, 3)), min_size=1, max_size=6, unique_by=lambda item: item[0]))
def test_lines_between_keys_are_counted(entries: list[tuple[str, int]]) -> None:
    text, expected = "", {}
    for key, blank in entries:
        text += "# note\n" * blank
        expected[next(iter(tomllib.loads(f"{key}=0")))] = text.count("\n") + 1
        text += f"{key} = 0\r\n"
    assert {path[0]: line for path, line in find_lines(text).items()} == expected
