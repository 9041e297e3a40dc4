"""Verdicts beside a primary that does not answer the same again: random models, run by the worker's own pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from server.shadow.fakes import Adder, added, on_the_wire

from gnomon_protos.tensors import Array
from gnomon_server.control import repetitions
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.verdict import KEEP_WATCHING, PROMOTE, REJECT, Verdict, verdict
from gnomon_server.settings import CompareSettings, MirrorSettings, Policy
from gnomon_server.shadow.pipeline import Pipeline
from gnomon_server.wire.plans import observing
from gnomon_server.wire.tallies import PairTally

NOW = datetime(2026, 1, 2, tzinfo=UTC)
POLICY = Policy(tolerance=0.05, block=1, min_requests=100, min_duration=0.0)


class Dice(Adder):
    """An Adder that is off by 1 in this share of rows, or of all by `wrong`."""

    def __init__(self, seed: int, off: float, wrong: float = 0.0, version: int = 2) -> None:
        super().__init__()
        self.version = version
        self._chance, self._off, self._wrong = np.random.default_rng(seed), off, wrong

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        (sums,) = super().run(inputs, outputs)
        noise = (self._chance.random(len(sums)) < self._off) + 2 * (self._chance.random(len(sums)) < self._wrong)
        return [sums + noise.astype(np.float32)]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def compared(shadow: Adder, executor: ThreadPoolExecutor, off: float, count: int = 3000) -> PairTally:
    """Returns what a worker finds of requests to a primary that is off in this share of its answers."""
    looking = CompareSettings(repeat=1.0, keep=0, segment_rows=0)
    pipeline = Pipeline(shadow, MirrorSettings(), "", executor, observing=observing(POLICY), looking=looking)
    pipeline.repeat_on(Dice(2, off, version=1))
    chance = np.random.default_rng(3)
    for i in range(count):
        answered = added([[i / 1000, 1]], wrong=float(chance.random() < off))
        record = msgspec.structs.replace(answered, span_id=i + 1)
        pipeline.take(record, len(on_the_wire(record)))
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    (pair,) = pipeline.report("epoch").pairs
    return pair


def judged(pair: PairTally, former: Verdict | None = None) -> Verdict:
    evidence = repetitions.net(Evidence(pair.observed, since=NOW), pair.repeats, POLICY)
    return verdict(evidence, POLICY, NOW, former)


async def test_a_shadow_is_not_blamed_for_what_its_primary_disagrees_with_itself(executor: ThreadPoolExecutor) -> None:
    pair = await compared(Dice(1, 0.1), executor, off=0.1)
    raw = verdict(Evidence(pair.observed, since=NOW), POLICY, NOW)
    assert raw.decision == REJECT
    # A rejection from before anything was repeated does not stand.
    found = judged(pair, former=raw)
    assert found.decision == PROMOTE, found.reason
    assert "the primary is not deterministic, and beyond what it disagrees with itself at most" in found.reason
    assert [finding.metric for finding in found.findings] == ["excess", "failure"]


async def test_what_a_shadow_adds_to_it_is_rejected(executor: ThreadPoolExecutor) -> None:
    found = judged(await compared(Dice(1, 0.1, wrong=0.2), executor, off=0.1))
    assert found.decision == REJECT
    assert "beyond what it disagrees with itself at least" in found.reason


async def test_few_repetitions_leave_the_question_open_and_say_what_it_takes(executor: ThreadPoolExecutor) -> None:
    found = judged(await compared(Dice(1, 0.1), executor, off=0.1, count=100))
    assert found.decision == KEEP_WATCHING
    assert found.more_requests > 100


async def test_a_primary_that_agrees_with_itself_is_judged_as_ever(executor: ThreadPoolExecutor) -> None:
    pair = await compared(Dice(1, 0.0), executor, off=0.0, count=300)
    assert judged(pair) == verdict(Evidence(pair.observed, since=NOW), POLICY, NOW)
    assert judged(pair).decision == PROMOTE
