"""Predicates: comparisons of input columns, and what is said of such as are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.errors import InvalidRequest
from gnomon_server.predicates import Condition, parse


def test_comparisons_are_joined_by_and() -> None:
    assert parse(" carrier ='HA' and distance> 2.3e3 and \"odd name\"[3] != true ") == (
        Condition("carrier", None, "=", "HA"),
        Condition("distance", None, ">", 2300.0),
        Condition("odd name", 3, "!=", True),
    )


def test_a_text_holds_any_character_and_two_quotes_for_one() -> None:
    assert parse("city = 'Coeur d''Alene and = 1'")[0].value == "Coeur d'Alene and = 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected an input, received the end"),
        ("x", "expected one of = != < <= > >=, received the end"),
        ("x == 1", "expected one of = != < <= > >=, received '== 1'"),
        ("x > HA", "expected a number, true, false or a 'text', received 'HA'"),
        ("x > 'HA'", "expected a number after >, received 'HA'"),
        ("x = 1x", "expected a number, true, false or a 'text', received '1x'"),
        ("x = 'open", "expected a number, true, false or a 'text', received"),
        ("x = 1 or y = 2", "expected 'and' or the end, received 'or y = 2'"),
        ("x = 1and y = 2", "expected a number"),
        ("x = 1 and ", "expected an input, received the end"),
        ("x = __import__('os')", "expected a number, true"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(text)
    assert message in str(raised.value)


@given(st.text(max_size=30))
def test_no_text_is_half_understood(text: str) -> None:
    try:
        conditions = parse(text)
    except InvalidRequest:
        return
    assert all(one.name for one in conditions)


@given(st.text(max_size=20), st.sampled_from(["=", "!="]))
def test_every_text_can_be_compared_with(word: str, sign: str) -> None:
    quoted = word.replace("'", "''")
    assert parse(f"x {sign} '{quoted}'") == (Condition("x", None, sign, word),)  # type: ignore[arg-type]
