"""Files of labels, and what is wrong with them."""

from __future__ import annotations

import re

import pytest

from gnomon_server.cli.feedback import read
from gnomon_server.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,id\n1\n", "f:2: expected 2 values"),
        ("id,label\n\udcff,1\n", "f:2: expected text in UTF-8"),
        ('{"id": "\\ud800", "label": 1}\n', "f:1: expected text in UTF-8"),
        ('{"id": "a", "label": ["\\ud800"]}\n', "f:1: expected text in UTF-8"),
        ('{"id": "a", "label": ' + "1" * 5000 + "}\n", "f:1: expected a JSON object: too long a number, or too deep"),
        ('{"id": "a", "label": ' + "[" * 100_000, "f:1: expected a JSON object: too long a number, or too deep"),
    ],
)
def test_a_line_that_cannot_be_a_label_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        list(read(text.splitlines(keepends=True), "f"))


@pytest.mark.parametrize("text", ["id,label\na,1\n", '{"id": "a", "label": "1"}\n'])
def test_a_byte_order_mark_on_the_standard_input_is_no_part_of_it(text: str) -> None:
    assert list(read(("\ufeff" + text).splitlines(keepends=True), "standard input")) == [("a", ["1"], "")]
