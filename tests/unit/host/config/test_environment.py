"""What `$NAME` becomes, and that no value can become more than a value."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.config.environment import expand


def expanded(text: str, environ: Mapping[str, str]) -> str:
    """`text` after expansion, which must find nothing to say."""
    said: list[tuple[int, str]] = []

    def say(line: int, fault: str) -> None:
        said.append((line, fault))

    result = expand(text, environ, say, say)
    assert said == []
    return result


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"${A}"', "one"),
        ('"$A"', "one"),
        ('"x${A}y$A"', "xoneyone"),
        ('"${A:-two}"', "one"),
        ('"${B:-two}"', "two"),
        ('"${EMPTY:-two}"', "two"),
        ('"${EMPTY}"', ""),
        ('"${B:-}"', ""),
        ("'$A'", "one"),
        ("'''${A}'''", "one"),
        ('"""\n${A}"""', "one"),
        ('"$5 ${} $ $-"', "$5 ${} $ $-"),
        ("$N", 7),
        ("${N}", 7),
        ("1${N}", 17),
        ("[${N}, $N]", [7, 7]),
        ("${M:-9}", 9),
    ],
)
def test_a_reference_is_replaced(text: str, value: object) -> None:
    assert tomllib.loads(expanded(f"k = {text}", {"A": "one", "N": "7", "EMPTY": ""})) == {"k": value}


def test_comments_are_left_alone() -> None:
    text = '# ${MISSING}\nk = 1 # $MISSING "${MISSING}"\n'
    assert expanded(text, {}) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_value_is_safe_in_double_quotes(value: str) -> None:
    for quote in ('"', '"""'):
        assert tomllib.loads(expanded(f"a = 1\nk = {quote}${{V}}{quote}\n", {"V": value})) == {"a": 1, "k": value}


@pytest.mark.parametrize(("text", "value"), [("$V", "1\nx = 2"), ("'$V'", "it's"), ("'$V'", "a\nb")])
def test_a_value_that_would_break_out_is_an_error(text: str, value: str) -> None:
    errors: list[tuple[int, str]] = []
    expand(f"\n\nk = {text}", {"V": value}, lambda *fault: errors.append(fault), lambda *fault: pytest.fail(str(fault)))
    [(line, fault)] = errors
    assert line == 3
    assert "environment variable V cannot stand here" in fault
    assert value not in fault


def test_an_unset_name_is_an_error_in_braces_and_a_warning_without() -> None:
    errors: list[tuple[int, str]] = []
    warnings: list[tuple[int, str]] = []
    text = 'a = 1\nk = "$PASS"\nl = "${GONE}"\n'
    result = expand(text, {}, lambda *fault: errors.append(fault), lambda *fault: warnings.append(fault))
    assert result == text
    assert [(line, "GONE" in fault) for line, fault in errors] == [(3, True)]
    assert [(line, "PASS" in fault) for line, fault in warnings] == [(2, True)]
