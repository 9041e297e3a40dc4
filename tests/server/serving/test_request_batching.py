"""What waits for a version: one kind at a time, in order, and nobody starves."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from server.serving.fakes import Doubler, inference

from gnomon_server.serving.batching import Waiting
from gnomon_server.serving.inference import Inference, divisible, joined, split

SERVABLE = Doubler()
JOBS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40)


def job(kind: object, rows: int, number: int, priority: int = 0) -> Inference:
    return inference(SERVABLE, str(number), rows, value=number, kind=kind, priority=priority)


def number(of: Inference) -> int:
    return int(of.id)


@given(JOBS, st.integers(1, 12))
def test_every_job_is_taken_once_in_batches_of_one_kind_within_the_bound(
    jobs: list[tuple[str, int]], most_rows: int
) -> None:
    waiting = Waiting(most_rows)
    for index, (kind, rows) in enumerate(jobs):
        waiting.put(job(kind, rows, index))
    assert waiting.size == len(jobs)
    taken: list[Inference] = []
    while batch := waiting.take():
        assert len({found.layout.kind for found in batch}) == 1
        assert len(batch) == 1 or (most_rows > 1 and sum(found.layout.rows for found in batch) <= most_rows)
        taken += batch
        assert waiting.size == len(jobs) - len(taken)
    assert sorted(number(found) for found in taken) == list(range(len(jobs)))
    for kind in "abc":
        numbers = [number(found) for found in taken if found.layout.kind == kind]
        assert numbers == sorted(numbers)


def test_a_kind_that_never_runs_dry_does_not_starve_another() -> None:
    waiting = Waiting(4)
    for index in range(8):
        waiting.put(job("busy", 2, index))
    waiting.put(job("rare", 1, 99))
    assert [number(found) for found in waiting.take()] == [0, 1]
    waiting.put(job("busy", 2, 8))
    assert [number(found) for found in waiting.take()] == [99]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4)), max_size=40))
def test_a_higher_priority_goes_first_and_none_at_all_goes_last(jobs: list[tuple[str, int]]) -> None:
    waiting = Waiting(8)
    for index, (kind, priority) in enumerate(jobs):
        waiting.put(job((kind, priority), 1, index, priority))
    taken: list[int] = []
    while batch := waiting.take():
        taken += [found.layout.priority for found in batch]
    assert taken == sorted((priority for _, priority in jobs), key=lambda priority: priority or 5)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans()), max_size=40))
def test_what_is_withdrawn_is_not_taken_and_the_rest_of_each_kind_in_its_order(
    jobs: list[tuple[str, int, bool]],
) -> None:
    waiting = Waiting(4)
    made = [job((kind, priority), 1, index, priority) for index, (kind, priority, _) in enumerate(jobs)]
    lost = {one for one, (*_, gone) in zip(made, jobs, strict=True) if gone}
    for one in made:
        waiting.put(one)
    assert set(waiting.withdraw(lost.__contains__)) == lost
    assert waiting.size == len(made) - len(lost)
    taken: list[Inference] = []
    while batch := waiting.take():
        taken += batch
    assert waiting.size == 0
    by_kind = [(one.layout.priority or 3, one.layout.kind, number(one)) for one in taken]
    assert sorted(by_kind) == sorted(by_kind, key=lambda key: (key[0], key[1]))
    assert set(taken) == set(made) - lost


@given(st.lists(st.integers(0, 5), min_size=1, max_size=10))
def test_what_is_joined_is_split_into_the_same_parts(rows: list[int]) -> None:
    batch = [job("a", count, index) for index, count in enumerate(rows)]
    together = joined(batch)["x"]
    assert together.shape == (sum(rows), 3)
    assert divisible(batch, [together])
    for found, (part,) in zip(batch, split(batch, [together]), strict=True):
        assert part.tolist() == [[float(number(found))] * 3] * found.layout.rows


def test_outputs_that_have_not_a_row_for_each_row_cannot_be_split() -> None:
    batch = [job("a", 2, 0), job("a", 1, 1)]
    right = np.zeros((3, 1))
    assert not divisible(batch, [right, np.zeros((2, 1))])
    assert not divisible(batch, [np.zeros(())])
    assert divisible(batch[:1], [np.zeros((7, 1))])
