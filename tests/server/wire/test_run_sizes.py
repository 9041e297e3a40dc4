"""Runs by their number of rows: exact, mergeable, bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.wire.counts import SizeCount
from gnomon_server.wire.sizes import MOST, Sizes, merge

ROWS = st.lists(st.integers(0, 20), max_size=30)


def counted(rows: list[int]) -> tuple[SizeCount, ...]:
    sizes = Sizes()
    for number in rows:
        size = sizes.of(number)
        size.runs += 1
        size.inputs += 1.0
        size.running += 2.0
        size.outputs += 4.0
    return sizes.snapshot()


@given(ROWS, ROWS)
def test_what_two_frontends_counted_is_what_one_would_have_counted(first: list[int], second: list[int]) -> None:
    together = merge((*counted(first), *counted(second)))
    assert together == counted(first + second)
    assert [(size.rows, size.runs) for size in together] == sorted(
        (rows, (first + second).count(rows)) for rows in {*first, *second}
    )
    assert all(
        (size.inputs, size.running, size.outputs) == (size.runs, 2 * size.runs, 4 * size.runs) for size in together
    )


def test_clients_cannot_make_it_grow_without_bound() -> None:
    assert [size.rows for size in counted([*range(MOST + 50), 0])] == list(range(MOST))
    assert counted([*range(MOST + 50), 0])[0].runs == 2
